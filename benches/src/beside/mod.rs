//! All peers beside each other: the same work for each, in turn, in one run.
//!
//! Reading order: [`crate::peers`] is who they are; `player` is a process that plays one half
//! of one, and `part` what it does; `stage` is all of them with what runs beside them; then one
//! file for each kind of work; `table`, `plot` and `page` are what is made of the figures.

mod history;
mod idle;
mod in_process;
mod machine;
mod paced;
mod page;
pub mod part;
mod player;
mod plot;
mod producers;
mod round_trip;
mod send;
mod stage;
mod stopped;
mod sustained;
mod table;

use std::path::Path;

use stage::Stage;
use table::Table;

/// What a kind of work has to show.
pub enum Piece {
    Times(Table),
    Text(String),
}

/// A kind of work.
pub type Work = fn(&Stage) -> Vec<Piece>;

const WORKS: [(&str, Work); 9] = [
    ("beside/send", send::tables),
    ("beside/paced", paced::tables),
    ("beside/round-trip", round_trip::tables),
    ("beside/producers", producers::tables),
    ("beside/stopped", stopped::tables),
    ("beside/history", history::tables),
    ("beside/in-process", in_process::tables),
    ("beside/sustained", sustained::text),
    ("beside/idle", idle::text),
];

/// The page with the figures, from this package's directory.
const PAGE: &str = "../docs/BENCHMARKS.md";

/// Where its pictures are.
const PICTURES: &str = "../docs/benchmarks";

/// All work whose name contains this.
pub fn works(only: &str) -> impl Iterator<Item = &'static (&'static str, Work)> {
    WORKS.iter().filter(move |(name, _)| name.contains(only))
}

/// Does all work whose name contains this, and prints what was measured; what is not quick is
/// also for the page.
///
/// # Errors
///
/// A peer that is required is missing or cannot be built, or the page cannot be written.
pub fn run(only: &str, is_quick: bool, has_bare: bool, required: &[String]) -> Result<(), String> {
    let works: Vec<_> = works(only).collect();
    if works.is_empty() && required.is_empty() {
        return Ok(());
    }
    if has_bare {
        crate::peers::ledger::build_bare()?;
    }
    let stage = Stage::set(is_quick, has_bare, required)?;
    if works.is_empty() {
        return Ok(());
    }
    let (machine, revision) = (machine::described(&stage), machine::revision());
    println!("{machine}");
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    let (page, pictures) = (here.join(PAGE), here.join(PICTURES));
    let put = |name: &str, text: &str| match is_quick {
        true => Ok(()),
        false => page::put(&page, name, text).map_err(|error| error.to_string()),
    };
    put("beside/machine", &machine)?;
    let mut failed = Vec::new();
    for (name, work) in works {
        let mut texts = Vec::new();
        for piece in work(&stage) {
            let mut text = match &piece {
                Piece::Times(table) => {
                    failed.extend(table.failed(required));
                    table.to_markdown()
                }
                Piece::Text(text) => text.clone(),
            };
            println!("{text}");
            if let (Piece::Times(table), false) = (&piece, is_quick) {
                text += &plot::draw(table, &pictures).map_err(|error| error.to_string())?;
            }
            texts.push(text);
        }
        texts.push(format!("{revision}\n"));
        put(name, &texts.join("\n"))?;
    }
    match failed.is_empty() {
        true => Ok(()),
        false => Err(failed.join("; ")),
    }
}
