//! A range of shared memory with checked access: a mapping, or a model of one.
//!
//! Offsets come from constants and from geometry that was validated once when
//! an object was opened, so a check that fails here is a bug of this crate and
//! asserts. Nothing read from memory is ever an offset without validation.
#![allow(unsafe_code, reason = "mapped bytes become references here")]

#[cfg(not(loom))]
pub(crate) use mapped::Region;
#[cfg(loom)]
pub(crate) use modelled::Region;

#[cfg(not(loom))]
mod mapped {
    use crate::fork::Generation;
    use crate::sync::{AtomicU32, AtomicU64, Ordering};
    use crate::sys;
    use std::io;
    use std::num::NonZeroUsize;
    use std::os::fd::AsFd;
    use std::ptr::NonNull;
    use std::sync::atomic::AtomicU8;

    /// A shared mapping, unmapped when dropped.
    #[derive(Debug)]
    pub(crate) struct Region {
        address: NonNull<u8>,
        len: usize,
        writable: bool,
        made_in: Generation,
        /// The words themselves, if this is no mapping.
        copy: Option<Box<[AtomicU64]>>,
    }

    // SAFETY: the range is shared with other processes anyway. Words are only
    // reached as atomics, and bytes only under the contracts below.
    unsafe impl Send for Region {}
    // SAFETY: as for Send.
    unsafe impl Sync for Region {}

    impl Region {
        pub(crate) fn map(fd: impl AsFd, len: usize, writable: bool) -> io::Result<Region> {
            let len =
                NonZeroUsize::new(len).ok_or_else(|| io::Error::other("the object is empty"))?;
            let made_in = Generation::current()?;
            let address = sys::map_shared(fd, len, writable)?;
            Ok(Region {
                address,
                len: len.get(),
                writable,
                made_in,
                copy: None,
            })
        }

        /// The first bytes of an object as they are now, for who looks once: no
        /// mapping, of which a process can have some ten thousand only, and no
        /// unmapping, which interrupts its other threads.
        pub(crate) fn copy_of(fd: impl AsFd, len: usize) -> io::Result<Region> {
            let mut copy = zeroed(len);
            // SAFETY: initialised, borrowed mutably for as long as the slice, and any
            // bytes are words.
            let bytes = unsafe { std::slice::from_raw_parts_mut(copy.as_mut_ptr().cast(), len) };
            let mut read = 0;
            while read < len {
                let at = i64::try_from(read).map_err(io::Error::other)?;
                let mut more = || Ok(nix::sys::uio::pread(&fd, &mut bytes[read..], at)?);
                match sys::uninterrupted(&mut more)? {
                    0 => return Err(io::ErrorKind::UnexpectedEof.into()),
                    count => read += count,
                }
            }
            Region::of_words(copy, len)
        }

        /// Zeroed bytes that no other process has.
        pub(crate) fn private(len: usize) -> io::Result<Region> {
            Region::of_words(zeroed(len), len)
        }

        fn of_words(words: Box<[AtomicU64]>, len: usize) -> io::Result<Region> {
            Ok(Region {
                address: NonNull::from(&words[..]).cast(),
                len,
                writable: false,
                made_in: Generation::current()?,
                copy: Some(words),
            })
        }

        pub(crate) fn len(&self) -> usize {
            self.len
        }

        pub(crate) fn is_writable(&self) -> bool {
            self.writable
        }

        /// Whether this mapping exists in this process.
        #[inline]
        fn is_mapped_here(&self) -> bool {
            !self.writable || self.made_in.is_current()
        }

        #[inline]
        fn at(&self, offset: usize, len: usize, align: usize) -> *mut u8 {
            let end = offset.checked_add(len);
            if !(end.is_some_and(|end| end <= self.len) && offset.is_multiple_of(align)) {
                out_of_range(offset, len, align, self.len);
            }
            // SAFETY: the range was just checked to lie inside the mapping, or the copy,
            // which lives and stays where it is as long as this.
            unsafe { self.address.as_ptr().add(offset) }
        }

