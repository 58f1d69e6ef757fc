//! What somebody does who may append to a context, and writes anything anywhere into its
//! memory instead.

use std::error::Error;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use ledger_client::wire::{Reply, Request};
use ledger_shm::format::{BELL_LEN, RECORD_ALIGN, RECORD_HEADER_LEN, RecordHeader, SegmentHeader};
use ledger_shm::slot::{Extent, Slot};
use ledger_shm::socket::Packets;

use crate::spoken::{ask, greeted, object, open};
use crate::{PATIENCE, mapped};

/// Where it writes:
///
/// - `header`: any word of a segment's header;
/// - `tail`: how much of the data area is taken;
/// - `slots`: what could be one, and what cannot;
/// - `records`: their headers and what follows them;
/// - `lengths`: in slots and headers, to and fro while others read them;
/// - `spares`: parts that no seal names yet;
/// - `bell`: any word of the bell's;
/// - `anything`: any word at all.
pub const TARGETS: [&str; 8] = [
    "header", "tail", "slots", "records", "lengths", "spares", "bell", "anything",
];

/// Words that are written, at most, and how long it changes others to and fro.
const WORDS_MAX: usize = 100;
const TO_AND_FRO: Duration = Duration::from_millis(20);
/// How long it waits at most before the next word.
const PAUSE_MAX: Duration = Duration::from_micros(300);

/// A part of the context, mapped for writing.
struct Part {
    words: &'static [AtomicU64],
    /// In words: where the index begins, and how many slots it has.
    index_at: usize,
    slot_count: usize,
    /// In bytes.
    data_at: usize,
}

/// Writes into one of [`TARGETS`] of a context, and says so when it is done.
///
/// # Errors
///
/// If it could not begin.
pub fn scribble(
    socket: &Path,
    target: &str,
    context: &str,
    seed: u64,
) -> Result<(), Box<dyn Error>> {
    let connection = greeted(socket)?;
    // A log may go on faster than its parts are asked for.
    let deadline = Instant::now() + PATIENCE;
    let (bell, first, spares) = loop {
        match parts(&connection, context) {
            Err(_) if Instant::now() < deadline => {}
            parts => break parts?,
        }
    };

    let mut rng = fastrand::Rng::with_seed(seed);
    match target {
        "lengths" => {
            let words: Vec<_> = (0..4).map(|_| first.length(&mut rng)).collect();
            let ends = Instant::now() + TO_AND_FRO;
            while Instant::now() < ends {
                for word in &words {
                    let before = word.load(Ordering::Relaxed);
                    word.store(wrong(before, &mut rng), Ordering::Relaxed);
                    std::hint::spin_loop();
                    word.store(before, Ordering::Relaxed);
                }
            }
        }
        "bell" => {
            for _ in 0..rng.usize(1..=WORDS_MAX) {
                let word = &bell[rng.usize(..bell.len())];
                word.store(
                    wrong(word.load(Ordering::Relaxed), &mut rng),
                    Ordering::Relaxed,
                );
                std::thread::sleep(PAUSE_MAX.mul_f64(rng.f64()));
            }
        }
        _ => {
            for _ in 0..rng.usize(1..=WORDS_MAX) {
                let part = match spares.len() {
                    0 => &first,
                    count if target == "spares" || rng.u8(..4) == 0 => &spares[rng.usize(..count)],
                    _ => &first,
                };
                let (word, value) = part.aim(target, &mut rng)?;
                word.store(value, Ordering::Relaxed);
                std::thread::sleep(PAUSE_MAX.mul_f64(rng.f64()));
            }
        }
    }
    println!("0 0");
    // Whoever goes has the daemon look.
    std::thread::sleep(PATIENCE);
    Ok(())
}

