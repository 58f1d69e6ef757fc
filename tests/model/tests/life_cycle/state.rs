//! What the world looks like between two steps.

/// A part's place in `State::parts`: the object itself. Its number is only a
/// name, which a broken rule may give twice.
pub type Id = usize;

pub const PARTS: usize = 7;
pub const SLOTS: usize = 3;
pub const APPENDERS: usize = 3;
pub const ENTRIES: usize = 6;

/// In `base_seq`: this spare will never be used.
pub const WITHDRAWN: u8 = u8::MAX;

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Slot {
    Empty,
    /// Which of `State::records`.
    Entry(u8),
    /// The successor's part number.
    Seal(u8),
    Closed,
}

/// A segment. The first two fields never change.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Part {
    pub number: u8,
    /// Takes oversize entries.
    pub is_large: bool,
    /// Has a name. Without one, only those get at it who mapped it before.
    pub is_linked: bool,
    pub base_lamport: u8,
    /// The seq of slot 0; 0 while nobody knows, or `WITHDRAWN`.
    pub base_seq: u8,
    pub slots: [Slot; SLOTS],
}

/// A published entry, in the order of publication (which only the model knows).
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Record {
    pub seq: u8,
    pub lamport: u8,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub enum Phase {
    /// Not attached yet.
    Absent,
    /// Between two appends, or before the next try of the same one.
    Resting,
    /// Has found the frontier and a fresh spare; the CAS of SEAL is next.
    Sealing { slot: u8, spare: u8 },
    /// Went through the SEAL in `slot` and wrote one word of the base behind it;
    /// the CAS of the other is next.
    Arriving { slot: u8, next: u8 },
}

/// What one appender knows, right or wrong. It never learns that it was
/// stopped: nothing in here is ever touched by anybody else.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Debug)]
pub struct Appender {
    pub phase: Phase,
    /// The part it believes to be the current one, and that part's base.
    pub at: u8,
    pub base_lamport: u8,
    pub base_seq: u8,
    /// A bit for each spare that the daemon ever offered it. A message may
    /// arrive as late as it likes; as receiving has no other effect than that
    /// the spare can be named, an offer that is under way and one that is mapped
    /// are the same here.
    pub offered: u8,
    /// Only without `SpareIsCheckedWhereItIsNamed`: the spare it once found fresh.
    pub picked: Option<u8>,
}

/// How far the daemon's thread is. A crash and restart forget this and nothing
/// else, because the daemon decides everything else from what it finds.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Daemon {
    Ready,
    /// Only without `NumberIsTakenFirst`: `next_part` is to be raised.
    Made {
        number: u8,
    },
    /// Only where closing has a gap: all before `slot` is archived.
    Closing {
        part: u8,
        slot: u8,
    },
    /// Only without the order of retire: the name is gone, `next` becomes first.
    Unlinked {
        next: u8,
    },
    /// Only without reading the chain again: these were on it.
    Sweeping {
        chain: u8,
    },
    /// Only without the order of closing: these are to be withdrawn.
    Withdrawing {
        spares: u8,
    },
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct Reader {
    /// The part it has mapped, if any, the base it believes in, and the first
    /// slot of it that it has not looked behind.
    pub at: Option<u8>,
    pub base_seq: u8,
    pub slot: u8,
    /// The seq that it wants next.
    pub cursor: u8,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct State {
    pub parts: [Part; PARTS],
    pub part_count: u8,
    /// The control object. 0: the context has no memory now.
    pub first_resident: u8,
    pub next_part: u8,
    /// The highest seq in the archive.
    pub archived: u8,
    pub daemon: Daemon,
    pub closing_count: u8,
    pub appenders: [Appender; APPENDERS],
    pub reader: Reader,
    pub records: [Record; ENTRIES],
    pub record_count: u8,
    /// A CAS of ENTRY or SEAL succeeded elsewhere than at the end of the chain.
    pub has_strayed: bool,
    /// The reader was given something else than the entry it asked for.
    pub has_misread: bool,
}

/// What a walk from the first resident part through the SEALs finds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum End {
    /// `first_resident` is 0.
    Nothing,
    /// The frontier, EMPTY.
    Open {
        slot: usize,
    },
    Closed,
    /// A name without an object, a withdrawn part, or a circle.
    Broken,
}

pub struct Chain {
    parts: [u8; PARTS],
    len: usize,
    pub end: End,
}

impl Chain {
    pub fn ids(&self) -> impl DoubleEndedIterator<Item = Id> + '_ {
        self.parts[..self.len].iter().map(|&id| Id::from(id))
    }

    pub fn contains(&self, id: Id) -> bool {
        self.ids().any(|other| other == id)
    }

    pub fn last(&self) -> Option<Id> {
        self.ids().next_back()
    }

    /// Each part with its successor.
    pub fn pairs(&self) -> impl Iterator<Item = (Id, Id)> + '_ {
        self.ids().zip(self.ids().skip(1))
    }
}

