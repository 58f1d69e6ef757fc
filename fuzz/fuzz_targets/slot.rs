//! Every word is refused or says exactly itself.
#![no_main]

use ledger_shm::slot::{InvalidSlot, Slot};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|word: u64| {
    match Slot::decode(word) {
        Ok(slot) => assert_eq!(slot.encode(), word),
        Err(InvalidSlot(found)) => assert_eq!(found, word),
    }
});
