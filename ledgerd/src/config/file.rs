//! The configuration's file: what can be in it, and what is wrong with one.

use std::env;
use std::fs;
use std::io::{self, Read};
use std::net::SocketAddr;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use clap::{Args, Command};
use ledger_shm::control::Sizes;
use nix::unistd::{Group, User};
use serde::{Deserialize, Serialize};
use toml::de::{DeTable, DeValue};

use crate::grpc::{KnownClient, TlsError};
use crate::options::{ContextRules, Durability};
use crate::rights::{Grant, Right};
use crate::settings::{Age, Bytes, Count, Kept, Settings, retention};

/// What is wrong with a configuration.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConfigError {
    #[error("cannot read the configuration {}: {source}", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error(
        "the configuration {} has mode {mode:o} and belongs to uid {uid}; nobody but root and who runs the daemon may be able to write it",
        path.display()
    )]
    Writable { path: PathBuf, mode: u32, uid: u32 },
    #[error("{}, line {line}: there is no key `{key}`{}", path.display(), near.as_ref().map_or_else(String::new, |near| format!("; did you mean `{near}`?")))]
    UnknownKey {
        path: PathBuf,
        line: usize,
        key: String,
        near: Option<String>,
    },
    #[error(
        "metrics are for this machine only, and {0} is none of its own addresses; use 127.0.0.1 or [::1], and a proxy for others"
    )]
    MetricsForOthers(SocketAddr),
    #[error("{}: {error}", path.display())]
    Syntax {
        path: PathBuf,
        error: toml::de::Error,
    },
    #[error("{}: a `[[rights]]` gives nothing to anybody; it needs `contexts`, and `users`, `groups` or `clients`", path.display())]
    NoEffect { path: PathBuf },
    #[error("{}: there is no {what} {name:?} on this machine; use the number, or make one", path.display())]
    Nobody {
        path: PathBuf,
        what: &'static str,
        name: String,
    },
    #[error(
        "{}: the rights name a client {name:?}, of which no `[[clients]]` says how it is known",
        path.display()
    )]
    UnknownClient { path: PathBuf, name: String },
    #[error(
        "{}: `token_sha256` of client {name:?} is {found:?} and not 64 hexadecimal digits; `printf %s TOKEN | sha256sum` says what it is",
        path.display()
    )]
    TokenHash {
        path: PathBuf,
        name: String,
        found: String,
    },
    #[error(
        "gRPC would be served at {0} in the clear, and others could listen; give it `grpc_certificate` and `grpc_key`, or use a loopback address or a Unix socket"
    )]
    GrpcInTheClear(SocketAddr),
    #[error("`{has}` is given without `{lacks}`, and it takes both to serve gRPC over TLS")]
    HalfTls {
        has: &'static str,
        lacks: &'static str,
    },
    #[error(transparent)]
    Tls(#[from] TlsError),
    #[error(
        "{}: nothing makes client {name:?} known; it needs `token_sha256` or `certificate_name`",
        path.display()
    )]
    NothingKnown { path: PathBuf, name: String },
    #[error(
        "client {name:?} is known by its certificate, and no `grpc_client_ca` says whose certificates are taken"
    )]
    NoAuthorities { name: String },
}

/// The tables that can be there many times, and their keys.
const RIGHTS: (&str, &[&str]) = (
    "rights",
    &["contexts", "users", "groups", "clients", "right"],
);
const CLIENTS: (&str, &[&str]) = ("clients", &["name", "token_sha256", "certificate_name"]);
const CONTEXTS: (&str, &[&str]) = (
    "contexts",
    &[
        "names",
        "durability",
        "retain_entries",
        "retain_bytes",
        "retain_age",
        "first_segment",
        "spare_min",
        "spare_max",
        "window",
    ],
);

const TABLES: [(&str, &[&str]); 3] = [RIGHTS, CLIENTS, CONTEXTS];

