//! What the daemon does. All of its decisions come from what stands in memory,
//! so that there is no difference between going on and recovering: a crash
//! only takes it back to `Ready`.

use crate::model::{Actor, Life, Step, Steps};
use crate::rules::Rule;
use crate::state::{Chain, Daemon, End, Id, PARTS, Part, Phase, Slot, State, WITHDRAWN};

impl Life<'_> {
    pub fn daemon_steps(&self, state: &State, next: &mut Steps) {
        let chain = state.chain();
        match state.daemon {
            Daemon::Ready => {
                self.complete_base(state, &chain, next);
                self.keep_spares(state, &chain, next);
                self.retire(state, &chain, next);
                self.close(state, &chain, next);
                if chain.end == End::Nothing {
                    self.reopen(state, next);
                }
                let bits = chain.ids().fold(0_u8, |bits, id| bits | 1 << id);
                if self.keeps(Rule::ChainIsReadAgain) {
                    sweep(state, &chain, bits, next);
                } else {
                    let mut after = *state;
                    after.daemon = Daemon::Sweeping { chain: bits };
                    next.push(step("looks at the chain", [0, 0], after));
                }
            }
            Daemon::Sweeping { chain: bits } => {
                sweep(state, &chain, bits, next);
                let mut after = *state;
                after.daemon = Daemon::Ready;
                next.push(step("has looked at every name", [0, 0], after));
            }
            Daemon::Made { number } => {
                let mut after = *state;
                after.daemon = Daemon::Ready;
                after.next_part = number + 1;
                next.push(step("raises next_part past #", [number, 0], after));
            }
            Daemon::Closing { part, slot } => self.close_gap(state, &chain, part, slot, next),
            Daemon::Unlinked { next: first } => {
                let mut after = *state;
                after.daemon = Daemon::Ready;
                after.first_resident = first;
                next.push(step(
                    "moves the first resident part to #",
                    [first, 0],
                    after,
                ));
            }
            Daemon::Withdrawing { spares } => {
                let mut after = *state;
                after.daemon = Daemon::Ready;
                for id in state.ids().filter(|id| spares & 1 << id != 0) {
                    after.withdraw(id);
                }
                next.push(step("withdraws what it has unlinked", [0, 0], after));
            }
        }
        self.crash(state, &chain, next);
    }

    /// The first base on the chain that is not complete.
    fn complete_base(&self, state: &State, chain: &Chain, next: &mut Steps) {
        let mut pairs = chain.pairs();
        let Some((sealed, to)) = pairs.find(|&(_, to)| state.parts[to].base_seq == 0) else {
            return;
        };
        let before = &state.parts[sealed];
        let slot = before.frontier();
        let mut after = *state;
        let part = &mut after.parts[to];
        part.base_lamport = state.lamport_before(sealed, slot, before.base_lamport);
        part.base_seq = before.base_seq + slot as u8;
        next.push(step(
            "completes the base of part #",
            [part.number, 0],
            after,
        ));
    }

    fn keep_spares(&self, state: &State, chain: &Chain, next: &mut Steps) {
        if !matches!(chain.end, End::Open { .. }) {
            return;
        }
        for is_large in [false, true] {
            let kept = state
                .spares(chain)
                .filter(|&id| state.parts[id].is_large == is_large);
            let wanted = if is_large {
                self.bounds.large_spare_count
            } else {
                self.bounds.small_spare_count
            };
            if kept.count() < wanted {
                self.make_spare(state, is_large, next);
            }
        }
    }

    fn make_spare(&self, state: &State, is_large: bool, next: &mut Steps) {
        let spare = Part {
            is_large,
            ..Part::NONE
        };
        let Some((mut after, id)) = self.make(state, spare) else {
            return;
        };
        for appender in &mut after.appenders {
            if appender.phase != Phase::Absent {
                appender.offered |= 1 << id;
            }
        }
        let does = if is_large {
            "makes large spare #"
        } else {
            "makes spare #"
        };
        next.push(step(does, [after.parts[id].number, 0], after));
    }

    /// Takes a number and makes the object. Nobody but the daemon looks at
    /// `next_part`, so the two are one step; and a number lost by a crash between
    /// them changes nothing.
    fn make(&self, state: &State, part: Part) -> Option<(State, Id)> {
        let mut number = state.next_part;
        if !self.keeps(Rule::NumbersAreNeverReused) {
            number = 1;
        }
        while state.by_name(number).is_some() {
            number += 1;
        }
        if state.part_count == self.bounds.part_count_max {
            return None;
        }
        let mut after = *state;
        let id = Id::from(state.part_count);
        after.parts[id] = Part {
            number,
            is_linked: true,
            ..part
        };
        after.part_count += 1;
        if self.keeps(Rule::NumberIsTakenFirst) {
            after.next_part = number + 1;
        } else {
            after.daemon = Daemon::Made { number };
        }
        Some((after, id))
    }

    /// Comes back with a first part that continues the seqs.
    fn reopen(&self, state: &State, next: &mut Steps) {
        let part = Part {
            base_seq: state.archived + 1,
            base_lamport: state.archived_lamport(),
            ..Part::NONE
        };
        let Some((mut after, id)) = self.make(state, part) else {
            return;
        };
        let number = after.parts[id].number;
        let does = "makes part # to reopen with, and crashes";
        next.push(step(
            does,
            [number, 0],
            State {
                daemon: Daemon::Ready,
                ..after
            },
        ));
        after.first_resident = number;
        next.push(step("reopens with part #", [number, 0], after));
    }

    fn retire(&self, state: &State, chain: &Chain, next: &mut Steps) {
        let Some((oldest, successor)) = chain.pairs().next() else {
            return;
        };
        let base_is_missing = state.parts[successor].base_seq == 0;
        if base_is_missing && self.keeps(Rule::BaseBeforeRetiring) {
            return;
        }
        let mut after = *state;
        let (old, new) = (&state.parts[oldest], &state.parts[successor]);
        // Only what is durable is retired.
        after.archived = state.archived.max(old.base_seq + old.frontier() as u8 - 1);
        let does = if self.keeps(Rule::MoveBeforeUnlink) {
            after.first_resident = new.number;
            "archives part # and makes part # the first resident"
        } else {
            after.parts[oldest].is_linked = false;
            after.daemon = Daemon::Unlinked { next: new.number };
            "archives part # and unlinks it, part # is next"
        };
        next.push(step(does, [old.number, new.number], after));
    }

    fn close(&self, state: &State, chain: &Chain, next: &mut Steps) {
        match (chain.end, chain.last()) {
            (End::Open { slot }, Some(current)) => {
                if state.closing_count == self.bounds.closing_count_max {
                    return;
                }
                let part = &state.parts[current];
                if part.base_seq == 0 && self.keeps(Rule::BaseBeforeClosing) {
                    return;
                }
                self.close_open(state, chain, current, slot, next);
            }
            (End::Closed, _) => {
                let spare = state.spares(chain).next();
                if let Some(id) = spare.filter(|_| self.keeps(Rule::WithdrawnBeforeUnlink)) {
                    self.withdraw_one(state, id, next);
                } else {
                    self.forget(state, chain, next);
                }
            }
            _ => {}
        }
    }

    fn close_open(&self, state: &State, chain: &Chain, at: Id, slot: usize, next: &mut Steps) {
        let mut after = *state;
        let with = [slot as u8, state.parts[at].number];
        after.archive(chain);
        if self.keeps(Rule::NothingLeavesUnsealed) && self.keeps(Rule::ClosedBeforeWithdrawn) {
            after.parts[at].slots[slot] = Slot::Closed;
            after.closing_count += 1;
            next.push(step(
                "archives all, CASes CLOSED into slot # of part #",
                with,
                after,
            ));
        } else {
            after.daemon = Daemon::Closing {
                part: at as u8,
                slot: slot as u8,
            };
            next.push(step("archives all before slot # of part #", with, after));
        }
    }

    /// Closing with a gap, as two broken rules have it.
    fn close_gap(&self, state: &State, chain: &Chain, part: u8, slot: u8, next: &mut Steps) {
        let mut after = *state;
        let number = state.part(part).number;
        if let Some(id) = state.spares(chain).next() {
            self.withdraw_one(state, id, next);
            return;
        }
        after.daemon = Daemon::Ready;
        if !self.keeps(Rule::NothingLeavesUnsealed) {
            after.closing_count += 1;
            self.forget(&after, chain, next);
            return;
        }
        let word = &mut after.parts[Id::from(part)].slots[usize::from(slot)];
        if *word == Slot::Empty {
            *word = Slot::Closed;
            after.closing_count += 1;
            next.push(step(
                "CASes CLOSED into slot # of part #",
                [slot, number],
                after,
            ));
        } else {
            next.push(step(
                "loses the CAS of CLOSED, slot # of part #",
                [slot, number],
                after,
            ));
        }
    }

    fn withdraw_one(&self, state: &State, id: Id, next: &mut Steps) {
        let mut after = *state;
        after.withdraw(id);
        next.push(step(
            "withdraws spare #",
            [state.parts[id].number, 0],
            after,
        ));
    }

    /// The end of closing: the context has no memory any more. The names go in
    /// `sweep`, like those of any leftover.
    fn forget(&self, state: &State, chain: &Chain, next: &mut Steps) {
        let mut after = *state;
        if !self.keeps(Rule::NumbersSurviveClosing) {
            after.next_part = 1;
        }
        if !self.keeps(Rule::ForgetBeforeUnlink) {
            for id in chain.ids() {
                after.parts[id].is_linked = false;
            }
            after.daemon = Daemon::Unlinked { next: 0 };
            next.push(step("unlinks the closed chain", [0, 0], after));
            return;
        }
        after.first_resident = 0;
        if !self.keeps(Rule::WithdrawnBeforeUnlink) {
            let mut spares = 0;
            for id in state.spares(chain) {
                after.parts[id].is_linked = false;
                spares |= 1 << id;
            }
            after.daemon = Daemon::Withdrawing { spares };
        }
        next.push(step("has no first resident part any more", [0, 0], after));
    }

    /// What the next daemon forgets, and what a worse one would do first.
    fn crash(&self, state: &State, chain: &Chain, next: &mut Steps) {
        let mut after = *state;
        after.daemon = Daemon::Ready;
        let current = chain.last().map_or(0, |id| state.parts[id].number);
        for id in state.spares(chain) {
            let is_low = state.parts[id].number < current;
            if !self.keeps(Rule::SparesOutliveRestart)
                || (is_low && !self.keeps(Rule::LeftoversByBaseSeq))
            {
                after.parts[id].is_linked = false;
            }
        }
        if after != *state {
            next.push(step("crashes and restarts", [0, 0], after));
        }
    }
}

