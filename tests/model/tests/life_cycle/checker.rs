//! Breadth-first exploration of everything that can happen.
//!
//! The states are kept whole, not as fingerprints: "exhaustive" is meant
//! literally. They stand in the order in which they were found, which makes the
//! list of known states the queue as well.

use std::fmt::{self, Display};
use std::hash::{Hash, Hasher};

pub trait Model {
    type State: Copy + Eq + Hash;
    type Step: Display;
    type Property: Copy;

    fn start(&self) -> Self::State;

    /// Every step that any actor may take now.
    fn steps(&self, state: &Self::State, next: &mut Vec<(Self::Step, Self::State)>);

    /// One representative of all states that differ only in who is who.
    fn canonical(&self, state: Self::State) -> Self::State;

    fn broken(&self, state: &Self::State) -> Option<Self::Property>;
}

pub struct Outcome<M: Model> {
    pub state_count: usize,
    pub depth: usize,
    pub violation: Option<Violation<M>>,
}

/// The shortest way to a state in which a property does not hold.
pub struct Violation<M: Model> {
    pub property: M::Property,
    pub steps: Vec<M::Step>,
}

impl<M: Model> Display for Violation<M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, step) in self.steps.iter().enumerate() {
            writeln!(f, "{:4}. {step}", i + 1)?;
        }
        Ok(())
    }
}

/// Explores until a property breaks or nothing new can happen.
pub fn explore<M: Model>(model: &M) -> Outcome<M> {
    let mut known = Known::new();
    let mut parents = vec![0];
    let mut level_end = 1;
    let mut depth = 0;
    let mut next = Vec::new();
    known.insert(model.canonical(model.start()));

    let mut here = 0;
    while here < known.states.len() {
        if here == level_end {
            level_end = known.states.len();
            depth += 1;
        }
        let state = known.states[here];
        if let Some(property) = model.broken(&state) {
            let steps = retrace(model, &known.states, &parents, here);
            let violation = Some(Violation { property, steps });
            return Outcome {
                state_count: known.states.len(),
                depth,
                violation,
            };
        }
        model.steps(&state, &mut next);
        for (_, after) in next.drain(..) {
            if known.insert(model.canonical(after)) {
                parents.push(here);
            }
        }
        here += 1;
    }
    Outcome {
        state_count: known.states.len(),
        depth,
        violation: None,
    }
}

/// Walks the way to `last` again, this time without renaming anybody, so that
/// an actor keeps its name from the first step to the last.
fn retrace<M: Model>(
    model: &M,
    states: &[M::State],
    parents: &[usize],
    last: usize,
) -> Vec<M::Step> {
    let mut way = vec![last];
    while way[way.len() - 1] != 0 {
        way.push(parents[way[way.len() - 1]]);
    }
    let mut here = model.start();
    let mut next = Vec::new();
    let mut steps = Vec::new();
    for &index in way.iter().rev().skip(1) {
        model.steps(&here, &mut next);
        let (step, after) = next
            .drain(..)
            .find(|(_, after)| model.canonical(*after) == states[index])
            .expect("renaming actors may not change what they can do");
        steps.push(step);
        here = after;
    }
    steps
}

/// The states found so far: a hash table of indices into the list of states.
struct Known<S> {
    states: Vec<S>,
    /// Index + 1 into `states`, 0 for a free place; a power of two of them.
    table: Vec<u32>,
}

impl<S: Copy + Eq + Hash> Known<S> {
    fn new() -> Self {
        Self {
            states: Vec::new(),
            table: vec![0; 1 << 16],
        }
    }

    /// False if the state was known already.
    fn insert(&mut self, state: S) -> bool {
        if self.states.len() * 2 > self.table.len() {
            self.grow();
        }
        let mut place = self.first_place(&state);
        while self.table[place] != 0 {
            if self.states[self.table[place] as usize - 1] == state {
                return false;
            }
            place = (place + 1) & (self.table.len() - 1);
        }
        self.states.push(state);
        self.table[place] = u32::try_from(self.states.len()).expect("fewer than 2^32 states");
        true
    }

    fn grow(&mut self) {
        self.table = vec![0; self.table.len() * 2];
        for index in 0..self.states.len() {
            let mut place = self.first_place(&self.states[index]);
            while self.table[place] != 0 {
                place = (place + 1) & (self.table.len() - 1);
            }
            self.table[place] = u32::try_from(index + 1).expect("fewer than 2^32 states");
        }
    }

    fn first_place(&self, state: &S) -> usize {
        let mut hasher = Mix(0);
        state.hash(&mut hasher);
        // The multiplication moves what distinguishes states upwards.
        (hasher.finish() >> 20) as usize & (self.table.len() - 1)
    }
}

/// A state is a hundred single bytes; `SipHash` would take most of the time.
struct Mix(u64);

impl Hasher for Mix {
    fn write(&mut self, bytes: &[u8]) {
        for &byte in bytes {
            self.write_u8(byte);
        }
    }

    fn write_u8(&mut self, byte: u8) {
        self.0 = (self.0.rotate_left(5) ^ u64::from(byte)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    }

    /// Discriminants come this way; they are small.
    fn write_isize(&mut self, value: isize) {
        self.write_u8(value as u8);
    }

    fn finish(&self) -> u64 {
        self.0 ^ (self.0 >> 29)
    }
}
