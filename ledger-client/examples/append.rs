//! Appends one entry: `cargo run --example append -- loan-7 facts "income: 4200"`.
//!
//! Needs a daemon: `ledgerd run`. `ledgerd get loan-7` shows what came of it.

use std::error::Error;

use ledger_client::{Ledger, NewEntry};

fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args().skip(1);
    let mut arg = || args.next().ok_or("usage: append CONTEXT KEY PAYLOAD");
    let (context, key, payload) = (arg()?, arg()?, arg()?);

    let ledger = Ledger::connect()?;
    let mut appender = ledger.context(&context).open_or_create()?.appender()?;
    let entry = NewEntry::new(&key, &payload).metadata(&[("agent", "example")]);
    // `try_append` would not wait for room, not even a moment.
    let appended = appender.append(&entry)?;
    println!("seq {}, Lamport time {}", appended.seq, appended.lamport);
    Ok(())
}