impl Part {
    pub const NONE: Self = Self {
        number: 0,
        is_large: false,
        is_linked: false,
        base_lamport: 0,
        base_seq: 0,
        slots: [Slot::Empty; SLOTS],
    };

    /// The first slot that is not ENTRY. There always is one: a part takes
    /// `SLOTS - 1` entries at most.
    pub fn frontier(&self) -> usize {
        let is_frontier = |slot: &Slot| !matches!(slot, Slot::Entry(_));
        self.slots.iter().position(is_frontier).unwrap_or(SLOTS)
    }
}

impl Appender {
    pub const ABSENT: Self = Self {
        phase: Phase::Absent,
        at: 0,
        base_lamport: 0,
        base_seq: 0,
        offered: 0,
        picked: None,
    };
}

impl State {
    pub fn part(&self, id: u8) -> &Part {
        &self.parts[Id::from(id)]
    }

    pub fn ids(&self) -> std::ops::Range<Id> {
        0..Id::from(self.part_count)
    }

    pub fn by_name(&self, number: u8) -> Option<Id> {
        self.ids()
            .find(|&id| self.parts[id].is_linked && self.parts[id].number == number)
    }

    pub fn chain(&self) -> Chain {
        let mut chain = Chain {
            parts: [0; PARTS],
            len: 0,
            end: End::Nothing,
        };
        let mut number = self.first_resident;
        while number != 0 {
            let Some(id) = self.by_name(number).filter(|&id| !chain.contains(id)) else {
                chain.end = End::Broken;
                return chain;
            };
            chain.parts[chain.len] = id as u8;
            chain.len += 1;
            let part = &self.parts[id];
            let slot = part.frontier();
            number = 0;
            chain.end = match part.slots.get(slot) {
                _ if part.base_seq == WITHDRAWN => End::Broken,
                Some(Slot::Empty) => End::Open { slot },
                Some(Slot::Closed) => End::Closed,
                Some(&Slot::Seal(next)) => {
                    number = next;
                    continue;
                }
                Some(Slot::Entry(_)) | None => End::Broken,
            };
        }
        chain
    }

    /// What daemon and newcomers take for spares.
    pub fn spares<'a>(&'a self, chain: &'a Chain) -> impl Iterator<Item = Id> + 'a {
        self.ids().filter(|&id| {
            let part = &self.parts[id];
            part.is_linked && part.base_seq == 0 && !chain.contains(id)
        })
    }

    /// The Lamport time of whatever stands before `slot`.
    pub fn lamport_before(&self, id: Id, slot: usize, base_lamport: u8) -> u8 {
        match slot.checked_sub(1).map(|slot| self.parts[id].slots[slot]) {
            Some(Slot::Entry(record)) => self.records[usize::from(record)].lamport,
            // Behind a SEAL, where only a broken rule leads: the word says nothing.
            Some(_) | None => base_lamport,
        }
    }

    /// Forgets what no actor can ever see again: offers of parts that are in use
    /// and behind their appender, and unlinked parts that nobody will come to.
    /// Sound only while all rules are kept; without one of them things come
    /// back that should not.
    pub fn forget_out_of_reach(&mut self) {
        let mut in_reach = 0_u8;
        for id in self.ids() {
            let part = &self.parts[id];
            if part.is_linked || part.base_seq == 0 {
                in_reach |= 1 << id;
            }
        }
        let fresh = self.ids().filter(|&id| self.parts[id].base_seq == 0);
        let fresh = fresh.fold(0_u8, |bits, id| bits | 1 << id);
        for i in 0..APPENDERS {
            let me = self.appenders[i];
            if me.phase == Phase::Absent {
                continue;
            }
            let mut ahead = 0_u8;
            let mut here = Some(Id::from(me.at));
            while let Some(id) = here {
                ahead |= 1 << id;
                let part = &self.parts[id];
                here = match part.slots.get(part.frontier()) {
                    Some(&Slot::Seal(number)) => self.mapped(&me, number),
                    _ => None,
                };
            }
            in_reach |= ahead;
            self.appenders[i].offered &= ahead | fresh;
        }
        if let Some(id) = self.reader.at {
            in_reach |= 1 << id;
        }
        for id in self.ids().filter(|id| in_reach & 1 << id == 0) {
            let part = &mut self.parts[id];
            *part = Part {
                number: part.number,
                base_seq: WITHDRAWN,
                ..Part::NONE
            };
        }
    }

    /// Where SEAL(number) leads an appender.
    pub fn mapped(&self, appender: &Appender, number: u8) -> Option<Id> {
        let is_meant = |id: &Id| self.parts[*id].number == number;
        let offered = self
            .ids()
            .filter(|&id| appender.offered & 1 << id != 0)
            .find(is_meant);
        offered.or_else(|| self.by_name(number))
    }
}
