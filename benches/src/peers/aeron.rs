//! Aeron IPC: a concurrent publication's `offer`, and a subscription that polls. It has no
//! time, no checksum, and no history.

use std::any::Any;
use std::ffi::CString;
use std::os::unix::ffi::OsStringExt;
use std::path::Path;
use std::time::{Duration, Instant};

use rusteron_client::{
    Aeron as Client, AeronContext, AeronPublication, AeronSubscription, Handlers,
};
use rusteron_media_driver::testing::EmbeddedDriver;

use crate::sweep;

use super::{Host, Missing, Never, Peer, Place, Receiver, Sender, Wait, stop};

pub struct Aeron;

const PATIENCE: Duration = Duration::from_secs(10);
/// Half a term, which is as far as who sends may be ahead, takes the whole of a round; and
/// what is long goes in as few pieces as there can be.
const CHANNEL: &str = "aeron:ipc?term-length=64m|mtu=65504";

impl Peer for Aeron {
    type Sender = Offering;
    type Receiver = Polling;
    type Past = Never;

    fn host(_: &Path) -> Result<Host, Missing> {
        let dir = sweep::memory_of(std::process::id(), "aeron");
        let dir = CString::new(dir.into_os_string().into_vec()).expect("no zero");
        let driver = EmbeddedDriver::launch_with(|context| context.set_dir(&dir).map(drop));
        let driver = driver.map_err(|error| Missing::Failed(format!("{error:?}")))?;
        Ok(Host {
            address: driver.dir().to_owned(),
            _running: Box::new(driver),
        })
    }

    fn lacks(place: &Place) -> Option<Missing> {
        if place.keeps_all {
            return Some(Missing::NO_PAST);
        }
        if place.receivers == 0 {
            return Some(Missing::NoSuchThing("nothing is offered to nobody"));
        }
        let is_parked = place.wait == Wait::Parked;
        is_parked.then_some(Missing::NoSuchThing("its subscribers poll"))
    }

    fn sender(place: &Place) -> Offering {
        let client = client(place);
        let channel = CString::new(CHANNEL).expect("no zero");
        let adding = client.async_add_publication(&channel, stream(place));
        let publication = adding.and_then(|adding| adding.poll_blocking(PATIENCE));
        let publication = publication.expect("a publication");
        while !publication.is_connected() {
            std::thread::sleep(Duration::from_millis(1));
        }
        Offering {
            publication,
            _client: client,
        }
    }

    fn receiver(place: &Place, _: usize) -> Polling {
        let client = client(place);
        let channel = CString::new(CHANNEL).expect("no zero");
        let adding =
            client.async_add_subscription(&channel, stream(place), Handlers::NONE, Handlers::NONE);
        let subscription = adding.and_then(|adding| adding.poll_blocking(PATIENCE));
        Polling {
            subscription: subscription.expect("a subscription"),
            len: place.len,
            fragments: Vec::new(),
            _client: client,
        }
    }

    fn idle(place: &Place, count: u64) -> Box<dyn Any> {
        let client = client(place);
        let channel = CString::new("aeron:ipc?term-length=64k").expect("no zero");
        let first = stream(place);
        let add = |n| {
            let adding = client.async_add_publication(&channel, first + n as i32);
            let publication = adding.and_then(|adding| adding.poll_blocking(PATIENCE));
            publication.expect("a publication")
        };
        let publications: Vec<_> = (0..count).map(add).collect();
        Box::new((publications, client))
    }

    fn past(_: &Place) -> Never {
        unreachable!("it keeps nothing")
    }
}

/// One whose memory is there before it is used, as the ledger's is.
fn client(place: &Place) -> Client {
    let context = AeronContext::new().expect("a context");
    let dir = CString::new(place.address.as_str()).expect("no zero");
    context.set_dir(&dir).expect("a directory");
    let touched = context.set_pre_touch_mapped_memory(true);
    touched.expect("a context that is not used yet");
    let client = Client::new(&context).expect("a driver");
    client.start().expect("a thread");
    client
}

/// A topic's own.
fn stream(place: &Place) -> i32 {
    let bytes = place.topic.bytes();
    let hash = bytes.fold(7_i32, |hash, byte| {
        hash.wrapping_mul(31).wrapping_add(i32::from(byte))
    });
    hash.rem_euclid(1 << 20)
}

pub struct Offering {
    publication: AeronPublication,
    _client: Client,
}

impl Sender for Offering {
    fn send(&mut self, payload: &[u8]) {
        loop {
            match self.publication.offer(payload) {
                Ok(_) => return,
                Err(error) if error.is_retryable() => std::hint::spin_loop(),
                Err(error) => panic!("{error:?}"),
            }
        }
    }

    /// Between `try_claim` and `commit`.
    fn stop_within(&mut self, payload: &[u8]) {
        let start = Instant::now();
        let claim = loop {
            match self.publication.try_claim_owned(payload.len()) {
                Ok(claim) => break claim,
                Err(error) if error.is_retryable() && start.elapsed() < PATIENCE => {
                    std::hint::spin_loop();
                }
                Err(error) => panic!("{error:?}"),
            }
        };
        stop();
        claim.commit().expect("a claim");
    }
}

pub struct Polling {
    subscription: AeronSubscription,
    len: usize,
    /// Of a payload that is longer than a fragment.
    fragments: Vec<u8>,
    _client: Client,
}

impl Receiver for Polling {
    fn receive(&mut self, read: &mut impl FnMut(&[u8])) {
        let mut is_done = false;
        while !is_done {
            let polled = self.subscription.poll_fn(
                |fragment, _| {
                    if fragment.len() == self.len {
                        read(fragment);
                        is_done = true;
                        return;
                    }
                    self.fragments.extend_from_slice(fragment);
                    if self.fragments.len() == self.len {
                        read(&self.fragments);
                        self.fragments.clear();
                        is_done = true;
                    }
                },
                1,
            );
            if polled.expect("a driver") == 0 {
                std::hint::spin_loop();
            }
        }
    }

    fn skip(&mut self) {
        while self
            .subscription
            .poll_fn(|_, _| {}, 1000)
            .expect("a driver")
            > 0
        {}
        self.fragments.clear();
    }
}
