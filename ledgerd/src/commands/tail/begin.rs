//! Where `ledgerd tail` begins.

use std::collections::VecDeque;

use ledger_client::{Context, ReadError};

use crate::commands::tail::filter::Filter;

/// Of the last entries, unless something else says where to begin.
const LINES_DEFAULT: u64 = 10;

pub(super) enum Begin {
    At(u64),
    FirstAvailable,
    /// With so many of the last entries.
    Last(u64),
}

impl Begin {
    /// What the arguments say; whether something else says where to begin.
    pub(super) fn told(
        from: Option<u64>,
        after: Option<u64>,
        lines: Option<u64>,
        is_told: bool,
    ) -> Begin {
        match (from, after, lines) {
            (Some(from), ..) => Begin::At(from),
            (None, Some(after), _) => Begin::At(after.saturating_add(1)),
            (None, None, None) if is_told => Begin::FirstAvailable,
            (None, None, lines) => Begin::Last(lines.unwrap_or(LINES_DEFAULT)),
        }
    }

    /// The seq of the first entry to look at, with nothing after the latest.
    pub(super) fn seq(
        &self,
        context: &Context,
        latest: u64,
        filter: &Filter,
    ) -> Result<u64, ReadError> {
        match *self {
            Begin::At(seq) => Ok(seq),
            Begin::FirstAvailable => context.first_available(),
            Begin::Last(lines) => first_of_last(context, latest, lines, filter),
        }
    }
}

/// The seq of the first of the last entries that a filter lets through, up to the
/// latest; the next one's if there are none.
fn first_of_last(
    context: &Context,
    latest: u64,
    lines: u64,
    filter: &Filter,
) -> Result<u64, ReadError> {
    let first = context.first_available()?;
    if filter.is_empty() {
        return Ok(latest.saturating_sub(lines).saturating_add(1).max(first));
    }
    let mut watcher = context.watch(first);
    if let Some(key) = &filter.key {
        watcher = watcher.key(key);
    }
    let mut last = VecDeque::new();
    loop {
        match watcher.try_next() {
            Ok(Some(entry)) if entry.seq() > latest => break,
            Ok(Some(entry)) if filter.lets_through(&entry) => last.push_back(entry.seq()),
            Ok(Some(_)) => {}
            Ok(None) => break,
            // The window has moved on meanwhile, and so does what is in it.
            Err(ReadError::Evicted {
                first_available, ..
            }) => {
                last.retain(|seq| *seq >= first_available);
                watcher.seek(first_available);
            }
            Err(error) => return Err(error),
        }
        if last.len() as u64 > lines {
            last.pop_front();
        }
    }
    Ok(last.front().copied().unwrap_or(latest + 1))
}
