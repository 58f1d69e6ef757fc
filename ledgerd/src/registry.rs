//! The contexts of an instance, and what is asked of them.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use ledger_client::wire::{RECONNECT_PAUSE_MAX, Refusal, Reply, SILENCE, Trouble};
use ledger_shm::Control;
use ledger_shm::bell::roster::ClientId;
use ledger_shm::control::{Facts, InvalidName, Sizes, State};
use ledger_shm::fork::Generation;
use ledger_shm::format::CONTROL_LEN;
use ledger_shm::object::{self, Epoch, Instance, MapError, Name, Object};
use ledger_shm::segment::Geometry;
use ledger_shm::socket::PACKET_LEN_MAX;

use crate::archive::{Archiver, Disk, Home, Marks, Order, Report};
use crate::lent::Lent;
use crate::load::{Loads, Spooled};
use crate::log::{Log, Part};
use crate::logs::Logs;
use crate::maker::{Maker, is_out_of_memory, make};
use crate::options::{Durability, Lengths, Options};
use crate::rights::{Right, Who, has_foreign_writers};

/// Bytes of names in one answer, well below those of a packet.
const NAMES_LEN_MAX: usize = PACKET_LEN_MAX / 2;
/// What a name, or a trouble, takes in an answer beside its bytes, at most.
const NAME_OVERHEAD: usize = 16;
const TROUBLE_OVERHEAD: usize = 64;
/// How long who had a context open and was not answered is waited for, before it is taken
/// for one that nobody has open: they pause, look and open it again.
const COMING_BACK: Duration = SILENCE.saturating_add(RECONNECT_PAUSE_MAX.saturating_mul(2));

#[derive(Debug)]
pub(crate) struct Registry {
    pub(crate) instance: Instance,
    pub(crate) options: Options,
    pub(crate) budget: u64,
    pub(crate) window_len: u64,
    pub(crate) generation: u64,
    pub(crate) made_in: Generation,
    pub(crate) logs: Logs,
    pub(crate) lent: Lent,
    /// Contexts to close, and when, if nobody appends to them then.
    pub(crate) to_close: VecDeque<(Instant, Epoch)>,
    pub(crate) maker: Maker,
    /// There if any context has files, or could get some.
    archive: Option<(PathBuf, Archiver)>,
    pub(crate) loads: Option<Loads>,
    /// Snapshots that were read and have no place yet, because the context cannot be
    /// closed for a moment.
    pub(crate) waiting_loads: Vec<Spooled>,
    /// The same, by the context that is being closed for them.
    pub(crate) closing_loads: HashMap<Epoch, Spooled>,
    /// What keeps contexts from being written behind.
    pub(crate) troubles: BTreeMap<Epoch, Trouble>,
    /// Up to where contexts were to be finished, as far as they may not yet be.
    pub(crate) finishing: HashMap<Epoch, u64>,
}

impl Registry {
    pub(crate) fn new(
        instance: Instance,
        options: Options,
        budget: u64,
        generation: u64,
        made_in: Generation,
        maker: Maker,
        archive: Option<(PathBuf, Archiver, Loads)>,
    ) -> Registry {
        let (archive, loads) = archive
            .map(|(dir, archiver, loads)| ((dir, archiver), loads))
            .unzip();
        let window_len = budget / 4;
        Registry {
            instance,
            options,
            budget,
            window_len,
            generation,
            made_in,
            logs: Logs::default(),
            lent: Lent::default(),
            to_close: VecDeque::new(),
            maker,
            archive,
            loads,
            waiting_loads: Vec::new(),
            closing_loads: HashMap::new(),
            troubles: BTreeMap::new(),
            finishing: HashMap::new(),
        }
    }

    /// Goes on with other options: what exists keeps its sizes and its limits.
    pub(crate) fn go_on_with(&mut self, options: Options) {
        if let Some(budget) = options.memory_budget {
            self.budget = budget;
            self.window_len = budget / 4;
        }
        if let Some((_, archiver)) = &self.archive {
            archiver.give(Order::GoOn(Box::new(options.clone())));
        }
        self.options = options;
    }

