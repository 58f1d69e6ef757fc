//! What is set, and where each value comes from: as a file that says the same, or
//! as JSON.

use std::fmt::Write as _;

use clap::{Arg, Args, Command};
use serde::Serialize;

use super::file::Tables;
use super::{Config, Origin, table};
use crate::settings::Settings;

/// One setting.
#[derive(Serialize)]
struct Line {
    key: String,
    /// None if nobody has said anything.
    #[serde(skip_serializing_if = "Option::is_none")]
    value: Option<toml::Value>,
    /// The flag, the variable, the file or `default`.
    origin: String,
    /// What holds if nobody says anything, in words.
    default: String,
}

/// All that there is to show.
#[derive(Serialize)]
struct Shown<'a> {
    settings: Vec<Line>,
    #[serde(flatten)]
    tables: Option<&'a Tables>,
}

impl Config {
    fn line(&self, arg: &Arg, set: &toml::Table) -> Line {
        let key = arg.get_id().as_str();
        let origin = self.origins.iter().find(|(of, _)| of == key);
        let origin = match origin {
            Some((_, Origin::Flag)) => format!("--{}", arg.get_long().unwrap_or_default()),
            Some((_, Origin::Environment)) => {
                let variable = arg.get_env().unwrap_or_default();
                format!("${}", variable.to_string_lossy())
            }
            Some((_, Origin::File)) => self.path(),
            None => "default".to_owned(),
        };
        let help = arg.get_help().map(ToString::to_string).unwrap_or_default();
        let default = help.split_once("[default: ");
        Line {
            key: key.to_owned(),
            value: set.get(key).cloned(),
            origin,
            default: default.map_or_else(String::new, |(_, rest)| {
                rest.trim_end_matches(']').to_owned()
            }),
        }
    }

    fn shown(&self) -> Shown<'_> {
        let set = table(&self.settings);
        let command = Settings::augment_args(Command::new(""));
        Shown {
            settings: command
                .get_arguments()
                .map(|arg| self.line(arg, &set))
                .collect(),
            tables: self.file.as_ref().map(|file| &file.tables),
        }
    }

    /// Everything that is or could be set, as one object.
    pub(crate) fn to_json(&self) -> serde_json::Result<String> {
        serde_json::to_string(&self.shown())
    }

    /// As a file that says the same, each line with where it comes from if that
    /// is wanted.
    pub(crate) fn to_toml(&self, with_origin: bool) -> String {
        let mut text = String::new();
        let shown = self.shown();
        for line in shown.settings {
            let key = &line.key;
            let line = match (&line.value, with_origin) {
                (Some(value), true) => format!("{key} = {value}  # {}\n", line.origin),
                (Some(value), false) => format!("{key} = {value}\n"),
                (None, true) => format!("#{key} =  # default: {}\n", line.default),
                (None, false) => continue,
            };
            text.push_str(&line);
        }
        if let Some(tables) = shown.tables {
            let tables = toml::to_string(tables).expect("tables are plain values");
            let note = match with_origin && !tables.is_empty() {
                true => format!("# {}\n", self.path()),
                false => String::new(),
            };
            write!(text, "\n{note}{tables}").expect("a string takes everything");
        }
        text
    }
}
