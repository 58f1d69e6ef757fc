//! What can be set by flag, in the environment and in the file alike. The names
//! in this struct are the keys of the file, the flags and the variables.

use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::num::{NonZeroU16, NonZeroU32, NonZeroU64};
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use clap::Args;
use ledger_shm::control::Sizes;
use serde::{Deserialize, Serialize};

use crate::grpc::{Address, TlsFiles};
use crate::report::Level;
use crate::{Durability, Options, Retention};

/// What is `None` is not set.
#[derive(Args, Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Settings {
    /// Whether contexts made from now on outlive their memory: `archive` writes
    /// them to files, a moment later than they are appended; `memory` does not
    /// [default: archive]
    #[arg(long, env = "LEDGER_DURABILITY", value_name = "HOW", value_enum)]
    durability: Option<Durability>,
    /// The directory of the archives [default: $STATE_DIRECTORY,
    /// $XDG_STATE_HOME/ledgerd or ~/.local/state/ledgerd]
    #[arg(long, env = "LEDGER_STATE_DIR", value_name = "DIR")]
    pub(crate) state_dir: Option<PathBuf>,
    /// Entries of an archived context to keep at least, or `all`; what is older
    /// than the last of them goes, in whole files [default: all]
    #[arg(long, env = "LEDGER_RETAIN_ENTRIES", value_name = "COUNT")]
    retain_entries: Option<Kept<Count>>,
    /// Bytes of files of an archived context to keep at least, or `all`
    /// [default: all]
    #[arg(long, env = "LEDGER_RETAIN_BYTES", value_name = "BYTES")]
    retain_bytes: Option<Kept<Bytes>>,
    /// How long to keep entries of archived contexts at least, e.g. 30d, or
    /// `all` [default: all]
    #[arg(long, env = "LEDGER_RETAIN_AGE", value_name = "AGE")]
    retain_age: Option<Kept<Age>>,
    /// Bytes of a file of the archive after which the next one is begun, 64K to
    /// 1G [default: 64M]
    #[arg(long, env = "LEDGER_ARCHIVE_FILE", value_name = "BYTES")]
    archive_file: Option<Bytes>,
    /// Bytes of memory to commit at most, e.g. 512M [default: half of what
    /// the memory file system has free]
    #[arg(long, env = "LEDGER_MEMORY_BUDGET", value_name = "BYTES")]
    pub(crate) memory_budget: Option<Bytes>,
    /// Bytes of sealed segments each context keeps; older entries are evicted
    /// [default: a quarter of the budget, less when that is spent]
    #[arg(long, env = "LEDGER_WINDOW", value_name = "BYTES")]
    window: Option<Bytes>,
    /// Bytes of a context's first segment, 8K to 64M [default: 16K]
    #[arg(long, env = "LEDGER_FIRST_SEGMENT", value_name = "BYTES")]
    first_segment: Option<Bytes>,
    /// Bytes of a context's first spare; later ones double [default: 1M]
    #[arg(long, env = "LEDGER_SPARE_MIN", value_name = "BYTES")]
    spare_min: Option<Bytes>,
    /// Bytes no spare exceeds unless one entry needs more [default: 64M]
    #[arg(long, env = "LEDGER_SPARE_MAX", value_name = "BYTES")]
    spare_max: Option<Bytes>,
    /// Bytes of the largest payload, inclusive, in contexts made from now on
    /// [default: 4M]
    #[arg(long, env = "LEDGER_PAYLOAD_MAX", value_name = "BYTES")]
    payload_max: Option<Amount>,
    /// Bytes of the largest metadata, inclusive, in contexts made from now on:
    /// keys, values, and 16 a pair [default: 64K]
    #[arg(long, env = "LEDGER_METADATA_MAX", value_name = "BYTES")]
    metadata_max: Option<Amount>,
    /// Contexts that there may be at once [default: 1000000]
    #[arg(long, env = "LEDGER_CONTEXTS_MAX", value_name = "COUNT")]
    contexts_max: Option<NonZeroU32>,
    /// Clients that may be connected at once [default: 10000]
    #[arg(long, env = "LEDGER_CLIENTS_MAX", value_name = "COUNT")]
    clients_max: Option<NonZeroU32>,
    /// Clients that may be connected at once of one other uid [default: 1000]
    #[arg(long, env = "LEDGER_CLIENTS_MAX_PER_UID", value_name = "COUNT")]
    clients_max_per_uid: Option<NonZeroU32>,
    /// Bytes that have left the window and that processes of one other uid may
    /// still hold; then they get nothing more [default: 1/8 of the budget]
    #[arg(long, env = "LEDGER_HELD_MAX", value_name = "BYTES")]
    held_max: Option<Bytes>,
    /// Seconds after which a context without appenders gives up its spares
    /// [default: 60]
    #[arg(
        long,
        env = "LEDGER_IDLE_CLOSE_AFTER",
        value_name = "SECONDS",
        allow_negative_numbers = true
    )]
    idle_close_after: Option<Seconds>,
    /// What is reported on standard error, or to the journal when under it
    /// [default: info]
    #[arg(long, env = "LEDGER_LOG_LEVEL", value_name = "LEVEL", value_enum)]
    pub(crate) log_level: Option<Level>,
    /// Answer Prometheus at http://ADDRESS/metrics, on loopback only
    /// [default: do not]
    #[arg(long, env = "LEDGER_METRICS", value_name = "ADDRESS")]
    pub(crate) metrics: Option<SocketAddr>,
    /// Serve gRPC at these addresses: 127.0.0.1:50051, unix:/run/ledger.sock
    /// [default: do not]
    #[arg(
        long,
        env = "LEDGER_GRPC",
        value_name = "ADDRESS",
        value_delimiter = ','
    )]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) grpc: Option<Vec<Address>>,
    /// Serve gRPC at this port of 127.0.0.1 as well [default: do not]
    #[arg(long, env = "GRPC_PORT", value_name = "PORT")]
    pub(crate) grpc_port: Option<NonZeroU16>,
    /// The server's certificate, and those between it and its authority, as PEM: gRPC over
    /// TCP is TLS, and may be served at any address [default: in the clear, on loopback only]
    #[arg(long, env = "LEDGER_GRPC_CERTIFICATE", value_name = "FILE")]
    grpc_certificate: Option<PathBuf>,
    /// The key of that certificate, as PEM, in a file that not everybody can read
    /// [default: none]
    #[arg(long, env = "LEDGER_GRPC_KEY", value_name = "FILE")]
    grpc_key: Option<PathBuf>,
    /// The authorities whose certificates make clients known, as PEM [default: none are asked
    /// for]
    #[arg(long, env = "LEDGER_GRPC_CLIENT_CA", value_name = "FILE")]
    pub(crate) grpc_client_ca: Option<PathBuf>,
}