    /// Takes over a context that was found in memory.
    pub(crate) fn adopt(&mut self, mut log: Log) {
        // Whoever has it open comes back to this daemon first.
        log.idle_since += COMING_BACK;
        // An earlier daemon may have had it leave, and not come to its end.
        log.may_be_complete = log.state == State::Idle;
        let may_be_idle = log.may_close_later() || log.may_leave();
        let has_more = matches!(log.state, State::Open | State::Idle);
        let epoch = log.epoch;
        self.logs.insert(log);
        if may_be_idle {
            self.close_later(epoch);
        }
        // What was appended while nobody wrote it behind.
        if has_more {
            self.archive(epoch, |epoch, marks| Order::Leave { epoch, marks });
        }
    }

    pub(crate) fn has_archive(&self) -> bool {
        self.archive.is_some()
    }

    /// The directory of that name.
    pub(crate) fn home(&self, name: Epoch) -> Option<Home> {
        let (dir, _) = self.archive.as_ref()?;
        let disk = Disk::new(Arc::clone(&self.options.file_system));
        Some(Home::new(dir.join(name.to_string()), disk))
    }

    /// Has something done with the files of a context, if it has some.
    pub(crate) fn archive(&self, epoch: Epoch, order: impl FnOnce(Epoch, Arc<Marks>) -> Order) {
        let marks = self.logs.get(epoch).and_then(|log| {
            let marks = log.marks.clone()?;
            Some((log.state == State::Quarantined, marks))
        });
        if let (Some((_, archiver)), Some((is_damaged, marks))) = (&self.archive, marks) {
            match order(epoch, marks) {
                // Of a damaged context nothing more is written.
                order @ Order::Forget { .. } => archiver.give(order),
                order if !is_damaged => archiver.give(order),
                _ => {}
            }
        }
    }

    /// Has what is in a context on stable storage soon.
    pub(crate) fn sync(&self, epoch: Epoch) {
        // One that leaves is written to its end anyway, and may have other files then.
        let staying = self.logs.get(epoch).filter(|log| !log.is_leaving);
        let marks = staying.and_then(|log| log.marks.as_ref());
        if marks.is_some_and(|marks| marks.want_sync()) {
            self.archive(epoch, |epoch, marks| Order::Sync { epoch, marks });
        }
    }

    /// Takes over what came of it. An error if nothing more will: the next daemon goes on
    /// where this one's archiver has panicked, and nobody is told that all is well.
    pub(crate) fn look_at_reports(&mut self) -> io::Result<()> {
        loop {
            let report = self.archive.as_ref();
            match report.and_then(|(_, archiver)| archiver.take_report()) {
                None => return Ok(()),
                Some(Report::Ended) => return Err(io::Error::other("the archiver panicked")),
                Some(Report::Trouble { epoch, error }) => self.note_trouble(epoch, error),
                Some(Report::Finished(epoch)) => self.keep_window(epoch),
                Some(Report::Complete { epoch, is_done }) => self.left(epoch, is_done),
                Some(Report::Damaged(epoch, error)) => {
                    self.logs.change(epoch, |log| {
                        log.visit(&self.instance, |_, _| Err(error));
                    });
                }
            }
        }
    }

    fn note_trouble(&mut self, epoch: Epoch, error: Option<String>) {
        match (error, self.logs.get(epoch)) {
            (Some(error), Some(log)) => {
                let context = &log.name;
                tracing::error!(context, %epoch, error, "a context cannot be archived; it is tried again");
                let new = || Trouble {
                    context: log.name.clone(),
                    error: String::new(),
                    since_ns: now_ns(),
                };
                self.troubles.entry(epoch).or_insert_with(new).error = error;
            }
            _ => {
                if let Some(over) = self.troubles.remove(&epoch) {
                    let context = over.context;
                    tracing::info!(context, %epoch, "nothing keeps the context from being archived any more");
                }
                // What was to be finished meanwhile was not.
                self.keep_window(epoch);
            }
        }
    }

    /// Why a budget is spent: of what cannot be written nothing leaves memory.
    pub(crate) fn explained(&self, refusal: Refusal) -> Refusal {
        match refusal {
            Refusal::Budget if !self.troubles.is_empty() => Refusal::Unwritten,
            refusal => refusal,
        }
    }

    /// A context is gone, and what kept it from being written with it.
    pub(crate) fn settle_trouble(&mut self, epoch: Epoch) {
        self.troubles.remove(&epoch);
    }