/// A user or group.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(untagged, expecting = "expected the number or the name of one")]
enum Id {
    Number(u32),
    Name(String),
}

#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct RightsTable {
    contexts: Vec<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    users: Vec<Id>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    groups: Vec<Id>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    clients: Vec<String>,
    right: Right,
}

#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct ClientTable {
    name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    token_sha256: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    certificate_name: Option<String>,
}

#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct ContextTable {
    names: Vec<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    durability: Option<Durability>,
    #[serde(skip_serializing_if = "Option::is_none")]
    retain_entries: Option<Kept<Count>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    retain_bytes: Option<Kept<Bytes>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    retain_age: Option<Kept<Age>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    first_segment: Option<Bytes>,
    #[serde(skip_serializing_if = "Option::is_none")]
    spare_min: Option<Bytes>,
    #[serde(skip_serializing_if = "Option::is_none")]
    spare_max: Option<Bytes>,
    #[serde(skip_serializing_if = "Option::is_none")]
    window: Option<Bytes>,
}

/// What comes in tables.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub(super) struct Tables {
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    rights: Vec<RightsTable>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    clients: Vec<ClientTable>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    contexts: Vec<ContextTable>,
}

/// A file that was read.
#[derive(Clone, Debug, Default)]
pub(crate) struct File {
    path: PathBuf,
    pub(super) settings: Settings,
    pub(super) tables: Tables,
}

impl File {
    /// The file that is meant: the one that is named, else
    /// `$XDG_CONFIG_HOME/ledgerd/config.toml`, else `/etc/ledgerd/config.toml`,
    /// of which there need be none.
    pub(crate) fn find(named: Option<&Path>) -> Result<Option<File>, ConfigError> {
        if let Some(path) = named {
            return File::read(path).map(Some);
        }
        let set = |variable| env::var_os(variable).filter(|value| !value.is_empty());
        let home = || set("HOME").map(|home| Path::new(&home).join(".config"));
        let own = set("XDG_CONFIG_HOME").map(PathBuf::from).or_else(home);
        // $HOME may be that of who started us as somebody else.
        let own = own
            .map(|dir| dir.join("ledgerd/config.toml"))
            .filter(|path| path.exists());
        for path in own
            .into_iter()
            .chain([PathBuf::from("/etc/ledgerd/config.toml")])
        {
            match File::read(&path) {
                Err(ConfigError::Read { source, .. })
                    if source.kind() == io::ErrorKind::NotFound => {}
                outcome => return outcome.map(Some),
            }
        }
        Ok(None)
    }

    fn read(path: &Path) -> Result<File, ConfigError> {
        let path = path.to_owned();
        let unread = |source| ConfigError::Read {
            path: path.clone(),
            source,
        };
        // Asked of what is read, whatever has its name a moment later.
        let mut file = fs::File::open(&path).map_err(unread)?;
        let found = file.metadata().map_err(unread)?;
        let (mode, uid) = (found.mode() & 0o7777, found.uid());
        let is_trusted = uid == 0 || uid == nix::unistd::geteuid().as_raw();
        if !is_trusted || mode & 0o022 != 0 {
            return Err(ConfigError::Writable { path, mode, uid });
        }
        let mut text = String::new();
        file.read_to_string(&mut text).map_err(unread)?;
        File::parse(path, &text)
    }

    fn parse(path: PathBuf, text: &str) -> Result<File, ConfigError> {
        let syntax = |error| ConfigError::Syntax {
            path: path.clone(),
            error,
        };
        let document = DeTable::parse(text).map_err(syntax)?;
        if let Some((key, at, near)) = unknown_key(document.get_ref()) {
            let line = text[..at].matches('\n').count() + 1;
            return Err(ConfigError::UnknownKey {
                path,
                line,
                key,
                near,
            });
        }
        Ok(File {
            settings: toml::from_str(text).map_err(syntax)?,
            tables: toml::from_str(text).map_err(syntax)?,
            path,
        })
    }

