//! Finding everything again after the daemon's death.
//!
//! What a context has in memory is found by name and never repaired by
//! overwriting: the chain follows from the first part and the seals; outside
//! it, a base seq of 0 means a spare, which stays, because an appender that was
//! stopped for an hour may still name it; anything else is a leftover.

use std::collections::{BTreeMap, HashSet};
use std::path::Path;
use std::sync::Arc;

use ledger_shm::control::State;
use ledger_shm::format::SEQ_MAX;
use ledger_shm::object::{self, Epoch, Instance, MapError, Name, Object};
use ledger_shm::read::Link;
use ledger_shm::slot::Slot;
use ledger_shm::{Control, Corrupt, Segment};

use crate::archive::{Disk, Home, Loading};
use crate::log::{Log, Part, is_spare, map};
use crate::options::Options;

/// What was found.
#[derive(Debug, Default)]
pub(crate) struct Found {
    pub(crate) logs: Vec<Log>,
    /// Objects that were removed because they belong to nothing.
    pub(crate) leftovers: usize,
    /// Contexts that cannot be served, with the reason.
    pub(crate) unreadable: Vec<(Epoch, MapError)>,
}

/// Looks at every object of the instance.
pub(crate) fn recover(
    instance: &Instance,
    options: &Options,
    generation: u64,
) -> std::io::Result<Found> {
    let mut controls = Vec::new();
    let mut parts: BTreeMap<Epoch, Vec<u64>> = BTreeMap::new();
    for name in object::list(instance)? {
        match name {
            Name::Lock => {}
            Name::Control(epoch) => controls.push(epoch),
            Name::Part(epoch, number) => parts.entry(epoch).or_default().push(number),
        }
    }
    let controls: Vec<(Epoch, Vec<u64>)> = controls
        .into_iter()
        .map(|epoch| (epoch, parts.remove(&epoch).unwrap_or_default()))
        .collect();
    let [found, more] = object::in_halves(&controls, |controls| {
        recover_all(instance, options, generation, controls)
    });
    let (mut found, more) = (found?, more?);
    found.logs.extend(more.logs);
    found.leftovers += more.leftovers;
    found.unreadable.extend(more.unreadable);
    for (epoch, numbers) in parts {
        found.leftovers += unlink_parts(instance, epoch, numbers)?;
    }
    // Of two contexts of one name the newer one is served.
    found.logs.sort_by_key(|log| log.created_at_ns);
    Ok(found)
}

/// Looks at contexts with these parts.
fn recover_all(
    instance: &Instance,
    options: &Options,
    generation: u64,
    controls: &[(Epoch, Vec<u64>)],
) -> std::io::Result<Found> {
    let mut found = Found::default();
    for (epoch, numbers) in controls {
        let (epoch, numbers) = (*epoch, numbers.clone());
        match Control::open(instance, epoch, true) {
            Ok(control) if matches!(control.state(), Ok(State::Dropped | State::Archived)) => {
                found.leftovers += unlink_all(instance, epoch, numbers)?;
            }
            // All of it is in files, and perhaps more.
            Ok(control) if control.state() == Ok(State::Loading) => {
                control.set_state(State::Archived);
                found.leftovers += unlink_all(instance, epoch, numbers)?;
            }
            Ok(control) => {
                let leftovers = &mut found.leftovers;
                let log = adopt(instance, options, &control, numbers, generation, leftovers);
                found.logs.push(log);
            }
            Err(MapError::Unfinished) => found.leftovers += unlink_all(instance, epoch, numbers)?,
            Err(error) => found.unreadable.push((epoch, error)),
        }
    }
    Ok(found)
}

/// The contexts that are in files only, the oldest first.
pub(crate) fn archived(
    archive_dir: &Path,
    options: &Options,
    instance: &Instance,
    in_memory: &mut Found,
) -> std::io::Result<Vec<Log>> {
    // Whoever dropped these died before their memory was given up.
    let disk = Disk::new(Arc::clone(&options.file_system));
    Loading::remove_all(archive_dir, &disk)?;
    for (name, aside) in Home::dropped(archive_dir)? {
        let is_dropped = |log: &mut Log| log.home == Some(name);
        for log in in_memory.logs.extract_if(.., is_dropped) {
            let parts = log.chain.iter().chain(&log.spares);
            let numbers = parts.map(|part| part.number).collect();
            in_memory.leftovers += unlink_all(instance, log.epoch, numbers)?;
        }
        disk.remove_dir(&aside)?;
    }
    let homes = in_memory.logs.iter().filter_map(|log| log.home);
    // What is in memory and cannot be read may be readable at the next start.
    let unreadable = in_memory.unreadable.iter().map(|(epoch, _)| *epoch);
    let known: HashSet<Epoch> = homes.chain(unreadable).collect();
    let mut found = Vec::new();
    for (name, home) in Home::all(archive_dir, &disk)? {
        if known.contains(&name) {
            continue;
        }
        match home.facts() {
            Ok(Some(facts)) if known.contains(&facts.epoch) => {}
            Ok(Some(facts)) => found.push(Log::archived(&facts, name, options)),
            // Its first file was never begun.
            Ok(None) => {}
            Err(error) => {
                tracing::error!(home = %name, %error, "the files of a context cannot be read");
            }
        }
    }
    found.sort_by_key(|log| log.created_at_ns);
    Ok(found)
}