    /// What keeps contexts that somebody may read, or that of this name, from being
    /// written behind.
    pub(crate) fn troubles(&self, who: &Who, name: Option<&str>) -> Vec<Trouble> {
        let mut len = 0;
        let troubles = self.troubles.values();
        troubles
            .filter(|of| name.is_none_or(|name| of.context == name))
            .filter(|of| who.may(Right::Read, &of.context, &self.options.rights))
            .take_while(|of| {
                len += of.context.len() + of.error.len() + TROUBLE_OVERHEAD;
                len < NAMES_LEN_MAX
            })
            .cloned()
            .collect()
    }

    /// The finished file of a context that begins at, or last before, a seq.
    pub(crate) fn file(&self, epoch: Epoch, seq: u64) -> Result<(Reply, Option<OwnedFd>), Refusal> {
        let name = self.logs.get(epoch).and_then(|log| log.home);
        let Some(home) = name.and_then(|name| self.home(name)) else {
            return Ok((Reply::NoFile, None));
        };
        match home.file_of(seq) {
            Ok(Some((first_seq, file))) => Ok((Reply::File { first_seq }, Some(file.into()))),
            Ok(None) => Ok((Reply::NoFile, None)),
            Err(error) => Err(disk_refusal(&home, error.into())),
        }
    }

    pub(crate) fn context_count(&self) -> usize {
        self.logs.len()
    }

    /// Whether a context cannot be opened for a moment.
    pub(crate) fn is_leaving(&self, name: &str, epoch: Option<Epoch>) -> bool {
        let found = epoch.or(self.logs.named(name));
        let log = found.and_then(|found| self.logs.get(found));
        log.is_some_and(|log| log.is_leaving)
    }

    /// Attaches a client to a context, making it if that was asked for.
    pub(crate) fn open(
        &mut self,
        client: ClientId,
        who: &Who,
        name: &str,
        epoch: Option<Epoch>,
        create: Option<Sizes>,
        append: bool,
    ) -> Result<(Epoch, Reply, OwnedFd), Refusal> {
        let name = InvalidName::check(name.as_bytes())
            .map_err(|error| Refusal::InvalidName(error.to_string()))?;
        let needed = if append || create.is_some() {
            Right::Append
        } else {
            Right::Read
        };
        if !who.may(needed, name, &self.options.rights) {
            return Err(not_allowed(who, needed));
        }
        let is_named = |log: &&Log| log.name == name;
        let is_archived = |log: &&Log| log.state == State::Archived;
        if let Some(found) = epoch.or(self.logs.named(name))
            && self
                .logs
                .get(found)
                .filter(is_archived)
                .filter(is_named)
                .is_some()
        {
            self.revive(found)?;
        }
        let (epoch, created) = match (epoch, self.logs.named(name), create) {
            (Some(wanted), ..) if self.logs.get(wanted).filter(is_named).is_some() => {
                (wanted, false)
            }
            (None, Some(found), _) => (found, false),
            (None, None, Some(sizes)) => (self.create(name, sizes)?, true),
            _ => return Err(Refusal::UnknownContext),
        };
        let attached = self.logs.change(epoch, |log| {
            let bell = attach(log, &self.instance, append)?;
            let live = log.live.as_ref();
            let is_in_place = live.is_some_and(|live| !live.control.facts().has_foreign_writers);
            if append && who.is_foreign && is_in_place {
                if log.attached_count == 0 {
                    log.asleep();
                }
                return Err(Refusal::ReadInPlace);
            }
            log.attached_count += 1;
            log.appender_count += usize::from(append);
            Ok((log.state, bell, append && log.appender_count == 1))
        });
        let (state, bell, is_first) = attached.ok_or(Refusal::UnknownContext)??;
        if is_first {
            self.archive(epoch, |epoch, marks| Order::Follow { epoch, marks });
        }
        if append && state == State::Idle {
            self.reopen(epoch)
                .inspect_err(|_| self.release(epoch, append, 1))?;
        }
        let reply = Reply::Opened {
            epoch: epoch.0,
            created,
            current: self.logs.get(epoch).map_or(0, Log::current),
            client: client.to_word(),
        };
        Ok((epoch, reply, bell))
    }

    /// Continues a closed context in a new part.
    pub(crate) fn reopen(&mut self, epoch: Epoch) -> Result<(), Refusal> {
        let lengths = self.logs.get(epoch).map(|log| log.lengths);
        let lengths = lengths.ok_or(Refusal::UnknownContext)?;
        if !self.has_room(Geometry::of_len(lengths.first).segment_len as u64) {
            return Err(Refusal::Budget);
        }
        self.go_on_in_files(epoch)?;
        let outcome = self.logs.change(epoch, |log| {
            log.reopen(&self.instance)
                .map_err(|error| failed(log, error))
        });
        outcome.ok_or(Refusal::UnknownContext)?
    }

