//! The ways an append can take, and how to stop one on each of them.

mod path;
mod stage;

use std::time::Instant;

pub use self::path::Path;
pub use self::stage::{Scene, Stage, Survivors};
use super::course::Place;
use super::observed::Lateness;
use super::{Effort, Verdicts};
use crate::Programs;

/// Does something with a victim that is to stand at a place, for places of every path.
/// `case` says whether it stood there.
pub(super) fn everywhere(
    torture: &'static str,
    programs: Programs,
    effort: &Effort,
    args: &[&'static str],
    case: impl Fn(&mut Stage, Place, Option<&Lateness>, &mut Verdicts, &str) -> bool,
) -> Verdicts {
    let mut verdicts = Verdicts::new(torture, effort);
    // A suite has more to do at the same time than a machine can be on time for.
    let lateness = effort.is_all().then(Lateness::watched);
    let mut paths = Path::ALL.to_vec();
    // It takes a while to find out what that one consists of.
    paths.retain(|path| effort.is_all() || *path != Path::LargestPayload);
    for (path, of, effort) in effort.kinds(&paths, |path| format!("{path:?}")) {
        let began = Instant::now();
        let mut stage = Stage::set(programs, path, args);
        let places = stage.places(&effort);
        let has_time = |_: &&Place| effort.has_time();
        let mut tried = 0;
        for place in places.iter().take_while(has_time) {
            tried += 1;
            let name = format!("{of}, at {place:?} of {}", stage.length());
            verdicts.meet(&name, |verdicts| {
                case(&mut stage, *place, lateness.as_ref(), verdicts, &name)
            });
        }
        let not_met = verdicts.check_met(&of, tried);
        let seconds = began.elapsed().as_secs_f64();
        eprintln!(
            "{torture}: {of}: {} instructions, the log changes after {:?}: {tried} of {} places, {not_met} of them not met, in {seconds:.1} s",
            stage.length(),
            stage.changed_at(),
            places.len(),
        );
    }
    if let Some(lateness) = &lateness {
        lateness.tell(&mut verdicts);
    }
    verdicts
}
