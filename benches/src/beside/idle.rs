//! What a topic costs that nobody uses.

use std::time::{Duration, Instant};

use crate::instance::Instance;
use crate::peers::{Missing, Place, Wait};
use crate::report::kib;

use super::Piece;
use super::machine::why;
use super::player::{PATIENCE, Part, Player};
use super::stage::Stage;

/// Who has topics of their own.
const PEERS: [(&str, &str); 4] = [
    ("ledger", "a context that nobody has open any more"),
    (
        "aeron",
        "a publication with terms of 64 KiB, the least there are",
    ),
    (
        "iceoryx2",
        "a service with a publisher of 64 B, as everywhere here",
    ),
    ("redis", "a stream with one entry"),
];

/// Instead of the minute after which a context without appenders gives up what it has ready.
const SOON: Duration = Duration::from_millis(10);

/// What the kernel counts of memory that is not given back when it is needed elsewhere.
const KINDS: [&str; 4] = ["Shmem", "AnonPages", "Slab", "PageTables"];

/// When nothing is being prepared or given back any more, or as it is after a while.
fn used_kib() -> u64 {
    let look = || KINDS.iter().map(|kind| kib("/proc/meminfo", kind)).sum();
    let mut before: u64 = look();
    for _ in 0..25 {
        std::thread::sleep(Duration::from_millis(200));
        let now = look();
        if now.abs_diff(before) < 512 {
            return now;
        }
        before = now;
    }
    before
}

/// Waits until a daemon has nobody's contexts open, which is soon.
fn await_idle(instance: &Instance) -> Result<(), Missing> {
    let (ledger, start) = (instance.connect(), Instant::now());
    while ledger.status().expect("it answers").attached > 0 {
        if start.elapsed() > PATIENCE {
            return Err(Missing::Failed("contexts stay open".to_owned()));
        }
        std::thread::yield_now();
    }
    Ok(())
}

/// A table of its own kind: memory of the whole machine, for so many that one process makes
/// and keeps.
pub fn text(stage: &Stage) -> Vec<Piece> {
    let count = if stage.is_quick() { 500 } else { 2000 };
    let mut text = format!(
        "Memory of the machine, with all that runs beside, for each of {count} topics that one \
         process has made:\n\n| | | KiB |\n|---|---|---|\n"
    );
    for (peer, what) in PEERS {
        let place = Place::of("idle".to_owned(), 64, 0, Wait::Later);
        let Some(mut place) = stage.placed(peer, &place) else {
            continue;
        };
        let ours = (peer == "ledger").then(|| Instance::start(|it| it.idle_close_after = SOON));
        if let Some(instance) = &ours {
            place.address = instance.address();
        }
        let each = || {
            let mut player = Player::start(peer, Part::Idler, &place)?;
            let before = used_kib();
            player.tell(&format!("make {count}"))?;
            player.hear("made")?;
            if let Some(instance) = &ours {
                await_idle(instance)?;
            }
            let taken = used_kib().saturating_sub(before);
            Ok::<_, Missing>(format!("{:.1}", taken as f64 / count as f64))
        };
        let each = each().unwrap_or_else(|missing| why(&missing).to_owned());
        text += &format!("| {peer} | {what} | {each} |\n");
    }
    vec![Piece::Text(text)]
}
