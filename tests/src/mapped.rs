//! Memory that others use, mapped for whoever means them harm: for as long as the process
//! lives.
#![allow(unsafe_code, reason = "memory is mapped with raw system calls")]

use std::ffi::c_void;
use std::num::NonZeroUsize;
use std::os::fd::AsFd;
use std::ptr::NonNull;
use std::sync::atomic::{AtomicU32, AtomicU64};

use nix::errno::Errno;
use nix::sys::mman::{MapFlags, ProtFlags, mmap};

/// For reading only, though nobody reads.
///
/// # Errors
///
/// The kernel's.
pub fn pin(fd: impl AsFd, len: usize) -> Result<(), Errno> {
    map(fd, len, ProtFlags::PROT_READ).map(drop)
}

/// As words of 32 bits, which can be written.
///
/// # Errors
///
/// The kernel's.
pub fn words32(fd: impl AsFd, len: usize) -> Result<&'static [AtomicU32], Errno> {
    let at = map(fd, len, ProtFlags::PROT_READ | ProtFlags::PROT_WRITE)?;
    // SAFETY: mapped for so many bytes from a page's beginning on and never unmapped; the
    // words are written atomically by all processes, and have no invalid values.
    Ok(unsafe { std::slice::from_raw_parts(at.cast().as_ptr(), len / size_of::<AtomicU32>()) })
}

/// As words of 64 bits, which can be written.
///
/// # Errors
///
/// The kernel's.
pub fn words(fd: impl AsFd, len: usize) -> Result<&'static [AtomicU64], Errno> {
    let at = map(fd, len, ProtFlags::PROT_READ | ProtFlags::PROT_WRITE)?;
    // SAFETY: as above.
    Ok(unsafe { std::slice::from_raw_parts(at.cast().as_ptr(), len / size_of::<AtomicU64>()) })
}

fn map(fd: impl AsFd, len: usize, protection: ProtFlags) -> Result<NonNull<c_void>, Errno> {
    let len = NonZeroUsize::new(len).ok_or(Errno::EINVAL)?;
    // SAFETY: a mapping of the kernel's choice that nothing refers into.
    unsafe { mmap(None, len, protection, MapFlags::MAP_SHARED, fd, 0) }
}
