//! The control object: what the daemon tells everybody about one context.
//!
//! Only the daemon writes. With this object and the segments' headers, any tool
//! of the same user can read a context whose daemon is dead.

mod facts;
mod name;
mod sizes;

use std::mem::offset_of;

use crate::entry::Limits;
use crate::error::Corrupt;
use crate::format::{
    ARCHIVE_FORMAT, CONTROL_LEN, CONTROL_MAGIC, ControlHeader, FORMAT_VERSION, STATE_ARCHIVED,
    STATE_DROPPED, STATE_IDLE, STATE_LOADING, STATE_OPEN, STATE_QUARANTINED,
};
use crate::object::{Epoch, Instance, MapError, Name, Object};
use crate::region::Region;
use crate::slot::PART_MAX;
use crate::sync::{AtomicU64, Label, Ordering};

pub use self::facts::Facts;
pub(crate) use self::facts::Words;
#[cfg(not(loom))]
pub(crate) use self::facts::check_name_len;
pub use self::name::InvalidName;
pub use self::sizes::{FIRST_LEN_MAX, InvalidSizes, Sizes};

/// Whether and how a context can be used.
///
/// ```
/// # ledger_tests::example(|ledger| {
/// use ledger_shm::control::State;
///
/// let context = ledger.context("loan-7").open_or_create()?;
/// assert_eq!(context.state()?, State::Open);
/// # Ok(()) });
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum State {
    /// Appends are welcome.
    Open,
    /// Closed for idleness; an appender that opens it has it continued.
    Idle,
    /// Damaged: readable as far as it validates, never written again.
    Quarantined,
    /// Gone for good.
    Dropped,
    /// In files only; comes back to memory when it is opened.
    Archived,
    /// Closed, and about to go on behind what a snapshot has more.
    Loading,
}

impl State {
    /// Its name, in lower case.
    ///
    /// ```
    /// assert_eq!(ledger_shm::control::State::Quarantined.as_str(), "quarantined");
    /// ```
    pub fn as_str(self) -> &'static str {
        match self {
            State::Open => "open",
            State::Idle => "idle",
            State::Quarantined => "quarantined",
            State::Dropped => "dropped",
            State::Archived => "archived",
            State::Loading => "loading",
        }
    }

    /// Whether this memory is not the context's any more: it is gone, or comes back in
    /// other memory.
    ///
    /// ```
    /// use ledger_shm::control::State;
    ///
    /// assert!(State::Dropped.is_gone() && State::Archived.is_gone());
    /// assert!(!State::Idle.is_gone());
    /// ```
    pub fn is_gone(self) -> bool {
        matches!(self, State::Dropped | State::Archived)
    }

    fn word(self) -> u64 {
        match self {
            State::Open => STATE_OPEN,
            State::Idle => STATE_IDLE,
            State::Quarantined => STATE_QUARANTINED,
            State::Dropped => STATE_DROPPED,
            State::Archived => STATE_ARCHIVED,
            State::Loading => STATE_LOADING,
        }
    }
}

/// Where the control object says how large segments are.
const SIZES_AT: [usize; 4] = [
    offset_of!(ControlHeader, first_len),
    offset_of!(ControlHeader, spare_len_min),
    offset_of!(ControlHeader, spare_len_max),
    offset_of!(ControlHeader, window_len),
];

/// A mapped control object.
#[derive(Debug)]
pub struct Control {
    region: Region,
    facts: Facts,
    home: Option<Epoch>,
}

impl Control {
    /// Creates a control object, everything but its magic, in a daemon's
    /// generation. Files of the context, if there are to be any, are in the
    /// directory that `home` names.
    ///
    /// # Errors
    ///
    /// The kernel's; nothing is left behind.
    pub fn create(
        instance: &Instance,
        facts: Facts,
        home: Option<Epoch>,
        generation: u64,
    ) -> Result<Control, MapError> {
        let object = Object::create(instance, Name::Control(facts.epoch), CONTROL_LEN)?;
        Ok(Control::write(object.map(true)?, facts, home, generation))
    }

    fn write(region: Region, facts: Facts, home: Option<Epoch>, generation: u64) -> Control {
        let set = |at, value: u64| region.word(at).store(value, Ordering::Relaxed);
        let words = facts.words();
        set(
            offset_of!(ControlHeader, version),
            u64::from(FORMAT_VERSION) | u64::from(ARCHIVE_FORMAT) << 32,
        );
        set_bytes(&region, offset_of!(ControlHeader, epoch), &facts.epoch.0);
        set(
            offset_of!(ControlHeader, created_at_ns),
            words.created_at_ns,
        );
        set(
            offset_of!(ControlHeader, payload_len_max),
            words.payload_len_max,
        );
        set(
            offset_of!(ControlHeader, metadata_len_max),
            words.metadata_len_max,
        );
        for (at, len) in SIZES_AT.into_iter().zip(words.sizes) {
            set(at, len);
        }
        set(
            offset_of!(ControlHeader, name_len),
            facts.name.len() as u64 | u64::from(words.foreign_writers) << 32,
        );
        set(offset_of!(ControlHeader, state_word), STATE_OPEN);
        set(offset_of!(ControlHeader, next_part_word), 1);
        set(offset_of!(ControlHeader, generation_word), generation);
        let name_at = offset_of!(ControlHeader, name);
        set_bytes(&region, name_at, facts.name.as_bytes());
        let home_at = offset_of!(ControlHeader, home);
        set_bytes(&region, home_at, &home.map_or([0; 16], |home| home.0));
        Control {
            region,
            facts,
            home,
        }
    }

