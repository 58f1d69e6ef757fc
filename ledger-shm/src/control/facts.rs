//! What is fixed when a context is created.

use crate::control::{InvalidName, Sizes};
use crate::entry::{LIMIT_MAX, Limits};
use crate::error::Corrupt;
use crate::format::NAME_LEN_MAX;
use crate::object::Epoch;

/// What is fixed when a context is created, in memory and in every file of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Facts {
    /// The context's name, already checked.
    pub name: String,
    /// Its random epoch.
    pub epoch: Epoch,
    /// What its entries may weigh.
    pub limits: Limits,
    /// What it says about its segments.
    pub sizes: Sizes,
    /// Other uids than the owner's may be given its segments for writing: then
    /// nobody reads them in place.
    pub has_foreign_writers: bool,
    /// Wall clock, nanoseconds since 1970.
    pub created_at_ns: u64,
}

/// The numbers among them, as headers hold them.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Words {
    pub(crate) created_at_ns: u64,
    pub(crate) payload_len_max: u64,
    pub(crate) metadata_len_max: u64,
    pub(crate) sizes: [u64; 4],
    pub(crate) foreign_writers: u32,
}

/// The bytes of a name that a header says there are, if a name can have as many.
pub(crate) fn check_name_len(len: u32) -> Result<usize, Corrupt> {
    match len as usize {
        len @ 0..=NAME_LEN_MAX => Ok(len),
        len => Err(Corrupt::new(
            "context name",
            len as u64,
            NAME_LEN_MAX as u64,
        )),
    }
}

impl Facts {
    pub(crate) fn words(&self) -> Words {
        let Sizes {
            first_len,
            spare_len_min,
            spare_len_max,
            window_len,
        } = self.sizes;
        let sizes = [first_len, spare_len_min, spare_len_max, window_len];
        Words {
            created_at_ns: self.created_at_ns,
            payload_len_max: self.limits.payload_len_max as u64,
            metadata_len_max: self.limits.metadata_len_max as u64,
            sizes: sizes.map(|len| len.unwrap_or(0)),
            foreign_writers: u32::from(self.has_foreign_writers),
        }
    }
}

impl Words {
    /// The facts, if they can be some.
    pub(crate) fn facts(self, epoch: Epoch, name: &[u8]) -> Result<Facts, Corrupt> {
        let name = InvalidName::check(name)
            .map_err(|_| Corrupt::new("context name", name.len() as u64, NAME_LEN_MAX as u64))?;
        let limit = |what, limit| match limit {
            limit if limit <= LIMIT_MAX as u64 => Ok(limit as usize),
            limit => Err(Corrupt::new(what, limit, LIMIT_MAX as u64)),
        };
        let [first_len, spare_len_min, spare_len_max, window_len] = self.sizes.map(Some);
        Ok(Facts {
            name: name.to_owned(),
            epoch,
            limits: Limits {
                payload_len_max: limit("payload limit", self.payload_len_max)?,
                metadata_len_max: limit("metadata limit", self.metadata_len_max)?,
            },
            sizes: Sizes {
                first_len,
                spare_len_min,
                spare_len_max,
                window_len,
            },
            has_foreign_writers: self.foreign_writers != 0,
            created_at_ns: self.created_at_ns,
        })
    }
}