    /// Has the files of a context not say any longer that they have all of it.
    fn go_on_in_files(&mut self, epoch: Epoch) -> Result<(), Refusal> {
        let log = self.logs.get(epoch).filter(|log| log.may_be_complete);
        if let Some(home) = log.and_then(|log| log.home).and_then(|of| self.home(of)) {
            home.go_on(now_ns())
                .map_err(|error| disk_refusal(&home, error))?;
        }
        self.logs.change(epoch, |log| log.may_be_complete = false);
        Ok(())
    }

    fn create(&mut self, name: &str, sizes: Sizes) -> Result<Epoch, Refusal> {
        let max = self.options.contexts_max;
        if self.logs.len() >= max {
            tracing::warn!(contexts_max = max, name, "a context is one too many");
            return Err(Refusal::Limit {
                what: "contexts_max".into(),
                max: max as u64,
            });
        }
        let sizes = sizes.or(self.options.sizes_of(name));
        let geometry = Geometry::of_len(Lengths::new(sizes, &self.options).first);
        if !self.has_room((geometry.segment_len + CONTROL_LEN) as u64) {
            return Err(Refusal::Budget);
        }
        let epoch = random_epoch()?;
        let facts = Facts {
            name: name.to_owned(),
            epoch,
            limits: self.options.limits,
            sizes,
            has_foreign_writers: has_foreign_writers(name, &self.options.rights),
            created_at_ns: now_ns(),
        };
        let durability = self.options.durability_of(name);
        let has_files = self.archive.is_some() && durability == Durability::Archive;
        let home = has_files.then_some(epoch);
        let control =
            Control::create(&self.instance, facts, home, self.generation).map_err(refusal)?;
        let number = control
            .take_part_number()
            .map_err(|corrupt| refusal(corrupt.into()))?;
        let first = make(&self.instance, epoch, number, geometry, 1, 0).inspect_err(|_| {
            let _ = object::unlink(&self.instance, Name::Control(epoch));
        });
        first.map_err(refusal)?;
        control.set_first_part(number);
        control.finish();
        let mut log = Log::new(&control, &self.options);
        log.chain.push_back(Part {
            number,
            segment_len: geometry.segment_len,
        });
        self.logs.insert(log);
        tracing::debug!(context = name, %epoch, "a context begins");
        Ok(epoch)
    }

    /// An object of a context for somebody who may not open it by name.
    pub(crate) fn object(
        &mut self,
        who: &Who,
        epoch: Epoch,
        part: Option<u64>,
        append: bool,
    ) -> Result<OwnedFd, Refusal> {
        let name = match part {
            None => Name::Control(epoch),
            Some(part) => {
                self.check_part(epoch, part, append)?;
                if who.is_foreign {
                    let max = self.options.held_max.unwrap_or(self.budget / 8);
                    let len = self.lent.held_len(Some(who.uid));
                    if len >= max {
                        return Err(Refusal::Held { len, max });
                    }
                    self.lent.lend(epoch, part, who.uid);
                }
                Name::Part(epoch, part)
            }
        };
        // Nobody but the daemon writes a control object.
        let writable = append && part.is_some();
        let object = Object::open(&self.instance, name, writable);
        object
            .map(OwnedFd::from)
            .map_err(|error| refusal(error.into()))
    }

    /// Whether a part is there for those who read, or append.
    fn check_part(&mut self, epoch: Epoch, part: u64, append: bool) -> Result<(), Refusal> {
        let is_there = self.logs.change(epoch, |log| {
            let is_it = |other: &Part| other.number == part;
            if append && log.spares.iter().any(is_it) || log.chain.iter().any(is_it) {
                return Ok(true);
            }
            if log.state != State::Quarantined {
                log.follow(&self.instance)
                    .map_err(|error| failed(log, error))?;
            }
            Ok(log.chain.iter().any(is_it))
        });
        match is_there.ok_or(Refusal::UnknownContext)?? {
            true => Ok(()),
            false => Err(Refusal::UnknownPart),
        }
    }

