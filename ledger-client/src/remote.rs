//! What a daemon on another host, or one whose memory may not be mapped, is asked.

pub mod proto;
