//! The loop that answers clients. It never blocks on one, and leaves to the maker
//! what takes long, but for the first segment of a context.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use ledger_client::wire::{Hello, Refusal, Reply, Request, Status};
use ledger_shm::bell::roster::ClientId;
use ledger_shm::object::Epoch;
use ledger_shm::socket::{self, PACKET_LEN_MAX, Packets};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};
use nix::sys::eventfd::EventFd;

use crate::connected::Connected;
use crate::options::Options;
use crate::registry::Registry;
use crate::rights::Who;
use crate::spares::Spares;

const LISTENER: u64 = 0;
const WAKE: u64 = 1;
const FIRST_CLIENT: u64 = 2;
/// How long nobody is accepted after that could not be done.
const DEAF_FOR: Duration = Duration::from_millis(100);
/// How often it is looked at whether those who were let go have fetched what they can,
/// while there is a place for others.
const UNREAD_FOR: Duration = Duration::from_secs(1);
/// How long an opening waits for memory that is being freed, far less than a client for
/// its answer.
const MEMORY_WAIT: Duration = Duration::from_secs(2);
/// Events taken at once.
const EVENTS: usize = 64;

/// Where a client is in the protocol.
#[derive(Debug, PartialEq, Eq)]
enum Stage {
    /// It has not greeted yet.
    Greeting,
    /// It may ask.
    Ready,
    /// It asked for spares that are being made.
    Waiting { epoch: Epoch, record_len: usize },
    /// It asked for a context that is leaving memory just now, or that is given memory
    /// once others are written.
    Deferred(Request),
}

#[derive(Debug)]
struct Client {
    packets: Packets,
    who: Who,
    id: ClientId,
    /// One more than there may be: it is told so, and nothing else, unless others go first.
    is_surplus: bool,
    stage: Stage,
    /// Until when it waits for memory at most.
    wait_until: Option<Instant>,
    /// How often it has what open, and whether for appending.
    open: HashMap<(Epoch, bool), usize>,
}

impl Client {
    /// Whether it has a context open, for appending if that is asked for.
    fn has_open(&self, epoch: Epoch, append: bool) -> bool {
        let is_open = |append| self.open.contains_key(&(epoch, append));
        is_open(true) || (!append && is_open(false))
    }
}

pub(crate) struct Server {
    pub(crate) registry: Registry,
    pub(crate) listener: OwnedFd,
    pub(crate) wake: Arc<EventFd>,
    pub(crate) is_stopped: Arc<AtomicBool>,
    pub(crate) owner_uid: u32,
    /// Counts the loop's turns, for those who watch over it.
    turns: Arc<AtomicU64>,
    /// Options to go on with.
    next: Arc<Mutex<Option<Options>>>,
    epoll: Epoll,
    /// When to listen again, while no client can be accepted.
    deaf_until: Option<Instant>,
    /// When the first of those who wait for memory has waited long enough.
    late_at: Option<Instant>,
    clients: HashMap<u64, Client>,
    connected: Connected,
    /// Clients that were let go and still have something to fetch, and when to look whether
    /// they have.
    unread: Vec<(Who, Packets)>,
    look_again_at: Option<Instant>,
    next_client: u64,
    started: Instant,
    buffer: Box<[u8; PACKET_LEN_MAX]>,
}

/// A client that is to be let go.
enum Gone {
    /// It broke the protocol, or has ended its connection.
    Ended,
    /// It did not wait for its answer, and may come back.
    Unanswered,
}

impl Server {
    pub(crate) fn new(
        registry: Registry,
        listener: OwnedFd,
        wake: Arc<EventFd>,
        is_stopped: Arc<AtomicBool>,
        owner_uid: u32,
        turns: Arc<AtomicU64>,
        next: Arc<Mutex<Option<Options>>>,
    ) -> io::Result<Server> {
        let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
        epoll.add(&listener, EpollEvent::new(EpollFlags::EPOLLIN, LISTENER))?;
        epoll.add(wake.as_ref(), EpollEvent::new(EpollFlags::EPOLLIN, WAKE))?;
        Ok(Server {
            registry,
            listener,
            wake,
            is_stopped,
            owner_uid,
            turns,
            next,
            epoll,
            deaf_until: None,
            late_at: None,
            clients: HashMap::new(),
            connected: Connected::default(),
            unread: Vec::new(),
            look_again_at: None,
            next_client: FIRST_CLIENT,
            started: Instant::now(),
            buffer: Box::new([0; PACKET_LEN_MAX]),
        })
    }

