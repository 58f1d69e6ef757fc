//! One context per run, as many as there are runs: appends to each, then reads
//! all of them: `cargo run --example many_contexts -- 1000`.
//!
//! Needs a daemon: `ledgerd run`.

use std::error::Error;

use ledger_client::{Ledger, NewEntry, Sizes};

fn main() -> Result<(), Box<dyn Error>> {
    let runs: u32 = match std::env::args().nth(1) {
        Some(count) => count.parse()?,
        None => 100,
    };
    let ledger = Ledger::connect()?;
    // Who knows that little is coming says so: a context that is appended to keeps
    // the next two segments ready, which are 1 MiB and more otherwise.
    let sizes = Sizes {
        spare_len_min: Some(16 << 10),
        spare_len_max: Some(16 << 10),
        ..Sizes::default()
    };
    for run in 0..runs {
        let name = format!("run-{run}");
        let context = ledger.context(&name).sizes(sizes).open_or_create()?;
        let mut appender = context.appender()?;
        appender.append(&NewEntry::new("traces", b"begun"))?;
        appender.append(&NewEntry::new("traces", b"done"))?;
    }

    let mut entries = 0;
    for found in ledger.contexts()?.readable {
        let mut range = found.open(&ledger)?.range(1).key("traces");
        while range.next_entry()?.is_some() {
            entries += 1;
        }
    }
    println!("{entries} entries");
    Ok(())
}
