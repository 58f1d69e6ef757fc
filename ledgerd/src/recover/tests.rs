//! What objects of every kind are taken for, and what is removed.

use ledger_shm::file::{FileName, Head};
use ledger_shm::merkle::Frontier;
use ledger_shm::segment::Geometry;

use super::*;
use crate::objects::{EARLIER, Objects, close, epoch, facts, tail};

const GENERATION: u64 = EARLIER + 1;

fn look(memory: &Objects) -> Found {
    recover(&memory.instance, &memory.options, GENERATION).expect("memory")
}

fn numbers<'a>(parts: impl IntoIterator<Item = &'a Part>) -> Vec<u64> {
    parts.into_iter().map(|part| part.number).collect()
}

#[test]
fn what_belongs_to_nothing_is_removed_and_counted() {
    let memory = Objects::new();
    let gone = [State::Dropped, State::Archived, State::Loading];
    let controls: Vec<_> = gone
        .into_iter()
        .zip(1..)
        .map(|(state, id)| {
            for number in 1..=id {
                memory.part(id, number.into(), 1);
            }
            memory.context(id, None, state)
        })
        .collect();
    memory.begun(4, None);
    memory.part(5, 1, 1);
    memory.part(5, 2, 0);
    let found = look(&memory);
    assert_eq!((found.leftovers, memory.count()), (2 + 3 + 4 + 1 + 2, 0));
    assert!(found.logs.is_empty() && found.unreadable.is_empty());
    // Whoever has it open finds the files.
    let states = controls
        .iter()
        .map(|control| control.state().expect("valid"));
    assert!(states.eq([State::Dropped, State::Archived, State::Archived]));
    assert_eq!(look(&memory).leftovers, 0);
}

#[test]
fn an_end_that_is_closed_makes_a_context_idle() {
    for part_count in [1, 2] {
        let memory = Objects::new();
        for (id, is_closed) in [(1, true), (2, false)] {
            // Closing and reopening may have been cut short on either side.
            let before = if is_closed { State::Open } else { State::Idle };
            let control = memory.context(id, None, before);
            let segment = memory.part(id, 1, 7);
            if is_closed {
                close(&mut tail(segment));
            }
            for number in 2..=part_count {
                memory.part(id, number, 0);
            }
            assert_ne!(control.generation(), GENERATION);
        }
        let found = look(&memory);
        // The older one first.
        let names: Vec<_> = found.logs.iter().map(|log| &*log.name).collect();
        assert_eq!(names, ["context 2", "context 1"]);
        for (log, (id, state)) in found.logs.iter().zip([(2, State::Open), (1, State::Idle)]) {
            let control = Control::open(&memory.instance, epoch(id), false).expect("it stays");
            assert_eq!((log.state, control.state()), (state, Ok(state)));
            assert_eq!(control.generation(), GENERATION);
            assert_eq!(numbers(&log.chain), [1]);
            assert_eq!(
                log.chain[0].segment_len,
                Geometry::of_len(16 << 10).segment_len
            );
            // Nobody appends to it, so it needs none.
            let spares: Vec<u64> = (2..=part_count).filter(|_| state == State::Open).collect();
            assert_eq!(numbers(&log.spares), spares);
        }
        assert_eq!(found.leftovers as u64, part_count - 1);
        assert_eq!(memory.count() as u64, 2 + 2 + (part_count - 1));
    }
}

#[test]
fn spares_stay_and_other_parts_go() {
    let memory = Objects::new();
    memory.context(1, None, State::Open);
    memory.part(1, 1, 1);
    for number in [5, 3, 4] {
        memory.part(1, number, 0);
    }
    memory.part(1, 6, 1000);
    memory.part(1, 7, 0).withdraw().expect("a spare");
    let unfinished = Name::Part(epoch(1), 8);
    Object::create(&memory.instance, unfinished, 1 << 16).expect("room");
    let found = look(&memory);
    assert_eq!(numbers(&found.logs[0].spares), [3, 4, 5]);
    assert_eq!((found.leftovers, memory.count()), (3, 1 + 4));
}

#[test]
fn what_was_quarantined_stays_so_with_its_spares() {
    for part_count in [1, 2] {
        let memory = Objects::new();
        let control = memory.context(1, None, State::Quarantined);
        memory.part(1, 1, 1);
        for number in 2..=part_count {
            memory.part(1, number, 0);
        }
        let found = look(&memory);
        let log = &found.logs[0];
        assert_eq!(log.state, State::Quarantined);
        assert_eq!(control.state(), Ok(State::Quarantined));
        let damage = log.damage.as_deref().expect("it says why");
        assert!(damage.contains("damaged for an earlier daemon"), "{damage}");
        assert_eq!(numbers(&log.chain), [1]);
        assert_eq!(
            (found.leftovers, memory.count() as u64),
            (0, 1 + part_count)
        );
    }
}

#[test]
fn nothing_is_removed_of_what_is_damaged() {
    for state in [State::Quarantined, State::Open] {
        let memory = Objects::new();
        memory.context(1, None, state);
        memory.part(1, 1, 1);
        memory.part(1, 2, 1000);
        memory.part(1, 3, 0).withdraw().expect("a spare");
        let unfinished = Name::Part(epoch(1), 4);
        Object::create(&memory.instance, unfinished, 1 << 16).expect("room");
        if state == State::Open {
            memory.part(1, 5, 0);
            memory.spoil(Name::Part(epoch(1), 5));
        }
        let before = memory.count();
        let found = look(&memory);
        assert_eq!(found.logs[0].state, State::Quarantined);
        assert_eq!((found.leftovers, memory.count()), (0, before));
    }
}

