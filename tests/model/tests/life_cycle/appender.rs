//! What an appender does: find the frontier, place or seal there, go on through
//! seals.

use crate::model::{Actor, Life, Step, Steps};
use crate::rules::Rule;
use crate::state::{Appender, End, Id, Phase, Record, Slot, State, WITHDRAWN};

impl Life<'_> {
    pub fn appender_steps(&self, state: &State, i: usize, next: &mut Steps) {
        let me = state.appenders[i];
        let at = Id::from(me.at);
        let number = state.parts[at].number;
        match me.phase {
            Phase::Absent => self.attach(state, i, next),
            Phase::Resting => {
                let slot = self.search(state, at);
                match state.parts[at].slots.get(slot) {
                    Some(Slot::Empty) => self.choose(state, i, slot, next),
                    Some(&Slot::Seal(successor)) => {
                        self.go_through(state, i, slot, successor, next);
                    }
                    Some(Slot::Closed | Slot::Entry(_)) | None => self.attach(state, i, next),
                }
            }
            Phase::Sealing { slot, spare } => {
                let mut after = *state;
                after.appenders[i].phase = Phase::Resting;
                let successor = state.part(spare).number;
                if after.cas_at_end(at, Id::from(slot), Slot::Seal(successor)) {
                    after.appenders[i].picked = None;
                    let does = "seals slot # of part # with part #";
                    next.push(step(i, does, [slot, number, successor], after));
                } else {
                    if !self.keeps(Rule::SpareIsCheckedWhereItIsNamed) {
                        after.appenders[i].picked = Some(spare);
                    }
                    next.push(step(i, LOST, [slot, number, 0], after));
                }
            }
            Phase::Arriving {
                slot,
                next: successor,
            } => {
                let after = self.write_base(state, i, Id::from(slot), Id::from(successor), true);
                let does = "CASes the other word of part #'s base";
                next.push(step(i, does, [state.part(successor).number, 0, 0], after));
            }
        }
    }

    /// The slot to try next.
    fn search(&self, state: &State, at: Id) -> usize {
        let part = &state.parts[at];
        if self.keeps(Rule::AppenderStopsAtSeal) {
            return part.frontier();
        }
        let first_empty = part.slots.iter().position(|slot| *slot == Slot::Empty);
        first_empty
            .filter(|&slot| slot <= self.bounds.room)
            .unwrap_or(part.frontier())
    }

    /// At an EMPTY frontier, with an entry that is oversize or not.
    fn choose(&self, state: &State, i: usize, slot: usize, next: &mut Steps) {
        let me = state.appenders[i];
        let part = state.part(me.at);
        let has_room = slot < self.bounds.room;
        if has_room && state.record_count < self.bounds.entry_count_max {
            let mut after = *state;
            after.publish(&me, slot);
            let with = [slot as u8, part.number, 0];
            next.push(step(i, "publishes in slot # of part #", with, after));
        }
        let slot = slot as u8;
        let fits_nothing = !has_room;
        let fits_no_oversize = !has_room || !part.is_large;
        for spare in state.ids().filter(|&id| me.offered & 1 << id != 0) {
            let is_wanted = if state.parts[spare].is_large {
                fits_no_oversize
            } else {
                fits_nothing
            };
            let spare = spare as u8;
            let is_fresh = state.part(spare).base_seq == 0
                || me.picked == Some(spare)
                || !self.keeps(Rule::OnlyFreshSparesAreNamed);
            if is_wanted && is_fresh {
                let mut after = *state;
                after.appenders[i].phase = Phase::Sealing { slot, spare };
                let does = "finds slot # of part # EMPTY, no room, and spare # fresh";
                let with = [slot, part.number, state.part(spare).number];
                next.push(step(i, does, with, after));
            }
        }
    }

    fn go_through(&self, state: &State, i: usize, slot: usize, number: u8, next: &mut Steps) {
        let me = state.appenders[i];
        let Some(successor) = state.mapped(&me, number) else {
            // Long retired, and never mapped here.
            self.attach(state, i, next);
            return;
        };
        let mut after = *state;
        match state.parts[successor].base_seq {
            // Does not happen; if it does, `Walkable` is broken.
            WITHDRAWN => {}
            0 if self.keeps(Rule::ArrivalWritesBase) => {
                let after = self.write_base(state, i, slot, successor, false);
                let does = "goes through SEAL and CASes one word of part #'s base";
                next.push(step(i, does, [number, 0, 0], after));
            }
            0 => {
                let (lamport, seq) = (me.lamport(state, slot), me.base_seq + slot as u8);
                after.appenders[i].arrive(successor, lamport, seq);
                next.push(step(i, "goes on to part #", [number, 0, 0], after));
            }
            seq => {
                let lamport = state.parts[successor].base_lamport;
                after.appenders[i].arrive(successor, lamport, seq);
                next.push(step(i, "goes on to part #", [number, 0, 0], after));
            }
        }
    }

    /// Each word is a CAS from 0, and everyone computes the same values.
    fn write_base(&self, state: &State, i: usize, slot: usize, to: Id, is_second: bool) -> State {
        let mut after = *state;
        let me = state.appenders[i];
        let part = &mut after.parts[to];
        if is_second == self.keeps(Rule::LamportBeforeSeq) {
            if part.base_seq == 0 {
                part.base_seq = me.base_seq + slot as u8;
            }
        } else if part.base_lamport == 0 {
            part.base_lamport = me.lamport(state, slot);
        }
        if is_second {
            let (lamport, seq) = (part.base_lamport, part.base_seq);
            after.appenders[i].arrive(to, lamport, seq);
        } else {
            after.appenders[i].phase = Phase::Arriving {
                slot: slot as u8,
                next: to as u8,
            };
        }
        after
    }

    /// Asks the daemon for the current part and its spares: as a newcomer, or
    /// behind CLOSED, or where the trail is lost.
    fn attach(&self, state: &State, i: usize, next: &mut Steps) {
        let chain = state.chain();
        let (End::Open { .. }, Some(current)) = (chain.end, chain.last()) else {
            return;
        };
        let part = &state.parts[current];
        if part.base_seq == 0 && self.keeps(Rule::BaseBeforeNewcomer) {
            return;
        }
        let mut after = *state;
        let me = &mut after.appenders[i];
        me.arrive(current, part.base_lamport, part.base_seq);
        me.offered |= state.spares(&chain).fold(0, |bits, id| bits | 1 << id);
        next.push(step(i, "is handed part #", [part.number, 0, 0], after));
    }
}

