//! ListContexts: what there is to say about each.

use bytes::{Bytes, BytesMut};
use ledger_client::remote::proto;
use ledger_client::{ContextSummary, ReadError};
use tonic::Status;

use super::contexts::{Contexts, waiting};
use super::snapshot::framed;
use super::status::of_open;

/// All contexts that this lets through, each as one message.
pub(super) async fn list(
    contexts: &Contexts,
    lets_through: impl Fn(&str) -> bool,
) -> Result<Bytes, Status> {
    let ledger = contexts.ledger();
    let found = waiting(move || ledger.contexts()).await?;
    let found = found.map_err(|error| of_open(&error))?;
    let mut bytes = BytesMut::new();
    for summary in found.readable {
        if lets_through(summary.name()) {
            bytes.extend_from_slice(&message(&summary));
        }
    }
    Ok(bytes.freeze())
}

/// The one of this name, if there is one.
pub(super) async fn list_one(contexts: &Contexts, name: &str) -> Result<Bytes, Status> {
    let Some(open) = contexts.to_read(name).await? else {
        return Ok(Bytes::new());
    };
    let summary = waiting(move || open.context.summary()).await?;
    Ok(message(&summary))
}

fn message(summary: &ContextSummary) -> Bytes {
    let (state, first, latest) = (summary.state(), summary.first_available(), summary.latest());
    let damage = state.err().or(first.err()).or(latest.err());
    framed(&proto::ContextSummary {
        context_id: summary.name().to_owned(),
        epoch: summary.epoch().to_string(),
        state: state.map_or("damaged", |state| state.as_str()).to_owned(),
        first_available: first.ok(),
        latest_sequence: latest.ok(),
        damage: damage.map_or_else(String::new, ReadError::to_string),
    })
}
