//! One number for everything that a process has seen.
//!
//! The digest covers what a record says and not the bytes it lies in. So the
//! engines can take theirs over what they gave to the ledger and what it
//! answered, without reading anything back.

use std::collections::BTreeMap;

use ledger_client::{Appended, Entry};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// The records of one context, in the order in which they were seen.
#[derive(Clone, Debug, Default)]
pub struct ContextDigest {
    hash: Sha256,
    entries: u64,
    last_seq: u64,
    payload_len: u64,
    /// The first place where a seq did not follow its predecessor.
    gap: Option<(u64, u64)>,
}

impl ContextDigest {
    /// Adds a record that was appended.
    pub fn add<'m>(
        &mut self,
        appended: &Appended,
        key: &str,
        payload: &[u8],
        metadata: impl ExactSizeIterator<Item = (&'m str, &'m str)>,
    ) {
        if appended.seq != self.last_seq + 1 {
            self.gap.get_or_insert((self.last_seq, appended.seq));
        }
        self.last_seq = appended.seq;
        self.entries += 1;
        self.payload_len += payload.len() as u64;
        self.number(appended.seq);
        self.number(appended.lamport);
        self.number(appended.appended_at_ns);
        self.bytes(key.as_bytes());
        self.bytes(payload);
        self.number(metadata.len() as u64);
        for (name, value) in metadata {
            self.bytes(name.as_bytes());
            self.bytes(value.as_bytes());
        }
    }

    /// Adds a record that was read.
    pub fn add_entry(&mut self, entry: &Entry<'_>) {
        let appended = Appended {
            seq: entry.seq(),
            lamport: entry.lamport(),
            appended_at_ns: entry.appended_at_ns(),
        };
        self.add(&appended, entry.key(), entry.payload(), entry.metadata());
    }

    fn number(&mut self, number: u64) {
        self.hash.update(number.to_le_bytes());
    }

    /// With its length in front, or moving a byte from one field to the next
    /// would change nothing.
    fn bytes(&mut self, bytes: &[u8]) {
        self.number(bytes.len() as u64);
        self.hash.update(bytes);
    }
}

/// What a process has seen of all contexts.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seen {
    pub contexts: usize,
    pub entries: u64,
    pub payload_len: u64,
    /// SHA-256, in hex.
    pub digest: String,
    /// Where it was not dense, once per context.
    pub gaps: Vec<String>,
}

impl Seen {
    /// Sums up contexts, by name.
    pub fn of(contexts: BTreeMap<String, ContextDigest>) -> Seen {
        let mut all = ContextDigest::default();
        let mut seen = Seen {
            contexts: contexts.len(),
            entries: 0,
            payload_len: 0,
            digest: String::new(),
            gaps: Vec::new(),
        };
        for (name, context) in contexts {
            seen.entries += context.entries;
            seen.payload_len += context.payload_len;
            if let Some((before, after)) = context.gap {
                seen.gaps
                    .push(format!("in {name} seq {after} follows {before}"));
            }
            all.bytes(name.as_bytes());
            all.number(context.entries);
            all.bytes(&context.hash.finalize());
        }
        seen.digest = format!("{:x}", HexOf(&all.hash.finalize()));
        seen
    }
}

struct HexOf<'a>(&'a [u8]);

impl std::fmt::LowerHex for HexOf<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(seqs: &[u64], payload: &str, key: &str) -> Seen {
        let mut context = ContextDigest::default();
        for seq in seqs {
            let appended = Appended {
                seq: *seq,
                lamport: *seq,
                appended_at_ns: 7,
            };
            context.add(&appended, key, payload.as_bytes(), [("a", "b")].into_iter());
        }
        Seen::of(BTreeMap::from([("context".to_owned(), context)]))
    }

    #[test]
    fn equal_records_have_equal_digests_and_others_do_not() {
        let one = seen(&[1, 2, 3], "payload", "key");
        assert_eq!(one, seen(&[1, 2, 3], "payload", "key"));
        for other in [
            seen(&[1, 2], "payload", "key"),
            seen(&[1, 3, 2], "payload", "key"),
            seen(&[1, 2, 3], "payloa", "key"),
            seen(&[1, 2, 3], "ypayload", "ke"),
        ] {
            assert_ne!(one.digest, other.digest);
        }
    }

    #[test]
    fn every_seq_follows_its_predecessor_from_one_on() {
        assert!(seen(&[1, 2, 3], "", "key").gaps.is_empty());
        for gap in [&[2, 3][..], &[1, 3], &[1, 2, 2], &[1, 3, 2]] {
            assert_eq!(seen(gap, "", "key").gaps.len(), 1, "{gap:?}");
        }
    }
}
