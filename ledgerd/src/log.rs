//! One context's parts, as the daemon keeps them: follow the chain to its end,
//! plan spares, retire what is old, close what is idle, reopen it.

use std::collections::VecDeque;
use std::fmt::Display;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::Instant;

use ledger_client::wire::Refusal;
use ledger_shm::control::{Facts, State};
use ledger_shm::fork::Generation;
use ledger_shm::format::{BELL_LEN, CONTROL_LEN, SEQ_MAX, WITHDRAWN};
use ledger_shm::object::{self, Epoch, Instance, MapError, Name, Object};
use ledger_shm::read::{End, Link};
use ledger_shm::segment::Geometry;
use ledger_shm::{Bell, Control, Corrupt, Segment, Tail};

use crate::archive::Marks;
use crate::maker::make;
use crate::options::{Lengths, Options};

/// A part and the memory it takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Part {
    pub(crate) number: u64,
    pub(crate) segment_len: usize,
}

/// What is only needed while somebody is attached.
#[derive(Debug)]
pub(crate) struct Live {
    pub(crate) control: Control,
    pub(crate) bell_fd: OwnedFd,
    pub(crate) bell: Bell,
    /// The part in which the log ended when last seen.
    current: Link,
}

/// One context.
#[derive(Debug)]
pub(crate) struct Log {
    pub(crate) name: String,
    pub(crate) epoch: Epoch,
    pub(crate) created_at_ns: u64,
    pub(crate) state: State,
    /// Why it is quarantined.
    pub(crate) damage: Option<String>,
    /// What went wrong when it was last visited.
    trouble: Option<String>,
    /// The parts of the chain, oldest first; the last is the current one.
    pub(crate) chain: VecDeque<Part>,
    pub(crate) spares: Vec<Part>,
    /// Spares that are being made.
    pub(crate) making: Vec<Part>,
    /// Why the last spare that was wanted could not be made.
    pub(crate) why_not: Option<Refusal>,
    pub(crate) lengths: Lengths,
    /// Bytes of the next spare, before any limit.
    pub(crate) spare_len: usize,
    pub(crate) attached_count: usize,
    pub(crate) appender_count: usize,
    pub(crate) idle_since: Instant,
    pub(crate) live: Option<Live>,
    /// What the directory of its files is called, if it has some.
    pub(crate) home: Option<Epoch>,
    /// How far it has come into them.
    pub(crate) marks: Option<Arc<Marks>>,
    /// Its memory is about to be given up: nobody can open it until that is done.
    pub(crate) is_leaving: bool,
    /// Its files may say that they have all of it.
    pub(crate) may_be_complete: bool,
}

/// Maps a part of a context for the daemon's own use.
pub(crate) fn map(
    instance: &Instance,
    epoch: Epoch,
    number: u64,
) -> Result<Arc<Segment>, MapError> {
    let object = Object::open(instance, Name::Part(epoch, number), true)?;
    let segment = Segment::map(&object, true)?;
    segment.check_is(epoch.0, number)?;
    Ok(Arc::new(segment))
}

impl Log {
    /// A context of which no part is known yet.
    pub(crate) fn new(control: &Control, options: &Options) -> Log {
        Log::of(control.facts(), control.home(), options)
    }

    fn of(facts: &Facts, home: Option<Epoch>, options: &Options) -> Log {
        let lengths = Lengths::new(facts.sizes, options);
        Log {
            name: facts.name.clone(),
            epoch: facts.epoch,
            created_at_ns: facts.created_at_ns,
            state: State::Open,
            damage: None,
            trouble: None,
            chain: VecDeque::new(),
            spares: Vec::new(),
            making: Vec::new(),
            why_not: None,
            lengths,
            spare_len: lengths.spare_min,
            attached_count: 0,
            appender_count: 0,
            idle_since: Instant::now(),
            live: None,
            home,
            marks: home.map(|_| Arc::default()),
            is_leaving: false,
            may_be_complete: false,
        }
    }

