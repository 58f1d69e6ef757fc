//! Where an instance is found: its name and its socket.

use std::env;
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};

use ledger_shm::object::{Instance, InvalidInstance};

/// The instance that is meant when nobody says otherwise.
///
/// ```
/// use ledger_client::place::{DEFAULT_INSTANCE, instance_name};
///
/// # if std::env::var_os("LEDGER_INSTANCE").is_none() {
/// assert_eq!(instance_name().as_deref(), Ok(DEFAULT_INSTANCE));
/// # }
/// ```
pub const DEFAULT_INSTANCE: &str = "default";

/// A variable that is set to nothing counts as not set.
fn named(variable: &str) -> Option<OsString> {
    env::var_os(variable).filter(|value| !value.is_empty())
}

/// The instance's name from `LEDGER_INSTANCE`, else `default`.
///
/// # Errors
///
/// [`InvalidInstance`] if the variable holds no valid name.
///
/// ```
/// println!("{}", ledger_client::place::instance_name()?);
/// # Ok::<(), ledger_shm::object::InvalidInstance>(())
/// ```
pub fn instance_name() -> Result<String, InvalidInstance> {
    match named("LEDGER_INSTANCE") {
        None => Ok(DEFAULT_INSTANCE.to_owned()),
        Some(name) => name
            .into_string()
            .map_err(|name| InvalidInstance(name.to_string_lossy().into_owned())),
    }
}

/// The directory of the instance's socket: `$LEDGER_RUNTIME_DIR`, else
/// the first of `$RUNTIME_DIRECTORY`, else `$XDG_RUNTIME_DIR/ledgerd`, else
/// `/tmp/ledgerd-<uid>`. The two in the middle are this process's own, and not
/// meant where the instance belongs to another uid.
///
/// ```
/// println!("{}", ledger_client::place::runtime_dir(1000).display());
/// ```
pub fn runtime_dir(uid: u32) -> PathBuf {
    let dir = |variable| named(variable).map(PathBuf::from);
    let own = || {
        named("RUNTIME_DIRECTORY")
            .map(first)
            .or_else(|| dir("XDG_RUNTIME_DIR").map(|dir| dir.join("ledgerd")))
            .filter(|_| uid == nix::unistd::geteuid().as_raw())
    };
    dir("LEDGER_RUNTIME_DIR")
        .or_else(own)
        .unwrap_or_else(|| PathBuf::from(format!("/tmp/ledgerd-{uid}")))
}

/// There may be several, parted by colons (systemd.exec(5)).
fn first(dirs: OsString) -> PathBuf {
    let first = dirs.as_bytes().split(|byte| *byte == b':').next();
    PathBuf::from(OsStr::from_bytes(first.unwrap_or_default()))
}

/// The directory of the archives: `$LEDGER_STATE_DIR`, else the first of
/// `$STATE_DIRECTORY`, else `$XDG_STATE_HOME/ledgerd`, else
/// `$HOME/.local/state/ledgerd`, else `/var/lib/ledgerd`.
///
/// ```
/// println!("{}", ledger_client::place::state_dir().display());
/// ```
pub fn state_dir() -> PathBuf {
    let dir = |variable| named(variable).map(PathBuf::from);
    dir("LEDGER_STATE_DIR")
        .or_else(|| named("STATE_DIRECTORY").map(first))
        .or_else(|| dir("XDG_STATE_HOME").map(|dir| dir.join("ledgerd")))
        .or_else(|| dir("HOME").map(|home| home.join(".local/state/ledgerd")))
        .unwrap_or_else(|| PathBuf::from("/var/lib/ledgerd"))
}

/// The directory in which all files of an instance are.
///
/// ```
/// use std::path::Path;
/// use ledger_client::place::archive_dir;
/// use ledger_shm::object::Instance;
///
/// let instance = Instance::new(1000, "tests")?;
/// let dir = archive_dir(Path::new("/var/lib/ledgerd"), &instance);
/// assert_eq!(dir, Path::new("/var/lib/ledgerd/tests"));
/// # Ok::<(), ledger_shm::object::InvalidInstance>(())
/// ```
pub fn archive_dir(state_dir: &Path, instance: &Instance) -> PathBuf {
    state_dir.join(instance.name())
}

/// The directory in what a daemon has written into the object that it locks: behind
/// the first newline, up to the next.
pub(crate) fn archive_dir_said(said: &[u8]) -> Option<PathBuf> {
    let dir = said.split(|byte| *byte == b'\n').nth(1)?;
    (!dir.is_empty()).then(|| PathBuf::from(OsStr::from_bytes(dir)))
}

