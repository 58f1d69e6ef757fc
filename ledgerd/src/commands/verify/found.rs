//! What was found of entries so far, and the verdict that comes of it.

use std::fs::File;
use std::io;

use ledger_shm::file::{Damage, Head, Scan, Trailer, verify, verify_ends};
use ledger_shm::merkle::Hash;
use serde::Serialize;

use crate::commands::print::hex;

/// As `docs/JSON.md` has it.
#[derive(Serialize)]
pub(in crate::commands) struct Verdict {
    pub(in crate::commands) what: String,
    pub(in crate::commands) is_sound: bool,
    is_quick: bool,
    entries: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    last_seq: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    root: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    torn: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    first_bad: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    damage: Option<String>,
}

impl Verdict {
    /// For eyes.
    pub(in crate::commands) fn line(&self) -> String {
        let what = self.what.escape_debug();
        if let Some(damage) = &self.damage {
            let first_bad = match self.first_bad {
                Some(seq) => format!("first bad entry {seq}; "),
                None => String::new(),
            };
            return format!("BAD    {what}  {first_bad}{damage}");
        }
        let mut line = format!("sound  {what}  {} entries", self.entries);
        if let (Some(seq), Some(root)) = (self.last_seq, &self.root) {
            line += &format!(", the last is {seq}, root {root}");
        }
        if let Some(torn) = self.torn {
            line += &format!("; {torn} bytes at the end of its last file are torn");
        }
        if self.is_quick {
            line += "; those in files were not read";
        }
        line
    }
}

/// What was found so far.
#[derive(Default)]
pub(in crate::commands) struct Found {
    /// Entries in finished files are not read.
    pub(super) is_quick: bool,
    pub(in crate::commands) entries: u64,
    /// The last entry, and the root of the tree over all up to that one.
    pub(in crate::commands) tree: Option<(u64, Hash)>,
    pub(in crate::commands) bad: Option<(Option<u64>, String)>,
    /// Bytes behind what is valid of an unfinished file.
    pub(super) torn: Option<u64>,
}

impl Found {
    pub(super) fn new(is_quick: bool) -> Found {
        Found {
            is_quick,
            ..Found::default()
        }
    }

    /// What an unfinished file holds, as far as it is valid.
    pub(super) fn take(&mut self, file: &File, scan: &Scan) -> io::Result<()> {
        self.entries = scan.count();
        self.tree = Some((scan.last_seq(), scan.tree().root()));
        let Some(damage) = &scan.damage else {
            return Ok(());
        };
        match scan.goes_on_with(file)? {
            Some(_) => {
                let seq = scan.last_seq() + 1;
                self.bad = Some((Some(seq), format!("entry {seq}: {damage}")));
            }
            None => self.torn = Some(file.metadata()?.len() - scan.valid_len() as u64),
        }
        Ok(())
    }

    pub(super) fn check(&self, file: &File) -> Result<(Head, Trailer), Damage> {
        match self.is_quick {
            true => verify_ends(file),
            false => verify(file),
        }
    }

    pub(in crate::commands) fn verdict(self, what: String) -> Verdict {
        let (first_bad, damage) = self.bad.unzip();
        let (last_seq, root) = self.tree.filter(|_| damage.is_none()).unzip();
        Verdict {
            what,
            is_sound: damage.is_none(),
            is_quick: self.is_quick,
            entries: self.entries,
            last_seq,
            root: root.map(|root| hex(&root)),
            torn: self.torn,
            first_bad: first_bad.flatten(),
            damage,
        }
    }
}
