//! Payloads that are values of a Rust type: written straight into shared memory
//! and read where they lie.
//!
//! Needs a daemon: `ledgerd run`.

use std::error::Error;

use ledger_client::{Ledger, NewEntry};
use rkyv::{Archive, Serialize};

#[derive(Archive, Serialize)]
struct Reading {
    sensor: String,
    celsius: Vec<f64>,
}

fn main() -> Result<(), Box<dyn Error>> {
    let ledger = Ledger::connect()?;
    let context = ledger.context("readings").open_or_create()?;
    let reading = Reading {
        sensor: "boiler".to_owned(),
        celsius: vec![61.5, 62.0, 64.25],
    };
    let appended = context
        .appender()?
        .append(&NewEntry::typed("reading", &reading))?;

    let entry = context.get(appended.seq)?.ok_or("it was just appended")?;
    // Checked once; the strings and numbers are not copied.
    let found = entry.typed::<Reading>()?;
    let warmest = found.celsius.iter().map(|value| value.to_native());
    let warmest = warmest.fold(f64::MIN, f64::max);
    println!("{} was at most {warmest} °C", found.sensor);
    Ok(())
}
