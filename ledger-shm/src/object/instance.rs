//! Whose objects they are, and which context's.

use std::fmt;
use std::str::FromStr;

use crate::sys;

/// Who an instance belongs to and what it is called: the first half of every
/// object's name.
///
/// ```
/// use ledger_shm::object::Instance;
///
/// let instance = Instance::own("tests")?;
/// assert!(instance.is_own() && instance.may_open_by_name());
/// # Ok::<(), ledger_shm::object::InvalidInstance>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Instance {
    uid: u32,
    name: String,
}

/// A name that is not `[A-Za-z0-9_]{1,32}`.
///
/// ```
/// use ledger_shm::object::Instance;
///
/// let error = Instance::own("with-hyphen").unwrap_err();
/// assert_eq!(error.0, "with-hyphen");
/// ```
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("instance name {0:?} is not 1 to 32 of the characters A-Z, a-z, 0-9 and _")]
pub struct InvalidInstance(pub String);

impl Instance {
    /// The instance of this name that belongs to `uid`.
    ///
    /// # Errors
    ///
    /// [`InvalidInstance`] unless the name is `[A-Za-z0-9_]{1,32}`.
    ///
    /// ```
    /// # use ledger_shm::object::Instance;
    /// assert_eq!(Instance::new(1000, "tests")?.uid(), 1000);
    /// # Ok::<(), ledger_shm::object::InvalidInstance>(())
    /// ```
    pub fn new(uid: u32, name: &str) -> Result<Instance, InvalidInstance> {
        let valid = (1..=32).contains(&name.len())
            && name
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || byte == b'_');
        if !valid {
            return Err(InvalidInstance(name.to_owned()));
        }
        Ok(Instance {
            uid,
            name: name.to_owned(),
        })
    }

    /// The instance of this name that belongs to this process's effective uid.
    ///
    /// # Errors
    ///
    /// As [`Instance::new`].
    ///
    /// ```
    /// # use ledger_shm::object::Instance;
    /// assert_eq!(Instance::own("tests")?.name(), "tests");
    /// # Ok::<(), ledger_shm::object::InvalidInstance>(())
    /// ```
    pub fn own(name: &str) -> Result<Instance, InvalidInstance> {
        Instance::new(sys::own_uid(), name)
    }

    /// Whose it is.
    ///
    /// ```
    /// # use ledger_shm::object::Instance;
    /// assert_eq!(Instance::new(1000, "tests")?.uid(), 1000);
    /// # Ok::<(), ledger_shm::object::InvalidInstance>(())
    /// ```
    pub fn uid(&self) -> u32 {
        self.uid
    }

    /// Whether it belongs to this process's uid.
    ///
    /// ```
    /// # use ledger_shm::object::Instance;
    /// let own = Instance::own("tests")?;
    /// assert!(own.is_own());
    /// assert!(!Instance::new(own.uid() + 1, "tests")?.is_own());
    /// # Ok::<(), ledger_shm::object::InvalidInstance>(())
    /// ```
    pub fn is_own(&self) -> bool {
        self.uid == sys::own_uid()
    }

    /// Whether this process may open its objects by name: its owner and root.
    ///
    /// ```
    /// # use ledger_shm::object::Instance;
    /// assert!(Instance::own("tests")?.may_open_by_name());
    /// # Ok::<(), ledger_shm::object::InvalidInstance>(())
    /// ```
    pub fn may_open_by_name(&self) -> bool {
        self.is_own() || sys::own_uid() == 0
    }

    /// What it is called.
    ///
    /// ```
    /// # use ledger_shm::object::Instance;
    /// assert_eq!(Instance::own("tests")?.name(), "tests");
    /// # Ok::<(), ledger_shm::object::InvalidInstance>(())
    /// ```
    pub fn name(&self) -> &str {
        &self.name
    }
}

/// A context's epoch as it appears in names and cursors.
///
/// ```
/// use ledger_shm::object::Epoch;
///
/// let epoch: Epoch = "00112233445566778899aabbccddeeff".parse()?;
/// assert_eq!(epoch.0[15], 0xff);
/// # Ok::<(), std::num::ParseIntError>(())
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Epoch(pub [u8; 16]);

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", u128::from_be_bytes(self.0))
    }
}

impl fmt::Debug for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Epoch {
    type Err = std::num::ParseIntError;

    fn from_str(text: &str) -> Result<Epoch, Self::Err> {
        u128::from_str_radix(text, 16).map(|value| Epoch(value.to_be_bytes()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instance_names_are_checked() {
        for name in ["", "a-b", "a/b", "ä", "x".repeat(33).as_str()] {
            assert_eq!(
                Instance::new(1, name),
                Err(InvalidInstance(name.to_owned()))
            );
        }
    }

    #[test]
    fn an_instance_is_opened_by_its_owner_and_root() {
        let uid = sys::own_uid();
        let own = Instance::own("blue").expect("a valid name");
        let foreign = Instance::new(uid + 1, "blue").expect("a valid name");
        assert_eq!([own.uid(), foreign.uid()], [uid, uid + 1]);
        assert!(own.is_own() && own.may_open_by_name());
        assert!(!foreign.is_own());
        assert_eq!(foreign.may_open_by_name(), uid == 0);
    }

    #[test]
    fn an_epoch_reads_as_in_names() {
        let epoch: Epoch = "00112233445566778899aabbccddeeff".parse().expect("hex");
        assert_eq!(epoch.to_string(), "00112233445566778899aabbccddeeff");
        assert_eq!(format!("{epoch:?}"), epoch.to_string());
    }
}
