//! Figures as a table in Markdown.

use std::fmt::Write as _;

use crate::peers::Missing;

use super::stage::{Figures, Line};

/// Who everybody is compared with.
const OURS: &str = "ledger";

/// The ledger without what Aeron and iceoryx2 do not have either.
const BARE: &str = "bare ledger";
const WITHOUT_EITHER: [&str; 2] = ["aeron", "iceoryx2"];

/// What was measured of every peer, in the columns of what they were given.
pub struct Table {
    /// In the names of its pictures.
    pub name: &'static str,
    pub caption: String,
    /// What was taken of each round, of which the median is shown and compared.
    pub of_each_round: &'static str,
    pub columns: Vec<(&'static str, Line)>,
    /// Of which columns there are percentile curves.
    pub curves: Vec<usize>,
    /// Whether how many a second there are is shown in bars.
    pub has_bars: bool,
    /// What else there is to say, below.
    pub note: String,
}

impl Table {
    /// Rows are peers; with the ratio of ours to theirs. Who has no such thing is named below.
    pub fn to_markdown(&self) -> String {
        let mut text = format!("{}:\n\n| |", self.caption);
        for (name, _) in &self.columns {
            add(
                &mut text,
                format_args!(
                    " {name}: {} | p50 | p99.9 | ledger ÷ it |",
                    self.of_each_round
                ),
            );
        }
        text += "\n|---|";
        text += &"---|---|---|---|".repeat(self.columns.len());
        text += "\n";
        let (_, first) = &self.columns[0];
        let mut lacking: Vec<(&str, Vec<&str>)> = Vec::new();
        for (place, (peer, _)) in first.0.iter().enumerate() {
            if let Some(reason) = self.lacks(place) {
                match lacking.iter_mut().find(|(why, _)| *why == reason) {
                    Some((_, peers)) => peers.push(peer),
                    None => lacking.push((reason, vec![peer])),
                }
                continue;
            }
            add(&mut text, format_args!("| {peer} |"));
            for (_, line) in &self.columns {
                let ours = line.of(OURS).filter(|_| *peer != OURS);
                text += &cells(&line.0[place].1, ours);
            }
            text += "\n";
        }
        if !lacking.is_empty() {
            let named = lacking
                .iter()
                .map(|(why, peers)| format!("{} ({why})", peers.join(", ")));
            let named = named.collect::<Vec<_>>().join("; ");
            add(&mut text, format_args!("\nNot there: {named}.\n"));
        }
        if let Some(said) = self.bare_beside() {
            add(&mut text, format_args!("\n{said}\n"));
        }
        if !self.note.is_empty() {
            add(&mut text, format_args!("\n{}\n", self.note));
        }
        text
    }

    /// Which of these peers did not work, and why.
    pub fn failed<'a>(&'a self, required: &'a [String]) -> impl Iterator<Item = String> + 'a {
        let all = self.columns.iter().flat_map(|(_, line)| &line.0);
        all.filter_map(|(peer, figures)| match figures {
            Err(Missing::Failed(why)) if required.iter().any(|it| it == peer) => {
                Some(format!("{peer} is required and failed: {why}"))
            }
            _ => None,
        })
    }

    /// How the ledger without time and checksums compares with who has neither.
    fn bare_beside(&self) -> Option<String> {
        let mut said = Vec::new();
        for peer in WITHOUT_EITHER {
            let ratios = self.columns.iter().filter_map(|(name, line)| {
                let times = line.of(BARE)?.to(line.of(peer)?);
                Some(format!("{} ({name})", ratio(times)))
            });
            let ratios: Vec<_> = ratios.collect();
            if !ratios.is_empty() {
                said.push(format!("{peer} {}", ratios.join(", ")));
            }
        }
        (!said.is_empty()).then(|| format!("{BARE} ÷ {}.", said.join("; ")))
    }

    /// Why a peer has nothing in any column.
    fn lacks(&self, place: usize) -> Option<&str> {
        let reasons = self.columns.iter().map(|(_, line)| match &line.0[place].1 {
            Err(Missing::NoSuchThing(why)) => Some(*why),
            Err(Missing::NotInstalled(_)) => Some("not run, see above"),
            _ => None,
        });
        let reasons: Option<Vec<_>> = reasons.collect();
        reasons?.first().copied()
    }
}

pub fn add(text: &mut String, more: std::fmt::Arguments<'_>) {
    text.write_fmt(more).expect("a string takes all");
}

fn cells(figures: &Result<Figures, Missing>, ours: Option<&Figures>) -> String {
    match figures {
        Ok(figures) => {
            let at = |quantile| time(figures.latencies.value_at_quantile(quantile) as f64);
            let of_rounds = time(figures.median());
            let ratio = ours.map_or_else(String::new, |ours| ratio(ours.to(figures)));
            format!(" {of_rounds} | {} | {} | {ratio} |", at(0.5), at(0.999))
        }
        Err(Missing::NoSuchThing(why)) => format!(" {why} | | | |"),
        Err(Missing::NotInstalled(_)) => " not run | | | |".to_owned(),
        Err(Missing::Failed(why)) => format!(" failed: {why} | | | |"),
    }
}

/// To two digits that say something.
fn ratio(ratio: f64) -> String {
    match ratio {
        ratio if ratio < 0.1 => format!("1 / {:.0}", 1.0 / ratio),
        ratio if ratio < 10.0 => format!("{ratio:.2} ×"),
        ratio => format!("{ratio:.0} ×"),
    }
}

pub fn time(ns: f64) -> String {
    match ns {
        ns if ns < 10.0 => format!("{ns:.1} ns"),
        ns if ns < 1e3 => format!("{ns:.0} ns"),
        ns if ns < 1e5 => format!("{:.1} µs", ns / 1e3),
        ns if ns < 1e6 => format!("{:.0} µs", ns / 1e3),
        ns if ns < 1e9 => format!("{:.1} ms", ns / 1e6),
        ns => format!("{:.1} s", ns / 1e9),
    }
}
