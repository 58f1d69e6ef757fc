//! `ledgerd config`: what the daemon would be run with.

use std::io::{self, Write};
use std::path::PathBuf;

use clap::{ArgMatches, Subcommand, ValueEnum};

use crate::cli::{Failure, InstanceArgs, Kind};
use crate::config::{Config, ConfigError, File};
use crate::settings::Settings;

/// What a daemon is run with.
#[derive(clap::Args, Debug)]
pub(crate) struct ConfigArgs {
    /// The configuration file [default: $XDG_CONFIG_HOME/ledgerd/config.toml,
    /// else /etc/ledgerd/config.toml, if there is one]
    #[arg(long, env = "LEDGER_CONFIG", value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(flatten)]
    settings: Settings,
}

impl ConfigArgs {
    /// Reads the file, and lays what the arguments say over it.
    pub(super) fn layered(&self, matches: &ArgMatches) -> Result<Config, ConfigError> {
        let file = File::find(self.config.as_deref())?;
        Ok(Config::layered(&self.settings, matches, file))
    }
}

#[derive(clap::Args, Debug)]
pub(crate) struct Args {
    #[command(subcommand)]
    action: Action,
}

impl Args {
    pub(crate) fn wants_json(&self) -> bool {
        matches!(
            self.action,
            Action::Show {
                output: Format::Json,
                ..
            }
        )
    }
}

/// How a configuration is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    /// As a file that says the same
    Toml,
    /// One JSON object, origins and defaults included; errors are JSON, too
    Json,
}

#[derive(Debug, Subcommand)]
enum Action {
    /// Say whether a daemon could be run with it
    Check(ConfigArgs),
    /// Print what is set, as a file that says the same
    Show {
        /// Also where each value comes from, and the defaults
        #[arg(long)]
        origin: bool,
        /// How to print
        #[arg(short, long, value_enum, value_name = "FORMAT", default_value_t = Format::Toml)]
        output: Format,
        #[command(flatten)]
        config: ConfigArgs,
    },
}

pub(crate) fn run(
    instance: &InstanceArgs,
    args: Args,
    matches: &ArgMatches,
) -> Result<(), Failure> {
    let matches = matches.subcommand().map_or(matches, |(_, matches)| matches);
    let mut out = io::stdout().lock();
    match args.action {
        Action::Check(config) => {
            let config = config.layered(matches)?;
            let place = instance.own()?;
            let options = config.options(place.name(), instance.runtime_dir(&place))?;
            options.check()?;
            match &config.file {
                Some(file) => writeln!(out, "{}: fine", file.path().display())?,
                None => writeln!(out, "no file; the defaults are fine")?,
            }
        }
        Action::Show {
            origin,
            output,
            config,
        } => {
            let config = config.layered(matches)?;
            match output {
                Format::Toml => write!(out, "{}", config.to_toml(origin))?,
                Format::Json => writeln!(out, "{}", config.to_json()?)?,
            }
        }
    }
    Ok(())
}

impl From<ConfigError> for Failure {
    fn from(error: ConfigError) -> Failure {
        Failure::Said(Kind::Failed, error.to_string())
    }
}
