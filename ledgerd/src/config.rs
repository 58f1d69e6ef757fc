//! The configuration: flags over environment over file over defaults.

mod file;
mod show;

use std::path::PathBuf;
use std::sync::Arc;

use clap::ArgMatches;
use clap::parser::ValueSource;
use tokio_rustls::rustls::ServerConfig;

pub(crate) use self::file::{ConfigError, File};
use crate::grpc::{Address, KnownClient, TlsFiles};
use crate::options::Options;
use crate::rights::Grant;
use crate::settings::Settings;

/// Where a value comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Origin {
    Flag,
    Environment,
    File,
}

/// Everything that was set, and by whom.
#[derive(Clone, Debug, Default)]
pub(crate) struct Config {
    pub(crate) settings: Settings,
    origins: Vec<(String, Origin)>,
    pub(crate) file: Option<File>,
}

impl Config {
    /// What flags and variables say, over the file.
    pub(crate) fn layered(flags: &Settings, matches: &ArgMatches, file: Option<File>) -> Config {
        let above = table(flags);
        let below = file.as_ref().map(|file| table(&file.settings));
        let mut merged = below.clone().unwrap_or_default();
        merged.extend(above.clone());
        let origin = |key: &String| match matches.value_source(key) {
            Some(ValueSource::CommandLine) if above.contains_key(key) => Origin::Flag,
            _ if above.contains_key(key) => Origin::Environment,
            _ => Origin::File,
        };
        let origins = merged.keys().map(|key| (key.clone(), origin(key)));
        Config {
            origins: origins.collect(),
            settings: merged.try_into().expect("both were settings"),
            file,
        }
    }

    /// How a daemon is run with it.
    pub(crate) fn options(
        &self,
        instance: &str,
        runtime_dir: PathBuf,
    ) -> Result<Options, ConfigError> {
        let metrics = self.settings.metrics;
        if let Some(address) = metrics.filter(|address| !address.ip().is_loopback()) {
            return Err(ConfigError::MetricsForOthers(address));
        }
        let has_tls = self.tls()?.is_some();
        let for_others =
            self.settings
                .grpc_addresses()
                .into_iter()
                .find_map(|address| match address {
                    Address::Tcp(address) if !address.ip().is_loopback() => Some(address),
                    _ => None,
                });
        if let Some(address) = for_others.filter(|_| !has_tls) {
            return Err(ConfigError::GrpcInTheClear(address));
        }
        let mut clients = self.clients()?.into_iter();
        let has_authorities = self.settings.grpc_client_ca.is_some();
        let unseen = clients.find(|client| client.certificate.is_some() && !has_authorities);
        if let Some(client) = unseen {
            return Err(ConfigError::NoAuthorities { name: client.name });
        }
        let mut options = Options::new(instance);
        options.runtime_dir = runtime_dir;
        self.settings.apply(&mut options);
        options.rights = self.rights()?;
        if let Some(file) = &self.file {
            options.context_rules = file.context_rules();
        }
        Ok(options)
    }

    /// What the file lets others do.
    pub(crate) fn rights(&self) -> Result<Vec<Grant>, ConfigError> {
        let rights = self.file.as_ref().map(File::rights);
        Ok(rights.transpose()?.unwrap_or_default())
    }

    /// Whom the file makes known to those who come through the remote door.
    pub(crate) fn clients(&self) -> Result<Vec<KnownClient>, ConfigError> {
        let clients = self.file.as_ref().map(File::clients);
        Ok(clients.transpose()?.unwrap_or_default())
    }

    /// What those who come through it over TCP are spoken to with, if not in the clear.
    pub(crate) fn tls(&self) -> Result<Option<Arc<ServerConfig>>, ConfigError> {
        let files = self.settings.grpc_tls();
        let files = files.map_err(|(has, lacks)| ConfigError::HalfTls { has, lacks })?;
        Ok(files.as_ref().map(TlsFiles::load).transpose()?)
    }

    fn path(&self) -> String {
        let path = self.file.as_ref().map(|file| file.path().display());
        path.map(|path| path.to_string()).unwrap_or_default()
    }
}

/// The settings that are set.
fn table(settings: &Settings) -> toml::Table {
    toml::Table::try_from(settings).expect("settings are plain values")
}
