//! The contexts of an instance, and what is asked of them.

use std::collections::{HashMap, VecDeque};
use std::os::fd::{AsFd, OwnedFd};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use ledger_client::wire::{Refusal, Reply};
use ledger_shm::Control;
use ledger_shm::control::{InvalidName, NewControl, State};
use ledger_shm::entry::Limits;
use ledger_shm::fork::Generation;
use ledger_shm::format::PAGE_LEN;
use ledger_shm::object::{self, Epoch, Instance, MapError, Name};
use ledger_shm::segment::Geometry;

use crate::log::{Log, Part};
use crate::maker::{Job, Made, Maker, is_out_of_memory, make};
use crate::options::Options;

/// Spares kept ready per context that is appended to.
const SPARE_COUNT: usize = 2;
/// No spare is larger than this fraction of a context's share.
const SPARES_PER_SHARE_MIN: u64 = 4;
/// No spare is larger than this fraction of the budget.
const SPARES_PER_BUDGET_MIN: u64 = 16;

#[derive(Debug)]
pub(crate) struct Registry {
    instance: Instance,
    options: Options,
    budget: u64,
    window_len: u64,
    generation: u64,
    made_in: Generation,
    logs: HashMap<Epoch, Log>,
    names: HashMap<String, Epoch>,
    maker: Maker,
}

/// What came of asking for spares.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Spares {
    /// This is the answer.
    Now(Reply),
    /// They are being made.
    Later,
}

impl Registry {
    pub(crate) fn new(
        instance: Instance,
        options: Options,
        budget: u64,
        generation: u64,
        made_in: Generation,
        maker: Maker,
    ) -> Registry {
        let window_len = options.window_len.unwrap_or(budget / 4);
        Registry {
            instance,
            options,
            budget,
            window_len,
            generation,
            made_in,
            logs: HashMap::new(),
            names: HashMap::new(),
            maker,
        }
    }

    pub(crate) fn adopt(&mut self, log: Log) {
        self.names.insert(log.name.clone(), log.epoch);
        self.logs.insert(log.epoch, log);
    }

    pub(crate) fn context_count(&self) -> usize {
        self.logs.len()
    }

    fn committed_len(&self) -> u64 {
        self.logs.values().map(Log::committed_len).sum()
    }

    /// Attaches a client to a context, making it if that was asked for.
    pub(crate) fn open(
        &mut self,
        name: &str,
        epoch: Option<Epoch>,
        create: bool,
        append: bool,
    ) -> Result<(Epoch, Reply, OwnedFd), Refusal> {
        let name = InvalidName::check(name.as_bytes())
            .map_err(|error| Refusal::InvalidName(error.to_string()))?;
        let (epoch, created) = match (self.names.get(name), epoch) {
            (Some(found), None) => (*found, false),
            (Some(found), Some(wanted)) if *found == wanted => (*found, false),
            (None, None) if create => (self.create(name)?, true),
            _ => return Err(Refusal::UnknownContext),
        };
        let log = self.logs.get_mut(&epoch).expect("names and logs agree");
        if append && log.state == State::Quarantined {
            return Err(Refusal::Quarantined(log.damage.clone().unwrap_or_default()));
        }
        let bell = match attach(log, &self.instance, &self.options, self.generation, append) {
            Ok(bell) => bell,
            Err(error) => {
                if let MapError::Corrupt(_) = error {
                    log.quarantine(&error);
                }
                if log.attached_count == 0 {
                    log.asleep();
                }
                return Err(refusal(error));
            }
        };
        log.attached_count += 1;
        log.appender_count += usize::from(append);
        let reply = Reply::Opened {
            epoch: epoch.0,
            created,
            current: log.current(),
        };
        Ok((epoch, reply, bell))
    }

