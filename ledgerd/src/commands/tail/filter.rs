//! Which entries `ledgerd tail` prints.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use ledger_client::Entry;
use regex::bytes::Regex;

use crate::commands::text;

/// An appender that is stopped for longer between taking an entry's time and
/// publishing it is not waited for.
const PUBLISHED_WITHIN: Duration = Duration::from_millis(500);

/// Which entries.
#[derive(clap::Args, Debug, Default)]
pub(super) struct Filter {
    /// Only entries with exactly this key
    #[arg(long, value_parser = text())]
    pub(super) key: Option<String>,
    /// Only entries whose payload has a match of this regular expression
    #[arg(long, value_name = "REGEX", value_parser = Regex::new)]
    pub(super) grep: Option<Regex>,
    /// Only entries appended since then: 5m, 2h or 1d ago, or
    /// 2026-01-31T12:00:00Z
    #[arg(long, value_name = "TIME", value_parser = time_ns)]
    pub(super) since: Option<u64>,
    /// Only entries appended until then, and no waiting for later ones
    #[arg(long, value_name = "TIME", value_parser = time_ns, conflicts_with = "cursor_file")]
    pub(super) until: Option<u64>,
}

fn now_ns() -> u64 {
    ns_of(SystemTime::now())
}

fn ns_of(time: SystemTime) -> u64 {
    let elapsed = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(elapsed.as_nanos()).unwrap_or(u64::MAX)
}

/// Nanoseconds since 1970 of a time, or of one so long ago.
fn time_ns(text: &str) -> Result<u64, String> {
    if let Ok(ago) = humantime::parse_duration(text) {
        return Ok(SystemTime::now().checked_sub(ago).map_or(0, ns_of));
    }
    humantime::parse_rfc3339_weak(text).map(ns_of).map_err(|_| {
        "neither a time such as 2026-01-31T12:00:00Z nor one ago such as 5m".to_owned()
    })
}

impl Filter {
    pub(super) fn is_empty(&self) -> bool {
        self.key.is_none() && self.grep.is_none() && self.since.is_none() && self.until.is_none()
    }

    /// Whether nothing that is published from now on is let through. An entry
    /// has its time before it is published.
    pub(super) fn is_over(&self) -> bool {
        let published = u64::try_from(PUBLISHED_WITHIN.as_nanos()).expect("far less");
        self.until
            .is_some_and(|until| now_ns() > until.saturating_add(published))
    }

    /// Of those with the key, which the watcher looks after.
    pub(super) fn lets_through(&self, entry: &Entry<'_>) -> bool {
        let at = entry.appended_at_ns();
        let greps = |grep: &Regex| grep.is_match(entry.payload());
        self.since.is_none_or(|since| at >= since)
            && self.until.is_none_or(|until| at <= until)
            && self.grep.as_ref().is_none_or(greps)
    }
}

#[cfg(test)]
mod tests {
    use super::{now_ns, time_ns};

    #[test]
    fn times_are_points_or_so_long_ago() {
        assert_eq!(time_ns("1970-01-01T00:00:01Z"), Ok(1_000_000_000));
        let minute_ago = now_ns() - 60_000_000_000;
        let parsed = time_ns("1m").expect("a duration");
        assert!(parsed.abs_diff(minute_ago) < 10_000_000_000);
        for wrong in ["", "yesterday", "-5m", "5"] {
            assert!(time_ns(wrong).is_err(), "{wrong}");
        }
    }
}
