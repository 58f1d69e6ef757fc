//! The control object: what the daemon tells everybody about one context.
//!
//! Only the daemon writes. With this object and the segments' headers, any tool
//! of the same user can read a context whose daemon is dead.

use std::mem::offset_of;

use rkyv::{Archive, Deserialize, Serialize};

use crate::entry::{LIMIT_MAX, Limits};
use crate::error::Corrupt;
use crate::format::{
    ARCHIVE_FORMAT, CONTROL_LEN, CONTROL_MAGIC, ControlHeader, FORMAT_VERSION, NAME_LEN_MAX,
    SEGMENT_LEN_MAX, SEGMENT_LEN_MIN, STATE_DROPPED, STATE_IDLE, STATE_OPEN, STATE_QUARANTINED,
};
use crate::object::{Epoch, Instance, MapError, Name, Object};
use crate::region::Region;
use crate::slot::PART_MAX;
use crate::sync::{AtomicU64, Label, Ordering};

/// The name of a context: 1 to 1024 bytes of UTF-8.
///
/// ```
/// use ledger_shm::control::InvalidName;
///
/// assert_eq!(InvalidName::check(b""), Err(InvalidName::Empty));
/// assert_eq!(InvalidName::check(b"loan-7"), Ok("loan-7"));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum InvalidName {
    /// No name at all.
    #[error("the context name is empty; it needs 1 to {NAME_LEN_MAX} bytes of UTF-8")]
    Empty,
    /// Longer than [`NAME_LEN_MAX`].
    #[error("the context name has {len} bytes, the limit is {NAME_LEN_MAX}; use a shorter one")]
    TooLong {
        /// What was given, in bytes.
        len: usize,
    },
    /// Bytes that are no text.
    #[error("the context name is not UTF-8 from byte {valid_up_to} on; write it as text")]
    NotUtf8 {
        /// How many bytes are fine.
        valid_up_to: usize,
    },
}

impl InvalidName {
    /// The name in these bytes, if they are one.
    ///
    /// # Errors
    ///
    /// What is wrong with them.
    ///
    /// ```
    /// use ledger_shm::control::InvalidName;
    ///
    /// let outcome = InvalidName::check(b"loan-\xff");
    /// assert_eq!(outcome, Err(InvalidName::NotUtf8 { valid_up_to: 5 }));
    /// ```
    pub fn check(bytes: &[u8]) -> Result<&str, InvalidName> {
        match bytes.len() {
            0 => return Err(InvalidName::Empty),
            len if len > NAME_LEN_MAX => return Err(InvalidName::TooLong { len }),
            _ => {}
        }
        std::str::from_utf8(bytes).map_err(|error| InvalidName::NotUtf8 {
            valid_up_to: error.valid_up_to(),
        })
    }
}

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
        }
    }

    fn word(self) -> u64 {
        match self {
            State::Open => STATE_OPEN,
            State::Idle => STATE_IDLE,
            State::Quarantined => STATE_QUARANTINED,
            State::Dropped => STATE_DROPPED,
        }
    }
}

/// How large the segments of one context are, in bytes. What is `None`, or 0, is
/// up to the daemon. It rounds to whole pages, and makes spares smaller where
/// memory is short: at most 1/16 of its budget each, and a quarter of the share
/// of a context when all that are in use divide half of the budget.
///
/// ```
/// use ledger_shm::control::Sizes;
///
/// let sizes = Sizes {
///     first_len: Some(256 << 10),
///     window_len: Some(64 << 20),
///     ..Sizes::default()
/// };
/// assert!(sizes.check().is_ok());
/// ```
#[derive(Archive, Serialize, Deserialize, Clone, Copy, Debug, Default, PartialEq, Eq)]
#[rkyv(derive(Debug))]
pub struct Sizes {
    /// Its first segment, and the one in which it goes on after it was closed:
    /// 8 KiB to 64 MiB. Creating the context is refused if the budget has no room
    /// for it.
    pub first_len: Option<u64>,
    /// Its first spare, from 8 KiB; later ones double.
    pub spare_len_min: Option<u64>,
    /// No spare exceeds this, unless one entry needs more.
    pub spare_len_max: Option<u64>,
    /// Sealed segments that it keeps in memory; older entries are evicted. Within
    /// it nothing is evicted when others need memory.
    pub window_len: Option<u64>,
}

