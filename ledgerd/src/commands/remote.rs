//! `--remote`: which ledger elsewhere is asked, and by whom.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use ledger_client::remote::RemoteLedger;

use crate::cli::{Failure, Kind};

/// How to reach a ledger elsewhere.
#[derive(Args, Debug)]
#[command(next_help_heading = "Elsewhere")]
pub(crate) struct RemoteArgs {
    /// The ledger at this address, https://HOST:PORT, http://127.0.0.1:PORT or unix:PATH, of
    /// `ls`, `append`, `get`, `tail` and `snapshot`
    #[arg(long = "remote", global = true, value_name = "URI", display_order = LAST)]
    pub(crate) uri: Option<String>,
    /// What to show it: a file with the token
    #[arg(
        long,
        global = true,
        env = "LEDGER_TOKEN_FILE",
        value_name = "FILE",
        hide_short_help = true,
        display_order = LAST
    )]
    token_file: Option<PathBuf>,
    /// Whose certificates to trust, as PEM [default: those that this host trusts]
    #[arg(
        long,
        global = true,
        env = "LEDGER_CA",
        value_name = "FILE",
        hide_short_help = true,
        display_order = LAST
    )]
    ca: Option<PathBuf>,
    /// The certificate to show, as PEM
    #[arg(
        long,
        global = true,
        env = "LEDGER_CERTIFICATE",
        value_name = "FILE",
        requires = "key_file",
        hide_short_help = true,
        display_order = LAST
    )]
    certificate: Option<PathBuf>,
    /// The key of that certificate, as PEM
    #[arg(
        long,
        global = true,
        env = "LEDGER_KEY_FILE",
        value_name = "FILE",
        requires = "certificate",
        hide_short_help = true,
        display_order = LAST
    )]
    key_file: Option<PathBuf>,
}

/// Behind everything else.
const LAST: usize = 200;

impl RemoteArgs {
    /// Connects, if a ledger elsewhere is meant.
    pub(crate) fn connect(
        &self,
        timeout: Option<Duration>,
    ) -> Result<Option<RemoteLedger>, Failure> {
        let Some(uri) = &self.uri else {
            return Ok(None);
        };
        let mut builder = RemoteLedger::builder(uri);
        if let Some(path) = &self.token_file {
            let token = String::from_utf8_lossy(&read(path)?).trim().to_owned();
            builder = builder.token(token);
        }
        // Certificates may be set for all ledgers, and this one needs none.
        if uri.starts_with("https:") {
            if let Some(path) = &self.ca {
                builder = builder.authorities(read(path)?);
            }
            if let (Some(certificate), Some(key)) = (&self.certificate, &self.key_file) {
                builder = builder.identity(read(certificate)?, read(key)?);
            }
        }
        if let Some(timeout) = timeout {
            builder = builder.connect_timeout(timeout).call_timeout(timeout);
        }
        Ok(Some(builder.connect()?))
    }
}

fn read(path: &Path) -> Result<Vec<u8>, Failure> {
    let unread = |error| Failure::Said(Kind::Usage, format!("cannot read {path:?}: {error}"));
    fs::read(path).map_err(unread)
}
