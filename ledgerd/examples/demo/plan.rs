//! What is to be done: the command line, the same for every process.

use std::fmt;
use std::time::Duration;

use clap::{Parser, ValueEnum};
use ledger_shm::format::CONTROL_LEN;

/// Applications decided in total unless told otherwise: enough for a 99.9th
/// percentile, and far from filling a /dev/shm of 64 MiB.
const APPLICATIONS_DEFAULT: u32 = 600;
/// Bytes that the records of one application take in memory at most; they take
/// 14 KiB.
const APPLICATION_LEN_MAX: u64 = 16 << 10;
/// In how many segments the records of a run fit, if there is time to fetch
/// one after the other.
const SEGMENTS_PER_RUN: u64 = 4;
/// Applications that arrive over so long leave a quarter of a second for each of
/// these segments to be fetched.
const SLOWLY: Duration = Duration::from_secs(1);
/// Segments that are kept ready beside those in use.
const SPARES: u64 = 2;
const SEGMENT_LEN_MIN: u64 = 16 << 10;
/// No spare is larger than this part of an instance's budget.
const SPARES_PER_BUDGET: u64 = 16;
/// Bytes of each segment of the run that waits for a human.
pub const GATE_SEGMENT_LEN: u64 = 64 << 10;
/// What that run takes at most.
const GATE_LEN: u64 = 6 * GATE_SEGMENT_LEN;
/// The entry that `--drop-one-in` leaves out, of the first run.
const LEFT_OUT_SEQ: u64 = 5;

/// Decide loan applications with Converge engines, record every fact in a
/// shared-memory ledger, watch it live from a second process, read it again
/// from a third, and compare what they have seen.
#[derive(Debug, Parser)]
#[command(name = "demo", max_term_width = 100)]
pub struct Plan {
    /// Runs at once, each with a context and an engine of its own
    #[arg(long, value_name = "N", default_value_t = 8,
          value_parser = clap::value_parser!(u32).range(1..=999))]
    pub runs: u32,
    /// Applications in each run, one after the other [default: 600 divided by
    /// the runs, rounded down]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    applications: Option<u32>,
    /// Seconds over which applications arrive; 0 is all at once
    #[arg(long, value_name = "S", default_value = "2", value_parser = seconds,
          allow_negative_numbers = true)]
    pub seconds: Duration,
    /// Print every entry, not only those of one application in each run
    #[arg(long)]
    pub print_all: bool,
    /// What this process is; without it, the one that starts all others
    #[arg(long, hide = true)]
    pub role: Option<Role>,
    /// Which observer leaves out an entry, to see that this is noticed
    #[arg(long, hide = true, value_parser = ["watcher", "late"])]
    drop_one_in: Option<String>,
}

fn seconds(text: &str) -> Result<Duration, String> {
    const DAY: f64 = 86_400.0;
    match text.parse() {
        Ok(seconds @ 0.0..=DAY) => Ok(Duration::from_secs_f64(seconds)),
        _ => Err(format!("not a number from 0 to {DAY}")),
    }
}

/// What a process of the demo does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub enum Role {
    /// Owns the memory.
    Daemon,
    /// Decides applications and appends.
    Engines,
    /// Sees entries as they come.
    Watcher,
    /// Reads everything when it is over.
    Late,
    /// Asks a human, and is killed.
    Asking,
    /// Goes on where that one was killed.
    Resuming,
}

impl Role {
    /// The name as in the arguments.
    pub fn name(self) -> &'static str {
        match self {
            Role::Daemon => "daemon",
            Role::Engines => "engines",
            Role::Watcher => "watcher",
            Role::Late => "late",
            Role::Asking => "asking",
            Role::Resuming => "resuming",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Role::Late => "late joiner",
            Role::Asking => "asking engine",
            Role::Resuming => "resuming engine",
            role => role.name(),
        })
    }
}