        #[inline]
        pub(crate) fn word(&self, offset: usize) -> &AtomicU64 {
            // SAFETY: in bounds and aligned by `at`; the mapping lives as long
            // as `self`; all access to shared words goes through atomics. On a
            // read-only mapping callers only load, and only relaxed, which the
            // documentation of std::sync::atomic allows there.
            unsafe { AtomicU64::from_ptr(self.at(offset, 8, 8).cast()) }
        }

        #[inline]
        pub(crate) fn word32(&self, offset: usize) -> &AtomicU32 {
            // SAFETY: as for `word`.
            unsafe { AtomicU32::from_ptr(self.at(offset, 4, 4).cast()) }
        }

        /// Bytes that are published and never change again.
        ///
        /// # Safety
        ///
        /// Whoever wrote the range has published it, the caller has acquired
        /// that, and nobody writes it while the reference lives.
        #[inline]
        pub(crate) unsafe fn bytes(&self, offset: usize, len: usize) -> &[u8] {
            // SAFETY: in bounds by `at`; initialised because memory objects
            // begin zeroed; unchanging by the caller's contract.
            unsafe { std::slice::from_raw_parts(self.at(offset, len, 1), len) }
        }

        /// Bytes that belong to the caller alone.
        ///
        /// # Safety
        ///
        /// The mapping is writable, and nobody else, in any process, accesses
        /// the range while the reference lives.
        #[inline]
        #[allow(clippy::mut_from_ref, reason = "exclusive by the caller's contract")]
        pub(crate) unsafe fn bytes_mut(&self, offset: usize, len: usize) -> &mut [u8] {
            assert!(self.writable, "a write into a read-only mapping");
            // SAFETY: in bounds by `at`, writable, exclusive by the contract.
            unsafe { std::slice::from_raw_parts_mut(self.at(offset, len, 1), len) }
        }

        /// Copies bytes that another process may be changing meanwhile, word by
        /// word. What arrives is worth nothing before its checksums are verified.
        pub(crate) fn copy_to(&self, offset: usize, target: &mut [u8]) {
            let (words, rest) = target.as_chunks_mut::<8>();
            let rest_offset = offset + words.len() * 8;
            for (index, word) in words.iter_mut().enumerate() {
                *word = self
                    .word(offset + index * 8)
                    .load(Ordering::Relaxed)
                    .to_le_bytes();
            }
            for (index, byte) in rest.iter_mut().enumerate() {
                // SAFETY: in bounds by `at`; a racing store elsewhere is a race
                // between atomics, which is defined.
                let source = unsafe { AtomicU8::from_ptr(self.at(rest_offset + index, 1, 1)) };
                *byte = source.load(Ordering::Relaxed);
            }
        }

        /// One word of bytes that another process may be changing meanwhile.
        #[inline]
        pub(crate) fn copy_word(&self, offset: usize) -> u64 {
            self.word(offset).load(Ordering::Relaxed)
        }

        /// Enters the pages of a range into this process's page table.
        pub(crate) fn populate(&self, offset: usize, len: usize) -> io::Result<()> {
            let address = NonNull::new(self.at(offset, len, crate::format::PAGE_LEN))
                .expect("an address inside a mapping");
            // SAFETY: the range lies inside this mapping by `at`.
            unsafe { sys::populate(address, len, self.writable) }
        }
    }

    /// By value: what a message refers to would be stored at every access.
    #[cold]
    #[inline(never)]
    fn out_of_range(offset: usize, len: usize, align: usize, region_len: usize) -> ! {
        panic!("{len} bytes at {offset} of {region_len}, aligned to {align}");
    }

    fn zeroed(len: usize) -> Box<[AtomicU64]> {
        let words = vec![0_u64; len.div_ceil(8)].into_boxed_slice();
        let words = Box::into_raw(words);
        const { assert!(align_of::<AtomicU64>() == align_of::<u64>()) };
        // SAFETY: an AtomicU64 has the size and the valid values of a u64
        // (std::sync::atomic), and, as asserted, its alignment; the box was just
        // taken apart, and nobody else has it.
        unsafe { Box::from_raw(words as *mut [AtomicU64]) }
    }

