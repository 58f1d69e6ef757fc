//! How much of a torture is done, and what became of the promises.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::promises::{Promise, TRIED};

/// How much of a torture is done.
#[derive(Clone, Debug)]
pub struct Effort {
    /// What is drawn follows from it.
    pub seed: u64,
    /// Cases of one kind, at most; they are drawn if there are more.
    pub cases_max: usize,
    /// After this no case is begun.
    pub ends: Option<Instant>,
    /// Only kinds of cases whose name has this in it.
    pub only: String,
}

impl Effort {
    /// A few cases of each kind, for the suite: others each time.
    pub fn little(cases_max: usize) -> Effort {
        Effort {
            seed: fastrand::u64(..),
            cases_max,
            ends: None,
            only: String::new(),
        }
    }

    /// All there are.
    pub fn all(seed: u64) -> Effort {
        Effort {
            seed,
            cases_max: usize::MAX,
            ends: None,
            only: String::new(),
        }
    }

    /// The same, but no longer than this.
    pub fn within(self, time: Duration) -> Effort {
        let ends = Instant::now().checked_add(time);
        Effort { ends, ..self }
    }

    /// Whether nothing is left out.
    pub fn is_all(&self) -> bool {
        self.cases_max == usize::MAX
    }

    /// Whether there is time for another case.
    pub fn has_time(&self) -> bool {
        self.ends.is_none_or(|ends| Instant::now() < ends)
    }

    /// An equal part, one of `count`, of the time that is left.
    pub fn share(&self, count: usize) -> Effort {
        let now = Instant::now();
        let left = self.ends.map(|ends| ends.saturating_duration_since(now));
        let ends = left.map(|left| now + left / u32::try_from(count.max(1)).unwrap_or(u32::MAX));
        Effort {
            ends,
            ..self.clone()
        }
    }

    /// The kinds of cases that are wanted, each with its name, and with an equal part of the
    /// time that is left when it comes to it.
    pub fn kinds<K: Copy>(
        &self,
        kinds: &[K],
        name: impl Fn(K) -> String,
    ) -> impl Iterator<Item = (K, String, Effort)> {
        let mut kinds: Vec<_> = kinds.iter().map(|kind| (*kind, name(*kind))).collect();
        kinds.retain(|(_, name)| name.contains(&self.only));
        let count = kinds.len();
        let kinds = kinds.into_iter().enumerate();
        kinds.map(move |(n, (kind, name))| (kind, name, self.share(count - n)))
    }

    /// Numbers that follow from the seed, others for each purpose.
    pub fn rng(&self, purpose: &str) -> fastrand::Rng {
        let mix = |sum: u64, byte: u8| sum.rotate_left(9) ^ u64::from(byte).wrapping_mul(SPREAD);
        fastrand::Rng::with_seed(purpose.bytes().fold(self.seed, mix))
    }

    /// Of the cases `0..count` those to do, in the order in which to do them: each part
    /// of them early, so that who is out of time has seen something of all.
    pub fn cases(&self, count: usize, purpose: &str) -> Vec<usize> {
        let mut cases: Vec<usize> = (0..count).collect();
        self.rng(purpose).shuffle(&mut cases);
        cases.truncate(self.cases_max);
        cases
    }
}

/// 2^64 divided by the golden ratio: neighbours end up far from each other.
const SPREAD: u64 = 0x9e37_79b9_7f4a_7c15;

/// What became of the promises in one torture.
#[derive(Debug)]
pub struct Verdicts {
    torture: &'static str,
    seed: u64,
    began: Instant,
    checked: BTreeMap<Promise, Checked>,
    /// What was tried, and what was measured.
    facts: BTreeMap<String, Value>,
    /// Cases that went another way each time.
    not_met: Vec<String>,
    /// What looks in this case as if a promise were broken, and may be the machine's doing.
    doubt: Option<(Promise, String)>,
}

#[derive(Debug, Default)]
struct Checked {
    count: u64,
    broken: Vec<String>,
}

impl Verdicts {
    /// None yet.
    pub fn new(torture: &'static str, effort: &Effort) -> Verdicts {
        Verdicts {
            torture,
            seed: effort.seed,
            began: Instant::now(),
            checked: BTreeMap::new(),
            facts: BTreeMap::new(),
            not_met: Vec::new(),
            doubt: None,
        }
    }

    /// A promise was looked at: it holds, or this is how it is broken.
    pub fn check(&mut self, promise: Promise, holds: bool, how: impl FnOnce() -> String) {
        let checked = self.checked.entry(promise).or_default();
        checked.count += 1;
        if !holds {
            checked.broken.push(how());
        }
    }

    /// A promise was looked at where the machine itself may be what breaks it: it is broken
    /// if that looks so each time that the case is tried again, see [`meet`](Self::meet).
    pub fn check_again(&mut self, promise: Promise, holds: bool, how: impl FnOnce() -> String) {
        self.check(promise, true, String::new);
        if !holds {
            self.doubt = Some((promise, how()));
        }
    }

    /// Says something that was counted or measured.
    pub fn fact(&mut self, name: &str, value: impl Into<Value>) {
        self.facts.insert(name.to_owned(), value.into());
    }