/// A bell's words, where its context is now, and where that may go on.
type Memory = (&'static [AtomicU64], Part, Vec<Part>);

fn parts(connection: &Packets, context: &str) -> Result<Memory, Box<dyn Error>> {
    let (reply, bell) = ask(connection, &open(context, true))?;
    let (Reply::Opened { epoch, current, .. }, Some(bell)) = (&reply, bell) else {
        return Err(format!("{reply:?}").into());
    };
    let (epoch, current) = (*epoch, *current);
    let bell = mapped::words(bell, BELL_LEN)?;
    let request = Request::Spares {
        epoch,
        record_len: 0,
    };
    let (reply, _) = ask(connection, &request)?;
    let Reply::Spares { parts, .. } = reply else {
        return Err(format!("{reply:?}").into());
    };
    let map = |part| -> Result<Part, Box<dyn Error>> {
        let (reply, fd) = ask(connection, &object(epoch, Some(part), true))?;
        let fd = fd.ok_or_else(|| format!("{reply:?}"))?;
        let len = nix::sys::stat::fstat(&fd)?.st_size as usize;
        let words = mapped::words(fd, len)?;
        let field = |at: usize| words[at / 8].load(Ordering::Relaxed) as usize;
        Ok(Part {
            words,
            index_at: field(std::mem::offset_of!(SegmentHeader, index_offset)) / 8,
            slot_count: field(std::mem::offset_of!(SegmentHeader, slot_capacity)),
            data_at: field(std::mem::offset_of!(SegmentHeader, data_offset)),
        })
    };
    let first = map(current)?;
    let spares = parts.into_iter().map(map).collect::<Result<_, _>>()?;
    Ok((bell, first, spares))
}

/// Something else than a word is: another number, or one that looks like it.
fn wrong(before: u64, rng: &mut fastrand::Rng) -> u64 {
    match rng.u8(..6) {
        0 => rng.u64(..),
        1 => before ^ 1 << rng.u32(..64),
        2 => before.wrapping_add(rng.u64(..1 << 16)),
        3 => before.wrapping_sub(rng.u64(..1 << 16)),
        4 => u64::MAX - rng.u64(..64),
        _ => rng.u64(..64),
    }
}

impl Part {
    fn aim(
        &self,
        target: &str,
        rng: &mut fastrand::Rng,
    ) -> Result<(&'static AtomicU64, u64), Box<dyn Error>> {
        const HEADER_WORDS: usize = size_of::<SegmentHeader>() / 8;
        const TAIL: usize = std::mem::offset_of!(SegmentHeader, data_tail_word) / 8;
        let word = match target {
            "header" | "spares" => &self.words[rng.usize(..HEADER_WORDS)],
            "tail" => &self.words[TAIL],
            "slots" => {
                let word = self.slot(rng);
                let plausible = match rng.u8(..4) {
                    0 => Slot::Seal(rng.u64(1..20)).encode(),
                    1 => Slot::Closed.encode(),
                    2 => Slot::Empty.encode(),
                    _ => {
                        let offset = rng.usize(..1 << 12) * RECORD_ALIGN;
                        let len = rng.usize(1..1 << 8) * RECORD_ALIGN;
                        Slot::Entry(Extent { offset, len }).encode()
                    }
                };
                if rng.bool() {
                    return Ok((word, plausible));
                }
                word
            }
            "records" => {
                let at = self.data_at + self.record(rng).map_or(0, |extent| extent.offset);
                let word = at / 8 + rng.usize(..2 * RECORD_HEADER_LEN / 8);
                self.words.get(word).unwrap_or(&self.words[0])
            }
            "anything" => &self.words[rng.usize(..self.words.len())],
            other => return Err(format!("nobody scribbles into {other:?}").into()),
        };
        Ok((word, wrong(word.load(Ordering::Relaxed), rng)))
    }

    /// Where its entries lie.
    fn records(&self) -> Vec<Extent> {
        let slots = &self.words[self.index_at..][..self.slot_count];
        let is_entry = |slot: &AtomicU64| match Slot::decode(slot.load(Ordering::Relaxed)) {
            Ok(Slot::Entry(extent)) => Some(extent),
            _ => None,
        };
        slots.iter().map_while(is_entry).collect()
    }

    /// Where one of them lies, if there is one.
    fn record(&self, rng: &mut fastrand::Rng) -> Option<Extent> {
        let records = self.records();
        records.get(rng.usize(..records.len().max(1))).copied()
    }

    /// A slot that somebody looks at, or will soon.
    fn slot(&self, rng: &mut fastrand::Rng) -> &'static AtomicU64 {
        const AHEAD: usize = 4;
        let count = (self.records().len() + AHEAD).min(self.slot_count);
        &self.words[self.index_at + rng.usize(..count)]
    }

    /// A word that says how long something is.
    fn length(&self, rng: &mut fastrand::Rng) -> &'static AtomicU64 {
        const BODY_LEN: usize = std::mem::offset_of!(RecordHeader, body_len);
        match self.record(rng) {
            Some(extent) if rng.bool() => {
                let at = (self.data_at + extent.offset + BODY_LEN) / 8;
                self.words.get(at).unwrap_or(&self.words[0])
            }
            _ => self.slot(rng),
        }
    }
}