/// The memory of an instance for one plan.
#[derive(Clone, Copy, Debug)]
pub struct Memory {
    pub segment_len: u64,
    /// What the contexts take at most.
    pub needed: u64,
    /// What they may take. Nothing is evicted, because it is never reached.
    pub budget: u64,
}

impl Plan {
    /// Applications in each run.
    pub fn applications(&self) -> u32 {
        self.applications
            .unwrap_or_else(|| (APPLICATIONS_DEFAULT / self.runs).max(1))
    }

    /// The contexts, one per run, in the order of their names.
    pub fn contexts(&self) -> impl Iterator<Item = String> {
        let width = self.runs.to_string().len();
        (1..=self.runs).map(move |run| format!("run-{run:0width$}"))
    }

    /// The number of an application, given its run and its place therein.
    pub fn number(&self, run: u32, index: u32) -> u64 {
        u64::from(run) * u64::from(self.applications()) + u64::from(index) + 1
    }

    /// The run id under which an application is recorded.
    pub fn run_id(&self, run: u32, index: u32) -> String {
        format!("loan-{}", self.number(run, index))
    }

    /// When an application arrives, from the start: evenly over all the time,
    /// the runs in turn.
    pub fn arrives_after(&self, run: u32, index: u32) -> Duration {
        let turn = f64::from(index) + f64::from(run) / f64::from(self.runs);
        self.seconds.mul_f64(turn / f64::from(self.applications()))
    }

    /// The one application that is printed of a run. The runs take turns, so
    /// that there is something to see all the time.
    pub fn printed(&self, run: u32) -> u32 {
        let index = u64::from(run) * u64::from(self.applications()) / u64::from(self.runs);
        u32::try_from(index).expect("less than the applications")
    }

    /// Whether an observer has to act as if it had not seen an entry.
    pub fn is_left_out(&self, role: Role, context: &str, seq: u64) -> bool {
        self.drop_one_in.as_deref() == Some(role.name())
            && seq == LEFT_OUT_SEQ
            && self.contexts().next().as_deref() == Some(context)
    }

    /// The memory that this plan takes.
    ///
    /// The recorders never wait for room, and must not drop anything. While
    /// applications arrive slowly, the next segment is there long before it is
    /// needed. Otherwise they may be decided faster than memory can be fetched,
    /// so that a run gets all of its own beforehand.
    pub fn memory(&self) -> Memory {
        let run_len = u64::from(self.applications()) * APPLICATION_LEN_MAX;
        let segments = if self.seconds < SLOWLY {
            1
        } else {
            SEGMENTS_PER_RUN
        };
        let segment_len = (run_len / segments).max(SEGMENT_LEN_MIN);
        let context_len = CONTROL_LEN as u64 + (segments + SPARES) * segment_len;
        let needed = u64::from(self.runs) * context_len + GATE_LEN;
        Memory {
            segment_len,
            needed,
            budget: needed.max(SPARES_PER_BUDGET * segment_len),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(arguments: &str) -> Plan {
        Plan::parse_from(format!("demo {arguments}").split_whitespace())
    }

    #[test]
    fn defaults_leave_half_of_64_mib_free_for_any_number_of_runs() {
        for runs in 1..=200 {
            for seconds in [0, 2] {
                let plan = plan(&format!("--runs {runs} --seconds {seconds}"));
                assert!(plan.memory().needed <= 32 << 20, "{runs}");
            }
        }
    }

    #[test]
    fn printed_applications_take_turns() {
        let plan = plan("--runs 4 --applications 100 --seconds 8");
        let turns: Vec<_> = (0..4)
            .map(|run| plan.arrives_after(run, plan.printed(run)).as_secs())
            .collect();
        assert_eq!(turns, [0, 2, 4, 6]);
    }

    #[test]
    fn contexts_sort_by_their_numbers() {
        let names: Vec<_> = plan("--runs 12").contexts().collect();
        assert!(names.is_sorted());
        assert_eq!((names[0].as_str(), names.len()), ("run-01", 12));
    }
}