    /// Adds to what was counted.
    pub fn count(&mut self, name: &str, more: u64) {
        self.fact(name, self.counted(name) + more);
    }

    /// Keeps the largest of what was measured.
    pub fn largest(&mut self, name: &str, value: u64) {
        self.fact(name, value.max(self.counted(name)));
    }

    /// What was counted under a name.
    pub fn counted(&self, name: &str) -> u64 {
        self.facts.get(name).and_then(Value::as_u64).unwrap_or(0)
    }

    /// Tries a case of this name; none if it panics, which is told.
    pub fn tried<T>(&mut self, name: &str, case: impl FnOnce(&mut Verdicts) -> T) -> Option<T> {
        let outcome = catch_unwind(AssertUnwindSafe(|| case(self)));
        self.check(TRIED, outcome.is_ok(), || name.to_owned());
        outcome.ok()
    }

    /// Tries a case of this name again, until it takes the way that was looked through
    /// before, and leaves no doubt; not for ever. `case` says whether it has gone that way.
    pub fn meet(&mut self, name: &str, mut case: impl FnMut(&mut Verdicts) -> bool) {
        let mut doubts = Vec::new();
        let is_met_without_doubt = (0..TRIES_MAX).any(|_| {
            self.count("tries", 1);
            self.doubt = None;
            let is_met = self.tried(name, &mut case).unwrap_or(true);
            let doubt = self.doubt.take().filter(|_| is_met);
            let is_clear = is_met && doubt.is_none();
            doubts.extend(doubt);
            is_clear
        });
        self.count("cases", 1);
        if is_met_without_doubt {
            return;
        }
        // Once may be the machine's doing.
        match (doubts.len(), doubts.pop()) {
            (2.., Some((promise, how))) => self.check(promise, false, || how),
            _ => self.not_met.push(name.to_owned()),
        }
    }

    /// So much of a kind was tried since this was last asked, and nearly all of it was met:
    /// otherwise there is something that nobody has looked at. How much was not.
    pub fn check_met(&mut self, of: &str, tried: u64) -> usize {
        let not_met = std::mem::take(&mut self.not_met);
        self.count("not_met", not_met.len() as u64);
        self.check(TRIED, tried > 0, || format!("{of}: no time for any"));
        // Of few cases a busy machine has more go wrong by chance.
        let count = not_met.len() as u64;
        let one_in = |parts: u64| count * parts <= tried;
        let are_few = count <= 1 || one_in(20) || (count <= 3 && one_in(10));
        let are_few = are_few && count < tried.max(1);
        self.check(TRIED, are_few, || {
            let some = &not_met[..not_met.len().min(BROKEN_SHOWN_MAX)];
            format!(
                "{of}: {} of {tried} went another way each time, as {some:?}",
                not_met.len()
            )
        });
        not_met.len()
    }

    /// Whether every promise holds that was looked at, and at least one was.
    pub fn hold(&self) -> bool {
        !self.checked.is_empty()
            && self
                .checked
                .values()
                .all(|checked| checked.broken.is_empty())
    }

    /// One line of JSON for a promise, after several tortures.
    pub fn line_of_all(all: &[Verdicts], promise: Promise) -> String {
        let looked_at = all.iter().filter(|one| one.checked.contains_key(promise));
        let is_broken = |one: &&Verdicts| !one.checked[promise].broken.is_empty();
        let tortures = |of: Vec<&Verdicts>| of.iter().map(|one| one.torture).collect::<Vec<_>>();
        let broken = Vec::from_iter(looked_at.clone().filter(is_broken));
        let looked_at = Vec::from_iter(looked_at);
        let verdict = match (looked_at.is_empty(), broken.is_empty()) {
            (true, _) => "not tried",
            (false, true) => "held",
            (false, false) => "broken",
        };
        let line = json!({
            "torture": "all",
            "promise": promise,
            "verdict": verdict,
            "looked_at_by": tortures(looked_at),
            "broken_in": tortures(broken),
        });
        line.to_string()
    }

    /// One line of JSON for each promise.
    pub fn lines(&self) -> impl Iterator<Item = String> {
        let took_s = self.began.elapsed().as_secs();
        self.checked.iter().map(move |(promise, checked)| {
            let line = json!({
                "torture": self.torture,
                "promise": promise,
                "verdict": if checked.broken.is_empty() { "held" } else { "broken" },
                "checks": checked.count,
                "broken": checked.broken.iter().take(BROKEN_SHOWN_MAX).collect::<Vec<_>>(),
                "broken_count": checked.broken.len(),
                "seed": self.seed,
                "took_s": took_s,
                "facts": self.facts,
            });
            line.to_string()
        })
    }

    /// For tests.
    ///
    /// # Panics
    ///
    /// If a promise is broken, or none was looked at.
    pub fn assert_hold(&self) {
        assert!(
            self.hold(),
            "{}",
            self.lines().collect::<Vec<_>>().join("\n")
        );
    }
}

/// How often a case is tried that goes another way than was looked through before.
const TRIES_MAX: usize = 4;
/// Of what is broken a hundred times, a few examples are enough.
const BROKEN_SHOWN_MAX: usize = 5;