/// The socket of an instance in its runtime directory.
///
/// ```
/// use std::path::Path;
/// use ledger_client::place::socket_path;
/// use ledger_shm::object::Instance;
///
/// let instance = Instance::new(1000, "tests")?;
/// let socket = socket_path(Path::new("/run/ledgerd"), &instance);
/// assert_eq!(socket, Path::new("/run/ledgerd/tests.sock"));
/// # Ok::<(), ledger_shm::object::InvalidInstance>(())
/// ```
pub fn socket_path(runtime_dir: &Path, instance: &Instance) -> PathBuf {
    runtime_dir.join(format!("{}.sock", instance.name()))
}

/// Makes the runtime directory if it is missing, and [checks](check_runtime_dir)
/// it. Mode 0700, or 0711 if other uids are to reach the socket in it.
///
/// # Errors
///
/// The kernel's, or as [`check_runtime_dir`].
///
/// ```
/// # use std::os::unix::fs::MetadataExt;
/// use ledger_client::place::prepare_runtime_dir;
///
/// let dir = std::env::temp_dir().join(format!("ledger-doc-{}", std::process::id()));
/// # let uid = std::fs::metadata("/proc/self")?.uid();
/// prepare_runtime_dir(&dir, uid, false)?;
/// assert_eq!(std::fs::metadata(&dir)?.mode() & 0o777, 0o700);
/// # std::fs::remove_dir(&dir)?;
/// # Ok::<(), std::io::Error>(())
/// ```
pub fn prepare_runtime_dir(dir: &Path, uid: u32, is_for_others: bool) -> io::Result<()> {
    match std::fs::DirBuilder::new()
        .recursive(true)
        .mode(if is_for_others { 0o711 } else { 0o700 })
        .create(dir)
    {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        _ => check_runtime_dir(dir, uid),
    }
}

/// Makes a directory for archives if it is missing, with mode 0700, and checks it as
/// [`check_runtime_dir`] does.
///
/// # Errors
///
/// The kernel's, or `PermissionDenied` with what is wrong with the directory.
///
/// ```
/// # use std::os::unix::fs::MetadataExt;
/// use ledger_client::place::prepare_archive_dir;
///
/// let dir = std::env::temp_dir().join(format!("ledger-doc-state-{}", std::process::id()));
/// # let uid = std::fs::metadata("/proc/self")?.uid();
/// prepare_archive_dir(&dir, uid)?;
/// # std::fs::remove_dir(&dir)?;
/// # Ok::<(), std::io::Error>(())
/// ```
pub fn prepare_archive_dir(dir: &Path, uid: u32) -> io::Result<()> {
    let mut builder = std::fs::DirBuilder::new();
    match builder.recursive(true).mode(0o700).create(dir) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
        _ => check_dir("archive", "LEDGER_STATE_DIR", dir, uid),
    }
}

/// Checks that nobody else could have prepared the runtime directory, or could
/// change it: our own, no symlink, not writable by others.
///
/// # Errors
///
/// The kernel's, or `PermissionDenied` with what is wrong with the directory.
///
/// ```
/// use std::path::Path;
/// use ledger_client::place::check_runtime_dir;
///
/// // Everybody can write there.
/// let error = check_runtime_dir(Path::new("/tmp"), 0).unwrap_err();
/// assert_eq!(error.kind(), std::io::ErrorKind::PermissionDenied);
/// ```
pub fn check_runtime_dir(dir: &Path, uid: u32) -> io::Result<()> {
    check_dir("runtime", "LEDGER_RUNTIME_DIR", dir, uid)
}

fn check_dir(what: &str, variable: &str, dir: &Path, uid: u32) -> io::Result<()> {
    let found = std::fs::symlink_metadata(dir)?;
    let fault = if found.is_symlink() {
        "is a symbolic link".to_owned()
    } else if !found.is_dir() {
        "is no directory".to_owned()
    } else if found.uid() != uid {
        format!("belongs to uid {}, not to {uid}", found.uid())
    } else if found.mode() & 0o022 != 0 {
        format!(
            "has mode {:o} and can be written by others",
            found.mode() & 0o7777
        )
    } else {
        return Ok(());
    };
    let message = format!(
        "{what} directory {} {fault}; name another with {variable}",
        dir.display()
    );
    Err(io::Error::new(io::ErrorKind::PermissionDenied, message))
}
