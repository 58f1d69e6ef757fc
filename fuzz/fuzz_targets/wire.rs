//! Packets of arbitrary bytes: refused, or the same packet when sent again.
#![no_main]

use ledger_client::wire::{Hello, Reply, Request};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|packet: &[u8]| {
    if let Some(hello) = Hello::decode(packet) {
        assert_eq!(hello.encode(), packet);
    }
    if let Some(request) = Request::decode(packet) {
        assert_eq!(Request::decode(&request.encode()), Some(request));
    }
    if let Some(reply) = Reply::decode(packet) {
        assert_eq!(Reply::decode(&reply.encode()), Some(reply));
    }
});
