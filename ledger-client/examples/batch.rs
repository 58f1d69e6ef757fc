//! Appends the lines of standard input, many at a time:
//! `seq 100000 | cargo run --example batch -- numbers`.
//!
//! Needs a daemon: `ledgerd run`.

use std::error::Error;
use std::io::BufRead;

use ledger_client::{Ledger, NewEntry};

/// Watchers are told once per batch, or once per 64 entries.
const LINES_PER_BATCH: usize = 1000;

fn main() -> Result<(), Box<dyn Error>> {
    let context = std::env::args().nth(1).ok_or("usage: batch CONTEXT")?;
    let ledger = Ledger::connect()?;
    let mut appender = ledger.context(&context).open_or_create()?.appender()?;

    let mut lines = std::io::stdin().lock().lines();
    let mut total = 0;
    loop {
        let batch: Vec<String> = lines
            .by_ref()
            .take(LINES_PER_BATCH)
            .collect::<Result<_, _>>()?;
        if batch.is_empty() {
            break;
        }
        // Published one by one: if one is refused, those before it are in, and
        // the error says how many.
        total += appender.append_batch(batch.iter().map(|line| NewEntry::new("line", line)))?;
    }
    println!("{total} entries");
    Ok(())
}
