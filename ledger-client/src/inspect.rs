//! The drawing of a context: its segments, its frontier and its bell, as they
//! are in memory. `ledgerd inspect` prints it, and tests compare it, so that a
//! bug report is a test.
//!
//! ```text
//! context "loan-7" open, epoch 00112233445566778899aabbccddeeff, first part 1
//!   part   1     16384 B  seq 1..=83           83/153 slots  14720/14720 B  seal -> 2
//!   part   2     65536 B  seq 84..=200         117/626 slots  22080/60096 B  frontier
//!   part   3     65536 B  spare
//!   part   4     65536 B  spare
//!   bell: parked 0, count 2, relayed 0
//! ```

use std::fmt;

use ledger_shm::control::State;
use ledger_shm::format::WITHDRAWN;
use ledger_shm::object::{Epoch, Name, list};
use ledger_shm::read::Link;
use ledger_shm::slot::Slot;
use ledger_shm::{Corrupt, Segment};

use crate::chain::map_part;
use crate::context::Context;
use crate::error::ReadError;

/// What a context looks like at one moment.
///
/// ```
/// # ledger_tests::example(|ledger| {
/// # let context = ledger.context("loan-7").open_or_create()?;
/// let drawing = ledger_client::inspect::Drawing::of(&context)?.to_string();
/// assert!(drawing.starts_with("context \"loan-7\" open, epoch "));
/// # Ok(()) });
/// ```
#[derive(Debug)]
pub struct Drawing {
    name: String,
    epoch: Epoch,
    state: Result<State, Corrupt>,
    first_part: u64,
    parts: Vec<Part>,
    bell: Option<[u32; 3]>,
}

#[derive(Debug)]
struct Part {
    number: u64,
    segment_len: usize,
    role: Role,
}

#[derive(Debug)]
enum Role {
    /// In the chain: first seq, entries, slots, data taken and there is, end.
    Chain {
        base_seq: u64,
        entries: usize,
        slots: usize,
        data_taken: usize,
        data_len: usize,
        end: End,
    },
    Spare,
    Withdrawn,
    /// Outside the chain, neither of the above: the daemon removes it.
    Leftover {
        base_seq: u64,
    },
    Unreadable(ReadError),
}

#[derive(Debug)]
enum End {
    Frontier,
    Seal(u64),
    Closed(Option<u64>),
    Damaged(Corrupt),
}

impl Drawing {
    /// Looks at everything a context has in memory, without the daemon.
    ///
    /// # Errors
    ///
    /// The kernel's, when the memory file system cannot be listed.
    ///
    /// ```
    /// # ledger_tests::example(|ledger| {
    /// # let context = ledger.context("loan-7").open_or_create()?;
    /// println!("{}", ledger_client::inspect::Drawing::of(&context)?);
    /// # Ok(()) });
    /// ```
    pub fn of(context: &Context) -> std::io::Result<Drawing> {
        let shared = context.shared();
        let (core, control) = (&shared.core, &shared.control);
        let epoch = control.epoch();
        let mut numbers: Vec<u64> = list(&core.instance)?
            .into_iter()
            .filter_map(|name| match name {
                Name::Part(of, part) if of == epoch => Some(part),
                _ => None,
            })
            .collect();
        numbers.sort_unstable();
        let mut parts = Vec::new();
        let mut next = Some((control.first_part(), None));
        while let Some((number, base_seq)) = next.take() {
            if !numbers.contains(&number) {
                break;
            }
            numbers.retain(|other| *other != number);
            let part = match map_part(core, control, number, false) {
                Ok(segment) => {
                    let base_seq = base_seq.unwrap_or_else(|| segment.base_seq());
                    let link = Link { segment, base_seq };
                    let role = in_chain(&link);
                    if let Role::Chain {
                        entries,
                        end: End::Seal(to) | End::Closed(Some(to)),
                        ..
                    } = &role
                    {
                        next = Some((*to, Some(base_seq + *entries as u64)));
                    }
                    Part {
                        number,
                        segment_len: link.segment.geometry().segment_len,
                        role,
                    }
                }
                Err(error) => Part {
                    number,
                    segment_len: 0,
                    role: Role::Unreadable(error.into()),
                },
            };
            parts.push(part);
        }
        for number in numbers {
            parts.push(match map_part(core, control, number, false) {
                Ok(segment) => {
                    let role = outside_chain(&segment);
                    Part {
                        number,
                        segment_len: segment.geometry().segment_len,
                        role,
                    }
                }
                Err(error) => Part {
                    number,
                    segment_len: 0,
                    role: Role::Unreadable(error.into()),
                },
            });
        }
        Ok(Drawing {
            name: control.name().to_owned(),
            epoch,
            state: control.state(),
            first_part: control.first_part(),
            parts,
            bell: shared.bell().map(|bell| bell.words()),
        })
    }
}

