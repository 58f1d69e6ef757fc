use super::*;

#[test]
fn names_parse_back_to_what_they_name() {
    let instance = Instance::new(1000, "blue_1").expect("a valid name");
    let epoch = Epoch([7; 16]);
    for name in [Name::Lock, Name::Control(epoch), Name::Part(epoch, 12)] {
        assert_eq!(
            Name::parse(&instance, &name.in_instance(&instance)),
            Some(name)
        );
    }
}

#[test]
fn names_of_others_are_not_ours() {
    let instance = Instance::new(1000, "blue").expect("a valid name");
    for name in [
        "ledger-1000-blue2-lock",
        "ledger-1001-blue-lock",
        "ledger-1000-blue-0707-control",
        "ledger-1000-blue-07070707070707070707070707070707-012",
        "ledger-1000-blue-07070707070707070707070707070707-",
        "unrelated",
    ] {
        assert_eq!(Name::parse(&instance, name), None, "{name}");
    }
}

#[cfg(not(loom))]
mod in_memory {
    use std::os::unix::fs::{MetadataExt, PermissionsExt};

    use super::*;

    /// Whose objects go with it.
    struct Fresh(Instance);

    impl Fresh {
        fn new(name: &str) -> Fresh {
            // What a test leaves that is killed, those of `tests/it` remove: they know it by this.
            let name = format!("t_{}_unit_{name}", std::process::id());
            Fresh(Instance::own(&name).expect("a valid name"))
        }
    }

    impl Drop for Fresh {
        fn drop(&mut self) {
            for name in list(&self.0).into_iter().flatten() {
                let _ = unlink(&self.0, name);
            }
        }
    }

    #[test]
    fn what_is_created_is_found_by_its_name_until_that_is_removed() {
        let fresh = Fresh::new("objects");
        let instance = &fresh.0;
        let name = Name::Part(Epoch([7; 16]), 3);
        assert_eq!(list(instance).expect("memory"), []);
        let error = Object::open(instance, name, false).expect_err("there is none");
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
        unlink(instance, name).expect("which is fine");

        let object = Object::create(instance, name, 2 * PAGE_LEN).expect("memory");
        assert_eq!((object.len(), object.is_empty()), (2 * PAGE_LEN, false));
        assert!(object.is_trusted());
        let status = std::fs::metadata(name.path_in(instance)).expect("its status");
        assert_eq!(status.mode() & 0o7777, 0o600);
        assert!(
            status.blocks() as usize * 512 >= 2 * PAGE_LEN,
            "it is committed"
        );
        let error = Object::create(instance, name, PAGE_LEN).expect_err("there is one");
        assert_eq!(error.kind(), io::ErrorKind::AlreadyExists);
        assert_eq!(list(instance).expect("memory"), [name]);

        assert!(!object.is_shared().expect("known"));
        let mut again = Object::open(instance, name, false).expect("there is one");
        assert!(object.is_shared().expect("known"));
        assert_eq!(again.len(), 2 * PAGE_LEN);
        again.distrust();
        assert!(!again.is_trusted());
        drop(again);

        unlink(instance, name).expect("there is one");
        assert_eq!(list(instance).expect("memory"), []);
    }

    #[test]
    fn an_object_is_the_owners_and_nobody_elses() {
        let fresh = Fresh::new("owners");
        let instance = &fresh.0;
        let name = Name::Lock;
        let object = Object::create(instance, name, PAGE_LEN).expect("memory");
        let received = |instance: &Instance| {
            let fd = object.fd.try_clone().expect("a descriptor");
            Object::received(instance, fd).map_err(|error| error.kind())
        };
        assert!(received(instance).is_ok());
        let other = Instance::new(instance.uid() + 1, instance.name()).expect("a valid name");
        assert_eq!(
            received(&other).err(),
            Some(io::ErrorKind::PermissionDenied)
        );
        for mode in [0o640, 0o602, 0o610] {
            let permissions = std::fs::Permissions::from_mode(mode);
            std::fs::set_permissions(name.path_in(instance), permissions).expect("it is ours");
            assert_eq!(
                received(instance).err(),
                Some(io::ErrorKind::PermissionDenied)
            );
            let error = Object::open(instance, name, false).expect_err("others may use it");
            assert_eq!(error.kind(), io::ErrorKind::PermissionDenied);
        }
    }

    #[test]
    fn what_is_no_number_of_pages_is_unfinished() {
        let of_len = |len: usize| {
            let file = Object::unnamed().expect("a file");
            file.set_len(len as u64).expect("a length");
            Object::own(file).expect("its status")
        };
        assert!(of_len(0).is_empty());
        for len in [0, 1, PAGE_LEN - 1, PAGE_LEN + 1, 2 * PAGE_LEN - 1] {
            let mapped = of_len(len).map(false);
            assert!(
                matches!(mapped, Err(MapError::Unfinished)),
                "{len}: {mapped:?}"
            );
        }
        for len in [PAGE_LEN, 2 * PAGE_LEN] {
            assert_eq!(of_len(len).map(false).expect("an address").len(), len);
        }
        let copied = of_len(PAGE_LEN - 1).copy(64);
        assert!(matches!(copied, Err(MapError::Unfinished)), "{copied:?}");
        of_len(PAGE_LEN).copy(64).expect("it is long enough");
    }

    #[test]
    fn what_memory_there_is_left_is_known_to_the_byte() {
        // Others take some and give some back.
        let free = || {
            let status = nix::sys::statfs::statfs(MEMORY_DIR).expect("its status");
            status.blocks_available() * status.block_size().cast_unsigned()
        };
        let told = (0..1000).find_map(|_| {
            let (before, told, after) = (free(), free_len().expect("its status"), free());
            (before == after).then_some((told, before))
        });
        let (told, free) = told.expect("nobody takes any for a moment");
        assert_eq!(told, free);
    }
}