    /// Where it lies.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The rights in it.
    pub(crate) fn rights(&self) -> Result<Vec<Grant>, ConfigError> {
        let nobody = |what, name: &String| ConfigError::Nobody {
            path: self.path.clone(),
            what,
            name: name.clone(),
        };
        let uid = |id: &Id| match id {
            Id::Number(uid) => Ok(*uid),
            Id::Name(name) => match User::from_name(name) {
                Ok(Some(user)) => Ok(user.uid.as_raw()),
                _ => Err(nobody("user", name)),
            },
        };
        let gid = |id: &Id| match id {
            Id::Number(gid) => Ok(*gid),
            Id::Name(name) => match Group::from_name(name) {
                Ok(Some(group)) => Ok(group.gid.as_raw()),
                _ => Err(nobody("group", name)),
            },
        };
        let grant = |table: &RightsTable| {
            let unknown = table.clients.iter().find(|name| {
                let mut clients = self.tables.clients.iter();
                !clients.any(|client| client.name == **name)
            });
            if let Some(name) = unknown {
                return Err(ConfigError::UnknownClient {
                    path: self.path.clone(),
                    name: name.clone(),
                });
            }
            let has_uids = !(table.users.is_empty() && table.groups.is_empty());
            let has_somebody = has_uids || !table.clients.is_empty();
            if !has_somebody || table.contexts.is_empty() {
                return Err(ConfigError::NoEffect {
                    path: self.path.clone(),
                });
            }
            let uids: Vec<u32> = table.users.iter().map(uid).collect::<Result<_, _>>()?;
            let gids: Vec<u32> = table.groups.iter().map(gid).collect::<Result<_, _>>()?;
            let grant = Grant::new(table.right, &table.contexts);
            Ok(grant.uids(uids).gids(gids).clients(&table.clients))
        };
        self.tables.rights.iter().map(grant).collect()
    }

    /// Whom it makes known by what they show.
    pub(crate) fn clients(&self) -> Result<Vec<KnownClient>, ConfigError> {
        let client = |table: &ClientTable| {
            let (path, name) = (self.path.clone(), table.name.clone());
            let token = table.token_sha256.as_ref().map(|written| {
                let mut token = [0; 32];
                let read = hex::decode_to_slice(written, &mut token);
                read.map(|()| token).map_err(|_| ConfigError::TokenHash {
                    path: path.clone(),
                    name: name.clone(),
                    found: written.clone(),
                })
            });
            let token = token.transpose()?;
            let certificate = table.certificate_name.clone();
            if token.is_none() && certificate.is_none() {
                return Err(ConfigError::NothingKnown { path, name });
            }
            Ok(KnownClient {
                name,
                token,
                certificate,
            })
        };
        self.tables.clients.iter().map(client).collect()
    }

    /// What it says about some contexts.
    pub(crate) fn context_rules(&self) -> Vec<ContextRules> {
        let rules = |table: &ContextTable| {
            let rules = ContextRules::new(&table.names).sizes(Sizes {
                first_len: table.first_segment.map(|bytes| bytes.0),
                spare_len_min: table.spare_min.map(|bytes| bytes.0),
                spare_len_max: table.spare_max.map(|bytes| bytes.0),
                window_len: table.window.map(|bytes| bytes.0),
            });
            let (entries, bytes) = (table.retain_entries, table.retain_bytes);
            let rules = rules.retention(retention(entries, bytes, table.retain_age));
            match table.durability {
                Some(durability) => rules.durability(durability),
                None => rules,
            }
        };
        self.tables.contexts.iter().map(rules).collect()
    }
}