/// Removes a context's objects, and returns how many these were.
fn unlink_all(instance: &Instance, epoch: Epoch, numbers: Vec<u64>) -> std::io::Result<usize> {
    let parts = unlink_parts(instance, epoch, numbers)?;
    object::unlink(instance, Name::Control(epoch))?;
    Ok(parts + 1)
}

fn unlink_parts(instance: &Instance, epoch: Epoch, numbers: Vec<u64>) -> std::io::Result<usize> {
    let count = numbers.len();
    for number in numbers {
        object::unlink(instance, Name::Part(epoch, number))?;
    }
    Ok(count)
}

fn adopt(
    instance: &Instance,
    options: &Options,
    control: &Control,
    numbers: Vec<u64>,
    generation: u64,
    leftovers: &mut usize,
) -> Log {
    let mut log = Log::new(control, options);
    if let Err(why) = find_parts(instance, control, numbers, &mut log, leftovers) {
        log.quarantine(&why);
        // Anything else than damage may be better at the next start.
        if let Unusable::Memory(MapError::Corrupt(_)) = why {
            control.set_state(State::Quarantined);
        }
        if log.chain.is_empty() {
            // Named, so that it goes with its context.
            log.chain.push_back(Part {
                number: control.first_part(),
                segment_len: 0,
            });
        }
    }
    // Only after everything has been found: attached clients fetch a new bell.
    control.set_generation(generation);
    log
}

/// The part of a context that has one, open or idle: most contexts, of which
/// there may be many.
fn only_part(
    instance: &Instance,
    control: &Control,
    numbers: &[u64],
) -> Result<Option<(Part, State)>, MapError> {
    let number = control.first_part();
    if numbers != [number] {
        return Ok(None);
    }
    let object = Object::open(instance, Name::Part(control.epoch(), number), false)?;
    let found = Segment::glance(&object)?;
    let found = found.filter(|glance| glance.was_last(control.epoch().0, number));
    Ok(found.map(|glance| {
        let segment_len = glance.segment_len;
        let state = match glance.end {
            Slot::Closed => State::Idle,
            _ => State::Open,
        };
        (
            Part {
                number,
                segment_len,
            },
            state,
        )
    }))
}

/// Why a context is not gone on with.
#[derive(Debug, thiserror::Error)]
enum Unusable {
    #[error(transparent)]
    Memory(#[from] MapError),
    #[error("it was damaged for an earlier daemon, whose log says how")]
    Before,
}

impl From<Corrupt> for Unusable {
    fn from(corrupt: Corrupt) -> Unusable {
        Unusable::Memory(corrupt.into())
    }
}

/// Puts down what a context has in memory, and removes what belongs to nothing: once all of
/// it was looked at, and nothing of it is damaged.
fn find_parts(
    instance: &Instance,
    control: &Control,
    numbers: Vec<u64>,
    log: &mut Log,
    leftovers: &mut usize,
) -> Result<(), Unusable> {
    let was_quarantined = control.state()? == State::Quarantined;
    if !was_quarantined && let Some((part, state)) = only_part(instance, control, &numbers)? {
        control.set_state(state);
        log.state = state;
        log.chain.push_back(part);
        return Ok(());
    }
    let segment = map(instance, log.epoch, control.first_part())?;
    let base_seq = segment.base_seq();
    if !(1..=SEQ_MAX).contains(&base_seq) {
        return Err(Corrupt::new("base seq of the first part", base_seq, 1).into());
    }
    log.chain.push_back(Part {
        number: segment.part(),
        segment_len: segment.geometry().segment_len,
    });
    let mut last = Link { segment, base_seq };
    log.extend_chain(instance, &mut last)?;
    let outside = beside_chain(instance, numbers, log, &mut last)?;
    if was_quarantined {
        return Err(Unusable::Before);
    }
    let end = last.segment.look(last.segment.frontier()?)?;
    *leftovers += unlink_parts(instance, log.epoch, outside).map_err(MapError::Io)?;
    if end == Slot::Closed {
        // Closing may have been cut short after CLOSED: it is finished now.
        control.set_state(State::Idle);
        log.state = State::Idle;
        let before = log.spares.len();
        let outcome = log.withdraw_spares(instance);
        *leftovers += before - log.spares.len();
        outcome?;
    } else {
        // And reopening, after the part that goes on was named.
        control.set_state(State::Open);
    }
    Ok(())
}

/// Puts down the spares among a context's parts, and returns those that belong to nothing.
fn beside_chain(
    instance: &Instance,
    numbers: Vec<u64>,
    log: &mut Log,
    last: &mut Link,
) -> Result<Vec<u64>, MapError> {
    let mut outside = Vec::new();
    for number in numbers {
        let is_in_chain = |log: &Log| log.chain.iter().any(|part| part.number == number);
        if is_in_chain(log) {
            continue;
        }
        match map(instance, log.epoch, number) {
            Ok(segment) if is_spare(&segment) => log.spares.push(Part {
                number,
                segment_len: segment.geometry().segment_len,
            }),
            Ok(_) => {
                // Clients go on while we look: it may have been sealed to since
                // the chain was followed. Who sees its base sees that seal.
                log.extend_chain(instance, last)?;
                if !is_in_chain(log) {
                    outside.push(number);
                }
            }
            Err(MapError::Unfinished) => outside.push(number),
            // Somebody may have it mapped, and name it yet.
            Err(error) => return Err(error),
        }
    }
    log.spares.sort_by_key(|part| part.number);
    Ok(outside)
}

#[cfg(test)]
mod tests;
