//! An append takes no memory from the heap: what it writes, it writes where it
//! stays. A program of its own, because it counts every allocation.

#![allow(unsafe_code, reason = "an allocator that counts")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use ledger_client::NewEntry;
use ledger_tests::{Instance, Programs};

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

struct Counting;

// SAFETY: the system's allocator does all of it.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
        // SAFETY: the caller keeps the contract, which is the same.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: as above; `block` came from the system's allocator.
        unsafe { System.dealloc(block, layout) }
    }
}

#[global_allocator]
static COUNTING: Counting = Counting;

#[test]
fn an_append_allocates_nothing() {
    let programs = Programs {
        ledgerd: env!("CARGO_BIN_EXE_ledgerd-under-test"),
        peer: env!("CARGO_BIN_EXE_peer"),
        engine: env!("CARGO_BIN_EXE_engine"),
    };
    let instance = Instance::started(programs, &[]);
    let context = instance.context("log");
    let mut appender = context.appender().expect("an appender");
    let metadata = [("run_id", "a run with a long name"), ("cycle", "7")];
    let mut append = || {
        let entry = NewEntry::new("facts", &[7; 64]).metadata(&metadata);
        appender.try_append(&entry).expect("room").seq
    };
    // The first one makes room for the metadata's references.
    append();
    let before = ALLOCATIONS.get();
    assert!(before > 0, "it counts");
    // Fewer than the first segment holds.
    let last = (0..50).map(|_| append()).last();
    assert_eq!(ALLOCATIONS.get(), before);
    assert_eq!(last, Some(51));
}
