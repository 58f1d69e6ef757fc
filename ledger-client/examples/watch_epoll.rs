//! Watches contexts in an event loop of one's own:
//! `cargo run --example watch_epoll -- loan-7 loan-8`.
//!
//! Needs a daemon: `ledgerd run`. Level-triggered here; an edge-triggered loop
//! looks the same, because it reads until there is nothing.

use std::error::Error;

use ledger_client::{Ledger, Watcher};
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};

fn main() -> Result<(), Box<dyn Error>> {
    let ledger = Ledger::connect()?;
    let mut watchers = Vec::new();
    for name in std::env::args().skip(1) {
        watchers.push(ledger.context(&name).open_or_create()?.watch(1));
    }
    let epoll = Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?;
    for (watcher, number) in watchers.iter().zip(0..) {
        epoll.add(
            watcher.event_fd()?,
            EpollEvent::new(EpollFlags::EPOLLIN, number),
        )?;
    }
    let mut events = [EpollEvent::empty(); 64];
    loop {
        let count = epoll.wait(&mut events, EpollTimeout::NONE)?;
        for event in &events[..count] {
            let number = usize::try_from(event.data())?;
            print_all(&mut watchers[number])?;
        }
    }
}

/// Until nothing is left: that is what resets the descriptor.
fn print_all(watcher: &mut Watcher) -> Result<(), Box<dyn Error>> {
    while let Some(entry) = watcher.try_next()? {
        println!("{} {}", entry.seq(), entry.key());
    }
    Ok(())
}