    impl Drop for Region {
        fn drop(&mut self) {
            if self.copy.is_none() && self.is_mapped_here() {
                // SAFETY: mapped by us in this process image, and a dropped
                // region has no borrows.
                unsafe { sys::unmap(self.address, self.len) }
            }
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::Region;
    use crate::format::PAGE_LEN;
    use nix::sys::memfd::{MFdFlags, memfd_create};
    use nix::sys::mman::{MapFlags, MsFlags, ProtFlags, mmap_anonymous, msync};
    use nix::sys::wait::{WaitStatus, waitpid};
    use nix::unistd::{ForkResult, fork};
    use std::fs::File;
    use std::num::NonZeroUsize;
    use std::ptr::NonNull;

    #[test]
    fn a_forks_child_unmaps_what_it_inherited_and_what_is_its_own_stays() {
        let file = File::from(memfd_create("region", MFdFlags::empty()).unwrap());
        file.set_len(PAGE_LEN as u64).unwrap();
        let writable = Region::map(&file, PAGE_LEN, true).unwrap();
        let read_only = Region::map(&file, PAGE_LEN, false).unwrap();
        let address = |region: &Region| NonNull::from(region.word(0)).cast();
        let (not_inherited, inherited) = (address(&writable), address(&read_only));
        // SAFETY: the child makes system calls only, until it ends.
        match unsafe { fork() }.unwrap() {
            ForkResult::Child => {
                let own = a_page_at(not_inherited);
                drop((writable, read_only));
                let is_right = own.is_ok() && is_mapped(not_inherited) && !is_mapped(inherited);
                // SAFETY: the process ends, and what its threads hold with it.
                unsafe { libc::_exit(i32::from(!is_right)) }
            }
            ForkResult::Parent { child } => {
                assert_eq!(waitpid(child, None), Ok(WaitStatus::Exited(child, 0)));
            }
        }
    }

    /// Memory of this process alone where nothing is mapped.
    fn a_page_at(address: NonNull<u8>) -> nix::Result<()> {
        let len = NonZeroUsize::new(PAGE_LEN).expect("a page has bytes");
        let flags = MapFlags::MAP_PRIVATE | MapFlags::MAP_FIXED_NOREPLACE;
        // SAFETY: it replaces no mapping, and nothing refers into it.
        unsafe { mmap_anonymous(Some(address.addr()), len, ProtFlags::PROT_READ, flags) }?;
        Ok(())
    }

    fn is_mapped(address: NonNull<u8>) -> bool {
        // SAFETY: it is told, and nothing else, whether there is anything to write back.
        unsafe { msync(address.cast(), PAGE_LEN, MsFlags::MS_ASYNC) }.is_ok()
    }

    #[test]
    #[should_panic = "8 bytes at 12 of 24, aligned to 8"]
    fn a_word_inside_it_that_is_not_aligned_is_a_bug() {
        Region::private(24).unwrap().word(12);
    }

    #[test]
    #[should_panic = "8 bytes at 24 of 24, aligned to 8"]
    fn a_word_behind_its_end_is_a_bug() {
        Region::private(24).unwrap().word(24);
    }
}

#[cfg(loom)]
mod modelled {
    use crate::format::RECORD_ALIGN;
    use crate::sync::{AtomicU32, AtomicU64, Ordering};
    use loom::cell::UnsafeCell;
    use std::collections::BTreeMap;
    use std::io;
    use std::os::fd::AsFd;
    use std::ptr::NonNull;
    use std::sync::Arc;

    /// Memory whose every access loom sees: words are loom's atomics, and each
    /// run of [`RECORD_ALIGN`] bytes, which two records never share, has a cell
    /// that reports unordered access. A clone is another mapping of it.
    #[derive(Clone, Debug)]
    pub(crate) struct Region(Arc<Memory>);

    #[derive(Debug)]
    struct Memory {
        words: BTreeMap<usize, AtomicU64>,
        words32: BTreeMap<usize, AtomicU32>,
        bytes: NonNull<[u128]>,
        cells: Vec<UnsafeCell<()>>,
    }

