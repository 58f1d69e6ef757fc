//! Prints every entry of a context, those to come as well:
//! `cargo run --example watch -- loan-7`.
//!
//! Needs a daemon: `ledgerd run`. It may come and go meanwhile.

use std::error::Error;

use ledger_client::{Ledger, ReadError};

fn main() -> Result<(), Box<dyn Error>> {
    let context = std::env::args().nth(1).ok_or("usage: watch CONTEXT")?;
    let ledger = Ledger::connect()?;
    let mut watcher = ledger.context(&context).open_or_create()?.watch(1);
    loop {
        // History first, then live: it spins a little, then sleeps.
        match watcher.next() {
            Ok(entry) => println!(
                "{} {} {} bytes",
                entry.seq(),
                entry.key(),
                entry.payload().len()
            ),
            // What we wanted has left memory: go on with what is still there.
            Err(ReadError::Evicted {
                first_available, ..
            }) => watcher.seek(first_available),
            Err(error) => return Err(error.into()),
        }
    }
}
