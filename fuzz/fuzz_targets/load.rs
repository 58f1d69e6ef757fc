//! A damaged snapshot is loaded: nothing has changed, or its entries are there.
#![no_main]

use ledger_fuzz::served::served;
use ledger_fuzz::whole::Damage;
use ledger_shm::file::{SnapshotError, SnapshotReader};
use libfuzzer_sys::fuzz_target;

/// The last seq of a snapshot, and how many entries it has.
fn read(bytes: &[u8]) -> Result<(u64, u64), SnapshotError> {
    let (mut last_seq, mut count) = (0, 0);
    let mut reader = SnapshotReader::new(bytes);
    while let Some(head) = reader.next_section()? {
        last_seq = head.snapshot.map_or(0, |span| span.last_seq);
        reader.read_section(|_, _| {
            count += 1;
            Ok(())
        })?;
    }
    Ok((last_seq, count))
}

fuzz_target!(|damages: Vec<Damage>| {
    served(|_, ledger| {
        let (mut latest, mut count) = (None, 0);
        // One that begins with what is there already is gone on with.
        for damage in damages.iter().take(3) {
            let bytes = damage.done();
            let loaded = ledger.load_from(&bytes[..]).name("loaded").run();
            if let Ok(loaded) = &loaded {
                let (last_seq, entries) = read(&bytes).expect("it was loaded");
                assert_eq!(loaded.last_seq, last_seq);
                latest = latest.max(Some(last_seq));
                count = count.max(entries);
            }
            match ledger.context("loaded").open_read_only() {
                Ok(context) => {
                    assert_eq!(context.latest().ok(), latest);
                    let mut range = context.range(1);
                    let mut seen = 0;
                    while let Some(entry) = range.next_entry().expect("it was verified") {
                        entry.verify().expect("it was verified");
                        seen += 1;
                    }
                    assert_eq!(seen, count);
                }
                Err(error) => assert_eq!(latest, None, "{error}"),
            }
        }
    });
});
