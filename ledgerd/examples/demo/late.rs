//! The process that joins when everything is over. It knows the instance and
//! nothing else, and reads whatever there is.

use std::collections::BTreeMap;
use std::time::Instant;

use ledger_client::Ledger;

use crate::Failure;
use crate::digest::{ContextDigest, Seen};
use crate::message::{Message, Report, end_with_the_coordinator};
use crate::plan::{Plan, Role};

pub fn play(plan: &Plan) -> Result<(), Failure> {
    end_with_the_coordinator()?;
    let ledger = Ledger::connect()?;
    let start = Instant::now();
    let found = ledger.contexts()?;
    if let Some((epoch, error)) = found.unreadable.first() {
        return Err(format!("the context of epoch {epoch} cannot be read: {error}").into());
    }
    let mut digests = BTreeMap::new();
    for found in &found.readable {
        let context = found.open(&ledger)?;
        let mut digest = ContextDigest::default();
        let mut entries = context.range(1);
        while let Some(entry) = entries.next_entry()? {
            entry.verify()?;
            if !plan.is_left_out(Role::Late, context.name(), entry.seq()) {
                digest.add_entry(&entry);
            }
        }
        digests.insert(context.name().to_owned(), digest);
    }
    let elapsed = start.elapsed();
    Message::Report(Report {
        seen: Seen::of(digests),
        elapsed_ns: u64::try_from(elapsed.as_nanos())?,
        latency: None,
        decided: None,
    })
    .say()?;
    Ok(())
}
