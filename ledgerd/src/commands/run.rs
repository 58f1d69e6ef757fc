//! `ledgerd run`: a daemon in the foreground.

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use std::os::fd::AsFd;
use std::path::Path;
use std::time::SystemTime;

use clap::ArgMatches;
use ledger_client::Ledger;
use ledger_shm::object::Instance;

use crate::Daemon;
use crate::cli::{Failure, InstanceArgs};
use crate::commands::config::ConfigArgs;
use crate::config::Config;
use crate::grpc::{Door, Entrance};
use crate::metrics::Metrics;
use crate::report::{self, Level};
use crate::service::{self, Watchdog};

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
    let started = SystemTime::now();
    let place = instance.own()?;
    let config = args.layered(matches)?;
    let runtime_dir = instance.runtime_dir(&place);
    let first = config.options(place.name(), runtime_dir.clone())?;
    let settings = &config.settings;
    report::begin(settings.log_level.unwrap_or(Level::Info))?;

    // Blocked before any thread exists, so that all inherit it and only the
    // wait below sees them.
    let mut signals = SigSet::empty();
    signals.add(Signal::SIGTERM);
    signals.add(Signal::SIGINT);
    signals.add(Signal::SIGHUP);
    signals.thread_block().map_err(std::io::Error::from)?;

    service::raise_descriptor_limit();
    let daemon = match service::listener()? {
        Some(listener) => Daemon::start_on(listener, first)?,
        None => Daemon::start(first)?,
    };
    let metrics = settings.metrics;
    let metrics = metrics.map(|address| Metrics::serve(address, &place, &daemon, started));
    let _metrics = metrics.transpose()?;
    let door = open_door(&config, &place, &daemon)?;
    let status = format!(
        "instance {} listens at {}, {} contexts in memory, {} leftovers removed, budget {}",
        place.name(),
        daemon.socket().display(),
        daemon.context_count(),
        daemon.leftover_count(),
        amount(daemon.budget()),
    );
    tracing::info!("ledgerd {} {status}", env!("CARGO_PKG_VERSION"));
    service::ready(&status);
    let ended_on = wait(&signals, &daemon, || match args.layered(matches) {
        Ok(next) => reload(&daemon, door.as_ref(), &config, &next, &runtime_dir),
        Err(error) => tracing::error!("the configuration stays as it was: {error}"),
    })?;
    service::stopping();
    if let Some(signal) = ended_on {
        tracing::info!("stops on {signal}; its contexts stay in memory");
    }
    // What is under way there is done first.
    drop(door);
    Ok(daemon.stop()?)
}

/// Opens the remote door if it is to be served anywhere.
fn open_door(config: &Config, place: &Instance, daemon: &Daemon) -> Result<Option<Door>, Failure> {
    let addresses = config.settings.grpc_addresses();
    if addresses.is_empty() {
        return Ok(None);
    }
    let runtime_dir = daemon.socket().parent().map(ToOwned::to_owned);
    let ledger = Ledger::builder()
        .instance(place.name())
        .runtime_dir(runtime_dir.unwrap_or_default())
        .daemon_optional(true)
        .connect()?;
    let entrance = Entrance::new(place.uid(), config.clients()?, config.rights()?);
    // What is on its way may be larger than memory.
    let elsewhere = std::env::temp_dir();
    let spool_dir = daemon.archive_dir().unwrap_or(&elsewhere);
    let door = Door::open(&addresses, config.tls()?, entrance, ledger, spool_dir)?;
    Ok(Some(door))
}

/// Goes on with a configuration that was read again; what is wrong with it
/// changes nothing.
fn reload(daemon: &Daemon, door: Option<&Door>, first: &Config, next: &Config, runtime_dir: &Path) {
    let outcome = || -> Result<_, Failure> {
        let options = next.options(daemon.instance(), runtime_dir.to_owned())?;
        let (tls, clients) = (next.tls()?, next.clients()?);
        let rights = options.rights.clone();
        let mut unchanged = daemon.reload(options)?;
        if let Some(door) = door {
            if tls.is_none() && door.has_tls() {
                unchanged.push("grpc_certificate");
            }
            door.change(tls, clients, rights)?;
        }
        let (before, now) = (&first.settings, &next.settings);
        if before.metrics != now.metrics {
            unchanged.push("metrics");
        }
        if before.grpc_addresses() != now.grpc_addresses() {
            unchanged.push("grpc");
        }
        if before.log_level != now.log_level {
            unchanged.push("log_level");
        }
        Ok(unchanged)
    };
    match outcome() {
        Ok(unchanged) if unchanged.is_empty() => tracing::info!("configuration reloaded"),
        Ok(unchanged) => tracing::warn!(
            "configuration reloaded; this takes a new start: {}",
            unchanged.join(", ")
        ),
        Err(Failure::Said(_, error)) => {
            tracing::error!("the configuration stays as it was: {error}");
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