#[test]
fn damage_is_put_down_for_the_next_daemon() {
    for base_seq in [0, SEQ_MAX + 1] {
        let memory = Objects::new();
        let control = memory.context(1, None, State::Open);
        memory.part(1, 1, base_seq);
        memory.part(1, 2, 0);
        let found = look(&memory);
        assert_eq!(found.logs[0].state, State::Quarantined, "{base_seq}");
        assert_eq!(control.state(), Ok(State::Quarantined), "{base_seq}");
        assert_eq!(numbers(&found.logs[0].chain), [1]);
    }
    for base_seq in [1, SEQ_MAX] {
        let memory = Objects::new();
        memory.context(1, None, State::Open);
        memory.part(1, 1, base_seq);
        memory.part(1, 2, 0);
        assert_eq!(look(&memory).logs[0].state, State::Open, "{base_seq}");
    }
}

#[test]
fn a_part_that_is_missing_is_looked_for_again_at_the_next_start() {
    let memory = Objects::new();
    let control = memory.context(1, None, State::Open);
    memory.part(1, 2, 0);
    let found = look(&memory);
    assert_eq!(found.logs[0].state, State::Quarantined);
    assert_eq!(numbers(&found.logs[0].chain), [1]);
    assert_eq!(control.state(), Ok(State::Open));
    memory.part(1, 1, 1);
    assert_eq!(look(&memory).logs[0].state, State::Open);
}

#[test]
fn a_control_object_that_cannot_be_read_stays_with_its_parts() {
    let memory = Objects::new();
    memory.context(1, None, State::Open);
    memory.part(1, 1, 1);
    memory.spoil(Name::Control(epoch(1)));
    let found = look(&memory);
    assert_eq!((found.leftovers, memory.count()), (0, 2));
    assert!(matches!(found.unreadable[..], [(of, MapError::Corrupt(_))] if of == epoch(1)));
}

/// The directory of a context below this one, with a file of it.
fn put(archive_dir: &Path, home: Epoch, of: u8) {
    let dir = archive_dir.join(home.to_string());
    std::fs::create_dir(&dir).expect("ours");
    let head = Head {
        facts: facts(of),
        before: Frontier::default(),
        base_lamport: 0,
        begun_at_ns: 0,
        snapshot: None,
    };
    let name = FileName::Open(1).to_string();
    std::fs::write(dir.join(name), head.encode()).expect("ours");
}

/// What is found in files only, beside what was found in memory.
fn look_in_files(memory: &Objects, dir: &Path, in_memory: &mut Found) -> Vec<Log> {
    let found = archived(dir, &memory.options, &memory.instance, in_memory);
    found.expect("it is there")
}

#[test]
fn contexts_in_files_only_are_found_the_oldest_first() {
    let (memory, dir) = (Objects::new(), tempfile::tempdir().expect("a directory"));
    for id in [1, 3, 2] {
        put(dir.path(), epoch(100 + id), id);
    }
    // Without a file, and without one that can be read.
    for nothing in [4, 5] {
        let home = dir.path().join(epoch(nothing).to_string());
        std::fs::create_dir(&home).expect("ours");
        if nothing == 5 {
            let name = FileName::Open(1).to_string();
            std::fs::write(home.join(name), [7; 4096]).expect("ours");
        }
    }
    let found = look_in_files(&memory, dir.path(), &mut Found::default());
    let found: Vec<_> = found
        .iter()
        .map(|log| (log.epoch, log.home, log.state))
        .collect();
    let all = [3, 2, 1].map(|id| (epoch(id), Some(epoch(100 + id)), State::Archived));
    assert_eq!(found, all);
}

#[test]
fn what_is_in_memory_is_not_found_in_files_once_more() {
    let (memory, dir) = (Objects::new(), tempfile::tempdir().expect("a directory"));
    memory.context(1, Some(epoch(101)), State::Open);
    memory.part(1, 1, 1);
    put(dir.path(), epoch(101), 1);
    // Where one cannot read what is in memory, the epoch is in the directory's name or in
    // its files.
    for id in [2, 3] {
        memory.context(id, None, State::Open);
        memory.spoil(Name::Control(epoch(id)));
    }
    put(dir.path(), epoch(2), 4);
    put(dir.path(), epoch(103), 3);
    let mut in_memory = look(&memory);
    assert!(look_in_files(&memory, dir.path(), &mut in_memory).is_empty());
    assert_eq!((in_memory.logs.len(), in_memory.leftovers), (1, 0));
}

#[test]
fn of_a_context_whose_directory_was_set_aside_nothing_is_left() {
    let (memory, dir) = (Objects::new(), tempfile::tempdir().expect("a directory"));
    for id in [1, 2, 3] {
        memory.context(id, Some(epoch(100 + id)), State::Open);
        memory.part(id, 1, 1);
    }
    memory.part(2, 2, 0);
    for id in [1, 2] {
        let aside = format!("{}.dropped", epoch(100 + id));
        std::fs::create_dir(dir.path().join(aside)).expect("ours");
    }
    let mut in_memory = look(&memory);
    assert!(look_in_files(&memory, dir.path(), &mut in_memory).is_empty());
    let left: Vec<_> = in_memory.logs.iter().map(|log| log.epoch).collect();
    assert_eq!((left, in_memory.leftovers), (vec![epoch(3)], 2 + 3));
    assert_eq!(memory.count(), 2);
    assert_eq!(std::fs::read_dir(dir.path()).expect("it stays").count(), 0);
}
