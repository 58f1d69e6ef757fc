//! How a part is divided.

use ledger_shm::format::{PAGE_LEN, SEGMENT_HEADER_LEN, SEGMENT_LEN_MIN};
use ledger_shm::segment::Geometry;

#[test]
fn a_part_has_a_slot_for_so_much_data() {
    // By hand: 384 bytes of header, and 104 for each slot and its data.
    let smallest = Geometry {
        segment_len: 8192,
        index_offset: 384,
        slot_capacity: 75,
        data_offset: 1024,
        data_len: 7168,
    };
    assert_eq!(Geometry::of_len(0), smallest);
    assert_eq!(Geometry::of_len(8192), smallest);
    assert_eq!(Geometry::of_len(8193).segment_len, 12_288, "whole pages");
    let larger = Geometry::of_len(1 << 20);
    assert_eq!(larger.slot_capacity, 10_078);
    assert_eq!(larger.data_offset, 81_024);
    assert_eq!(larger.data_offset + larger.data_len, 1 << 20);
    for pages in 2..1_000 {
        let geometry = Geometry::of_len(pages * PAGE_LEN);
        // One more, for the seal.
        let index_end = SEGMENT_HEADER_LEN + (geometry.slot_capacity + 1) * 8;
        assert_eq!(geometry.data_offset, index_end.next_multiple_of(64));
    }
}

#[test]
fn a_part_for_a_record_is_the_smallest_that_has_room_for_it() {
    for n in 0..200_000 {
        let record_len = n * 7;
        let geometry = Geometry::for_record(record_len);
        assert!(geometry.fits(record_len), "{record_len}");
        assert!(record_len < 100 || geometry.slot_capacity > record_len / 100);
        let smaller = geometry.segment_len - PAGE_LEN;
        assert!(
            smaller < SEGMENT_LEN_MIN || !Geometry::of_len(smaller).fits(record_len),
            "{record_len} in {smaller}"
        );
    }
    let geometry = Geometry::of_len(SEGMENT_LEN_MIN);
    assert!(geometry.fits(geometry.data_len) && !geometry.fits(geometry.data_len + 1));
    assert!(SEGMENT_HEADER_LEN < geometry.data_offset);
}