    /// Runs until stopped.
    pub(crate) fn run(mut self) -> io::Result<()> {
        let mut events = [EpollEvent::empty(); EVENTS];
        while !self.is_stopped.load(Ordering::Acquire) {
            self.turns.fetch_add(1, Ordering::Relaxed);
            self.listen_again();
            self.refuse_late();
            if self.look_again_at.is_some_and(|at| at <= Instant::now()) {
                self.free_places();
            }
            let due = [
                self.registry.close_idle(),
                self.deaf_until,
                self.late_at,
                self.look_again_at,
            ];
            let timeout = match due.into_iter().flatten().min() {
                None => EpollTimeout::NONE,
                Some(due) => {
                    let pause = due.saturating_duration_since(Instant::now());
                    EpollTimeout::try_from(pause + Duration::from_millis(1))
                        .unwrap_or(EpollTimeout::MAX)
                }
            };
            let count = match self.epoll.wait(&mut events, timeout) {
                Err(nix::Error::EINTR) => 0,
                outcome => outcome?,
            };
            for event in &events[..count] {
                match event.data() {
                    LISTENER => self.accept(),
                    WAKE => self.look_up()?,
                    client => self.serve(client),
                }
            }
        }
        Ok(())
    }

    fn listen_again(&mut self) {
        if self.deaf_until.is_some_and(|until| until <= Instant::now()) {
            let event = EpollEvent::new(EpollFlags::EPOLLIN, LISTENER);
            let outcome = self.epoll.add(&self.listener, event);
            self.deaf_until = outcome.err().map(|_| Instant::now() + DEAF_FOR);
        }
    }

    fn accept(&mut self) {
        let packets = match socket::accept(&self.listener) {
            Ok(Some(packets)) => packets,
            Ok(None) => return,
            Err(error) => {
                // Out of descriptors or memory, most likely. Asked again at
                // once it would say the same.
                tracing::warn!(%error, "cannot accept a client");
                if self.epoll.delete(&self.listener).is_ok() {
                    self.deaf_until = Some(Instant::now() + DEAF_FOR);
                }
                return;
            }
        };
        let Ok(peer) = packets.peer() else { return };
        // Kernels before 4.13 do not tell.
        let gids = socket::peer_groups(&packets).unwrap_or_default();
        let who = Who::new(peer, gids, self.owner_uid);
        let id = self.next_client;
        let event = EpollEvent::new(EpollFlags::EPOLLIN, id);
        if self.connected.is_full(&who, &self.registry.options) {
            self.free_places();
        }
        if !self.connected.join(&who, &self.registry.options) {
            tracing::debug!(
                uid = who.uid,
                "a client is not let in: there are too many of its uid"
            );
            return;
        }
        if self.epoll.add(&packets, event).is_err() {
            self.connected.leave(&who);
            return;
        }
        self.next_client += 1;
        tracing::debug!(
            client = id,
            pid = peer.pid,
            uid = peer.uid,
            "a client connects"
        );
        let client = Client {
            packets,
            id: ClientId {
                number: id as u32,
                pid: peer.pid,
            },
            is_surplus: self
                .connected
                .exceeded(&who, &self.registry.options)
                .is_some(),
            who,
            stage: Stage::Greeting,
            wait_until: None,
            open: HashMap::new(),
        };
        self.clients.insert(id, client);
    }

    fn serve(&mut self, id: u64) {
        let Some(mut client) = self.clients.remove(&id) else {
            return;
        };
        match self.answer(&mut client) {
            Ok(()) => {
                self.clients.insert(id, client);
            }
            Err(gone) => self.forget(client, gone),
        }
    }

