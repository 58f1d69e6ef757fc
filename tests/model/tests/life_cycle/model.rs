//! The life cycle as a model: where it starts, what can happen, what must hold.
//!
//! One step is one access to shared memory that another actor could see or
//! could have changed. Loads of what never changes any more (an ENTRY, a base
//! that is written) are not steps of their own, and nor is a load whose result
//! the next CAS confirms. That also makes hints disappear: slots before the
//! frontier are ENTRY for ever, so a search from a stale hint ends where a
//! search from slot 0 ends. What stays stale is what an actor holds between
//! its search and its CAS, and which part it believes to be the current one.
//!
//! Nothing makes an actor take its next step. So a state in which one was
//! stopped for an hour, or killed, is simply one that others go on from.

use std::fmt::{self, Display};

use crate::checker;
use crate::rules::{Property, Rule};
use crate::state::{
    APPENDERS, Appender, Daemon, ENTRIES, End, Id, PARTS, Part, Phase, Reader, Record, SLOTS, Slot,
    State,
};

/// How much may happen. Crashes of the daemon, and how long anybody is stopped,
/// are not bounded.
#[derive(Clone, Copy, Debug)]
pub struct Bounds {
    /// Attached from the beginning.
    pub appender_count: usize,
    /// Attach at any time; with the others at most `APPENDERS`.
    pub newcomer_count: usize,
    pub has_reader: bool,
    /// Entries that one part has room for, below `SLOTS`.
    pub room: usize,
    /// How many entries, parts and closings there may be in all.
    pub entry_count_max: u8,
    pub part_count_max: u8,
    pub closing_count_max: u8,
    /// Spares that the daemon keeps, of each size.
    pub small_spare_count: usize,
    pub large_spare_count: usize,
}

pub struct Life<'a> {
    pub bounds: Bounds,
    pub off: Option<Rule>,
    pub watched: &'a [Property],
}

/// A line of a counter-example.
pub struct Step {
    pub actor: Actor,
    /// Each `#` stands for one of `with`.
    pub does: &'static str,
    pub with: [u8; 3],
}

#[derive(Clone, Copy)]
pub enum Actor {
    Appender(usize),
    Reader,
    Daemon,
}

pub type Steps = Vec<(Step, State)>;

impl Life<'_> {
    pub fn keeps(&self, rule: Rule) -> bool {
        self.off != Some(rule)
    }

    fn holds(&self, state: &State, property: Property) -> bool {
        let records = &state.records[..usize::from(state.record_count)];
        let mut pairs = records.iter().zip(records.iter().skip(1));
        match property {
            Property::NothingLost => nothing_is_lost(state, records),
            Property::Unique => records
                .iter()
                .enumerate()
                .all(|(i, record)| records[..i].iter().all(|other| other.seq != record.seq)),
            Property::Dense => {
                (1..=records.len()).all(|seq| records.iter().any(|r| usize::from(r.seq) == seq))
            }
            Property::InOrder => pairs.all(|(one, next)| one.seq < next.seq),
            Property::LamportRises => {
                pairs.all(|(one, next)| one.seq >= next.seq || one.lamport < next.lamport)
            }
            Property::InsideChain => !state.has_strayed,
            Property::ReaderGetsAll => !state.has_misread && reader_waits_well(state),
            Property::Walkable => is_walkable(state),
        }
    }
}

/// In the middle of what it does the daemon knows more than a walk shows. But
/// as it may crash there, and then is `Ready`, nothing escapes by waiting.
fn is_settled(state: &State) -> bool {
    state.daemon == Daemon::Ready
}

fn nothing_is_lost(state: &State, records: &[Record]) -> bool {
    let chain = state.chain();
    let is_on_chain = |index: usize| {
        let word = Slot::Entry(index as u8);
        chain
            .ids()
            .any(|id| state.parts[id].slots[..state.parts[id].frontier()].contains(&word))
    };
    !is_settled(state)
        || records
            .iter()
            .enumerate()
            .all(|(index, record)| record.seq <= state.archived || is_on_chain(index))
}

fn is_walkable(state: &State) -> bool {
    let chain = state.chain();
    let first_has_base = chain
        .ids()
        .next()
        .is_none_or(|id| state.parts[id].base_seq != 0);
    !is_settled(state) || (chain.end != End::Broken && first_has_base)
}

fn reader_waits_well(state: &State) -> bool {
    let Some(at) = state.reader.at.map(Id::from) else {
        return true;
    };
    let part = &state.parts[at];
    let frontier = part.frontier();
    let goes_on = part.slots.get(frontier) != Some(&Slot::Empty);
    let chain = state.chain();
    usize::from(state.reader.slot) <= frontier
        && (goes_on || chain.last() == Some(at) || !is_settled(state))
}

impl checker::Model for Life<'_> {
    type State = State;
    type Step = Step;
    type Property = Property;

    /// A context just created, and opened by the appenders; no spares yet.
    fn start(&self) -> State {
        let Bounds {
            appender_count,
            newcomer_count,
            room,
            ..
        } = self.bounds;
        assert!(appender_count + newcomer_count <= APPENDERS && room < SLOTS);
        assert!(usize::from(self.bounds.part_count_max) <= PARTS);
        assert!(usize::from(self.bounds.entry_count_max) <= ENTRIES);
        let mut state = State {
            parts: [Part::NONE; PARTS],
            part_count: 1,
            first_resident: 1,
            next_part: 2,
            archived: 0,
            daemon: Daemon::Ready,
            closing_count: 0,
            appenders: [Appender::ABSENT; APPENDERS],
            reader: Reader {
                at: None,
                base_seq: 0,
                slot: 0,
                cursor: 1,
            },
            records: [Record { seq: 0, lamport: 0 }; ENTRIES],
            record_count: 0,
            has_strayed: false,
            has_misread: false,
        };
        state.parts[0] = Part {
            number: 1,
            is_linked: true,
            base_seq: 1,
            ..Part::NONE
        };
        for appender in &mut state.appenders[..appender_count] {
            *appender = Appender {
                phase: Phase::Resting,
                base_seq: 1,
                ..Appender::ABSENT
            };
        }
        state
    }

    fn steps(&self, state: &State, next: &mut Steps) {
        for i in 0..self.bounds.appender_count + self.bounds.newcomer_count {
            self.appender_steps(state, i, next);
        }
        if self.bounds.has_reader {
            self.reader_steps(state, next);
        }
        self.daemon_steps(state, next);
    }

    /// Appenders all run the same program, and nobody knows them by name.
    fn canonical(&self, mut state: State) -> State {
        if self.off.is_none() {
            state.forget_out_of_reach();
        }
        state.appenders.sort_unstable();
        state
    }

    fn broken(&self, state: &State) -> Option<Property> {
        self.watched
            .iter()
            .copied()
            .find(|&property| !self.holds(state, property))
    }
}

impl Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.actor {
            Actor::Appender(i) => write!(f, "appender {}", i + 1)?,
            Actor::Reader => write!(f, "reader")?,
            Actor::Daemon => write!(f, "daemon")?,
        }
        let mut with = self.with.iter();
        for (i, text) in self.does.split('#').enumerate() {
            if i == 0 {
                write!(f, " {text}")?;
            } else {
                write!(f, "{}{text}", with.next().unwrap_or(&0))?;
            }
        }
        Ok(())
    }
}