    /// A context that is in files only.
    pub(crate) fn archived(facts: &Facts, home: Epoch, options: &Options) -> Log {
        let mut log = Log::of(facts, Some(home), options);
        log.state = State::Archived;
        log
    }

    /// The last seq of the oldest part, if that is sealed and not yet in finished
    /// files.
    pub(crate) fn unfinished_seq(&self, instance: &Instance) -> Result<Option<u64>, MapError> {
        let (Some(marks), Some(next)) = (&self.marks, self.chain.get(1)) else {
            return Ok(None);
        };
        let base_seq = map(instance, self.epoch, next.number)?.base_seq();
        let last_seq = base_seq.checked_sub(1);
        let last_seq = last_seq.ok_or(Corrupt::new("base seq", base_seq, 1))?;
        Ok((last_seq > marks.finished_seq()).then_some(last_seq))
    }

    /// Bytes of memory that this context has committed or is about to.
    pub(crate) fn committed_len(&self) -> u64 {
        if self.state == State::Archived {
            return 0;
        }
        let parts = self.chain.iter().chain(&self.spares).chain(&self.making);
        let bell_len = if self.live.is_some() { BELL_LEN } else { 0 };
        parts.map(|part| part.segment_len as u64).sum::<u64>() + (CONTROL_LEN + bell_len) as u64
    }

    /// Bytes of entries that could be evicted.
    pub(crate) fn sealed_len(&self) -> u64 {
        let sealed = self.chain.len().saturating_sub(1);
        let parts = self.chain.iter().take(sealed);
        parts.map(|part| part.segment_len as u64).sum()
    }

    /// Whether it takes more memory than a context that was only created.
    pub(crate) fn is_active(&self) -> bool {
        self.chain.len() > 1 || !self.spares.is_empty() || !self.making.is_empty()
    }

    /// Whether it may be kept in files only: nobody has it open.
    pub(crate) fn may_leave(&self) -> bool {
        let is_usable = matches!(self.state, State::Open | State::Idle);
        let is_used = self.attached_count > 0 || !self.making.is_empty();
        is_usable && self.home.is_some() && !is_used && !self.is_leaving
    }

    /// Whether closing it would free something and disturb nobody.
    pub(crate) fn can_close(&self) -> bool {
        // A spare that is being made would come too late to be withdrawn.
        self.may_close_later() && self.appender_count == 0 && self.making.is_empty()
    }

    /// Whether closing it might free something, if not now.
    pub(crate) fn may_close_later(&self) -> bool {
        let has_spares = !(self.spares.is_empty() && self.making.is_empty());
        matches!(self.state, State::Open | State::Idle) && has_spares
    }

    /// Does something with a context that nobody may be attached to.
    pub(crate) fn visit(
        &mut self,
        instance: &Instance,
        act: impl FnOnce(&mut Log, &Instance) -> Result<(), MapError>,
    ) {
        let was_asleep = self.live.is_none();
        let outcome = self
            .awake(instance)
            .map(drop)
            .and_then(|()| act(self, instance));
        match outcome {
            Ok(()) => self.trouble = None,
            Err(error @ MapError::Corrupt(_)) => self.quarantine(&error),
            // Not damage: the next time may be better. Said once.
            Err(error) => {
                let trouble = Some(error.to_string());
                if self.trouble != trouble {
                    tracing::warn!(context = self.name, %error, "a context could not be looked after");
                    self.trouble = trouble;
                }
            }
        }
        if was_asleep {
            self.asleep();
        }
    }

    /// Takes a damaged context out of use; the others go on.
    pub(crate) fn quarantine(&mut self, error: &impl Display) {
        if self.state == State::Quarantined {
            return;
        }
        tracing::error!(context = self.name, %error, "a context is quarantined");
        self.state = State::Quarantined;
        self.damage = Some(error.to_string());
        if let Some(live) = &self.live {
            live.control.set_state(State::Quarantined);
        }
    }

    /// Whether it may be appended to: not if it is quarantined.
    pub(crate) fn check_usable(&self) -> Result<(), Refusal> {
        match self.state {
            State::Quarantined => Err(Refusal::Quarantined(
                self.damage.clone().unwrap_or_default(),
            )),
            _ => Ok(()),
        }
    }

