//! What a cursor does: history from the archive, then part after part.

use crate::model::{Actor, Life, Step, Steps};
use crate::rules::Rule;
use crate::state::{Id, Reader, SLOTS, Slot, State};

impl Life<'_> {
    pub fn reader_steps(&self, state: &State, next: &mut Steps) {
        let mut after = *state;
        let does = match state.reader.at {
            None => self.look_up(&mut after),
            Some(at) => after.read(Id::from(at)),
        };
        if after.reader != state.reader || after.has_misread != state.has_misread {
            let step = Step {
                actor: Actor::Reader,
                does,
                with: [after.reader.cursor, 0, 0],
            };
            next.push((step, after));
        }
    }

    /// Starts, or starts again where the trail was lost.
    fn look_up(&self, after: &mut State) -> &'static str {
        let cursor = after.reader.cursor;
        let first = after.by_name(after.first_resident);
        let base_seq = first.map_or(u8::MAX, |id| after.parts[id].base_seq);
        match first {
            Some(id) if base_seq <= cursor => {
                let slot = if self.keeps(Rule::ReaderStopsAtSeal) {
                    0
                } else {
                    cursor - base_seq
                };
                after.reader = Reader {
                    at: Some(id as u8),
                    base_seq,
                    slot,
                    cursor,
                };
                "maps the first resident part, wants seq #"
            }
            Some(_) | None => {
                // What is not in memory is in the archive, up to its watermark.
                after.reader.cursor = cursor.max(after.archived + 1);
                after.has_misread |= after.archived + 1 < base_seq && first.is_some();
                "reads the archive, wants seq #"
            }
        }
    }
}

impl State {
    /// Reads on to the first slot that is not ENTRY.
    fn read(&mut self, at: Id) -> &'static str {
        while usize::from(self.reader.slot) < SLOTS {
            let reader = &mut self.reader;
            match self.parts[at].slots[usize::from(reader.slot)] {
                Slot::Empty => break,
                Slot::Entry(record) => {
                    let seq = reader.base_seq + reader.slot;
                    self.has_misread |= self.records[usize::from(record)].seq != seq;
                    // Older ones of its first part it has got from the archive.
                    if seq >= reader.cursor {
                        self.has_misread |= seq != reader.cursor;
                        reader.cursor = seq + 1;
                    }
                    reader.slot += 1;
                }
                Slot::Seal(number) => {
                    let base_seq = reader.base_seq + reader.slot;
                    let next = self.by_name(number).map(|id| id as u8);
                    let reader = &mut self.reader;
                    *reader = Reader {
                        at: next,
                        base_seq,
                        slot: 0,
                        ..*reader
                    };
                    if next.is_none() {
                        reader.base_seq = 0;
                        return "finds the next part gone, wants seq #";
                    }
                    return "follows SEAL, wants seq #";
                }
                Slot::Closed => {
                    self.reader = Reader {
                        at: None,
                        base_seq: 0,
                        slot: 0,
                        ..self.reader
                    };
                    return "finds CLOSED, wants seq #";
                }
            }
        }
        "reads, wants seq #"
    }
}
