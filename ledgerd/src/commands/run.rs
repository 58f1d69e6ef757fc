//! `ledgerd run`: a daemon in the foreground.

use std::os::fd::AsFd;
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};

use ledger_client::Sizes;

use crate::cli::{Failure, InstanceArgs};
use crate::commands::seconds;
use crate::service::{self, Watchdog};
use crate::{Daemon, Options};

#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    /// Bytes of memory to commit at most, e.g. 512M [default: half of what
    /// the memory file system has free]
    #[arg(long, value_name = "BYTES", value_parser = some_bytes)]
    memory_budget: Option<u64>,
    /// Bytes of sealed segments each context keeps; older entries are evicted
    /// [default: a quarter of the budget, less when that is spent]
    #[arg(long, value_name = "BYTES", value_parser = some_bytes)]
    window: Option<u64>,
    /// Bytes of a context's first segment, 8K to 64M [default: 16K]
    #[arg(long, value_name = "BYTES", value_parser = some_bytes)]
    first_segment: Option<u64>,
    /// Bytes of a context's first spare; later ones double [default: 1M]
    #[arg(long, value_name = "BYTES", value_parser = some_bytes)]
    spare_min: Option<u64>,
    /// Bytes no spare exceeds unless one entry needs more [default: 64M]
    #[arg(long, value_name = "BYTES", value_parser = some_bytes)]
    spare_max: Option<u64>,
    /// Bytes of the largest payload, inclusive, in contexts made from now on
    #[arg(long, value_name = "BYTES", value_parser = bytes, default_value = "4M")]
    payload_max: u64,
    /// Bytes of the largest metadata, inclusive, in contexts made from now on:
    /// keys, values, and 16 a pair
    #[arg(long, value_name = "BYTES", value_parser = bytes, default_value = "64K")]
    metadata_max: u64,
    /// Seconds after which a context without appenders gives up its spares
    #[arg(long, value_name = "SECONDS", default_value = "60", value_parser = seconds,
          allow_negative_numbers = true)]
    idle_close_after: Duration,
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

/// As [`bytes`], where none at all means nothing.
fn some_bytes(text: &str) -> Result<u64, String> {
    match bytes(text)? {
        0 => Err("0 bytes hold nothing".to_owned()),
        bytes => Ok(bytes),
    }
}

/// A number of bytes in whole MiB, KiB if it is less than one, or bytes.
fn amount(bytes: u64) -> String {
    match bytes {
        0..0x400 => format!("{bytes} bytes"),
        0x400..0x10_0000 => format!("{} KiB", bytes >> 10),
        _ => format!("{} MiB", bytes >> 20),
    }
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
    options.idle_close_after = args.idle_close_after;

    // Blocked before any thread exists, so that all inherit it and only the
    // wait below sees them.
    let mut signals = SigSet::empty();
    signals.add(Signal::SIGTERM);
    signals.add(Signal::SIGINT);
    signals.thread_block().map_err(std::io::Error::from)?;

    service::raise_descriptor_limit();
    let daemon = Daemon::start(options)?;
    let status = format!(
        "instance {} listens at {}, {} contexts in memory, {} leftovers removed, budget {}",
        place.name(),
        daemon.socket().display(),
        daemon.context_count(),
        daemon.leftover_count(),
        amount(daemon.budget()),
    );
    eprintln!("ledgerd {} {status}", env!("CARGO_PKG_VERSION"));
    service::ready(&status);
    let ended_on = wait(&signals, &daemon)?;
    service::stopping();
    if let Some(signal) = ended_on {
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
    let mut watchdog = Watchdog::new();
    let interval = watchdog.interval.map(PollTimeout::try_from);
    let interval = interval.transpose().map_err(std::io::Error::other)?;
    loop {
        match poll(&mut fds, interval.unwrap_or(PollTimeout::NONE)) {
            Ok(0) => watchdog.look(daemon),
            Err(nix::Error::EINTR) => {}
            _ => break,
        }
    }
    if fds[1].any() == Some(true) {
        return Ok(None);
    }
    let info = arrived.read_signal()?;
    let number = info.and_then(|info| i32::try_from(info.ssi_signo).ok());
    Ok(number.and_then(|number| Signal::try_from(number).ok()))
}

#[cfg(test)]
mod tests {
    use super::{bytes, some_bytes};

    #[test]
    fn sizes_are_read_with_their_units() {
        assert_eq!(bytes("17"), Ok(17));
        assert_eq!(bytes("16K"), Ok(16 << 10));
        assert_eq!(bytes("3GiB"), Ok(3 << 30));
        for wrong in ["", "K", "-1", "5Q", "99999999T"] {
            assert!(bytes(wrong).is_err(), "{wrong}");
        }
        assert_eq!(bytes("0K"), Ok(0));
        assert!(some_bytes("0K").is_err());
    }
}
