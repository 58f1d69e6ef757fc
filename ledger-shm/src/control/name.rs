//! What a context can be called.

use crate::format::NAME_LEN_MAX;

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