    /// Writes the magic: from here on the context exists.
    pub fn finish(&self) {
        // ORDER(create): after everything else in this object and its first part.
        self.word(offset_of!(ControlHeader, magic_word))
            .store(CONTROL_MAGIC, Label::Create.at(Ordering::Release));
    }

    /// Maps a control object and validates what is fixed in it.
    ///
    /// # Errors
    ///
    /// The kernel's, or what is wrong with it.
    pub fn open(instance: &Instance, epoch: Epoch, writable: bool) -> Result<Control, MapError> {
        let object = Object::open(instance, Name::Control(epoch), writable)?;
        Control::map(&object, epoch, writable)
    }

    /// As [`open`](Self::open), of an object that is open already.
    ///
    /// # Errors
    ///
    /// As there.
    pub fn map(object: &Object, epoch: Epoch, writable: bool) -> Result<Control, MapError> {
        Control::read(object.map(writable)?, epoch)
    }

    /// As [`open`](Self::open), for who looks once: it stays as it is now.
    ///
    /// # Errors
    ///
    /// As there.
    #[cfg(not(loom))]
    pub fn look(instance: &Instance, epoch: Epoch) -> Result<Control, MapError> {
        let object = Object::open(instance, Name::Control(epoch), false)?;
        Corrupt::check("control length", object.len() as u64, CONTROL_LEN as u64)?;
        Control::read(object.copy(CONTROL_LEN)?, epoch)
    }

    fn read(region: Region, epoch: Epoch) -> Result<Control, MapError> {
        let word = |at| region.word(at).load(Ordering::Relaxed);
        let magic = word(offset_of!(ControlHeader, magic_word));
        // ORDER(create): the magic is written last.
        Label::Create.fence(Ordering::Acquire);
        if magic == 0 {
            return Err(MapError::Unfinished);
        }
        Corrupt::check("control magic", magic, CONTROL_MAGIC)?;
        MapError::check_formats(word(offset_of!(ControlHeader, version)))?;
        Corrupt::check("control length", region.len() as u64, CONTROL_LEN as u64)?;
        let name_len = word(offset_of!(ControlHeader, name_len));
        let mut name = vec![0; facts::check_name_len(name_len as u32)?];
        region.copy_to(offset_of!(ControlHeader, name), &mut name);
        let words = Words {
            created_at_ns: word(offset_of!(ControlHeader, created_at_ns)),
            payload_len_max: word(offset_of!(ControlHeader, payload_len_max)),
            metadata_len_max: word(offset_of!(ControlHeader, metadata_len_max)),
            sizes: SIZES_AT.map(word),
            foreign_writers: (name_len >> 32) as u32,
        };
        let facts = words.facts(epoch, &name)?;
        let halves = [0, 8].map(|at| word(offset_of!(ControlHeader, home) + at).to_le_bytes());
        let mut home = [0; 16];
        home.as_chunks_mut::<8>().0.copy_from_slice(&halves);
        Ok(Control {
            region,
            facts,
            home: (home != [0; 16]).then_some(Epoch(home)),
        })
    }

    fn word(&self, at: usize) -> &AtomicU64 {
        self.region.word(at)
    }

    fn get(&self, at: usize) -> u64 {
        let value = self.word(at).load(Ordering::Relaxed);
        // ORDER(control): the mapping may be read-only; a fence, as in `look`.
        Label::Control.fence(Ordering::Acquire);
        value
    }

    fn set(&self, at: usize, value: u64) {
        // ORDER(control): after whatever the value tells of.
        self.word(at)
            .store(value, Label::Control.at(Ordering::Release));
    }

    /// What was fixed when the context was created.
    pub fn facts(&self) -> &Facts {
        &self.facts
    }

    /// What the directory of its files is called; none if it is kept in memory
    /// only.
    pub fn home(&self) -> Option<Epoch> {
        self.home
    }

    /// The context's epoch.
    pub fn epoch(&self) -> Epoch {
        self.facts.epoch
    }

    /// The context's name.
    pub fn name(&self) -> &str {
        &self.facts.name
    }

    /// What its entries may weigh.
    pub fn limits(&self) -> Limits {
        self.facts.limits
    }

    /// Whether it can be used.
    ///
    /// # Errors
    ///
    /// [`Corrupt`] on a word that no daemon writes.
    pub fn state(&self) -> Result<State, Corrupt> {
        match self.get(offset_of!(ControlHeader, state_word)) {
            STATE_OPEN => Ok(State::Open),
            STATE_IDLE => Ok(State::Idle),
            STATE_QUARANTINED => Ok(State::Quarantined),
            STATE_DROPPED => Ok(State::Dropped),
            STATE_ARCHIVED => Ok(State::Archived),
            STATE_LOADING => Ok(State::Loading),
            other => Err(Corrupt::new("context state", other, STATE_OPEN)),
        }
    }

