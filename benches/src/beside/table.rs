//! Figures as tables in Markdown.

use std::fmt::Write as _;

use crate::peers::Missing;

use super::stage::{Figures, Line};

/// Who everybody is compared with.
const OURS: &str = "ledger";

/// Rows are peers, and columns what they were given, with the ratio of ours to theirs: round
/// by round, so that a change of the machine's mood meets both.
pub fn beside(columns: &[(&str, Line)]) -> String {
    let mut text = String::from("| |");
    for (name, _) in columns {
        write!(text, " {name}: mean | p50 | p99.9 | ledger |").expect("a string takes all");
    }
    text += "\n|---|";
    text += &"---|---|---|---|".repeat(columns.len());
    text += "\n";
    let Some((_, first)) = columns.first() else {
        return text;
    };
    for (place, (peer, _)) in first.iter().enumerate() {
        write!(text, "| {peer} |").expect("a string takes all");
        for (_, line) in columns {
            let ours = line.iter().find(|(peer, _)| *peer == OURS);
            let ours = ours.and_then(|(_, figures)| figures.as_ref().ok());
            text += &cells(&line[place].1, ours);
        }
        text += "\n";
    }
    text
}

fn cells(figures: &Result<Figures, Missing>, ours: Option<&Figures>) -> String {
    match figures {
        Ok(figures) => {
            let at = |quantile| time(figures.latencies.value_at_quantile(quantile) as f64);
            let mean = time(median(&figures.means));
            let ratio =
                ours.map_or_else(String::new, |ours| format!("{:.2} ×", ratio(ours, figures)));
            format!(" {mean} | {} | {} | {ratio} |", at(0.5), at(0.999))
        }
        Err(Missing::NoSuchThing(why)) => format!(" {why} | | | |"),
        Err(Missing::NotInstalled(_)) => " not run | | | |".to_owned(),
        Err(Missing::Failed(why)) => format!(" failed: {why} | | | |"),
    }
}

/// How often one is the other: the median of all rounds.
pub fn ratio(one: &Figures, other: &Figures) -> f64 {
    let rounds = one.means.iter().zip(&other.means);
    median(&rounds.map(|(one, other)| one / other).collect::<Vec<_>>())
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or(f64::NAN)
}

fn time(ns: f64) -> String {
    match ns {
        ns if ns < 1e3 => format!("{ns:.0} ns"),
        ns if ns < 1e5 => format!("{:.1} µs", ns / 1e3),
        ns if ns < 1e6 => format!("{:.0} µs", ns / 1e3),
        ns => format!("{:.1} ms", ns / 1e6),
    }
}
