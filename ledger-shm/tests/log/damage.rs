//! Words that nobody writes who keeps to the protocol: each is named, and none ends the
//! process that finds it.

mod headers;
mod records;
mod slots;