const LOST: &str = "loses the CAS of slot # of part #";

fn step(i: usize, does: &'static str, with: [u8; 3], after: State) -> (Step, State) {
    (
        Step {
            actor: Actor::Appender(i),
            does,
            with,
        },
        after,
    )
}

impl Appender {
    fn arrive(&mut self, at: Id, base_lamport: u8, base_seq: u8) {
        self.phase = Phase::Resting;
        self.at = at as u8;
        self.base_lamport = base_lamport;
        self.base_seq = base_seq;
    }

    fn lamport(&self, state: &State, slot: usize) -> u8 {
        state.lamport_before(Id::from(self.at), slot, self.base_lamport)
    }
}

impl State {
    fn publish(&mut self, me: &Appender, slot: usize) {
        let index = self.record_count;
        self.records[usize::from(index)] = Record {
            seq: me.base_seq + slot as u8,
            lamport: me.lamport(self, slot) + 1,
        };
        self.record_count += 1;
        self.cas_at_end(Id::from(me.at), slot, Slot::Entry(index));
    }

    /// CASes an EMPTY slot, and notes if that was not the end of the chain.
    fn cas_at_end(&mut self, at: Id, slot: usize, word: Slot) -> bool {
        if self.parts[at].slots[slot] != Slot::Empty {
            return false;
        }
        let chain = self.chain();
        self.has_strayed |= chain.last() != Some(at) || chain.end != (End::Open { slot });
        self.parts[at].slots[slot] = word;
        true
    }
}