    fn create(&mut self, name: &str) -> Result<Epoch, Refusal> {
        let geometry = Geometry::of_len(self.options.first_len);
        let needed = (geometry.segment_len + ledger_shm::format::CONTROL_LEN) as u64;
        self.make_room(needed);
        if self.committed_len() + needed > self.budget {
            return Err(Refusal::Budget);
        }
        let mut epoch = Epoch([0; 16]);
        getrandom::fill(&mut epoch.0).map_err(|error| Refusal::Internal(error.to_string()))?;
        let new = NewControl {
            name,
            epoch,
            limits: self.options.limits,
            created_at_ns: now_ns(),
            generation: self.generation,
        };
        let control = Control::create(&self.instance, &new).map_err(refusal)?;
        let number = control.take_part_number();
        let first = make(&self.instance, epoch, number, geometry, 1, 0).inspect_err(|_| {
            let _ = object::unlink(&self.instance, Name::Control(epoch));
        });
        first.map_err(refusal)?;
        control.set_first_part(number);
        control.finish();
        self.adopt(Log {
            name: name.to_owned(),
            epoch,
            state: State::Open,
            damage: None,
            chain: VecDeque::from([Part {
                number,
                segment_len: geometry.segment_len,
            }]),
            spares: Vec::new(),
            making: Vec::new(),
            why_not: None,
            spare_len: self.options.spare_len_min,
            attached_count: 0,
            appender_count: 0,
            idle_since: Instant::now(),
            live: None,
        });
        Ok(epoch)
    }

    /// A length that a client asks for, at most that of the longest record that
    /// the context takes, which may be older than today's limits.
    pub(crate) fn record_len(&self, epoch: Epoch, wanted: u64) -> usize {
        let live = self.logs.get(&epoch).and_then(|log| log.live.as_ref());
        let limits = live.map_or(self.options.limits, |live| live.control.limits());
        usize::try_from(wanted)
            .unwrap_or(usize::MAX)
            .min(record_len_max(&limits))
    }

    /// The spares of a context; has more made if there are too few, or none
    /// that takes a record of this length.
    pub(crate) fn spares(&mut self, epoch: Epoch, record_len: usize) -> Result<Spares, Refusal> {
        let needed = Geometry::for_record(record_len);
        let wanted = needed.segment_len.max(self.options.spare_len_min) * SPARE_COUNT;
        self.make_room(wanted as u64);
        let budget = self.budget;
        // The current segment and two spares are held beside the sealed ones.
        let spare_len_max = (self.share() / SPARES_PER_SHARE_MIN)
            .min(budget / SPARES_PER_BUDGET_MIN)
            .min(self.options.spare_len_max as u64) as usize;
        let mut committed = self.committed_len();
        let log = self.logs.get_mut(&epoch).ok_or(Refusal::UnknownContext)?;
        if log.state == State::Quarantined {
            return Err(Refusal::Quarantined(log.damage.clone().unwrap_or_default()));
        }
        if let Err(error) = log.follow(&self.instance) {
            if let MapError::Corrupt(_) = error {
                log.quarantine(&error);
            }
            return Err(refusal(error));
        }
        if log.state == State::Idle {
            log.reopen(&self.instance, Geometry::of_len(self.options.first_len))
                .map_err(refusal)?;
        }
        while sealed_len(log) > self.window_len {
            let Some(retired) = log.retire_oldest() else {
                break;
            };
            committed -= retired.segment_len as u64;
            self.maker.give(Job::Unlink {
                epoch,
                part: retired.number,
            });
        }
        let mut refused = None;
        loop {
            let fits = |part: &Part| part.segment_len >= needed.segment_len;
            let has_fitting = log.spares.iter().chain(&log.making).any(fits);
            let ready = log.spares.len() + log.making.len();
            if has_fitting && ready >= SPARE_COUNT {
                break;
            }
            let smallest = if has_fitting {
                Geometry::of_len(self.options.first_len)
            } else {
                needed
            };
            let mut geometry =
                Geometry::of_len(log.spare_len.min(spare_len_max).max(smallest.segment_len));
            while committed + geometry.segment_len as u64 > budget
                && geometry.segment_len > smallest.segment_len
            {
                geometry = Geometry::of_len((geometry.segment_len / 2).max(smallest.segment_len));
            }
            if committed + geometry.segment_len as u64 > budget {
                refused = Some(Refusal::Budget);
                break;
            }
            let live = log.live.as_ref().ok_or(Refusal::UnknownContext)?;
            let part = Part {
                number: live.control.take_part_number(),
                segment_len: geometry.segment_len,
            };
            log.making.push(part);
            log.spare_len = (log.spare_len * 2).min(spare_len_max.max(self.options.spare_len_min));
            committed += part.segment_len as u64;
            self.maker.give(Job::Make {
                epoch,
                part: part.number,
                segment_len: part.segment_len,
                segment_len_min: smallest.segment_len,
            });
        }
        log.why_not = refused;
        if !log.making.is_empty() {
            return Ok(Spares::Later);
        }
        Ok(Spares::Now(self.answer(epoch, record_len)))
    }