/// The first key that means nothing: its path, where it is, and the nearest one.
fn unknown_key(document: &DeTable<'_>) -> Option<(String, usize, Option<String>)> {
    let check = |table: &DeTable<'_>, within: &str, known: &[&str]| {
        let is_unknown = |key: &&str| !known.contains(key);
        let mut keys = table.iter().map(|(key, _)| key);
        let unknown = keys.find(|key| is_unknown(&&**key.get_ref()))?;
        let name = unknown.get_ref().to_string();
        let near = known
            .iter()
            .map(|known| (strsim::jaro_winkler(known, &name), *known))
            .filter(|(nearness, _)| *nearness > 0.7)
            .max_by(|a, b| a.0.total_cmp(&b.0));
        let near = near.map(|(_, known)| known.to_owned());
        Some((format!("{within}{name}"), unknown.span().start, near))
    };
    let command = Settings::augment_args(Command::new(""));
    let settings = command.get_arguments().map(|arg| arg.get_id().as_str());
    let known: Vec<&str> = settings.chain(TABLES.map(|(name, _)| name)).collect();
    check(document, "", &known).or_else(|| {
        TABLES.into_iter().find_map(|(name, keys)| {
            let DeValue::Array(tables) = document.get(name)?.get_ref() else {
                return None;
            };
            tables.iter().find_map(|table| match table.get_ref() {
                DeValue::Table(table) => check(table, &format!("{name}."), keys),
                _ => None,
            })
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<File, ConfigError> {
        File::parse("c.toml".into(), text)
    }

    #[test]
    fn every_known_key_is_taken() {
        for (name, keys) in TABLES {
            for key in keys {
                let value = match *key {
                    "right" => "\"read\"",
                    "name" | "token_sha256" | "certificate_name" => "\"reporter\"",
                    "durability" => "\"archive\"",
                    "retain_entries" => "1000000",
                    "retain_bytes" => "\"10G\"",
                    "retain_age" => "\"all\"",
                    "window" | "first_segment" | "spare_min" | "spare_max" => "\"1M\"",
                    _ => "[\"root\"]",
                };
                let required = match (name, *key) {
                    ("rights", "contexts") => "right = \"read\"",
                    ("rights", "right") => "contexts = []",
                    ("rights", _) => "contexts = []\nright = \"admin\"",
                    ("clients", "name") => "",
                    ("clients", _) => "name = \"reporter\"",
                    (_, "names") => "",
                    _ => "names = []",
                };
                let text = format!("[[{name}]]\n{key} = {value}\n{required}\n");
                parse(&text).unwrap_or_else(|error| panic!("{text}: {error}"));
            }
        }
        let file = parse("memory_budget = \"1G\"\nidle_close_after = 0.5\nclients_max = 3\n");
        let shown = super::super::table(&file.expect("valid").settings).to_string();
        assert_eq!(
            shown,
            "clients_max = 3\nidle_close_after = \"0.5\"\nmemory_budget = \"1G\"\n"
        );
    }

    #[test]
    fn unknown_keys_are_errors_that_name_the_nearest() {
        for (text, said) in [
            (
                "window = 1\nmemory_budjet = 2\n",
                "c.toml, line 2: there is no key `memory_budjet`; did you mean `memory_budget`?",
            ),
            (
                "[[rights]]\ncontexts = []\nuser = [1]\nright = \"read\"\n",
                "c.toml, line 3: there is no key `rights.user`; did you mean `users`?",
            ),
            ("[quux]\n", "c.toml, line 1: there is no key `quux`"),
        ] {
            let error = parse(text).expect_err("unknown");
            assert_eq!(error.to_string(), said);
        }
    }

    #[test]
    fn wrong_values_are_shown_where_they_are() {
        let error = parse("window = \"much\"\n").expect_err("no number");
        let said = error.to_string();
        assert!(
            said.contains("line 1") && said.contains("\"much\" is not a number"),
            "{said}"
        );
        let error = parse("[[rights]]\ncontexts = []\nright = \"write\"\n");
        let said = error.expect_err("no right").to_string();
        assert!(
            said.contains("line 3") && said.contains("`append`"),
            "{said}"
        );
    }
}