impl Settings {
    /// Where gRPC is served.
    pub(crate) fn grpc_addresses(&self) -> Vec<Address> {
        let of_port = |port: NonZeroU16| SocketAddr::from((Ipv4Addr::LOCALHOST, port.get()));
        let of_port = self.grpc_port.map(of_port).map(Address::Tcp);
        let named = self.grpc.clone().unwrap_or_default();
        named.into_iter().chain(of_port).collect()
    }

    /// What TLS is served with, if it is. An error names what is said without what is needed
    /// for it.
    pub(crate) fn grpc_tls(&self) -> Result<Option<TlsFiles>, (&'static str, &'static str)> {
        let client_ca = self.grpc_client_ca.clone();
        match (&self.grpc_certificate, &self.grpc_key) {
            (Some(certificate), Some(key)) => Ok(Some(TlsFiles {
                certificate: certificate.clone(),
                key: key.clone(),
                client_ca,
            })),
            (Some(_), None) => Err(("grpc_certificate", "grpc_key")),
            (None, Some(_)) => Err(("grpc_key", "grpc_certificate")),
            (None, None) if client_ca.is_some() => Err(("grpc_client_ca", "grpc_certificate")),
            (None, None) => Ok(None),
        }
    }

    /// Sets what these say.
    pub(crate) fn apply(&self, options: &mut Options) {
        let len = |bytes: u64| usize::try_from(bytes).unwrap_or(usize::MAX);
        if let Some(durability) = self.durability {
            options.durability = durability;
        }
        if let Some(dir) = &self.state_dir {
            options.state_dir.clone_from(dir);
        }
        options.retention = retention(self.retain_entries, self.retain_bytes, self.retain_age);
        if let Some(bytes) = self.archive_file {
            options.archive_file_len = len(bytes.0);
        }
        options.memory_budget = self.memory_budget.map(|bytes| bytes.0);
        options.sizes = Sizes {
            first_len: self.first_segment.map(|bytes| bytes.0),
            spare_len_min: self.spare_min.map(|bytes| bytes.0),
            spare_len_max: self.spare_max.map(|bytes| bytes.0),
            window_len: self.window.map(|bytes| bytes.0),
        };
        if let Some(max) = self.payload_max {
            options.limits.payload_len_max = len(max.0);
        }
        if let Some(max) = self.metadata_max {
            options.limits.metadata_len_max = len(max.0);
        }
        if let Some(max) = self.contexts_max {
            options.contexts_max = max.get() as usize;
        }
        if let Some(max) = self.clients_max {
            options.clients_max = max.get() as usize;
        }
        if let Some(max) = self.clients_max_per_uid {
            options.clients_max_per_uid = max.get() as usize;
        }
        options.held_max = self.held_max.map(|bytes| bytes.0);
        if let Some(pause) = self.idle_close_after {
            options.idle_close_after = pause.0;
        }
    }
}