    // SAFETY: byte access is reported to loom, which fails the model on a race.
    unsafe impl Send for Memory {}
    // SAFETY: as for Send.
    unsafe impl Sync for Memory {}

    impl Region {
        /// `len` zeroed bytes with atomics at the given offsets.
        pub(crate) fn new(len: usize, words: &[usize], words32: &[usize]) -> Region {
            let units = len.div_ceil(RECORD_ALIGN);
            Region(Arc::new(Memory {
                words: words.iter().map(|at| (*at, AtomicU64::new(0))).collect(),
                words32: words32.iter().map(|at| (*at, AtomicU32::new(0))).collect(),
                bytes: NonNull::from(Box::leak(vec![0; units].into_boxed_slice())),
                cells: (0..units).map(|_| UnsafeCell::new(())).collect(),
            }))
        }

        pub(crate) fn map(_: impl AsFd, _: usize, _: bool) -> io::Result<Region> {
            Err(io::ErrorKind::Unsupported.into())
        }

        pub(crate) fn populate(&self, _: usize, _: usize) -> io::Result<()> {
            Ok(())
        }

        pub(crate) fn len(&self) -> usize {
            self.0.cells.len() * RECORD_ALIGN
        }

        pub(crate) fn is_writable(&self) -> bool {
            true
        }

        pub(crate) fn word(&self, offset: usize) -> &AtomicU64 {
            &self.0.words[&offset]
        }

        pub(crate) fn word32(&self, offset: usize) -> &AtomicU32 {
            &self.0.words32[&offset]
        }

        fn at(&self, offset: usize, len: usize) -> (*mut u8, &[UnsafeCell<()>]) {
            let cells = &self.0.cells[offset / RECORD_ALIGN..(offset + len).div_ceil(RECORD_ALIGN)];
            // SAFETY: the cells were just found, so the offset lies inside.
            let address = unsafe { self.0.bytes.as_ptr().cast::<u8>().add(offset) };
            (address, cells)
        }

        pub(crate) fn copy_to(&self, offset: usize, target: &mut [u8]) {
            for (index, bytes) in target.chunks_mut(size_of::<u64>()).enumerate() {
                let word = self.word(offset + index * size_of::<u64>());
                let word = word.load(Ordering::Relaxed).to_le_bytes();
                bytes.copy_from_slice(&word[..bytes.len()]);
            }
        }

        /// Of a record: the real one copies with relaxed loads, which on bytes
        /// that were published is the same as reading them.
        pub(crate) fn copy_word(&self, offset: usize) -> u64 {
            // SAFETY: only a slot leads here, so it was published; loom checks.
            let published = unsafe { self.bytes(offset, size_of::<u64>()) };
            u64::from_le_bytes(published.try_into().expect("eight bytes"))
        }

        /// # Safety
        ///
        /// As for the mapped region; loom checks it.
        pub(crate) unsafe fn bytes(&self, offset: usize, len: usize) -> &[u8] {
            let (address, cells) = self.at(offset, len);
            for cell in cells {
                cell.with(|_| ());
            }
            // SAFETY: in bounds by `at`, initialised, and reported to loom.
            unsafe { std::slice::from_raw_parts(address, len) }
        }

        /// # Safety
        ///
        /// As for the mapped region; loom checks it.
        #[allow(clippy::mut_from_ref, reason = "exclusive by the caller's contract")]
        pub(crate) unsafe fn bytes_mut(&self, offset: usize, len: usize) -> &mut [u8] {
            let (address, cells) = self.at(offset, len);
            for cell in cells {
                cell.with_mut(|_| ());
            }
            // SAFETY: in bounds by `at`, initialised, and reported to loom.
            unsafe { std::slice::from_raw_parts_mut(address, len) }
        }
    }

    impl Drop for Memory {
        fn drop(&mut self) {
            // SAFETY: leaked by `new`, and nothing refers to it any more.
            drop(unsafe { Box::from_raw(self.bytes.as_ptr()) });
        }
    }
}
