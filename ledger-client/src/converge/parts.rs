//! A text that may be longer than one entry's payload.

/// Bytes of one part, at most: less than the smallest spare segment has by default.
#[cfg(feature = "converge")]
const PART_LEN_MAX: usize = 512 << 10;
/// The least that a part holds, whatever the context's limit: else a character might not fit.
#[cfg(feature = "converge")]
const PART_LEN_MIN: usize = 16;

/// The parts of a text, none longer than an entry's payload may be, each with its number in
/// the metadata: `1/3`.
#[cfg(feature = "converge")]
pub(super) fn split(text: &str, payload_len_max: usize) -> Vec<(String, &str)> {
    let len_max = payload_len_max.clamp(PART_LEN_MIN, PART_LEN_MAX);
    let mut parts = Vec::new();
    let mut rest = text;
    while !rest.is_empty() {
        let (part, after) = rest.split_at(rest.floor_char_boundary(len_max));
        parts.push(part);
        rest = after;
    }
    let count = parts.len();
    let numbered = parts.into_iter().enumerate();
    numbered
        .map(|(place, part)| (format!("{}/{count}", place + 1), part))
        .collect()
}

/// What there is of a text so far.
#[derive(Debug, Default)]
pub(super) struct Parts {
    text: String,
    taken: u64,
    count: u64,
}

impl Parts {
    /// Takes the next part. A first one begins anew; one out of turn, or without a number,
    /// leaves what will never be whole.
    pub(super) fn take(&mut self, number: &str, text: &str) {
        let number = number.split_once('/');
        let number = number.and_then(|(n, of)| Some((n.parse().ok()?, of.parse().ok()?)));
        match number {
            Some((1, count)) => *self = Parts::begun(text, count),
            Some((n, count)) if n == self.taken + 1 && count == self.count => {
                self.text += text;
                self.taken = n;
            }
            _ => *self = Parts::default(),
        }
    }

    fn begun(text: &str, count: u64) -> Parts {
        Parts {
            text: text.to_owned(),
            taken: 1,
            count,
        }
    }

    /// The text, if all of it is there.
    pub(super) fn whole(&self) -> Option<&str> {
        (self.taken > 0 && self.taken == self.count).then_some(&self.text)
    }
}
