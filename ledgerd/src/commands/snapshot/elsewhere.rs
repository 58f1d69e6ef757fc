//! Snapshots of a ledger elsewhere, and into one.

use ledger_client::Progress;
use ledger_client::remote::{Context, RemoteError, RemoteLedger};

use super::input::Input;
use super::progress::Bar;
use super::{Export, Load, ZSTD_LEVEL, named, report, written};
use crate::cli::{Failure, Kind};
use crate::commands::target::Target;

pub(super) fn export(context: &Context, args: &Export, target: Target) -> Result<(), Failure> {
    if args.to.is_some() {
        let message = "a snapshot of a ledger elsewhere has all entries: --to is not for it";
        return Err(Failure::Said(Kind::Usage, message.to_owned()));
    }
    let write = |error: RemoteError| match error {
        RemoteError::Write(error) => target.unwritten(error),
        error => error.into(),
    };
    let file = target.file().try_clone()?;
    let bar = Bar::new();
    let on_progress = |progress: Progress| bar.show(progress.done_len, progress.total_len);
    let snapshot = if args.zstd {
        let compressed = |error| write(RemoteError::Write(error));
        let mut encoder = zstd::Encoder::new(file, ZSTD_LEVEL).map_err(compressed)?;
        let snapshot = context.snapshot_to(&mut encoder).on_progress(on_progress);
        let snapshot = snapshot.run().map_err(write)?;
        encoder.finish().map_err(compressed)?;
        snapshot
    } else {
        let snapshot = context.snapshot_to(file).on_progress(on_progress);
        snapshot.run().map_err(write)?
    };
    bar.finish();
    written(target, snapshot)
}

pub(super) fn load(ledger: &RemoteLedger, args: Load, input: Input) -> Result<(), Failure> {
    let total_len = input.total_len();
    let bar = Bar::new();
    let load = ledger.load_from(input);
    let mut load = load.on_progress(|progress| bar.show(progress.done_len, total_len));
    if let Some(name) = args.r#as {
        load = load.name(name);
    }
    if args.fail_if_exists {
        load = load.only_new();
    }
    let loaded = load.run();
    bar.finish();
    let loaded = loaded.map_err(|error| match error {
        RemoteError::Snapshot(error) => named(&args.file, &error),
        error => error.into(),
    })?;
    report(args.output, &loaded)
}