    /// Says whether it can be used.
    pub fn set_state(&self, state: State) {
        self.set(offset_of!(ControlHeader, state_word), state.word());
    }

    /// The oldest part in memory.
    pub fn first_part(&self) -> u64 {
        self.get(offset_of!(ControlHeader, first_part_word))
    }

    /// Moves the oldest part in memory, before what was older is unlinked.
    pub fn set_first_part(&self, part: u64) {
        self.set(offset_of!(ControlHeader, first_part_word), part);
    }

    /// A part number that was never used and never will be again.
    ///
    /// # Errors
    ///
    /// [`Corrupt`] on a number that no context comes to.
    pub fn take_part_number(&self) -> Result<u64, Corrupt> {
        let part = self.get(offset_of!(ControlHeader, next_part_word));
        if !(1..PART_MAX).contains(&part) {
            return Err(Corrupt::new("next part number", part, PART_MAX));
        }
        self.set(offset_of!(ControlHeader, next_part_word), part + 1);
        Ok(part)
    }

    /// Changes whenever a daemon takes the context over.
    pub fn generation(&self) -> u64 {
        self.get(offset_of!(ControlHeader, generation_word))
    }

    /// Tells everybody that another daemon has taken over.
    pub fn set_generation(&self, generation: u64) {
        self.set(offset_of!(ControlHeader, generation_word), generation);
    }
}

/// How far a context has come into its files.
#[cfg(not(loom))]
impl Control {
    /// Of a context that is in files only: no object, and nobody else has it.
    ///
    /// # Errors
    ///
    /// The kernel's.
    pub fn in_files(
        facts: Facts,
        home: Epoch,
        archived_seq: u64,
        durable_seq: u64,
    ) -> Result<Control, MapError> {
        let control = Control::write(Region::private(CONTROL_LEN)?, facts, Some(home), 0);
        control.set_state(State::Archived);
        control.set_archived(archived_seq, durable_seq);
        Ok(control)
    }

    /// Every entry up to this one is in a file, though it may be lost with the
    /// host's power.
    pub fn archived_seq(&self) -> u64 {
        self.get(offset_of!(ControlHeader, archived_seq_word))
    }

    /// Every entry up to this one is on stable storage.
    pub fn durable_seq(&self) -> u64 {
        self.get(DURABLE_AT)
    }

    /// Says how far it has come, and wakes who waits for that.
    pub fn set_archived(&self, archived_seq: u64, durable_seq: u64) {
        self.set(offset_of!(ControlHeader, archived_seq_word), archived_seq);
        if self.get(DURABLE_AT) != durable_seq {
            self.set(DURABLE_AT, durable_seq);
            crate::sys::futex_wake(self.region.word32(DURABLE_AT), i32::MAX);
        }
    }

    /// What changes when more is on stable storage: the lower half of the seq.
    pub(crate) fn durable_word(&self) -> &std::sync::atomic::AtomicU32 {
        self.region.word32(DURABLE_AT)
    }

    /// Sleeps until more than `durable_seq` is on stable storage, or for `timeout`;
    /// sometimes less.
    pub fn wait_durable(&self, durable_seq: u64, timeout: std::time::Duration) {
        // The lower half: whoever misses 2^32 entries waits once more. A word that
        // may only be read can be slept at (futex(2)).
        crate::sys::futex_wait(self.durable_word(), durable_seq as u32, timeout);
    }
}

#[cfg(not(loom))]
const DURABLE_AT: usize = offset_of!(ControlHeader, durable_seq_word);

/// The memory of one control object in a model.
#[cfg(loom)]
#[derive(Clone, Debug)]
pub struct Memory(Region);

#[cfg(loom)]
impl Memory {
    /// Zeroed memory, for a name of at most eight bytes.
    pub fn zeroed() -> Memory {
        let name_end = offset_of!(ControlHeader, name) + size_of::<u64>();
        let words: Vec<usize> = (0..name_end).step_by(size_of::<u64>()).collect();
        Memory(Region::new(CONTROL_LEN, &words, &[]))
    }

    /// As [`Control::create`].
    pub fn create(&self, facts: Facts, generation: u64) -> Control {
        Control::write(self.0.clone(), facts, None, generation)
    }

    /// As [`Control::open`].
    ///
    /// # Errors
    ///
    /// What is wrong with it.
    pub fn open(&self, epoch: Epoch) -> Result<Control, MapError> {
        Control::read(self.0.clone(), epoch)
    }
}

fn set_bytes(region: &Region, at: usize, bytes: &[u8]) {
    for (index, chunk) in bytes.chunks(8).enumerate() {
        let mut word = [0; 8];
        word[..chunk.len()].copy_from_slice(chunk);
        region
            .word(at + index * 8)
            .store(u64::from_le_bytes(word), Ordering::Relaxed);
    }
}