    /// The spares of a context, or why there is none for a record of this
    /// length, now that nothing more is being made.
    pub(crate) fn answer(&self, epoch: Epoch, record_len: usize) -> Reply {
        let Some(log) = self.logs.get(&epoch) else {
            return Reply::Refused(Refusal::UnknownContext);
        };
        let needed = Geometry::for_record(record_len);
        let fits = |part: &Part| part.segment_len >= needed.segment_len;
        match &log.why_not {
            Some(why_not) if !log.spares.iter().any(fits) => Reply::Refused(why_not.clone()),
            _ => Reply::Spares {
                current: log.current(),
                parts: log.spares.iter().map(|part| part.number).collect(),
            },
        }
    }

    /// Takes over what the maker has made. Returns the context, and whether
    /// nothing more is being made for it.
    pub(crate) fn take_made(&mut self) -> Option<(Epoch, bool)> {
        let Made {
            epoch,
            part,
            segment_len,
            outcome,
        } = self.maker.take_made()?;
        let Some(log) = self.logs.get_mut(&epoch) else {
            return Some((epoch, true));
        };
        log.making.retain(|making| making.number != part);
        match outcome {
            Ok(()) => log.spares.push(Part {
                number: part,
                segment_len,
            }),
            Err(error) => log.why_not = Some(refusal(error)),
        }
        Some((epoch, log.making.is_empty()))
    }

    /// A client is done with a context, or gone: whoever sleeps there looks up,
    /// because it may have died before it rang.
    pub(crate) fn release(&mut self, epoch: Epoch, append: bool) {
        let Some(log) = self.logs.get_mut(&epoch) else {
            return;
        };
        if let Some(live) = &log.live {
            live.bell.ring_all();
        }
        log.attached_count = log.attached_count.saturating_sub(1);
        if append {
            log.appender_count = log.appender_count.saturating_sub(1);
            // Readers that come and go keep nothing alive.
            log.idle_since = Instant::now();
        }
        if log.attached_count == 0 {
            log.asleep();
        }
    }

    /// Closes contexts whose appenders left long ago and that hold spares.
    /// Returns when to look again.
    pub(crate) fn close_idle(&mut self) -> Option<Instant> {
        let now = Instant::now();
        let mut look_again = None;
        for log in self.logs.values_mut() {
            if !log.can_close() {
                continue;
            }
            let due = log.idle_since + self.options.idle_close_after;
            if due > now {
                look_again = Some(look_again.map_or(due, |earlier: Instant| earlier.min(due)));
                continue;
            }
            log.visit(&self.instance, self.generation, |log, instance| {
                log.close(instance, self.made_in).map(drop)
            });
            log.idle_since = now;
        }
        look_again
    }

    /// Half of the budget, divided among the contexts that are in use.
    fn share(&self) -> u64 {
        let is_active = |log: &&Log| log.chain.len() > 1 || !log.spares.is_empty();
        let active_count = self.logs.values().filter(is_active).count().max(1);
        self.budget / 2 / active_count as u64
    }