/// A first segment is committed while the client waits, and all others with it:
/// this many bytes take some ten milliseconds.
///
/// ```
/// use ledger_shm::control::{FIRST_LEN_MAX, Sizes};
///
/// let sizes = Sizes { first_len: Some(FIRST_LEN_MAX as u64 + 1), ..Sizes::default() };
/// assert!(sizes.check().is_err());
/// ```
pub const FIRST_LEN_MAX: usize = 64 << 20;

/// A segment cannot be that large, or that small.
///
/// ```
/// use ledger_shm::control::Sizes;
///
/// let sizes = Sizes { first_len: Some(100), ..Sizes::default() };
/// let invalid = sizes.check().unwrap_err();
/// assert_eq!((invalid.given, invalid.min), (100, 8192));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what} of {given} bytes is not possible; choose from {min} to {max}")]
#[non_exhaustive]
pub struct InvalidSizes {
    /// Which one.
    pub what: &'static str,
    /// What was given, in bytes.
    pub given: u64,
    /// The least that is possible.
    pub min: u64,
    /// The most that is possible.
    pub max: u64,
}

impl Sizes {
    /// Whether segments can be so large, and, where both are given, the first
    /// spare is not larger than the largest.
    ///
    /// # Errors
    ///
    /// The first one that is not possible.
    ///
    /// ```
    /// # use ledger_shm::control::Sizes;
    /// assert!(Sizes::default().check().is_ok());
    /// ```
    pub fn check(&self) -> Result<(), InvalidSizes> {
        let largest = self.spare_len_max.filter(|len| *len != 0);
        let longest = SEGMENT_LEN_MAX as u64;
        for (what, len, max) in [
            ("a first segment", self.first_len, FIRST_LEN_MAX as u64),
            ("a largest spare", self.spare_len_max, longest),
            (
                "a first spare",
                self.spare_len_min,
                largest.unwrap_or(longest),
            ),
        ] {
            let min = SEGMENT_LEN_MIN as u64;
            match len {
                Some(given) if given != 0 && !(min..=max).contains(&given) => {
                    return Err(InvalidSizes {
                        what,
                        given,
                        min,
                        max,
                    });
                }
                _ => {}
            }
        }
        Ok(())
    }

    /// These sizes, and `others` where they say nothing.
    ///
    /// ```
    /// # use ledger_shm::control::Sizes;
    /// let all = Sizes { first_len: Some(16 << 10), window_len: Some(1 << 20), ..Sizes::default() };
    /// let own = Sizes { first_len: Some(64 << 10), ..Sizes::default() };
    /// assert_eq!(own.or(all), Sizes { first_len: Some(64 << 10), ..all });
    /// ```
    pub fn or(self, others: Sizes) -> Sizes {
        let or = |own: Option<u64>, other: Option<u64>| {
            let is_said = |len: &u64| *len != 0;
            own.filter(is_said).or(other.filter(is_said))
        };
        Sizes {
            first_len: or(self.first_len, others.first_len),
            spare_len_min: or(self.spare_len_min, others.spare_len_min),
            spare_len_max: or(self.spare_len_max, others.spare_len_max),
            window_len: or(self.window_len, others.window_len),
        }
    }
}

/// A mapped control object.
#[derive(Debug)]
pub struct Control {
    region: Region,
    epoch: Epoch,
    name: String,
    limits: Limits,
    sizes: Sizes,
    has_foreign_writers: bool,
    created_at_ns: u64,
}

/// What is fixed when a context is created.
#[derive(Clone, Debug)]
pub struct NewControl<'a> {
    /// The context's name, already checked.
    pub name: &'a str,
    /// Its random epoch.
    pub epoch: Epoch,
    /// What its entries may weigh.
    pub limits: Limits,
    /// What it says about its segments.
    pub sizes: Sizes,
    /// Other uids than the owner's may be given its segments for writing.
    pub has_foreign_writers: bool,
    /// Wall clock, nanoseconds since 1970.
    pub created_at_ns: u64,
    /// The daemon's current generation.
    pub generation: u64,
}

impl Control {
    /// Creates a control object, everything but its magic.
    ///
    /// # Errors
    ///
    /// The kernel's; nothing is left behind.
    pub fn create(instance: &Instance, new: &NewControl<'_>) -> Result<Control, MapError> {
        let object = Object::create(instance, Name::Control(new.epoch), CONTROL_LEN)?;
        Ok(Control::write(object.map(true)?, new))
    }

