//! `ledgerd run`: a daemon in the foreground.

use std::os::fd::AsFd;
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

use ledger_client::Sizes;

use crate::cli::{Failure, InstanceArgs};
use crate::{Daemon, Options};

#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    /// Bytes of memory to commit at most, e.g. 512M [default: half of what
    /// the memory file system has free]
    #[arg(long, value_name = "BYTES", value_parser = bytes)]
    memory_budget: Option<u64>,
    /// Bytes of sealed segments each context keeps; older entries are evicted
    /// [default: a quarter of the budget, less when that is spent]
    #[arg(long, value_name = "BYTES", value_parser = bytes)]
    window: Option<u64>,
    /// Bytes of a context's first segment, at most 64M [default: 16K]
    #[arg(long, value_name = "BYTES", value_parser = bytes)]
    first_segment: Option<u64>,
    /// Bytes of a context's first spare; later ones double [default: 1M]
    #[arg(long, value_name = "BYTES", value_parser = bytes)]
    spare_min: Option<u64>,
    /// Bytes no spare exceeds unless one entry needs more [default: 64M]
    #[arg(long, value_name = "BYTES", value_parser = bytes)]
    spare_max: Option<u64>,
    /// Bytes of the largest payload, inclusive
    #[arg(long, value_name = "BYTES", value_parser = bytes, default_value = "4M")]
    payload_max: u64,
    /// Bytes of the largest metadata, inclusive: keys, values, and 16 a pair
    #[arg(long, value_name = "BYTES", value_parser = bytes, default_value = "64K")]
    metadata_max: u64,
    /// Seconds after which a context without appenders gives up its spares
    #[arg(long, value_name = "SECONDS", default_value_t = 60.0)]
    idle_close_after: f64,
}

/// A number of bytes with an optional K, M, G or T (powers of 1024).
fn bytes(text: &str) -> Result<u64, String> {
    let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
    let number: u64 = digits
        .parse()
        .map_err(|_| format!("{text:?} is not a number of bytes such as 512M"))?;
    let shift = match text[digits.len()..].to_ascii_uppercase().as_str() {
        "" | "B" => 0,
        "K" | "KIB" => 10,
        "M" | "MIB" => 20,
        "G" | "GIB" => 30,
        "T" | "TIB" => 40,
        unit => return Err(format!("{unit:?} is no unit; use K, M, G or T")),
    };
    number
        .checked_shl(shift)
        .filter(|bytes| bytes >> shift == number)
        .ok_or_else(|| format!("{text} is too large"))
}

pub(crate) fn run(instance: &InstanceArgs, args: Args) -> Result<(), Failure> {
    let place = instance.instance()?;
    let mut options = Options::new(place.name());
    options.runtime_dir = instance.runtime_dir(&place);
    let len = |bytes: u64| usize::try_from(bytes).unwrap_or(usize::MAX);
    options.memory_budget = args.memory_budget;
    options.sizes = Sizes {
        first_len: args.first_segment,
        spare_len_min: args.spare_min,
        spare_len_max: args.spare_max,
        window_len: args.window,
    };
    options.limits.payload_len_max = len(args.payload_max);
    options.limits.metadata_len_max = len(args.metadata_max);
    options.idle_close_after =
        Duration::try_from_secs_f64(args.idle_close_after).map_err(|error| {
            Failure::Said(format!(
                "--idle-close-after {}: {error}",
                args.idle_close_after
            ))
        })?;

    // Blocked before any thread exists, so that all inherit it and only the
    // wait below sees them.
    let mut signals = SigSet::empty();
    signals.add(Signal::SIGTERM);
    signals.add(Signal::SIGINT);
    signals.thread_block().map_err(std::io::Error::from)?;

    let daemon = Daemon::start(options)?;
    eprintln!(
        "ledgerd {} instance {} listens at {}, {} contexts in memory, {} leftovers removed, budget {} MiB",
        env!("CARGO_PKG_VERSION"),
        place.name(),
        daemon.socket().display(),
        daemon.context_count(),
        daemon.leftover_count(),
        daemon.budget() >> 20,
    );
    if let Some(signal) = wait(&signals, &daemon)? {
        eprintln!("ledgerd stops on {signal}; its contexts stay in memory");
    }
    Ok(daemon.stop()?)
}

/// Waits for a signal, or for the end of a daemon that failed.
fn wait(signals: &SigSet, daemon: &Daemon) -> std::io::Result<Option<Signal>> {
    let arrived = SignalFd::with_flags(signals, SfdFlags::SFD_CLOEXEC)?;
    let mut fds = [
        PollFd::new(arrived.as_fd(), PollFlags::POLLIN),
        PollFd::new(daemon.ended(), PollFlags::POLLIN),
    ];
    while matches!(poll(&mut fds, PollTimeout::NONE), Err(nix::Error::EINTR)) {}
    if fds[1].any() == Some(true) {
        return Ok(None);
    }
    let info = arrived.read_signal()?;
    let number = info.and_then(|info| i32::try_from(info.ssi_signo).ok());
    Ok(number.and_then(|number| Signal::try_from(number).ok()))
}

#[cfg(test)]
mod tests {
    use super::bytes;

    #[test]
    fn sizes_are_read_with_their_units() {
        assert_eq!(bytes("17"), Ok(17));
        assert_eq!(bytes("16K"), Ok(16 << 10));
        assert_eq!(bytes("3GiB"), Ok(3 << 30));
        for wrong in ["", "K", "-1", "5Q", "99999999T"] {
            assert!(bytes(wrong).is_err(), "{wrong}");
        }
    }
}
