//! What files are called within the directory of their context.

use std::path::Path;
use std::{fmt, io};

use crate::format::SEQ_MAX;
use crate::sys::uninterrupted;

/// A file of a context. Names sort as their entries do.
///
/// ```
/// use ledger_shm::file::FileName;
///
/// let name = FileName::Finished(1).to_string();
/// assert_eq!(name, "00000000000000000001.ledger");
/// assert_eq!(FileName::parse(&name), Some(FileName::Finished(1)));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum FileName {
    /// A finished file, by the seq of its first entry.
    Finished(u64),
    /// One that is being written.
    Open(u64),
    /// One that could not be written any further: kept until its entries are
    /// elsewhere.
    Failed(u64),
}

impl FileName {
    /// The file that a name means, if it is one.
    pub fn parse(name: &str) -> Option<FileName> {
        let (digits, kind) = name.split_once('.')?;
        let first_seq = digits.parse().ok()?;
        if !(1..=SEQ_MAX).contains(&first_seq) {
            return None;
        }
        let parsed = match kind {
            "ledger" => FileName::Finished(first_seq),
            "open" => FileName::Open(first_seq),
            "failed" => FileName::Failed(first_seq),
            _ => return None,
        };
        (parsed.to_string() == name).then_some(parsed)
    }

    /// The seq of its first entry.
    pub fn first_seq(self) -> u64 {
        match self {
            FileName::Finished(seq) | FileName::Open(seq) | FileName::Failed(seq) => seq,
        }
    }
}

/// The first seqs of the finished files in the directory of a context, in order. None is
/// left out between others, whatever is finished meanwhile.
///
/// A directory is read piece by piece: of two files that are renamed meanwhile, the later one
/// may be found under its new name and the earlier one under neither. Files are finished in
/// the order of their entries, so all that the first reading found, and all before them, had
/// their names before the second one began.
///
/// # Errors
///
/// The kernel's.
pub fn finished_in(dir: &Path) -> io::Result<Vec<u64>> {
    let last = read_finished(dir)?.last().copied();
    let mut first_seqs = read_finished(dir)?;
    first_seqs.retain(|seq| last.is_some_and(|last| *seq <= last));
    Ok(first_seqs)
}

fn read_finished(dir: &Path) -> io::Result<Vec<u64>> {
    let mut first_seqs = Vec::new();
    for entry in uninterrupted(|| std::fs::read_dir(dir))? {
        let name = entry?.file_name();
        if let Some(FileName::Finished(seq)) = name.to_str().and_then(FileName::parse) {
            first_seqs.push(seq);
        }
    }
    first_seqs.sort_unstable();
    Ok(first_seqs)
}

impl fmt::Display for FileName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = match self {
            FileName::Finished(_) => "ledger",
            FileName::Open(_) => "open",
            FileName::Failed(_) => "failed",
        };
        write!(f, "{:020}.{kind}", self.first_seq())
    }
}

#[cfg(test)]
mod tests {
    use super::{FileName, finished_in};

    #[test]
    fn names_come_back_and_others_are_none() {
        for name in [
            FileName::Finished(1),
            FileName::Open(1 << 62),
            FileName::Failed(17),
        ] {
            assert_eq!(FileName::parse(&name.to_string()), Some(name));
        }
        assert_eq!(FileName::parse(&FileName::Open(0).to_string()), None);
        assert_eq!(FileName::parse(&FileName::Open(u64::MAX).to_string()), None);
        for other in ["1.ledger", "00000000000000000001.ledger.torn", "lock", ""] {
            assert_eq!(FileName::parse(other), None, "{other}");
        }
    }

    #[test]
    fn finished_files_are_found_in_order() {
        let dir = tempfile::tempdir().expect("a directory");
        let none = finished_in(dir.path()).expect("readable");
        assert!(none.is_empty());
        for name in [
            FileName::Finished(900),
            FileName::Open(901),
            FileName::Finished(1),
            FileName::Failed(2),
            FileName::Finished(17),
        ] {
            std::fs::File::create_new(dir.path().join(name.to_string())).expect("a file");
        }
        let finished = finished_in(dir.path()).expect("readable");
        assert_eq!(finished, [1, 17, 900]);
    }

    #[test]
    fn no_file_is_left_out_between_others_while_files_are_finished() {
        const COUNT: u64 = 10_000;
        // Where a directory is no list, but a table of which only a part is read at a time.
        let dir = tempfile::tempdir_in("/var/tmp").expect("a directory");
        let path = |name: FileName| dir.path().join(name.to_string());
        std::thread::scope(|scope| {
            let daemon = scope.spawn(|| {
                for seq in 1..=COUNT {
                    let (open, finished) = (FileName::Open(seq), FileName::Finished(seq));
                    std::fs::File::create_new(path(open)).expect("a file");
                    std::fs::rename(path(open), path(finished)).expect("its name");
                }
            });
            while !daemon.is_finished() {
                let finished = finished_in(dir.path()).expect("readable");
                let last = finished.len() as u64;
                assert_eq!(finished, Vec::from_iter(1..=last), "some were left out");
            }
        });
        let all = finished_in(dir.path()).expect("readable");
        assert_eq!(all, Vec::from_iter(1..=COUNT));
    }
}