fn in_chain(link: &Link) -> Role {
    let segment = &link.segment;
    let geometry = segment.geometry();
    let frontier = segment.frontier();
    let end = frontier.and_then(|frontier| segment.look(frontier));
    Role::Chain {
        base_seq: link.base_seq,
        entries: frontier.unwrap_or(0),
        slots: geometry.slot_capacity,
        data_taken: segment.data_taken(),
        data_len: geometry.data_len,
        end: match end {
            Ok(Slot::Empty | Slot::Entry(_)) => End::Frontier,
            Ok(Slot::Seal(part)) => End::Seal(part),
            Ok(Slot::Closed) => End::Closed(segment.successor()),
            Err(corrupt) => End::Damaged(corrupt),
        },
    }
}

fn outside_chain(segment: &Segment) -> Role {
    match segment.base_seq() {
        0 => Role::Spare,
        WITHDRAWN => Role::Withdrawn,
        base_seq => Role::Leftover { base_seq },
    }
}

impl fmt::Display for Drawing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = match &self.state {
            Ok(state) => state.as_str().to_owned(),
            Err(corrupt) => corrupt.to_string(),
        };
        writeln!(
            f,
            "context {:?} {state}, epoch {}, first part {}",
            self.name, self.epoch, self.first_part
        )?;
        for part in &self.parts {
            write!(f, "  part {:>3} {:>9} B  ", part.number, part.segment_len)?;
            match &part.role {
                Role::Chain {
                    base_seq,
                    entries,
                    slots,
                    data_taken,
                    data_len,
                    end,
                } => {
                    let seqs = match entries {
                        0 => format!("seq {base_seq}.."),
                        _ => format!("seq {base_seq}..={}", base_seq + *entries as u64 - 1),
                    };
                    write!(
                        f,
                        "{seqs:<20} {entries}/{slots} slots  {data_taken}/{data_len} B  "
                    )?;
                    match end {
                        End::Frontier => writeln!(f, "frontier")?,
                        End::Seal(part) => writeln!(f, "seal -> {part}")?,
                        End::Closed(Some(part)) => writeln!(f, "closed -> {part}")?,
                        End::Closed(None) => writeln!(f, "closed")?,
                        End::Damaged(corrupt) => writeln!(f, "DAMAGED: {corrupt}")?,
                    }
                }
                Role::Spare => writeln!(f, "spare")?,
                Role::Withdrawn => writeln!(f, "withdrawn")?,
                Role::Leftover { base_seq } => writeln!(f, "leftover of seq {base_seq}")?,
                Role::Unreadable(error) => writeln!(f, "UNREADABLE: {error}")?,
            }
        }
        match self.bell {
            Some([parked, count, relayed]) => {
                writeln!(
                    f,
                    "  bell: parked {parked}, count {count}, relayed {relayed}"
                )
            }
            None => writeln!(f, "  bell: unknown, no daemon answered"),
        }
    }
}
