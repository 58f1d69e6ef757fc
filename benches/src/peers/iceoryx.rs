//! iceoryx2: loan, write, send; with an event for those who park.

use std::any::Any;
use std::path::Path;

use iceoryx2::port::listener::Listener;
use iceoryx2::port::notifier::Notifier;
use iceoryx2::port::publisher::Publisher;
use iceoryx2::port::subscriber::Subscriber;
use iceoryx2::prelude::*;

use super::{Host, Missing, Never, Peer, Place, Receiver, Sender, Wait, stop};

pub struct Iceoryx;

/// Samples that a subscriber has room for; then the oldest gives way.
const BUFFER: usize = 4096;
/// Its largest payload takes as much memory for each.
const BUFFER_OF_LARGE: usize = 256;

type Service = ipc::Service;

impl Peer for Iceoryx {
    type Sender = Publishing;
    type Receiver = Subscribing;
    type Past = Never;

    fn host(dir: &Path) -> Result<Host, Missing> {
        let prefix = format!("iox2_bench_{}_", std::process::id());
        let address = format!("{prefix}\n{}", dir.join("iceoryx2").display());
        Ok(Host {
            address,
            _running: Box::new(Leftovers(prefix)),
        })
    }

    fn lacks(place: &Place) -> Option<Missing> {
        place.keeps_all.then_some(Missing::NoSuchThing(
            "keeps as many as a publisher was told to, while it lives",
        ))
    }

    fn sender(place: &Place) -> Publishing {
        let node = node(place);
        let service = service(&node, place);
        let publisher = service.publisher_builder();
        let publisher = publisher.initial_max_slice_len(place.len).create();
        Publishing {
            publisher: publisher.expect("a publisher"),
            notifier: (place.wait == Wait::Parked).then(|| {
                let builder = event(&node, place);
                builder.notifier_builder().create().expect("a notifier")
            }),
            _node: node,
        }
    }

    fn receiver(place: &Place, _: usize) -> Subscribing {
        let node = node(place);
        let subscriber = service(&node, place).subscriber_builder().create();
        Subscribing {
            subscriber: subscriber.expect("a subscriber"),
            listener: (place.wait == Wait::Parked).then(|| {
                let builder = event(&node, place);
                builder.listener_builder().create().expect("a listener")
            }),
            _node: node,
        }
    }

    fn idle(place: &Place, count: u64) -> Box<dyn Any> {
        let node = node(place);
        let publish = |n| {
            let topic = format!("{}-{n}", place.topic);
            let place = Place {
                topic,
                ..place.clone()
            };
            let service = service(&node, &place);
            let publisher = service.publisher_builder();
            let publisher = publisher.initial_max_slice_len(place.len).create();
            publisher.expect("a publisher")
        };
        let publishers: Vec<_> = (0..count).map(publish).collect();
        Box::new((publishers, node))
    }

    fn past(_: &Place) -> Never {
        unreachable!("it keeps nothing")
    }
}

/// What nodes leave in shared memory when they have ended, by its prefix.
struct Leftovers(String);

impl Drop for Leftovers {
    fn drop(&mut self) {
        let files = std::fs::read_dir("/dev/shm")
            .into_iter()
            .flatten()
            .flatten();
        for file in files.filter(|file| file.file_name().to_string_lossy().starts_with(&self.0)) {
            let _ = std::fs::remove_file(file.path());
        }
    }
}

fn node(place: &Place) -> Node<Service> {
    set_log_level(LogLevel::Error);
    let (prefix, root) = place.address.split_once('\n').expect("both");
    let mut config = Config::default();
    config.global.prefix = FileName::new(prefix.as_bytes()).expect("a name");
    let root = iceoryx2::prelude::Path::new(root.as_bytes());
    config.global.set_root_path(&root.expect("a path"));
    let node = NodeBuilder::new().config(&config);
    node.create::<Service>().expect("a node")
}

fn service(
    node: &Node<Service>,
    place: &Place,
) -> iceoryx2::service::port_factory::publish_subscribe::PortFactory<Service, [u8], ()> {
    let name = place.topic.as_str().try_into().expect("a name");
    let large = place.len >= 16 << 10;
    node.service_builder(&name)
        .publish_subscribe::<[u8]>()
        .max_subscribers(16)
        .max_publishers(16)
        .max_nodes(32)
        .subscriber_max_buffer_size(if large { BUFFER_OF_LARGE } else { BUFFER })
        .enable_safe_overflow(true)
        .open_or_create()
        .expect("a service")
}

fn event(
    node: &Node<Service>,
    place: &Place,
) -> iceoryx2::service::port_factory::event::PortFactory<Service> {
    let name = place.topic.as_str().try_into().expect("a name");
    let event = node.service_builder(&name).event().max_nodes(32);
    event.open_or_create().expect("an event")
}

pub struct Publishing {
    publisher: Publisher<Service, [u8], ()>,
    notifier: Option<Notifier<Service>>,
    _node: Node<Service>,
}

impl Sender for Publishing {
    fn send(&mut self, payload: &[u8]) {
        let sample = self.publisher.loan_slice_uninit(payload.len());
        let sample = sample.expect("a sample").write_from_slice(payload);
        sample.send().expect("room");
        if let Some(notifier) = &self.notifier {
            notifier.notify().expect("room");
        }
    }

    /// Between `loan` and `send`.
    fn stop_within(&mut self, payload: &[u8]) {
        let sample = self.publisher.loan_slice_uninit(payload.len());
        let sample = sample.expect("a sample").write_from_slice(payload);
        stop();
        sample.send().expect("room");
    }
}

pub struct Subscribing {
    subscriber: Subscriber<Service, [u8], ()>,
    listener: Option<Listener<Service>>,
    _node: Node<Service>,
}

impl Receiver for Subscribing {
    fn receive(&mut self, read: &mut impl FnMut(&[u8])) {
        loop {
            if let Some(sample) = self.subscriber.receive().expect("connected") {
                return read(sample.payload());
            }
            match &self.listener {
                Some(listener) => _ = listener.blocking_wait(|_| {}).expect("an event"),
                None => std::hint::spin_loop(),
            }
        }
    }

    fn skip(&mut self) {
        while self.subscriber.receive().expect("connected").is_some() {}
    }
}
