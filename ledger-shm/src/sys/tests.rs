use std::fs::{File, OpenOptions, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use super::*;
use crate::format::PAGE_LEN;
use crate::object::Object;

/// Longer than anything here takes.
const PATIENCE: Duration = Duration::from_secs(30);

#[test]
fn what_a_signal_interrupts_is_done_again_and_nothing_else() {
    let mut outcomes = vec![
        Ok(3),
        Err(io::ErrorKind::NotFound.into()),
        Err(io::ErrorKind::Interrupted.into()),
        Err(io::ErrorKind::Interrupted.into()),
    ];
    let mut next = || uninterrupted(|| outcomes.pop().expect("not asked for more"));
    let error = next().expect_err("it is told");
    assert_eq!(error.kind(), io::ErrorKind::NotFound);
    assert_eq!(next().expect("done"), 3);
}

#[cfg(target_arch = "x86_64")]
#[test]
fn the_processor_counts_on() {
    let begun = ticks();
    assert!((0..1_000_000).any(|_| ticks() > begun));
}

#[test]
fn memory_that_is_committed_is_taken_from_its_file_system() {
    const LEN: usize = 3 * PAGE_LEN;
    let file = Object::unnamed().expect("a file");
    file.set_len(LEN as u64).expect("a length");
    let taken = || file.metadata().expect("its status").blocks() as usize * 512;
    assert_eq!(taken(), 0);
    commit(&file, LEN).expect("memory");
    assert!(taken() >= LEN);

    file.set_permissions(Permissions::from_mode(0o1640))
        .expect("it is ours");
    let found = size_and_owner(&file).expect("its status");
    assert_eq!(found, (LEN, own_uid(), 0o1640));
}

#[test]
fn what_is_sealed_keeps_its_length() {
    let sealed = File::from(create_sealed("sealed", PAGE_LEN).expect("memory"));
    assert!(is_sealed(&sealed));
    for len in [0, 2 * PAGE_LEN] {
        let error = sealed.set_len(len as u64).expect_err("it is sealed");
        assert_eq!(error.raw_os_error(), Some(nix::Error::EPERM as i32));
    }
    let seal = nix::fcntl::FcntlArg::F_ADD_SEALS(SealFlag::F_SEAL_WRITE);
    let seals = nix::fcntl::fcntl(&sealed, seal);
    assert_eq!(seals, Err(nix::Error::EPERM), "nobody seals it against us");

    for seal in [SealFlag::F_SEAL_SHRINK, SealFlag::F_SEAL_GROW] {
        let half = nix::sys::memfd::memfd_create("half", MFdFlags::MFD_ALLOW_SEALING);
        let half = half.expect("memory");
        nix::fcntl::fcntl(&half, nix::fcntl::FcntlArg::F_ADD_SEALS(seal)).expect("a seal");
        assert!(!is_sealed(&half));
    }
    // No memory object at all has no seals.
    assert!(!is_sealed(File::open("/dev/null").expect("there is one")));
}

#[test]
fn who_else_has_a_file_is_known() {
    let file = Object::unnamed().expect("a file");
    assert!(!is_shared(&file).expect("known"));
    let copy = file.try_clone().expect("a descriptor");
    assert!(
        !is_shared(&copy).expect("known"),
        "it is the same open file"
    );
    let path = format!("/proc/self/fd/{}", file.as_raw_fd());
    let again = OpenOptions::new()
        .read(true)
        .open(path)
        .expect("a second open file");
    assert!(is_shared(&file).expect("known"));
    file.set_len(PAGE_LEN as u64).expect("a length");
    let len = NonZeroUsize::new(PAGE_LEN).expect("a page has bytes");
    let mapped = map_shared(&again, len, false).expect("an address");
    drop(again);
    assert!(is_shared(&file).expect("known"), "it is mapped");
    // SAFETY: mapped just now, and nothing refers into it.
    unsafe { unmap(mapped, PAGE_LEN) };
    assert!(!is_shared(&file).expect("known"));

    let error = is_shared(File::open("/dev/null").expect("there is one"));
    assert_eq!(
        error
            .expect_err("there are no leases of devices")
            .raw_os_error(),
        Some(nix::Error::EINVAL as i32)
    );
}

/// One that sleeps at a word until it is woken, which `sleep` says.
fn is_woken(word: &AtomicU32, sleep: impl FnOnce() -> bool + Send) -> bool {
    let awake = AtomicBool::new(false);
    thread::scope(|scope| {
        let sleeper = scope.spawn(|| {
            let outcome = sleep();
            awake.store(true, Ordering::Relaxed);
            outcome
        });
        while !awake.load(Ordering::Relaxed) {
            futex_wake(word, 1);
            thread::yield_now();
        }
        sleeper.join().expect("no panic")
    })
}

#[test]
fn who_sleeps_is_woken_or_wakes_in_time() {
    let word = AtomicU32::new(7);
    let short = Duration::from_millis(5);
    let slept = |sleep: &dyn Fn()| {
        let begun = std::time::Instant::now();
        sleep();
        begun.elapsed()
    };
    assert!(slept(&|| futex_wait(&word, 7, short)) >= short);
    // Another value is there already.
    assert!(slept(&|| futex_wait(&word, 8, PATIENCE)) < PATIENCE);
    assert!(is_woken(&word, || {
        futex_wait(&word, 7, PATIENCE);
        true
    }));
}

#[test]
fn who_sleeps_at_many_words_is_woken_at_each_or_wakes_in_time() {
    // SAFETY: it is refused, as there is nothing to wait for.
    let outcome = unsafe { libc::syscall(libc::SYS_futex_waitv, 0, 0, 0, 0, 0) };
    assert_eq!(outcome, -1);
    let is_known = nix::Error::last() != nix::Error::ENOSYS;

    let words = [AtomicU32::new(7), AtomicU32::new(8)];
    let at = |first, second| [(&words[0], first), (&words[1], second)];
    let begun = std::time::Instant::now();
    let short = Duration::from_millis(5);
    assert_eq!(futex_wait_any(&at(7, 8), Some(short)), is_known);
    assert!(!is_known || begun.elapsed() >= short);
    for another in [at(6, 8), at(7, 9)] {
        assert_eq!(futex_wait_any(&another, Some(PATIENCE)), is_known);
    }
    if is_known {
        for word in &words {
            assert!(is_woken(word, || futex_wait_any(&at(7, 8), None)));
        }
    }
    // Which the kernel refuses.
    assert!(!futex_wait_any(&[], Some(short)));
}
