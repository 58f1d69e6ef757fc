//! Watches contexts as tasks of an async program:
//! `cargo run --features tokio --example watch_tokio -- loan-7 loan-8`.
//!
//! Needs a daemon: `ledgerd run`. Any runtime will do.

use std::error::Error;

use ledger_client::{Context, Ledger, ReadError};

async fn watch(context: Context) -> Result<(), ReadError> {
    let mut watcher = context.watch(1).into_async();
    loop {
        // Can be dropped at any await, as by `select!` or a timeout.
        let entry = watcher.next().await?;
        println!("{}: {} {}", context.name(), entry.seq(), entry.key());
    }
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Box<dyn Error>> {
    let ledger = Ledger::connect()?;
    let mut watching = tokio::task::JoinSet::new();
    for name in std::env::args().skip(1) {
        watching.spawn(watch(ledger.context(&name).open_or_create()?));
    }
    while let Some(ended) = watching.join_next().await {
        ended??;
    }
    Ok(())
}
