//! What the machine itself can do: a cache line that one writes and another one reads, and a
//! futex for who parks, where no payload goes along, only its number; and memcpy where nobody
//! receives.

use std::sync::atomic::Ordering;

use crate::limits;
use crate::memory::SharedMemory;

use super::{Missing, Never, Peer, Place, Receiver, Sender, Wait};

pub struct Machine;

const PAGE_LEN: usize = 4096;
/// Where payloads are copied to, one behind the other: more than a round of them, and more than
/// any cache has room for.
const AREA_LEN: usize = 64 << 20;

impl Peer for Machine {
    type Sender = Sending;
    type Receiver = Half;
    type Past = Never;

    fn lacks(place: &Place) -> Option<Missing> {
        let is_late = place.keeps_all || place.wait == Wait::Later;
        let is_alone = place.receivers <= 1 && place.senders == 1 && !is_late;
        (!is_alone).then_some(Missing::NoSuchThing("one word for one"))
    }

    fn sender(place: &Place) -> Sending {
        if place.receivers == 0 {
            let memory = SharedMemory::create_named(&name(place), AREA_LEN);
            memory.populate();
            return Sending::Copies(Area { memory, used: 0 });
        }
        Sending::Tells(Half {
            page: SharedMemory::open(&name(place), PAGE_LEN),
            wait: place.wait,
            seen: 0,
        })
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

/// Who sends: to nobody, or to the other half.
pub enum Sending {
    Copies(Area),
    Tells(Half),
}

pub struct Area {
    memory: SharedMemory,
    used: usize,
}

impl Area {
    fn copy(&mut self, payload: &[u8]) {
        if self.used + payload.len() > AREA_LEN {
            self.used = 0;
        }
        self.memory.copy_from(self.used, payload);
        self.used += payload.len();
    }
}

impl Half {
    fn tell(&mut self, payload: &[u8]) {
        let bytes = payload[..8].try_into().expect("eight bytes");
        let word = u64::from_le_bytes(bytes).wrapping_add(1);
        match self.wait {
            Wait::Spinning => self.page.word64(0).store(word, Ordering::Release),
            Wait::Parked | Wait::Later => limits::wake(self.page.word32(0), word as u32),
        }
    }
}

impl Sender for Sending {
    fn send(&mut self, payload: &[u8]) {
        match self {
            Sending::Copies(area) => area.copy(payload),
            Sending::Tells(half) => half.tell(payload),
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
