//! A damaged snapshot is loaded: nothing has changed, or its entries are there.
#![no_main]

use ledger_fuzz::served::served;
use ledger_fuzz::whole::Damage;
use ledger_shm::file::verify;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|damages: Vec<Damage>| {
    served(|_, ledger| {
        let (mut latest, mut count) = (None, 0);
        // One that extends what is there already may be loaded over it.
        for damage in damages.iter().take(3) {
            let bytes = damage.done();
            let loaded = ledger.load_from(&bytes[..]).name("loaded").run();
            if let Ok(loaded) = &loaded {
                let (head, trailer) = verify(&bytes[..]).expect("it was loaded");
                assert_eq!(loaded.last_seq, trailer.last_seq(), "{head:?}");
                latest = latest.max(Some(loaded.last_seq));
                count = count.max(trailer.count);
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
