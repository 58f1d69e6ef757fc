//! Lines of JSON that are imported: refused, or the same entries when they are exported and
//! imported again.
#![no_main]

use ledgerd::round_trip::{lines_of, snapshot};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|lines: &[u8]| {
    if let Ok(imported) = snapshot(lines) {
        let exported = lines_of(&imported);
        let again = snapshot(exported.as_bytes());
        let again = again.unwrap_or_else(|_| panic!("not what was exported: {exported}"));
        assert_eq!(lines_of(&again), exported);
    }
});
