//! The messages of `proto/context.proto`, and who asks with them.
//!
//! ```
//! use ledger_client::remote::proto::AppendRequest;
//!
//! let request = AppendRequest { context_id: "loan-7".into(), ..AppendRequest::default() };
//! assert_eq!(request.received_lamport, 0);
//! ```

#![allow(missing_docs, reason = "generated, from a file that says it")]

include!("proto/generated.rs");

/// The file itself, for those who ask a server what it understands.
///
/// ```
/// use ledger_client::remote::proto::FILE_DESCRIPTOR_SET;
///
/// let described = String::from_utf8_lossy(FILE_DESCRIPTOR_SET);
/// assert!(described.contains("ContextService"));
/// ```
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!("proto/descriptors.bin");
