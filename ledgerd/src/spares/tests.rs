use std::sync::Arc;

use ledger_shm::format::SEGMENT_LEN_MIN;
use nix::sys::eventfd::EventFd;

use super::*;
use crate::objects::Objects;
use crate::options::Lengths;

const KIB: usize = 1 << 10;
const PLENTY: u64 = 1 << 30;
/// More than any spare has.
const LARGE: usize = 1 << 20;
const LENGTHS: Lengths = Lengths {
    first: 16 * KIB,
    spare_min: 32 * KIB,
    spare_max: 128 * KIB,
    window: None,
};

/// A context that somebody has open, and who makes its spares.
struct Stage {
    log: Log,
    maker: Maker,
    // Removed last: what is being made by then as well.
    _memory: Objects,
}

impl Stage {
    fn new() -> Stage {
        let memory = Objects::new();
        let control = memory.context(1, None, State::Open);
        let segment_len = memory.part(1, 1, 1).geometry().segment_len;
        let number = control.take_part_number().expect("the first one");
        let mut log = Log::new(&control, &memory.options);
        let part = Part {
            number,
            segment_len,
        };
        log.chain.push_back(part);
        log.awake(&memory.instance).expect("memory");
        (log.lengths, log.spare_len) = (LENGTHS, LENGTHS.spare_min);
        let done = Arc::new(EventFd::new().expect("a descriptor"));
        let maker = Maker::start(memory.instance.clone(), done).expect("a thread");
        Stage {
            log,
            maker,
            _memory: memory,
        }
    }

    /// With spares of these lengths.
    fn with(lens: &[usize]) -> Stage {
        let mut stage = Stage::new();
        stage.log.spares = parts(lens);
        stage
    }

    /// Lengths of the spares that are made now, and why not more.
    fn plan(&mut self, needed: usize, len_max: usize, room: u64) -> (Vec<usize>, Option<Refusal>) {
        let bounds = Bounds {
            needed: Geometry::for_record(needed),
            len_max,
            room: self.log.committed_len() + room,
        };
        let before = self.log.making.len();
        let planned = self.log.plan_spares(&bounds, &self.maker);
        planned.expect("there are part numbers");
        let made = self.log.making[before..].iter();
        let lens = made.map(|part| part.segment_len).collect();
        (lens, self.log.why_not.clone())
    }

    /// All that was being made is there.
    fn finish(&mut self) {
        let made = std::mem::take(&mut self.log.making);
        for part in &made {
            let told = ledger_tests::eventually("it is made", || self.maker.take_made());
            assert_eq!(
                (told.part, told.segment_len),
                (part.number, part.segment_len)
            );
            told.outcome.expect("memory");
        }
        self.log.spares.extend(made);
    }

    fn missing(&self, needed: usize, len_max: usize) -> RangeInclusive<u64> {
        self.log.missing_len(Geometry::for_record(needed), len_max)
    }
}

fn parts(lens: &[usize]) -> Vec<Part> {
    let part = |(number, segment_len): (u64, &usize)| Part {
        number,
        segment_len: *segment_len,
    };
    (100..).zip(lens).map(part).collect()
}

#[test]
fn each_spare_is_twice_as_long_as_the_one_before_up_to_the_longest() {
    let mut stage = Stage::new();
    let longest = LENGTHS.spare_max;
    assert_eq!(
        stage.plan(1, longest, PLENTY),
        (vec![32 * KIB, 64 * KIB], None)
    );
    assert_eq!(
        stage.plan(1, longest, PLENTY),
        (vec![], None),
        "they are being made"
    );
    stage.finish();
    for len in [128 * KIB, 128 * KIB] {
        assert_eq!(
            stage.plan(1, longest, PLENTY),
            (vec![], None),
            "they are there"
        );
        stage.log.spares.remove(0);
        assert_eq!(stage.plan(1, longest, PLENTY), (vec![len], None));
        stage.finish();
    }
    // Where a share is small, they are.
    let mut stage = Stage::new();
    let lens = vec![16 * KIB, 16 * KIB];
    assert_eq!(stage.plan(1, 16 * KIB, PLENTY), (lens, None));
    stage.log.making.clear();
    assert_eq!(
        stage.plan(1, longest, PLENTY),
        (vec![32 * KIB, 64 * KIB], None)
    );
}

