//! Files that become those of a context, and what is said where they cannot.

use std::sync::Arc;

use super::*;
use crate::archive::KernelFileSystem;
use crate::archive::by_hand::{files_in, none, put_ten};
use crate::archive::file_system::FileSystem;
use crate::objects::{epoch, facts};

/// A file system on which two directories change names in no step.
#[derive(Debug)]
struct Unable(nix::Error);

impl FileSystem for Unable {
    fn exchange(&self, _: &Path, _: &Path) -> io::Result<()> {
        Err(self.0.into())
    }
}

/// Two files of ten entries each, the trees behind them, and where all that is.
fn loaded(file_system: Arc<dyn FileSystem>) -> (tempfile::TempDir, Loading, [Frontier; 2]) {
    let dir = tempfile::tempdir().expect("a directory");
    let disk = Disk::new(file_system);
    let loading = Loading::new(dir.path(), epoch(1), disk.clone());
    loading.make().expect("ours");
    let files = Home::new(loading.dir().to_owned(), disk);
    let first = put_ten(&files, "log", &none(), 1);
    let second = put_ten(&files, "log", &first, 1);
    (dir, loading, [first, second])
}

#[test]
fn all_its_files_are_those_of_the_context_that_it_is_given() {
    let (dir, loading, _) = loaded(Arc::new(KernelFileSystem));
    let ours = Facts {
        name: "log".into(),
        ..facts(7)
    };
    loading.adopt(&ours).expect("they are whole");
    for first_seq in [1, 11] {
        let file = open_to_read(loading.dir(), FileName::Finished(first_seq));
        let head = Head::read(&file.expect("it is there")).expect("it is whole");
        assert_eq!(head.facts.epoch, ours.epoch, "{first_seq}");
    }
    loading.place().expect("nothing is there");
    assert!(!loading.dir().exists());
    assert_eq!(files_in(&dir.path().join(epoch(1).to_string())).len(), 2);
}

#[test]
fn the_tree_over_its_first_entries_is_that_of_a_context_that_has_no_more() {
    let (_dir, loading, [first, second]) = loaded(Arc::new(KernelFileSystem));
    let instance = Instance::own("loading_tests").expect("a valid name");
    for (count, tree) in [(0, &none()), (10, &first), (20, &second)] {
        let found = loading.tree_of(&instance, count).expect("they are whole");
        assert_eq!(&found, tree, "{count}");
    }
}

#[test]
fn what_was_in_its_place_is_removed_beside() {
    let (dir, loading, _) = loaded(Arc::new(KernelFileSystem));
    let home = dir.path().join(epoch(2).to_string());
    std::fs::create_dir(&home).expect("ours");
    std::fs::write(home.join("before"), "").expect("ours");
    let place = Home::new(home.clone(), Disk::new(Arc::new(KernelFileSystem)));
    loading.replace(&place).expect("both are there");
    assert_eq!(files_in(&home).len(), 2);
    assert_eq!(files_in(loading.dir()), ["before"]);
    loading.remove_beside();
    ledger_tests::eventually("it is removed", || (!loading.dir().exists()).then_some(()));
    assert_eq!(files_in(&home).len(), 2);
}

#[test]
fn a_file_system_that_cannot_exchange_directories_is_said_to_be_so() {
    for (error, is_unable) in [
        (nix::Error::EINVAL, true),
        (nix::Error::ENOSYS, true),
        (nix::Error::ENOSPC, false),
    ] {
        let (dir, loading, _) = loaded(Arc::new(Unable(error)));
        let place = Home::new(dir.path().join("another"), loading.disk().clone());
        let said = loading.replace(&place).expect_err("it cannot").to_string();
        let is_said = said.contains("keep the archive on another one");
        assert_eq!(is_said, is_unable, "{said}");
    }
}
