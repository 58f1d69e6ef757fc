//! What files are called within the directory of their context.

use std::fmt;

use crate::format::SEQ_MAX;

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
    use super::FileName;

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
}