    /// Maps what serving this context takes: once somebody attaches.
    pub(crate) fn awake(&mut self, instance: &Instance) -> Result<&mut Live, MapError> {
        if self.live.is_none() {
            let control = Control::open(instance, self.epoch, true)?;
            let segment = map(instance, self.epoch, self.chain[0].number)?;
            let (bell_fd, bell) = Bell::create()?;
            let base_seq = segment.base_seq();
            if !(1..=SEQ_MAX).contains(&base_seq) {
                return Err(Corrupt::new("base seq of the first part", base_seq, 1).into());
            }
            let current = Link { segment, base_seq };
            self.live = Some(Live {
                control,
                bell_fd,
                bell,
                current,
            });
            self.follow(instance)?;
        }
        Ok(self.live.as_mut().expect("set above"))
    }

    /// Lets go of it when the last one left.
    pub(crate) fn asleep(&mut self) {
        self.live = None;
    }

    /// The latest seq of a log that somebody has open.
    pub(crate) fn latest(&mut self, instance: &Instance) -> Option<u64> {
        // What cannot be followed is told when somebody needs it.
        let _ = self.follow(instance);
        let current = &self.live.as_ref()?.current;
        let frontier = current.segment.frontier().ok()?;
        Some(current.base_seq + frontier as u64 - 1)
    }

    /// Moves the current part to the end of the chain, and completes every
    /// successor on the way: nobody else may have come so far.
    pub(crate) fn follow(&mut self, instance: &Instance) -> Result<(), MapError> {
        let Some(mut live) = self.live.take() else {
            return Ok(());
        };
        let outcome = self.extend_chain(instance, &mut live.current);
        self.live = Some(live);
        outcome
    }

    /// Goes from a part of the chain to its end, adding what is new.
    pub(crate) fn extend_chain(
        &mut self,
        instance: &Instance,
        last: &mut Link,
    ) -> Result<(), MapError> {
        while let Some(link) = next_link(instance, last)? {
            let number = link.segment.part();
            let position = |number| self.chain.iter().position(|part| part.number == number);
            let here = position(last.segment.part());
            match position(number) {
                // A chain that leads back would be followed for ever.
                Some(there) if here.is_none_or(|here| there != here + 1) => {
                    return Err(Corrupt::new("a seal that names an earlier part", number, 0).into());
                }
                Some(_) => {}
                None => {
                    let segment_len = link.segment.geometry().segment_len;
                    self.spares.retain(|spare| spare.number != number);
                    self.chain.push_back(Part {
                        number,
                        segment_len,
                    });
                }
            }
            *last = link;
        }
        Ok(())
    }

    /// The part in which the log ends, as last followed.
    pub(crate) fn current(&self) -> u64 {
        self.chain.back().expect("a context has a part").number
    }

    /// Retires the oldest sealed part: nobody looks for it afterwards. Its name
    /// is the caller's to unlink.
    pub(crate) fn retire_oldest(&mut self) -> Option<Part> {
        let live = self.live.as_ref()?;
        let next = self.chain.get(1)?;
        // Every successor was completed by `follow`, so a newcomer can begin at
        // the next part without having seen the seal that names it.
        live.control.set_first_part(next.number);
        self.chain.pop_front()
    }

    /// Ends the log for idleness, in this order: CLOSED at the frontier, so
    /// that no seal can come any more; then every spare withdrawn, and its name
    /// removed. What fails on the way can be tried again.
    pub(crate) fn close(
        &mut self,
        instance: &Instance,
        made_in: Generation,
    ) -> Result<(), MapError> {
        self.follow(instance)?;
        let Some(live) = &mut self.live else {
            return Ok(());
        };
        let mut tail = Tail::new(Arc::clone(&live.current.segment), made_in)?;
        if tail.close()?.is_err() {
            // Sealed meanwhile: somebody is appending after all.
            return Ok(());
        }
        live.control.set_state(State::Idle);
        self.state = State::Idle;
        tracing::debug!(context = self.name, "a context is closed for idleness");
        self.withdraw_spares(instance)
    }

