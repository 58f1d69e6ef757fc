use super::*;
use crate::objects::{Objects, epoch, facts};

const ID: u8 = 1;

/// A context of so many parts of one length, of which there is only what is said.
fn of_parts(count: usize, spares: usize, making: usize) -> Log {
    let options = Options::new("default");
    let mut log = Log::archived(&facts(ID), epoch(ID), &options);
    log.state = State::Open;
    let parts = |from: usize, count: usize| {
        (from..from + count).map(|number| Part {
            number: number as u64,
            segment_len: 1000 + number,
        })
    };
    log.chain = parts(0, count).collect();
    log.spares = parts(10, spares).collect();
    log.making = parts(20, making).collect();
    log
}

#[test]
fn all_its_parts_and_those_that_are_made_are_memory_of_a_context() {
    let fixed = CONTROL_LEN as u64;
    assert_eq!(of_parts(1, 0, 0).committed_len(), fixed + 1000);
    assert_eq!(
        of_parts(2, 1, 1).committed_len(),
        fixed + 1000 + 1001 + 1010 + 1020
    );
    let mut archived = of_parts(1, 1, 1);
    archived.state = State::Archived;
    assert_eq!(archived.committed_len(), 0);

    assert_eq!(of_parts(0, 0, 0).sealed_len(), 0);
    assert_eq!(of_parts(1, 1, 1).sealed_len(), 0, "it is not sealed");
    assert_eq!(of_parts(3, 1, 1).sealed_len(), 1000 + 1001);
}

#[test]
fn a_context_that_was_only_created_is_not_active() {
    assert!(!of_parts(1, 0, 0).is_active());
    for (count, spares, making) in [(2, 0, 0), (1, 1, 0), (1, 0, 1)] {
        assert!(of_parts(count, spares, making).is_active());
    }
}

#[test]
fn only_what_nobody_has_open_may_be_kept_in_files_only() {
    assert!(of_parts(1, 0, 0).may_leave());
    let spoilt = |spoil: &dyn Fn(&mut Log)| {
        let mut log = of_parts(1, 1, 0);
        spoil(&mut log);
        log.may_leave()
    };
    assert!(spoilt(&|log| log.state = State::Idle));
    assert!(!spoilt(&|log| log.state = State::Quarantined));
    assert!(!spoilt(&|log| log.attached_count = 1));
    assert!(!spoilt(&|log| log.making = log.spares.clone()));
    assert!(!spoilt(&|log| log.home = None));
    assert!(!spoilt(&|log| log.is_leaving = true));
}

#[test]
fn a_context_is_closed_for_its_spares_and_not_while_somebody_appends() {
    for (spares, making, [may_later, can]) in [
        (0, 0, [false, false]),
        (1, 0, [true, true]),
        (0, 1, [true, false]),
        (1, 1, [true, false]),
    ] {
        let mut log = of_parts(1, spares, making);
        assert_eq!([log.may_close_later(), log.can_close()], [may_later, can]);
        log.appender_count = 1;
        assert_eq!([log.may_close_later(), log.can_close()], [may_later, false]);
        log.state = State::Archived;
        assert_eq!([log.may_close_later(), log.can_close()], [false, false]);
    }
}

#[test]
fn a_damaged_context_is_refused_with_what_was_wrong_first() {
    let mut log = of_parts(1, 0, 0);
    assert_eq!(log.check_usable(), Ok(()));
    log.quarantine(&"a word");
    log.quarantine(&"another");
    assert_eq!(
        log.check_usable(),
        Err(Refusal::Quarantined("a word".into()))
    );
}

/// A context that starts with this seq, and its memory.
fn of_memory(memory: &Objects, first_seq: u64) -> Log {
    let control = memory.context(ID, None, State::Open);
    let segment_len = memory.part(ID, 1, first_seq).geometry().segment_len;
    let mut log = Log::new(&control, &memory.options);
    log.chain.push_back(Part {
        number: 1,
        segment_len,
    });
    log
}

#[test]
fn what_serves_a_context_is_there_as_long_as_somebody_is_attached() {
    const FIRST_SEQ: u64 = 7;
    let memory = Objects::new();
    let mut log = of_memory(&memory, FIRST_SEQ);
    assert_eq!(log.latest(&memory.instance), None, "nobody has it open");
    log.awake(&memory.instance).expect("memory");
    assert_eq!(log.latest(&memory.instance), Some(FIRST_SEQ - 1));
    let asleep = log.committed_len() - BELL_LEN as u64;
    log.asleep();
    assert!(log.live.is_none());
    assert_eq!(log.committed_len(), asleep);
}

#[test]
fn what_goes_wrong_in_a_visit_is_known_until_one_goes_well() {
    let memory = Objects::new();
    let mut log = of_memory(&memory, 1);
    for wrong in ["no room", "no room", "no memory"] {
        let outcome = std::io::Error::other(wrong);
        log.visit(&memory.instance, |_, _| Err(outcome.into()));
        assert_eq!(log.trouble.as_deref(), Some(wrong));
        assert_eq!(log.state, State::Open);
    }
    log.visit(&memory.instance, |_, _| Ok(()));
    assert_eq!(log.trouble, None);
    let damage = Corrupt::new("a word", 1, 0);
    log.visit(&memory.instance, |_, _| Err(damage.into()));
    assert_eq!(log.state, State::Quarantined);
}