    /// Some names of contexts that somebody may read, behind this one.
    pub(crate) fn names_after(&self, who: &Who, after: &str) -> Vec<String> {
        let rights = &self.options.rights;
        let mut len = 0;
        self.logs
            .names_after(after)
            .filter(|name| who.may(Right::Read, name, rights))
            .take_while(|name| {
                len += name.len() + NAME_OVERHEAD;
                len < NAMES_LEN_MAX
            })
            .map(str::to_owned)
            .collect()
    }

    /// A client is gone: what its watchers said of themselves goes, too.
    pub(crate) fn strike(&mut self, epoch: Epoch, client: ClientId) {
        let live = self.logs.get(epoch).and_then(|log| log.live.as_ref());
        if let Some(live) = live {
            live.bell.strike_all(client);
        }
    }

    /// Some clients that had a context open were not answered, and may come back.
    pub(crate) fn release_for_now(&mut self, epoch: Epoch, append: bool, count: usize) {
        let idle_since = Instant::now() + COMING_BACK;
        self.let_go(epoch, append, count, Some(idle_since));
    }

    /// A client is done with a context that it had open so often, or gone: whoever sleeps
    /// there looks up, because it may have died before it rang.
    pub(crate) fn release(&mut self, epoch: Epoch, append: bool, count: usize) {
        // Readers that come and go keep nothing alive.
        self.let_go(epoch, append, count, append.then(Instant::now));
    }

    fn let_go(&mut self, epoch: Epoch, append: bool, count: usize, idle_since: Option<Instant>) {
        self.logs.change(epoch, |log| {
            if let Some(live) = &log.live {
                live.bell.ring_all();
            }
            log.attached_count = log.attached_count.saturating_sub(count);
            if append {
                log.appender_count = log.appender_count.saturating_sub(count);
            }
            log.idle_since = idle_since.map_or(log.idle_since, |since| log.idle_since.max(since));
            if log.attached_count == 0 {
                log.asleep();
            }
        });
        if append || self.logs.get(epoch).is_some_and(Log::may_leave) {
            self.close_later(epoch);
        }
        let is_last = |log: &Log| append && log.appender_count == 0;
        if self.logs.get(epoch).is_some_and(is_last) {
            self.archive(epoch, |epoch, marks| Order::Leave { epoch, marks });
        }
    }
}

/// Gets a context ready for one more client; the bell is the client's.
fn attach(log: &mut Log, instance: &Instance, append: bool) -> Result<OwnedFd, Refusal> {
    if append {
        log.check_usable()?;
    }
    let mut prepare = || {
        log.awake(instance)?;
        if log.state != State::Quarantined {
            log.follow(instance)?;
        }
        let live = log.live.as_ref().expect("awake");
        Ok(live.bell_fd.as_fd().try_clone_to_owned()?)
    };
    prepare().map_err(|error| {
        let refusal = failed(log, error);
        if log.attached_count == 0 {
            log.asleep();
        }
        refusal
    })
}

pub(crate) fn not_allowed(who: &Who, needed: Right) -> Refusal {
    Refusal::NotAllowed {
        uid: who.uid,
        right: needed.verb().into(),
    }
}

/// What a client is told of a context that could not be served, which is taken
/// out of use if it is damaged.
pub(crate) fn failed(log: &mut Log, error: MapError) -> Refusal {
    if let MapError::Corrupt(_) = error {
        log.quarantine(&error);
    }
    log.check_usable().err().unwrap_or_else(|| refusal(error))
}

/// What a client is told of a failure of the daemon's.
pub(crate) fn refusal(error: MapError) -> Refusal {
    match &error {
        MapError::Io(io) if is_out_of_memory(io) => Refusal::NoMemory,
        MapError::Corrupt(_) => Refusal::Quarantined(error.to_string()),
        _ => Refusal::Internal(error.to_string()),
    }
}

/// The same, of the files of a context.
pub(crate) fn disk_refusal(home: &Home, error: MapError) -> Refusal {
    match error {
        MapError::Io(error) => {
            let dir = home.dir.display();
            Refusal::Internal(format!("the context's files in {dir}: {error}"))
        }
        error => refusal(error),
    }
}

pub(crate) fn random_epoch() -> Result<Epoch, Refusal> {
    let mut epoch = Epoch([0; 16]);
    getrandom::fill(&mut epoch.0).map_err(|error| Refusal::Internal(error.to_string()))?;
    Ok(epoch)
}

pub(crate) fn now_ns() -> u64 {
    let elapsed = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    u64::try_from(elapsed.as_nanos()).unwrap_or(u64::MAX)
}