    /// When the budget does not allow for `len` bytes more: takes back what
    /// contexts without appenders hold in advance, and then, unless somebody
    /// has said how much a context keeps, the oldest entries of those that have
    /// more than their share.
    fn make_room(&mut self, len: u64) {
        if self.committed_len() + len <= self.budget {
            return;
        }
        for log in self.logs.values_mut().filter(|log| log.can_close()) {
            log.visit(&self.instance, self.generation, |log, instance| {
                log.close(instance, self.made_in).map(drop)
            });
        }
        if self.options.window_len.is_some() {
            return;
        }
        let share = self.share();
        while self.committed_len() + len > self.budget {
            let Some(log) = self.logs.values_mut().max_by_key(|log| sealed_len(log)) else {
                return;
            };
            if sealed_len(log) <= share {
                return;
            }
            let mut retired = None;
            log.visit(&self.instance, self.generation, |log, instance| {
                log.follow(instance)?;
                retired = log.retire_oldest();
                Ok(())
            });
            let Some(retired) = retired else { return };
            self.maker.give(Job::Unlink {
                epoch: log.epoch,
                part: retired.number,
            });
        }
    }
}

/// Gets a context ready for one more client; the bell is the client's.
fn attach(
    log: &mut Log,
    instance: &Instance,
    options: &Options,
    generation: u64,
    append: bool,
) -> Result<OwnedFd, MapError> {
    log.awake(instance, generation)?;
    if log.state != State::Quarantined {
        log.follow(instance)?;
    }
    if append && log.state == State::Idle {
        log.reopen(instance, Geometry::of_len(options.first_len))?;
    }
    let live = log.live.as_ref().expect("awake");
    Ok(live.bell_fd.as_fd().try_clone_to_owned()?)
}

impl Log {
    /// Whether closing it would free something and disturb nobody.
    fn can_close(&self) -> bool {
        // A spare that is being made would come too late to be withdrawn.
        let is_busy = self.appender_count > 0 || !self.making.is_empty();
        self.state == State::Open && !is_busy && !self.spares.is_empty()
    }

    /// Does something with a context that nobody may be attached to.
    fn visit(
        &mut self,
        instance: &Instance,
        generation: u64,
        act: impl FnOnce(&mut Log, &Instance) -> Result<(), MapError>,
    ) {
        let was_asleep = self.live.is_none();
        let outcome = self
            .awake(instance, generation)
            .map(drop)
            .and_then(|()| act(self, instance));
        match outcome {
            Ok(()) => {}
            Err(error @ MapError::Corrupt(_)) => self.quarantine(&error),
            // Not damage: the next time may be better.
            Err(error) => eprintln!("ledgerd: context {:?}: {error}", self.name),
        }
        if was_asleep {
            self.asleep();
        }
    }

    /// Takes a damaged context out of use; the others go on.
    pub(crate) fn quarantine(&mut self, error: &MapError) {
        eprintln!("ledgerd: context {:?} is quarantined: {error}", self.name);
        self.state = State::Quarantined;
        self.damage = Some(error.to_string());
        if let Some(live) = &self.live {
            live.control.set_state(State::Quarantined);
        }
    }
}

fn sealed_len(log: &Log) -> u64 {
    let sealed = log.chain.len().saturating_sub(1);
    log.chain
        .iter()
        .take(sealed)
        .map(|part| part.segment_len as u64)
        .sum()
}

/// No record that keeps these limits is longer.
fn record_len_max(limits: &Limits) -> usize {
    // A page holds the header, the longest key and the root.
    limits.payload_len_max + limits.metadata_len_max + PAGE_LEN
}

/// What a client is told of a failure of the daemon's.
pub(crate) fn refusal(error: MapError) -> Refusal {
    match &error {
        MapError::Io(io) if is_out_of_memory(io) => Refusal::NoMemory,
        MapError::Corrupt(_) => Refusal::Quarantined(error.to_string()),
        _ => Refusal::Internal(error.to_string()),
    }
}

fn now_ns() -> u64 {
    let elapsed = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    u64::try_from(elapsed.as_nanos()).unwrap_or(u64::MAX)
}
