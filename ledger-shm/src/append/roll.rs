//! The end of a part: sealed with the number of the next one, or closed.

use super::{End, Parts, Tail};
use crate::error::{Corrupt, Full, Refused};
use crate::slot::Slot;
use crate::sync::{Label, Ordering};

impl Tail {
    /// Leaves a part that has no room, is sealed or is closed.
    #[cold]
    pub(super) fn go_on(
        &mut self,
        end: End,
        record_len: usize,
        parts: &impl Parts,
    ) -> Result<(), Refused> {
        self.missing_len = record_len;
        match end {
            End::Sealed(part) => self.roll(part, parts),
            End::Closed => Err(Refused::Full(Full::Reopening)),
            End::Full => self.seal(record_len, parts),
        }
    }

    /// Ends this part by naming a successor, or follows whoever did.
    fn seal(&mut self, record_len: usize, parts: &impl Parts) -> Result<(), Refused> {
        loop {
            self.step_over_entries()?;
            match self.segment.look(self.next)? {
                Slot::Seal(part) => return self.roll(part, parts),
                Slot::Closed => return Err(Refused::Full(Full::Reopening)),
                Slot::Empty | Slot::Entry(_) => {}
            }
            // Without a spare that fits the part stays open: smaller records
            // of others may still find room in it.
            let spare = match (parts.spare(record_len), self.segment.look(self.next)?) {
                (Ok(spare), _) => spare,
                (Err(full), Slot::Empty) => return Err(Refused::Full(full)),
                (Err(_), Slot::Entry(_)) if self.next == self.segment.geometry().slot_capacity => {
                    return Err(Corrupt::new("seal slot", self.next as u64, 0).into());
                }
                // Gone because somebody has just sealed with it, or closed.
                (Err(_), _) => continue,
            };
            match self.claim(Slot::Seal(spare.part()))? {
                Slot::Empty => return self.roll(spare.part(), parts),
                Slot::Entry(_) if self.next == self.segment.geometry().slot_capacity => {
                    return Err(Corrupt::new("seal slot", self.next as u64, 0).into());
                }
                Slot::Entry(_) => {}
                Slot::Seal(part) => return self.roll(part, parts),
                Slot::Closed => return Err(Refused::Full(Full::Reopening)),
            }
        }
    }

    /// Goes to the part that the seal at `next` names.
    fn roll(&mut self, part: u64, parts: &impl Parts) -> Result<(), Refused> {
        let successor = parts.mapped(part).ok_or(Refused::Full(Full::Rolling))?;
        successor.complete(self.next_seq(), self.lamport)?;
        // ORDER(park): the entry that follows is in other memory than the slot
        // a sleeper looked at; the fence orders both for everybody.
        Label::Park.fence(Ordering::SeqCst);
        self.base_seq = self.next_seq();
        self.segment = successor;
        self.next = 0;
        self.block = 0..0;
        self.block_goal = 0;
        self.has_seen_end = false;
        self.wants_spare = true;
        Ok(())
    }

    /// Ends the log here until the daemon continues it. Returns the seq that
    /// an entry in this place would have had, and the Lamport time before it;
    /// `Err` is the part in which the log goes on instead.
    ///
    /// # Errors
    ///
    /// [`Corrupt`] on a slot that cannot be right.
    pub fn close(&mut self) -> Result<Result<(u64, u64), u64>, Corrupt> {
        loop {
            self.step_over_entries()?;
            match self.claim(Slot::Closed)? {
                Slot::Empty | Slot::Closed => return Ok(Ok((self.next_seq(), self.lamport))),
                Slot::Seal(part) => return Ok(Err(part)),
                Slot::Entry(_) if self.next == self.segment.geometry().slot_capacity => {
                    return Err(Corrupt::new("seal slot", self.next as u64, 0));
                }
                Slot::Entry(_) => {}
            }
        }
    }
}