    /// Withdraws and unlinks every spare of a closed log. What cannot be
    /// withdrawn stays a spare; what cannot be unlinked is left to the next start.
    pub(crate) fn withdraw_spares(&mut self, instance: &Instance) -> Result<(), MapError> {
        let mut outcome = Ok(());
        for spare in std::mem::take(&mut self.spares) {
            let name = Name::Part(self.epoch, spare.number);
            match withdraw(instance, self.epoch, spare.number) {
                Ok(()) => outcome = outcome.and(object::unlink(instance, name).map_err(Into::into)),
                Err(error) => {
                    self.spares.push(spare);
                    outcome = Err(error);
                }
            }
        }
        outcome
    }

    /// Continues a closed log in a new part.
    pub(crate) fn reopen(&mut self, instance: &Instance) -> Result<(), MapError> {
        let geometry = Geometry::of_len(self.lengths.first);
        let Some(live) = &mut self.live else {
            return Ok(());
        };
        let closed = &live.current;
        let frontier = closed.segment.frontier()?;
        let base_seq = closed.base_seq + frontier as u64;
        let base_lamport = closed.segment.lamport_before(frontier)?;
        let number = live.control.take_part_number()?;
        let segment = make(
            instance,
            self.epoch,
            number,
            geometry,
            base_seq,
            base_lamport,
        )?;
        // The part is complete before anything names it; a death here leaves a
        // part outside the chain, which the next start removes.
        closed.segment.set_successor(number);
        self.chain.push_back(Part {
            number,
            segment_len: geometry.segment_len,
        });
        live.current = Link {
            segment: Arc::new(segment),
            base_seq,
        };
        live.control.set_state(State::Open);
        self.state = State::Open;
        live.bell.ring_all();
        Ok(())
    }
}

impl Log {
    /// Continues a closed log behind entries that are in files and were never in memory,
    /// and returns the parts that are not its memory any more.
    pub(crate) fn go_on_behind(
        &mut self,
        instance: &Instance,
        last_seq: u64,
        last_lamport: u64,
    ) -> Result<Vec<Part>, MapError> {
        let geometry = Geometry::of_len(self.lengths.first);
        let epoch = self.epoch;
        let live = self.awake(instance)?;
        let number = live.control.take_part_number()?;
        let base_seq = last_seq + 1;
        let segment = make(instance, epoch, number, geometry, base_seq, last_lamport)?;
        // Who sees how far the files go finds the part that goes on behind them.
        live.control.set_first_part(number);
        live.control.set_archived(last_seq, last_seq);
        live.current = Link {
            segment: Arc::new(segment),
            base_seq,
        };
        live.control.set_state(State::Open);
        live.bell.ring_all();
        self.state = State::Open;
        let part = Part {
            number,
            segment_len: geometry.segment_len,
        };
        Ok(std::mem::replace(&mut self.chain, VecDeque::from([part])).into())
    }
}

/// Sees to it that nobody can go on in this spare of a closed log.
fn withdraw(instance: &Instance, epoch: Epoch, number: u64) -> Result<(), MapError> {
    let outcome = map(instance, epoch, number)?.withdraw();
    let damage = |base| Corrupt::new("base seq of a spare of a closed log", base, 0);
    outcome.map_err(|base| damage(base).into())
}

/// The part that follows in the chain, completed, if there is one.
pub(crate) fn next_link(instance: &Instance, link: &Link) -> Result<Option<Link>, MapError> {
    let End::Continued { part, base_seq } = link.end()? else {
        return Ok(None);
    };
    let segment = map(instance, Epoch(link.segment.epoch()), part)?;
    let frontier = (base_seq - link.base_seq) as usize;
    segment.complete(base_seq, link.segment.lamport_before(frontier)?)?;
    Ok(Some(Link { segment, base_seq }))
}

/// What a part outside the chain is.
pub(crate) fn is_spare(segment: &Segment) -> bool {
    !matches!(segment.base_seq(), WITHDRAWN) && segment.is_spare()
}

#[cfg(test)]
mod tests;
