//! What the machine itself can do: a cache line that one writes and another one reads, and a
//! futex for who parks. No payload goes along, only its number.

use std::sync::atomic::Ordering;

use crate::limits;
use crate::memory::SharedMemory;

use super::{Missing, Never, Peer, Place, Receiver, Sender, Wait};

pub struct Machine;

const PAGE_LEN: usize = 4096;

impl Peer for Machine {
    type Sender = Half;
    type Receiver = Half;
    type Past = Never;

    fn lacks(place: &Place) -> Option<Missing> {
        let is_late = place.keeps_all || place.wait == Wait::Later;
        let is_alone = place.receivers == 1 && place.senders == 1 && !is_late;
        (!is_alone).then_some(Missing::NoSuchThing("one word for one"))
    }

    fn sender(place: &Place) -> Half {
        Half {
            page: SharedMemory::open(&name(place), PAGE_LEN),
            wait: place.wait,
            seen: 0,
        }
    }

    /// Who receives is there first.
    fn receiver(place: &Place, _: usize) -> Half {
        Half {
            page: SharedMemory::create_named(&name(place), PAGE_LEN),
            wait: place.wait,
            seen: 0,
        }
    }

    fn past(_: &Place) -> Never {
        unreachable!("it keeps nothing")
    }
}

fn name(place: &Place) -> String {
    let run = place.dir.file_name().unwrap_or_default().to_string_lossy();
    format!("/{run}-{}", place.topic)
}

/// Either one: the word has one more than the number of what was sent last.
pub struct Half {
    page: SharedMemory,
    wait: Wait,
    seen: u64,
}

impl Sender for Half {
    fn send(&mut self, payload: &[u8]) {
        let bytes = payload[..8].try_into().expect("eight bytes");
        let word = u64::from_le_bytes(bytes).wrapping_add(1);
        match self.wait {
            Wait::Spinning => self.page.word64(0).store(word, Ordering::Release),
            Wait::Parked | Wait::Later => limits::wake(self.page.word32(0), word as u32),
        }
    }
}

impl Receiver for Half {
    fn receive(&mut self, read: &mut impl FnMut(&[u8])) {
        let seen = self.seen;
        self.seen = match self.wait {
            Wait::Spinning => loop {
                let word = self.page.word64(0).load(Ordering::Acquire);
                if word != seen {
                    break word;
                }
                std::hint::spin_loop();
            },
            Wait::Parked | Wait::Later => {
                u64::from(limits::wait_for_change(self.page.word32(0), seen as u32))
            }
        };
        let number = self.seen.wrapping_sub(1);
        read(&number.to_le_bytes());
    }
}