    fn write(region: Region, new: &NewControl<'_>) -> Control {
        let set = |at, value: u64| region.word(at).store(value, Ordering::Relaxed);
        set(
            offset_of!(ControlHeader, version),
            u64::from(FORMAT_VERSION) | u64::from(ARCHIVE_FORMAT) << 32,
        );
        set_bytes(&region, offset_of!(ControlHeader, epoch), &new.epoch.0);
        set(offset_of!(ControlHeader, created_at_ns), new.created_at_ns);
        set(
            offset_of!(ControlHeader, payload_len_max),
            new.limits.payload_len_max as u64,
        );
        set(
            offset_of!(ControlHeader, metadata_len_max),
            new.limits.metadata_len_max as u64,
        );
        for (at, len) in [
            (offset_of!(ControlHeader, first_len), new.sizes.first_len),
            (
                offset_of!(ControlHeader, spare_len_min),
                new.sizes.spare_len_min,
            ),
            (
                offset_of!(ControlHeader, spare_len_max),
                new.sizes.spare_len_max,
            ),
            (offset_of!(ControlHeader, window_len), new.sizes.window_len),
        ] {
            set(at, len.unwrap_or(0));
        }
        set(
            offset_of!(ControlHeader, name_len),
            new.name.len() as u64 | u64::from(new.has_foreign_writers) << 32,
        );
        set(offset_of!(ControlHeader, state_word), STATE_OPEN);
        set(offset_of!(ControlHeader, next_part_word), 1);
        set(offset_of!(ControlHeader, generation_word), new.generation);
        set_bytes(
            &region,
            offset_of!(ControlHeader, name),
            new.name.as_bytes(),
        );
        Control {
            region,
            epoch: new.epoch,
            name: new.name.to_owned(),
            limits: new.limits,
            sizes: new.sizes,
            has_foreign_writers: new.has_foreign_writers,
            created_at_ns: new.created_at_ns,
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
        let has_foreign_writers = name_len >> 32 != 0;
        let name_len = name_len as u32 as usize;
        let wrong_name = Corrupt::new("context name", name_len as u64, NAME_LEN_MAX as u64);
        if name_len > NAME_LEN_MAX {
            return Err(wrong_name.into());
        }
        let mut name = vec![0; name_len];
        region.copy_to(offset_of!(ControlHeader, name), &mut name);
        let name = InvalidName::check(&name)
            .map_err(|_| wrong_name)?
            .to_owned();
        let limit = |what, at| match word(at) {
            limit if limit <= LIMIT_MAX as u64 => Ok(limit as usize),
            limit => Err(Corrupt::new(what, limit, LIMIT_MAX as u64)),
        };
        let limits = Limits {
            payload_len_max: limit("payload limit", offset_of!(ControlHeader, payload_len_max))?,
            metadata_len_max: limit(
                "metadata limit",
                offset_of!(ControlHeader, metadata_len_max),
            )?,
        };
        let size = |at| Some(word(at));
        let sizes = Sizes {
            first_len: size(offset_of!(ControlHeader, first_len)),
            spare_len_min: size(offset_of!(ControlHeader, spare_len_min)),
            spare_len_max: size(offset_of!(ControlHeader, spare_len_max)),
            window_len: size(offset_of!(ControlHeader, window_len)),
        };
        let created_at_ns = word(offset_of!(ControlHeader, created_at_ns));
        Ok(Control {
            region,
            epoch,
            name,
            limits,
            sizes,
            has_foreign_writers,
            created_at_ns,
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

    /// The context's epoch.
    pub fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// The context's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What its entries may weigh.
    pub fn limits(&self) -> Limits {
        self.limits
    }

    /// What was said about its segments when it was created.
    pub fn sizes(&self) -> Sizes {
        self.sizes
    }

    /// Whether other uids than the owner's may write its segments: then nobody
    /// reads them in place.
    pub fn has_foreign_writers(&self) -> bool {
        self.has_foreign_writers
    }

    /// Wall clock at creation, nanoseconds since 1970.
    pub fn created_at_ns(&self) -> u64 {
        self.created_at_ns
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
    pub fn create(&self, new: &NewControl<'_>) -> Control {
        Control::write(self.0.clone(), new)
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
