//! What a process does between two markers, instruction by instruction, and how to stop
//! another one at the same place.

use std::collections::HashMap;
use std::ops::RangeInclusive;

use super::Effort;
use crate::traced::Traced;

/// Occurrences of one instruction that are all tried; of later ones, in long loops, some.
const OCCURRENCES_ALL: usize = 4;
/// How many of those.
const IN_LOOPS: usize = 64;
/// How often a repeated instruction has been run already when it is stopped, at most.
const REPEATED_MAX: usize = 4000;

/// What a process does.
#[derive(Debug, Default)]
pub struct Course {
    /// Where each of its instructions lies, in the order in which they are run.
    instructions: Vec<u64>,
    /// Those that repeat themselves, and how often.
    repeated: HashMap<usize, usize>,
}

/// A place to stop at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Before this instruction.
    pub instruction: usize,
    /// How often it has been run already, if it is one that repeats itself.
    pub repeated: usize,
}

impl Course {
    /// Runs it once from where it stands to the next marker, one instruction at a time.
    /// `step` is called before each, with its number, and with whether it has been run yet:
    /// it may run it itself.
    pub fn look(traced: &Traced, mut step: impl FnMut(&Traced, usize) -> bool) -> Course {
        let mut course = Course::default();
        while !traced.is_about_to_mark() {
            let number = course.instructions.len();
            course.instructions.push(traced.at());
            if step(traced, number) {
                continue;
            }
            match traced.step_over_repeated() {
                Some(times) => drop(course.repeated.insert(number, times as usize)),
                None => traced.step(1),
            }
        }
        course
    }

    /// How many instructions it has.
    pub fn length(&self) -> usize {
        self.instructions.len()
    }

    /// The instruction of this number, and how often it has been come to by then.
    pub fn nth(&self, number: usize) -> (u64, usize) {
        let at = self.instructions[number];
        let until = &self.instructions[..=number];
        (at, until.iter().filter(|other| **other == at).count())
    }

    /// Where to stop from an instruction on, drawn if there are more than wanted.
    pub fn places(&self, first: usize, effort: &Effort, purpose: &str) -> Vec<Place> {
        let mut rng = effort.rng(purpose);
        let mut places = Vec::new();
        let mut in_loops = Vec::new();
        let mut occurrences: HashMap<u64, usize> = HashMap::new();
        for (instruction, at) in self.instructions.iter().enumerate().skip(first) {
            let count = occurrences.entry(*at).or_default();
            *count += 1;
            let place = |repeated| Place {
                instruction,
                repeated,
            };
            if *count > OCCURRENCES_ALL {
                in_loops.push(place(0));
                continue;
            }
            places.push(place(0));
            let times = self.repeated.get(&instruction).copied().unwrap_or(0);
            if times > 1 {
                places.push(place(rng.usize(1..times.min(REPEATED_MAX))));
            }
        }
        rng.shuffle(&mut in_loops);
        places.extend(in_loops.into_iter().take(IN_LOOPS));
        let cases = effort.cases(places.len(), purpose);
        cases.into_iter().map(|case| places[case]).collect()
    }

    /// Runs a process that stands at the first of these to the last: by a breakpoint as far
    /// as that is shorter, then step by step. Whether it is there, and nowhere else, as it
    /// is if it takes another way this time.
    pub fn run(&self, traced: &Traced, numbers: RangeInclusive<usize>) -> bool {
        let target = self.instructions[*numbers.end()];
        let instructions = &self.instructions[numbers];
        let last = instructions.len() - 1;
        let mut occurrences: HashMap<u64, usize> = HashMap::new();
        // It stands at the first already.
        let costs = instructions.iter().enumerate().skip(1).map(|(n, at)| {
            let count = occurrences.entry(*at).or_default();
            *count += 1;
            (*count + last - n, n, *count)
        });
        let shortest = costs.min().filter(|(cost, ..)| *cost < last);
        let from = match shortest {
            Some((_, n, count)) if traced.run_to(instructions[n], count) => n,
            // It is through.
            Some(_) => return false,
            None => 0,
        };
        traced.step(last - from);
        traced.at() == target
    }
}