#[test]
fn a_large_record_has_a_spare_of_its_own() {
    let needed = Geometry::for_record(LARGE).segment_len;
    let longest = LENGTHS.spare_max;
    let mut stage = Stage::new();
    assert_eq!(
        stage.plan(LARGE, longest, PLENTY),
        (vec![needed, 64 * KIB], None)
    );
    assert_eq!(stage.plan(LARGE, longest, PLENTY), (vec![], None));
    // Beside others that are too short for it.
    let mut stage = Stage::with(&[32 * KIB, 32 * KIB]);
    assert_eq!(stage.plan(LARGE, longest, PLENTY), (vec![needed], None));
    let mut stage = Stage::with(&[needed]);
    assert_eq!(stage.plan(LARGE, longest, PLENTY), (vec![32 * KIB], None));
}

#[test]
fn where_there_is_little_room_spares_are_shorter_and_then_none() {
    let longest = LENGTHS.spare_max;
    let least = LENGTHS.smallest();
    for (room, lens, is_refused) in [
        (96 * KIB, vec![32 * KIB, 64 * KIB], false),
        (96 * KIB - 1, vec![32 * KIB, 32 * KIB], false),
        (64 * KIB - 1, vec![32 * KIB, 16 * KIB], false),
        (32 * KIB + least - 1, vec![32 * KIB], true),
        (32 * KIB - 1, vec![least], true),
        (least, vec![least], true),
        // For who waits for any at all.
        (least - 1, vec![SEGMENT_LEN_MIN], true),
        (SEGMENT_LEN_MIN - 1, vec![], true),
    ] {
        let planned = Stage::new().plan(1, longest, room as u64);
        let why_not = is_refused.then_some(Refusal::Budget);
        assert_eq!(planned, (lens, why_not), "{room} bytes");
    }
    // The one that takes a large record is not made shorter than that.
    let needed = Geometry::for_record(LARGE).segment_len;
    let refused = Some(Refusal::Budget);
    let planned = |room: usize| Stage::new().plan(LARGE, longest, room as u64);
    assert_eq!(planned(needed - 1), (vec![], refused.clone()));
    assert_eq!(planned(needed), (vec![needed], refused));
}

#[test]
fn what_is_missing_is_known_before_any_is_made() {
    let longest = LENGTHS.spare_max;
    let [least, usual] = [LENGTHS.smallest() as u64, LENGTHS.spare_min as u64];
    let needed = Geometry::for_record(LARGE).segment_len as u64;
    for (lens, record_len, missing) in [
        (&[][..], LARGE, needed..=2 * needed),
        (&[32 * KIB], LARGE, needed..=needed),
        (&[32 * KIB; 2], LARGE, needed..=needed),
        (&[needed as usize], LARGE, least..=usual),
        (&[32 * KIB], 1, least..=usual),
        (&[32 * KIB; 2], 1, 0..=0),
    ] {
        let mut stage = Stage::with(lens);
        assert_eq!(
            stage.missing(record_len, longest),
            missing,
            "{lens:?}, {record_len}"
        );
        // It is the same if they are being made.
        stage.log.making = std::mem::take(&mut stage.log.spares);
        assert_eq!(
            stage.missing(record_len, longest),
            missing,
            "{lens:?}, {record_len}"
        );
    }
    let one_of_each = &mut Stage::with(&[32 * KIB]);
    one_of_each.log.making = parts(&[32 * KIB]);
    assert_eq!(one_of_each.missing(1, longest), 0..=0);
    // No spare is made longer than there may be any.
    assert_eq!(
        Stage::with(&[32 * KIB]).missing(1, 20 * KIB),
        least..=20 << 10
    );
}

#[test]
fn the_longest_record_has_all_that_the_limits_allow() {
    let limits = Limits {
        payload_len_max: 1000,
        metadata_len_max: 10,
    };
    assert_eq!(record_len_max(&limits), 1010 + PAGE_LEN);
}