    fn forget(&mut self, client: Client, why: Gone) {
        tracing::debug!(client = client.id.number, "a client is gone");
        // Closing the descriptor would do, but for a copy that somebody holds.
        let _ = self.epoll.delete(&client.packets);
        for ((epoch, append), count) in client.open {
            self.registry.strike(epoch, client.id);
            match why {
                Gone::Ended => self.registry.release(epoch, append, count),
                Gone::Unanswered => self.registry.release_for_now(epoch, append, count),
            }
        }
        // What nobody has fetched yet stays on its way, and so does a descriptor with it.
        if client.who.is_foreign && client.packets.has_unread() {
            socket::shut_down(&client.packets);
            self.unread.push((client.who, client.packets));
            self.look_again_at
                .get_or_insert_with(|| Instant::now() + UNREAD_FOR);
        } else {
            self.connected.leave(&client.who);
        }
    }

    /// Of those who are let go, the places of the ones who have fetched everything, or are
    /// gone, are free.
    fn free_places(&mut self) {
        self.unread.retain(|(who, packets)| {
            let has_unread = packets.has_unread();
            if !has_unread {
                self.connected.leave(who);
            }
            has_unread
        });
        let is_any_left = !self.unread.is_empty();
        self.look_again_at = is_any_left.then(|| Instant::now() + UNREAD_FOR);
    }

