//! Where a command writes: standard output, or a file that is whole or not there.

use std::fs::{self, File, Permissions};
use std::io::{self, ErrorKind};
use std::os::fd::AsFd;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::{process, thread};

use nix::sys::signal::{SigSet, Signal};
use tempfile::TempPath;

use crate::cli::Failure;

pub(super) struct Target {
    shown: String,
    file: File,
    /// What is written meanwhile, and what it is called in the end. Removed unless
    /// it comes to that.
    beside: Option<(TempPath, PathBuf)>,
}

impl Target {
    pub(super) fn open(output: &Path) -> Result<Target, Failure> {
        if output == Path::new("-") {
            let file = io::stdout().as_fd().try_clone_to_owned()?;
            return Ok(Target {
                shown: "standard output".to_owned(),
                file: file.into(),
                beside: None,
            });
        }
        let shown = output.display().to_string();
        match open(output) {
            Ok((file, beside)) => Ok(Target {
                shown,
                file,
                beside,
            }),
            Err(error) => Err(unwritten(&shown, error)),
        }
    }

    pub(super) fn file(&self) -> &File {
        &self.file
    }

    /// Whether it becomes a file.
    pub(super) fn is_kept(&self) -> bool {
        self.beside.is_some()
    }

    /// Why it ends before it is whole.
    pub(super) fn unwritten(&self, error: io::Error) -> Failure {
        unwritten(&self.shown, error)
    }

    /// It is whole: has it stay, under its name.
    pub(super) fn keep(self) -> Result<(), Failure> {
        let Some((written, path)) = self.beside else {
            return Ok(());
        };
        let kept = self.file.sync_all().and_then(|()| {
            written.persist(&path).map_err(io::Error::from)?;
            File::open(folder(&path))?.sync_all()
        });
        kept.map_err(|error| unwritten(&self.shown, error))
    }
}

fn unwritten(shown: &str, error: io::Error) -> Failure {
    match Failure::from(error) {
        Failure::Said(kind, why) => Failure::Said(kind, format!("cannot write {shown}: {why}")),
        closed => closed,
    }
}

fn open(output: &Path) -> io::Result<(File, Option<(TempPath, PathBuf)>)> {
    let path = match fs::metadata(output) {
        Ok(found) if found.is_file() => fs::canonicalize(output)?,
        // A device or a pipe cannot be replaced.
        Ok(_) => return Ok((File::options().write(true).open(output)?, None)),
        Err(error) if error.kind() == ErrorKind::NotFound => output.to_owned(),
        Err(error) => return Err(error),
    };
    let name = path.file_name().ok_or(ErrorKind::IsADirectory)?;
    let mut prefix = name.to_owned();
    prefix.push(".");
    let signals = hold_signals()?;
    let written = tempfile::Builder::new()
        .prefix(&prefix)
        .suffix(".part")
        // As any file that a program makes: the umask decides.
        .permissions(Permissions::from_mode(0o666))
        .tempfile_in(folder(&path))?;
    let (file, written) = written.into_parts();
    let part = written.to_path_buf();
    thread::Builder::new().spawn(move || {
        // Whatever else it says, waiting on makes no sense.
        if let Ok(signal) = signals.wait() {
            let _ = fs::remove_file(part);
            process::exit(128 + signal as i32);
        }
    })?;
    Ok((file, Some((written, path))))
}

/// Has every thread that begins from now on leave them to whoever waits for them.
fn hold_signals() -> io::Result<SigSet> {
    let signals = SigSet::from_iter([Signal::SIGINT, Signal::SIGTERM]);
    signals.thread_block()?;
    Ok(signals)
}

fn folder(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if folder != Path::new("") => folder,
        _ => Path::new("."),
    }
}
