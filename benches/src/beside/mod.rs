//! All peers beside each other: the same work for each, in turn, in one run.
//!
//! Reading order: [`crate::peers`] is who they are, `player` a process that plays one half of
//! one, `stage` all of them with what runs beside them; then one file for each kind of work;
//! `table` and `page` are what is made of the figures.

mod machine;
mod paced;
mod page;
pub mod player;
mod round_trip;
mod send;
pub mod stage;
mod table;

use std::path::Path;

use stage::Stage;

/// A kind of work: measured, as tables in Markdown.
pub type Work = fn(&Stage) -> String;

const WORKS: [(&str, Work); 3] = [
    ("beside/send", send::tables),
    ("beside/paced", paced::tables),
    ("beside/round-trip", round_trip::tables),
];

/// The page with the figures, from this package's directory.
const PAGE: &str = "../docs/BENCHMARKS.md";

/// All work whose name contains this.
pub fn works(only: &str) -> impl Iterator<Item = &'static (&'static str, Work)> {
    WORKS.iter().filter(move |(name, _)| name.contains(only))
}

/// Does all work whose name contains this, and prints what was measured; what is not quick is
/// also for the page.
///
/// # Errors
///
/// A peer that is required is missing, or the page cannot be written.
pub fn run(only: &str, is_quick: bool, required: &[String]) -> Result<(), String> {
    let works: Vec<_> = works(only).collect();
    if works.is_empty() {
        return Ok(());
    }
    let stage = Stage::set(is_quick, required)?;
    let machine = machine::described(&stage);
    let mut done = vec![("beside/machine", machine)];
    println!("{}", done[0].1);
    for (name, work) in works {
        let text = work(&stage);
        println!("{text}");
        done.push((*name, text));
    }
    if is_quick {
        return Ok(());
    }
    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join(PAGE);
    for (name, text) in done {
        page::put(&page, name, &text).map_err(|error| error.to_string())?;
    }
    Ok(())
}
