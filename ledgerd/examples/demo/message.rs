//! What a process says to the coordinator: one JSON object per line.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};

use serde::{Deserialize, Serialize};

use crate::Failure;
use crate::digest::Seen;
use crate::latency::Percentiles;
use crate::loan::Verdict;

#[derive(Debug, Serialize, Deserialize)]
pub enum Message {
    /// It is set up and waits.
    Ready,
    /// A line for the user.
    Line(String),
    /// A human has to answer this, and it waits.
    Asked(String),
    /// What became of the run that asked. Nothing follows.
    Gated(Gated),
    /// What came of it. Nothing follows.
    Report(Report),
}

/// A run that was killed while it waited for a human.
#[derive(Debug, Serialize, Deserialize)]
pub struct Gated {
    /// Which one it was that ended.
    pub attempt: u32,
    /// Over all its facts.
    pub merkle_root: String,
    /// Over those of a run that nobody has killed.
    pub uninterrupted: String,
}

#[derive(Debug, Serialize, Deserialize)]
pub struct Report {
    /// The records that this process appended or read.
    pub seen: Seen,
    /// From the first to the last of them.
    pub elapsed_ns: u64,
    /// How long each took, where that was measured.
    pub latency: Option<Percentiles>,
    /// Only of the engines.
    pub decided: Option<Decided>,
}

/// What became of the applications.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Decided {
    pub verdicts: BTreeMap<Verdict, u64>,
    /// Entries that the recorders could not append.
    pub dropped: u64,
    /// Why, of one of them.
    pub dropped_why: Option<String>,
}

impl Message {
    /// Says it to the coordinator.
    pub fn say(&self) -> io::Result<()> {
        let mut out = io::stdout().lock();
        serde_json::to_writer(&mut out, self)?;
        writeln!(out)?;
        out.flush()
    }
}

/// Waits for the coordinator's word to begin.
pub fn wait_for_go() -> Result<(), Failure> {
    let mut line = String::new();
    io::stdin().read_line(&mut line)?;
    if line.trim_end() != "go" {
        return Err("the coordinator is gone".into());
    }
    Ok(())
}

/// Ends this process as soon as the coordinator has ended, however it did: the
/// kernel closes its side of our input then.
pub fn end_with_the_coordinator() -> io::Result<()> {
    std::thread::Builder::new()
        .name("coordinator".into())
        .spawn(|| {
            // Nothing more is said; only the end counts, and an error is one.
            let _ = io::stdin().lock().read_to_end(&mut Vec::new());
            std::process::exit(1);
        })
        .map(drop)
}
