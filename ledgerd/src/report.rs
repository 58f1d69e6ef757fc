//! Where the daemon's reports go: to the journal when standard error is connected
//! to it, else to standard error, without colours.

use std::io;
use std::os::fd::AsFd;

use clap::ValueEnum;
use serde::{Deserialize, Serialize};
use tracing::level_filters::LevelFilter;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;

/// How much is reported; each includes the ones before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Level {
    Error,
    Warn,
    Info,
    Debug,
}

/// Has everything reported from now on.
pub(crate) fn begin(level: Level) -> io::Result<()> {
    let filter = match level {
        Level::Error => LevelFilter::ERROR,
        Level::Warn => LevelFilter::WARN,
        Level::Info => LevelFilter::INFO,
        Level::Debug => LevelFilter::DEBUG,
    };
    let reports = tracing_subscriber::registry().with(filter);
    // The journal reads standard error as well, without the fields.
    let journal = is_under_journal().then(tracing_journald::layer);
    let outcome = if let Some(Ok(journal)) = journal {
        reports.with(journal).try_init()
    } else {
        let lines = tracing_subscriber::fmt::layer()
            .with_writer(io::stderr)
            .with_ansi(false)
            .with_target(false);
        reports.with(lines).try_init()
    };
    outcome.map_err(io::Error::other)
}

/// Whether standard error is what the journal said it is (systemd.exec(5),
/// `$JOURNAL_STREAM`): somebody may have redirected it since.
fn is_under_journal() -> bool {
    let Ok(named) = std::env::var("JOURNAL_STREAM") else {
        return false;
    };
    let found = nix::sys::stat::fstat(io::stderr().as_fd());
    found.is_ok_and(|found| named == format!("{}:{}", found.st_dev, found.st_ino))
}
