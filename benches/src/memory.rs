//! Plain shared memory, for what the machine can do without a ledger.

use std::num::NonZeroUsize;
use std::os::fd::OwnedFd;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, AtomicU64};

use nix::fcntl::OFlag;
use nix::sys::mman::{MapFlags, ProtFlags, mmap, shm_open, shm_unlink};
use nix::sys::stat::Mode;

/// Zeroed memory that several processes can map. The name goes when its creator
/// drops it.
pub struct SharedMemory {
    name: String,
    address: NonNull<u8>,
    len: usize,
    is_owner: bool,
}

impl SharedMemory {
    pub fn create(what: &str, len: usize) -> SharedMemory {
        SharedMemory::create_named(&format!("/ledger-bench_{}_{what}", std::process::id()), len)
    }

    pub fn create_named(name: &str, len: usize) -> SharedMemory {
        let flags = OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_RDWR;
        let fd = shm_open(name, flags, Mode::S_IRUSR | Mode::S_IWUSR).expect("shared memory");
        nix::unistd::ftruncate(&fd, len as i64).expect("room");
        SharedMemory {
            address: map(&fd, len),
            name: name.to_owned(),
            len,
            is_owner: true,
        }
    }

    /// As [`create`](Self::create), with its memory committed.
    pub fn create_committed(what: &str, len: usize) -> SharedMemory {
        let memory = SharedMemory::create(what, len);
        let fd = shm_open(memory.name(), OFlag::O_RDWR, Mode::empty()).expect("just made");
        let mode = nix::fcntl::FallocateFlags::empty();
        nix::fcntl::fallocate(&fd, mode, 0, len as i64).expect("room");
        memory
    }

    /// Has the kernel zero it and enter it into the page table.
    pub fn populate(&self) {
        let address = self.address.as_ptr().cast();
        // SAFETY: populating changes no byte.
        let outcome = unsafe { libc::madvise(address, self.len, libc::MADV_POPULATE_WRITE) };
        assert_eq!(outcome, 0, "{}", std::io::Error::last_os_error());
    }

    pub fn open(name: &str, len: usize) -> SharedMemory {
        let fd = shm_open(name, OFlag::O_RDWR, Mode::empty()).expect("made by the parent");
        SharedMemory {
            address: map(&fd, len),
            name: name.to_owned(),
            len,
            is_owner: false,
        }
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// Copies bytes to this place, of which no word is used otherwise.
    #[inline]
    pub fn copy_from(&mut self, offset: usize, bytes: &[u8]) {
        assert!(offset + bytes.len() <= self.len);
        // SAFETY: inside the memory, which is not where the bytes are; borrowed for ourselves,
        // and who else has mapped it does not look there.
        unsafe {
            let target = self.address.as_ptr().cast::<u8>().add(offset);
            target.copy_from_nonoverlapping(bytes.as_ptr(), bytes.len());
        }
    }

    /// Two words on lines of their own.
    pub fn words64(&self) -> [&AtomicU64; 2] {
        [self.word64(0), self.word64(128)]
    }

    /// Two words on lines of their own.
    pub fn words32(&self) -> [&AtomicU32; 2] {
        [self.word32(0), self.word32(128)]
    }

    #[inline]
    pub fn word32(&self, offset: usize) -> &AtomicU32 {
        let word = std::ptr::from_ref(self.word64(offset)).cast_mut();
        // SAFETY: the first half of a word that nobody uses whole meanwhile.
        unsafe { AtomicU32::from_ptr(word.cast()) }
    }

    #[inline]
    pub fn word64(&self, offset: usize) -> &AtomicU64 {
        assert!(offset.is_multiple_of(8) && offset < self.len - 7);
        // SAFETY: inside the memory, aligned, and only ever used as an atomic.
        unsafe { AtomicU64::from_ptr(self.address.as_ptr().add(offset).cast()) }
    }
}

impl Drop for SharedMemory {
    fn drop(&mut self) {
        // SAFETY: mapped by us; references to its words end with it.
        let _ = unsafe { nix::sys::mman::munmap(self.address.cast(), self.len) };
        if self.is_owner {
            let _ = shm_unlink(self.name.as_str());
        }
    }
}

fn map(fd: &OwnedFd, len: usize) -> NonNull<u8> {
    let len = NonZeroUsize::new(len).expect("some memory");
    let protection = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
    // SAFETY: a fresh range of the kernel's choice, kept until the process ends.
    unsafe { mmap(None, len, protection, MapFlags::MAP_SHARED, fd, 0) }
        .expect("mapped")
        .cast()
}
