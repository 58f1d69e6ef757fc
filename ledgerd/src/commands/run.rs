//! `ledgerd run`: a daemon in the foreground.

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use std::os::fd::AsFd;

use clap::ArgMatches;

use crate::cli::{Failure, InstanceArgs};
use crate::commands::config::ConfigArgs;
use crate::service::{self, Watchdog};
use crate::{Daemon, Options};

/// A number of bytes in whole MiB, KiB if it is less than one, or bytes.
fn amount(bytes: u64) -> String {
    match bytes {
        0..0x400 => format!("{bytes} bytes"),
        0x400..0x10_0000 => format!("{} KiB", bytes >> 10),
        _ => format!("{} MiB", bytes >> 20),
    }
}

pub(crate) fn run(
    instance: &InstanceArgs,
    args: ConfigArgs,
    matches: &ArgMatches,
) -> Result<(), Failure> {
    let place = instance.own()?;
    let options = || -> Result<Options, Failure> {
        let config = args.layered(matches)?;
        Ok(config.options(place.name(), instance.runtime_dir(&place))?)
    };
    let first = options()?;

    // Blocked before any thread exists, so that all inherit it and only the
    // wait below sees them.
    let mut signals = SigSet::empty();
    signals.add(Signal::SIGTERM);
    signals.add(Signal::SIGINT);
    signals.add(Signal::SIGHUP);
    signals.thread_block().map_err(std::io::Error::from)?;

    service::raise_descriptor_limit();
    let daemon = Daemon::start(first)?;
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
    let ended_on = wait(&signals, &daemon, || reload(&daemon, options()))?;
    service::stopping();
    if let Some(signal) = ended_on {
        eprintln!("ledgerd stops on {signal}; its contexts stay in memory");
    }
    Ok(daemon.stop()?)
}

/// Reads the configuration again; what is wrong with it changes nothing.
fn reload(daemon: &Daemon, options: Result<Options, Failure>) {
    let outcome = options.and_then(|options| Ok(daemon.reload(options)?));
    match outcome {
        Ok(unchanged) if unchanged.is_empty() => eprintln!("ledgerd: configuration reloaded"),
        Ok(unchanged) => eprintln!(
            "ledgerd: configuration reloaded; this takes a new start: {}",
            unchanged.join(", ")
        ),
        Err(Failure::Said(_, error)) => {
            eprintln!("ledgerd: the configuration stays as it was: {error}");
        }
        Err(Failure::ClosedPipe) => {}
    }
}

/// Waits for a signal that ends it, or for the end of a daemon that failed.
fn wait(signals: &SigSet, daemon: &Daemon, reload: impl Fn()) -> std::io::Result<Option<Signal>> {
    let flags = SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK;
    let arrived = SignalFd::with_flags(signals, flags)?;
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
            _ => {
                if fds[1].any() == Some(true) {
                    return Ok(None);
                }
                let info = arrived.read_signal()?;
                let number = info.and_then(|info| i32::try_from(info.ssi_signo).ok());
                match number.and_then(|number| Signal::try_from(number).ok()) {
                    Some(Signal::SIGHUP) => reload(),
                    None => {}
                    signal => return Ok(signal),
                }
            }
        }
    }
}