    fn answer(&mut self, client: &mut Client) -> Result<(), Gone> {
        let packet = match client.packets.receive(&mut self.buffer) {
            Ok(Some(packet)) => packet,
            Ok(None) => {
                return Err(match client.stage {
                    Stage::Greeting | Stage::Ready => Gone::Ended,
                    Stage::Waiting { .. } | Stage::Deferred(_) => Gone::Unanswered,
                });
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
            Err(_) => return Err(Gone::Ended),
        };
        match client.stage {
            Stage::Greeting => {
                let theirs = Hello::decode(packet.bytes).ok_or(Gone::Ended)?;
                // Said whatever they speak, so that they can name both versions.
                send(client, &Hello::OURS.encode(), None)?;
                if theirs != Hello::OURS {
                    return Err(Gone::Ended);
                }
                client.stage = Stage::Ready;
                Ok(())
            }
            // An answer that nobody fetches may keep a descriptor on its way, of which the
            // kernel allows us only so many, over all clients.
            Stage::Ready if client.packets.has_unread() => Err(Gone::Ended),
            Stage::Ready => {
                let request = Request::decode(packet.bytes).ok_or(Gone::Ended)?;
                self.handle(client, request)
            }
            // One question at a time.
            Stage::Waiting { .. } | Stage::Deferred(_) => Err(Gone::Ended),
        }
    }

    fn handle(&mut self, client: &mut Client, request: Request) -> Result<(), Gone> {
        tracing::debug!(client = client.id.number, ?request, "is asked");
        if client.is_surplus {
            let exceeded = self.connected.exceeded(&client.who, &self.registry.options);
            client.is_surplus = exceeded.is_some();
            // Whoever runs it is told how it does, also then.
            let may_ask = request == Request::Status && !client.who.is_foreign;
            if let Some(refusal) = exceeded.filter(|_| !may_ask) {
                tracing::warn!(?refusal, uid = client.who.uid, "a client is one too many");
                send(client, &Reply::Refused(refusal).encode(), None)?;
                return Err(Gone::Ended);
            }
        }
        match request {
            Request::Open {
                ref name, epoch, ..
            } if self.registry.is_leaving(name, epoch.map(Epoch)) => {
                client.wait_until = None;
                client.stage = Stage::Deferred(request);
                Ok(())
            }
            Request::Drop { ref name } if self.registry.is_leaving(name, None) => {
                client.stage = Stage::Deferred(request);
                Ok(())
            }
            Request::Open {
                name,
                epoch,
                create,
                append,
            } => {
                let of = epoch.map(Epoch);
                let (id, who) = (client.id, &client.who);
                let outcome = self.registry.open(id, who, &name, of, create, append);
                let now = Instant::now();
                if outcome.as_ref().err() == Some(&Refusal::Budget)
                    && client.wait_until.is_none_or(|until| now < until)
                    && self.registry.is_finishing()
                {
                    let until = *client.wait_until.get_or_insert(now + MEMORY_WAIT);
                    self.late_at = Some(self.late_at.map_or(until, |at| at.min(until)));
                    client.stage = Stage::Deferred(Request::Open {
                        name,
                        epoch,
                        create,
                        append,
                    });
                    return Ok(());
                }
                client.wait_until = None;
                match outcome {
                    Ok((epoch, reply, bell)) => {
                        *client.open.entry((epoch, append)).or_default() += 1;
                        send(client, &reply.encode(), Some(bell))
                    }
                    Err(refusal) => {
                        let refusal = self.registry.explained(refusal);
                        send(client, &Reply::Refused(refusal).encode(), None)
                    }
                }
            }
            Request::Spares { epoch, record_len } => {
                let epoch = Epoch(epoch);
                let record_len = self.registry.record_len(epoch, record_len);
                if !client.open.contains_key(&(epoch, true)) {
                    return send(
                        client,
                        &Reply::Refused(Refusal::UnknownContext).encode(),
                        None,
                    );
                }
                match self.registry.spares(epoch, record_len) {
                    Ok(Spares::Now(reply)) => send(client, &reply.encode(), None),
                    Ok(Spares::Later) => {
                        client.stage = Stage::Waiting { epoch, record_len };
                        Ok(())
                    }
                    Err(refusal) => send(client, &Reply::Refused(refusal).encode(), None),
                }
            }
            Request::Object {
                epoch,
                part,
                append,
            } => {
                let epoch = Epoch(epoch);
                let is_open = client.has_open(epoch, append);
                let object = if is_open {
                    self.registry.object(&client.who, epoch, part, append)
                } else {
                    Err(Refusal::UnknownContext)
                };
                match object {
                    Ok(fd) => send(client, &Reply::Object.encode(), Some(fd)),
                    Err(refusal) => send(client, &Reply::Refused(refusal).encode(), None),
                }
            }
            Request::File { epoch, seq } => {
                let epoch = Epoch(epoch);
                let is_open = client.has_open(epoch, false);
                let found = if is_open {
                    self.registry.file(epoch, seq)
                } else {
                    Err(Refusal::UnknownContext)
                };
                match found {
                    Ok((reply, file)) => send(client, &reply.encode(), file),
                    Err(refusal) => send(client, &Reply::Refused(refusal).encode(), None),
                }
            }
            Request::Sync { epoch } => {
                let epoch = Epoch(epoch);
                if client.has_open(epoch, false) {
                    self.registry.sync(epoch);
                }
                send(client, &Reply::Syncing.encode(), None)
            }
            Request::List { after } => {
                let names = self.registry.names_after(&client.who, &after);
                send(client, &Reply::Names(names).encode(), None)
            }
            Request::Drop { name } => {
                let reply = match self.registry.drop_context(&client.who, &name) {
                    Ok(()) => Reply::Dropped,
                    Err(refusal) => Reply::Refused(refusal),
                };
                send(client, &reply.encode(), None)
            }
            Request::Load { name, only_new } => {
                match self.registry.load(&client.who, name, only_new) {
                    Ok(socket) => send(client, &Reply::Load.encode(), Some(socket)),
                    Err(refusal) => send(client, &Reply::Refused(refusal).encode(), None),
                }
            }
            Request::Troubles { name } => {
                let troubles = self.registry.troubles(&client.who, name.as_deref());
                send(client, &Reply::Troubles(troubles).encode(), None)
            }
            Request::Status => {
                let status = self.status();
                send(client, &Reply::Status(status).encode(), None)
            }
            Request::Release { epoch, append } => {
                let epoch = Epoch(epoch);
                if let Some(count) = client.open.get_mut(&(epoch, append)) {
                    *count -= 1;
                    if *count == 0 {
                        client.open.remove(&(epoch, append));
                    }
                    self.registry.release(epoch, append, 1);
                }
                send(client, &Reply::Released.encode(), None)
            }
        }
    }

    /// Whoever has waited for memory long enough is told that there is none.
    fn refuse_late(&mut self) {
        if self.late_at.is_some_and(|at| at <= Instant::now()) {
            self.late_at = None;
            self.try_deferred();
            let waiting = self.clients.values().filter_map(|client| client.wait_until);
            self.late_at = waiting.min();
        }
    }

    /// What had to wait, for a context to leave or for memory, is tried again.
    fn try_deferred(&mut self) {
        let deferred = |(id, client): (&u64, &Client)| {
            matches!(client.stage, Stage::Deferred(_)).then_some(*id)
        };
        let ids: Vec<u64> = self.clients.iter().filter_map(deferred).collect();
        for id in ids {
            let Some(mut client) = self.clients.remove(&id) else {
                continue;
            };
            let stage = std::mem::replace(&mut client.stage, Stage::Ready);
            let outcome = match stage {
                Stage::Deferred(request) => self.handle(&mut client, request),
                _ => Ok(()),
            };
            match outcome {
                Ok(()) => drop(self.clients.insert(id, client)),
                Err(gone) => self.forget(client, gone),
            }
        }
    }

    fn status(&mut self) -> Status {
        let (attached, quarantined) = self.registry.logs.count_states();
        let mut status = Status::default();
        status.version = env!("CARGO_PKG_VERSION").into();
        status.pid = std::process::id();
        status.uptime_ns = u64::try_from(self.started.elapsed().as_nanos()).unwrap_or(u64::MAX);
        // Whoever asks is not among them just now.
        status.clients = self.clients.len() as u64 + 1;
        status.contexts = self.registry.context_count() as u64;
        status.attached = attached as u64;
        status.quarantined = quarantined as u64;
        status.entries = self.registry.logs.entries(&self.registry.instance);
        status.budget = self.registry.budget;
        status.committed = self.registry.logs.committed_len();
        status.held = self.registry.lent.held_len(None);
        status
    }

    /// Somebody else in this process has something for us.
    fn look_up(&mut self) -> io::Result<()> {
        // Read before looking, so that what is made meanwhile wakes us again.
        let _ = self.wake.read();
        let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(options) = next.take() {
            self.registry.go_on_with(options);
        }
        drop(next);
        self.registry.look_at_reports()?;
        while let Some((epoch, is_done)) = self.registry.take_made() {
            if !is_done {
                continue;
            }
            let waiting: Vec<(u64, usize)> = self
                .clients
                .iter()
                .filter_map(|(id, client)| match client.stage {
                    Stage::Waiting {
                        epoch: wanted,
                        record_len,
                    } if wanted == epoch => Some((*id, record_len)),
                    _ => None,
                })
                .collect();
            for (id, record_len) in waiting {
                let Some(mut client) = self.clients.remove(&id) else {
                    continue;
                };
                client.stage = Stage::Ready;
                let reply = self.registry.answer(epoch, record_len);
                match send(&client, &reply.encode(), None) {
                    Ok(()) => drop(self.clients.insert(id, client)),
                    Err(gone) => self.forget(client, gone),
                }
            }
        }
        // What waits for a spare to be made is tried again, too.
        self.registry.look_at_loads();
        self.try_deferred();
        Ok(())
    }
}

/// Sends without waiting: a client has one answer outstanding at most, so one
/// whose buffer is full does not read, and is let go.
fn send(client: &Client, packet: &[u8], fd: Option<OwnedFd>) -> Result<(), Gone> {
    client
        .packets
        .send(packet, fd.as_ref().map(AsFd::as_fd))
        .map_err(|_| Gone::Unanswered)
}

impl std::fmt::Debug for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Server")
            .field("listener", &self.listener.as_raw_fd())
            .field("clients", &self.clients.len())
            .finish_non_exhaustive()
    }
}