/// How much is kept, where something is said about it.
pub(crate) fn retention(
    entries: Option<Kept<Count>>,
    bytes: Option<Kept<Bytes>>,
    age: Option<Kept<Age>>,
) -> Retention {
    Retention {
        entries: entries.map(|of| of.0.map_or(u64::MAX, |count| count.0.get())),
        bytes: bytes.map(|of| of.0.map_or(u64::MAX, |bytes| bytes.0)),
        age: age.map(|of| of.0.map_or(Duration::MAX, |age| age.0)),
    }
}

/// A number as people and files write it.
#[derive(Deserialize)]
#[serde(untagged)]
pub(crate) enum Written {
    Integer(i64),
    Float(f64),
    Text(String),
}

macro_rules! written {
    ($($value:ty),*) => {$(
        impl TryFrom<Written> for $value {
            type Error = String;

            fn try_from(written: Written) -> Result<$value, String> {
                match written {
                    Written::Integer(number) => number.to_string().parse(),
                    Written::Float(number) => number.to_string().parse(),
                    Written::Text(text) => text.parse(),
                }
            }
        }

        impl From<$value> for String {
            fn from(value: $value) -> String {
                value.to_string()
            }
        }
    )*};
}

written!(Amount, Bytes, Seconds, Kept<Count>, Kept<Bytes>, Kept<Age>);

/// So much of something, or all of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Written", into = "String")]
#[serde(bound(
    serialize = "T: Clone, Kept<T>: Into<String>",
    deserialize = "Kept<T>: TryFrom<Written, Error = String>"
))]
pub(crate) struct Kept<T>(Option<T>);

impl<T: FromStr<Err = String>> FromStr for Kept<T> {
    type Err = String;

    fn from_str(text: &str) -> Result<Kept<T>, String> {
        match text {
            "all" => Ok(Kept(None)),
            amount => amount.parse().map(|amount| Kept(Some(amount))),
        }
    }
}

impl<T: fmt::Display> fmt::Display for Kept<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Some(amount) => amount.fmt(f),
            None => f.write_str("all"),
        }
    }
}

/// A number of things, of which there is one at least.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Count(NonZeroU64);

impl FromStr for Count {
    type Err = String;

    fn from_str(text: &str) -> Result<Count, String> {
        let count = text.parse().map(Count);
        count.map_err(|_| format!("{text:?} is not a number from 1 such as 1000000"))
    }
}

impl fmt::Display for Count {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// How old something may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Age(Duration);

impl FromStr for Age {
    type Err = String;

    /// With units such as 30d or 12h 30m; seconds without.
    fn from_str(text: &str) -> Result<Age, String> {
        let seconds = text.parse().map(Duration::from_secs);
        let age = seconds.or_else(|_| humantime::parse_duration(text));
        let age =
            age.map_err(|error| format!("{text:?} is no time such as 3600 or 30d: {error}"))?;
        match age.is_zero() {
            true => Err("nothing is kept for no time".to_owned()),
            false => Ok(Age(age)),
        }
    }
}

impl fmt::Display for Age {
    /// As it can be read again.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        humantime::format_duration(self.0).fmt(f)
    }
}

