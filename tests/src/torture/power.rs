//! A loss of power at every operation on the disk, and at those of the recovery from it.
//!
//! A daemon has everything to do that changes its archive, on a file system that remembers
//! what was done to it ([`Recorded`](crate::power::Recorded)). Of any moment of that, some
//! of what may be there after a loss of power is put somewhere else, without the memory,
//! and another daemon is started on it.
//!
//! Reading order: `story`, what the daemon has to do; `diary`, what clients were told
//! meanwhile; `survivor`, what the other one has to have of it.

mod diary;
mod story;
mod survivor;

use std::collections::HashSet;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Instant;

use self::diary::Told;
use self::story::{History, Story};
use super::promises::TRIED;
use super::{Effort, Verdicts};
use crate::Programs;
use crate::power::{Loss, Trace};

/// Images of one story: in the next one threads take other turns.
const IMAGES_PER_STORY: usize = 5000;
/// Images, if there is time for all; and at least how many of them differ then.
const IMAGES: usize = 140_000;
const DIFFERENT: usize = 100_000;
/// Times that the power is lost in a row, at most.
const DEEP: usize = 3;

/// Loses power.
pub fn power(programs: Programs, effort: &Effort) -> Verdicts {
    let began = Instant::now();
    let mut losses = Losses {
        programs,
        rng: effort.rng("power"),
        seen: HashSet::new(),
        verdicts: Verdicts::new("power", effort),
    };
    let mut left = IMAGES.min(effort.cases_max);
    while left > 0 && effort.has_time() {
        let story = Story::told(programs, &mut losses.rng);
        let operations = story.trace.ops.len();
        losses.verdicts.largest("operations", operations as u64);
        // Each moment as often as the others, and early.
        let moments = effort.cases(operations + 1, "moments");
        let moments = moments.iter().cycle().take(left.min(IMAGES_PER_STORY));
        for at in moments.copied() {
            if effort.has_time() {
                let name = format!("after {at} of {operations} operations");
                let so_far = Course {
                    story: &story,
                    trace: &story.trace,
                    told: story.diary.told_at(at),
                    history: &story.entries,
                };
                losses.lose(so_far, at, 1, &name);
            }
        }
        left = left.saturating_sub(IMAGES_PER_STORY);
    }
    let mut verdicts = losses.verdicts;
    verdicts.fact("different_images", losses.seen.len());
    if effort.is_all() && effort.ends.is_none() {
        let different = losses.seen.len();
        verdicts.check(TRIED, different >= DIFFERENT, || {
            format!("{different} images differ, not {DIFFERENT}")
        });
    }
    eprintln!(
        "power: lost {} times, {} images differ, of up to {} operations, in {:.1} s",
        verdicts.counted("images"),
        losses.seen.len(),
        verdicts.counted("operations"),
        began.elapsed().as_secs_f64()
    );
    verdicts
}

/// What was done until power is lost.
struct Course<'a> {
    story: &'a Story,
    /// To the disk, since the last loss.
    trace: &'a Trace,
    told: Told,
    /// What there may be of it.
    history: &'a History,
}

struct Losses {
    programs: Programs,
    rng: fastrand::Rng,
    /// Images that there were, by their hash.
    seen: HashSet<u64>,
    verdicts: Verdicts,
}

impl Losses {
    /// Loses power when so many operations have been done, and perhaps once more while a
    /// daemon recovers from that.
    fn lose(&mut self, so_far: Course<'_>, at: usize, times: usize, case: &str) {
        let Course {
            story,
            trace,
            told,
            history,
        } = so_far;
        let loss = Loss::drawn(&mut self.rng);
        let image = trace.image(at, loss, &mut self.rng);
        let case = format!("{case}, {loss:?}");
        let mut hasher = DefaultHasher::new();
        image.hash(&mut hasher);
        self.seen.insert(hasher.finish());
        self.verdicts.count("images", 1);
        let programs = self.programs;
        let outcome = self.verdicts.tried(&case, |verdicts| {
            survivor::check(programs, story, &image, &told, history, verdicts, &case)
        });
        if let Some(survived) = outcome
            && times < DEEP
            && self.rng.bool()
        {
            let all = survived.trace.ops.len();
            let at = self.rng.usize(0..=all);
            let so_far = Course {
                story,
                trace: &survived.trace,
                told: survived.diary.told_at(at).and(&told),
                history: &survived.history,
            };
            self.lose(
                so_far,
                at,
                times + 1,
                &format!("{case}, then {at} of {all}"),
            );
        }
    }
}