/// Unlinks what is neither on the chain, of which these parts are known, nor a
/// spare. All at once: a name more or
/// less matters to nobody who does not hold it already.
fn sweep(state: &State, chain: &Chain, known: u8, next: &mut Steps) {
    let mut after = *state;
    if chain.end == End::Broken {
        return;
    }
    after.daemon = Daemon::Ready;
    for id in state.ids().filter(|&id| known & 1 << id == 0) {
        if state.parts[id].base_seq != 0 {
            after.parts[id].is_linked = false;
        }
    }
    if after.parts != state.parts {
        next.push(step("unlinks leftovers", [0, 0], after));
    }
}

fn step(does: &'static str, with: [u8; 2], after: State) -> (Step, State) {
    (
        Step {
            actor: Actor::Daemon,
            does,
            with: [with[0], with[1], 0],
        },
        after,
    )
}

impl State {
    fn withdraw(&mut self, id: Id) {
        let base_seq = &mut self.parts[id].base_seq;
        if *base_seq == 0 {
            *base_seq = WITHDRAWN;
        }
    }

    fn archive(&mut self, chain: &Chain) {
        let first = chain.ids().next().map_or(0, |id| self.parts[id].base_seq);
        let count: usize = chain.ids().map(|id| self.parts[id].frontier()).sum();
        self.archived = self.archived.max(first + count as u8 - 1);
    }

    /// The Lamport time of the last archived entry; the archive keeps it.
    fn archived_lamport(&self) -> u8 {
        let is_archived = |record: &&crate::state::Record| record.seq <= self.archived;
        let records = &self.records[..usize::from(self.record_count)];
        records
            .iter()
            .filter(is_archived)
            .map(|record| record.lamport)
            .max()
            .unwrap_or(0)
    }
}

const _: () = assert!(PARTS <= 8, "`offered` has a bit for each part");