/// A number of bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Written", into = "String")]
pub(crate) struct Amount(u64);

impl FromStr for Amount {
    type Err = String;

    /// With an optional K, M, G or T (powers of 1024).
    fn from_str(text: &str) -> Result<Amount, String> {
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
            .map(Amount)
            .ok_or_else(|| format!("{text} is too large"))
    }
}

impl fmt::Display for Amount {
    /// As it can be read again, in the largest unit that is exact.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let units = [(40, "T"), (30, "G"), (20, "M"), (10, "K")];
        let exact = |(shift, _): &(u32, &str)| self.0 != 0 && self.0.trailing_zeros() >= *shift;
        match units.into_iter().find(exact) {
            Some((shift, unit)) => write!(f, "{}{unit}", self.0 >> shift),
            None => write!(f, "{}", self.0),
        }
    }
}

/// A number of bytes that holds something.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Written", into = "String")]
pub(crate) struct Bytes(pub(crate) u64);

impl FromStr for Bytes {
    type Err = String;

    fn from_str(text: &str) -> Result<Bytes, String> {
        match text.parse()? {
            Amount(0) => Err("0 bytes hold nothing".to_owned()),
            Amount(bytes) => Ok(Bytes(bytes)),
        }
    }
}

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Amount(self.0).fmt(f)
    }
}

/// A time of some seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Written", into = "String")]
pub(crate) struct Seconds(pub(crate) Duration);

impl FromStr for Seconds {
    type Err = String;

    fn from_str(text: &str) -> Result<Seconds, String> {
        let seconds = text.parse().ok();
        seconds
            .and_then(|seconds| Duration::try_from_secs_f64(seconds).ok())
            .map(Seconds)
            .ok_or_else(|| "not a number of seconds such as 60 or 0.5".to_owned())
    }
}

impl fmt::Display for Seconds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0.as_secs_f64())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_with_their_units_and_written_as_they_are_read() {
        let bytes = |text: &str| text.parse::<Amount>();
        for (text, number) in [
            ("17", 17),
            ("16K", 16 << 10),
            ("3G", 3 << 30),
            ("0", 0),
            ("1025", 1025),
        ] {
            assert_eq!(bytes(text), Ok(Amount(number)));
            assert_eq!(Amount(number).to_string(), text);
        }
        assert_eq!(bytes("3GiB"), Ok(Amount(3 << 30)));
        for wrong in ["", "K", "-1", "5Q", "99999999T"] {
            assert!(bytes(wrong).is_err(), "{wrong}");
        }
        assert!("0K".parse::<Bytes>().is_err());
    }

    #[test]
    fn what_is_kept_is_read_and_written_in_units_or_is_all() {
        let age = |text: &str| text.parse::<Kept<Age>>();
        for (text, seconds, written) in [
            ("90", 90, "1m 30s"),
            ("12h 30m", 45_000, "12h 30m"),
            ("20d", 1_728_000, "20days"),
            ("20days", 1_728_000, "20days"),
        ] {
            let read = age(text).expect(text);
            assert_eq!(read, Kept(Some(Age(Duration::from_secs(seconds)))));
            assert_eq!(read.to_string(), written);
        }
        assert_eq!(age("all"), Ok(Kept(None)));
        for wrong in ["", "0", "0d", "-1", "1z", "99999999999999999d", "All"] {
            assert!(age(wrong).is_err(), "{wrong}");
        }
        for wrong in ["0", "-1", "1K", "none"] {
            assert!(wrong.parse::<Kept<Count>>().is_err(), "{wrong}");
        }
        let all = retention(Some(Kept(None)), Some(Kept(None)), Some(Kept(None)));
        assert!(all.entries.is_some() && !all.is_limited());
    }

    #[test]
    fn times_are_finite_and_not_negative() {
        assert_eq!("0.5".parse(), Ok(Seconds(Duration::from_millis(500))));
        for wrong in ["", "-1", "nan", "inf", "1e30", "60s"] {
            assert!(wrong.parse::<Seconds>().is_err(), "{wrong}");
        }
    }
}
