//! The end of the story, for eyes.

use std::io::{self, Write};
use std::time::Duration;

use crate::latency::{Percentiles, duration};
use crate::loan::Verdict;
use crate::message::{Gated, Report};
use crate::plan::Role;

#[derive(Debug)]
pub struct Summary {
    pub engines: Report,
    pub watcher: Report,
    pub late: Report,
    pub gated: Gated,
    pub elapsed: Duration,
}

impl Summary {
    fn reports(&self) -> [(Role, &Report); 3] {
        [
            (Role::Engines, &self.engines),
            (Role::Watcher, &self.watcher),
            (Role::Late, &self.late),
        ]
    }

    /// Everything that is not as it should be.
    pub fn faults(&self) -> Vec<String> {
        let mut faults = Vec::new();
        let written = &self.engines.seen;
        for (role, report) in self.reports() {
            let seen = &report.seen;
            faults.extend(seen.gaps.iter().map(|gap| format!("{role}: {gap}")));
            if seen.digest != written.digest {
                faults.push(format!(
                    "the digest of the {role} disagrees: {} of {} entries",
                    seen.entries, written.entries
                ));
            }
        }
        let Gated {
            merkle_root,
            uninterrupted,
            ..
        } = &self.gated;
        if merkle_root != uninterrupted {
            faults.push(format!(
                "the killed run came to {merkle_root} and not to {uninterrupted}"
            ));
        }
        if let Some(decided) = &self.engines.decided
            && decided.dropped > 0
        {
            faults.push(format!(
                "the engines could not record {} entries: {}",
                decided.dropped,
                decided.dropped_why.as_deref().unwrap_or("not appended")
            ));
        }
        faults
    }

    pub fn print(&self, out: &mut impl Write) -> io::Result<()> {
        writeln!(
            out,
            "\n{:<12} {:>8} {:>9} {:>6} {:>9}  SHA-256 over all records",
            "process", "entries", "contexts", "dense", "took"
        )?;
        for (role, report) in self.reports() {
            let seen = &report.seen;
            writeln!(
                out,
                "{:<12} {:>8} {:>9} {:>6} {:>9}  {}",
                role,
                seen.entries,
                seen.contexts,
                if seen.gaps.is_empty() { "yes" } else { "NO" },
                duration(report.elapsed_ns),
                seen.digest
            )?;
        }

        writeln!(
            out,
            "\n{:<12} {:>8} {:>9} {:>9} {:>9} {:>9} {:>9}",
            "latency", "count", "p50", "p90", "p99", "p99.9", "max"
        )?;
        let rows = [
            (
                "append",
                &self.engines,
                "one append, in the engines' process",
            ),
            (
                "watch",
                &self.watcher,
                "from a record's own time until the watcher has it",
            ),
        ];
        for (name, report, what) in rows {
            if let Some(latency) = &report.latency {
                print_latency(out, name, latency, what)?;
            }
        }

        if let Some(decided) = &self.engines.decided {
            let count = |verdict| decided.verdicts.get(&verdict).copied().unwrap_or(0);
            writeln!(
                out,
                "\n{} applications: {} approved, {} referred to a human, {} declined; {} of payload in {:.1} s",
                decided.verdicts.values().sum::<u64>(),
                count(Verdict::Approved),
                count(Verdict::Referred),
                count(Verdict::Declined),
                mib(self.engines.seen.payload_len),
                self.elapsed.as_secs_f64(),
            )?;
        }
        let Gated {
            attempt,
            merkle_root,
            uninterrupted,
        } = &self.gated;
        writeln!(
            out,
            "\n{:<32}  Merkle root over all facts",
            "run with a gate"
        )?;
        let ended = format!("killed, ended by attempt {attempt}");
        writeln!(out, "{ended:<32}  {merkle_root}")?;
        writeln!(out, "{:<32}  {uninterrupted}", "never interrupted")?;
        match self.faults().as_slice() {
            [] => writeln!(
                out,
                "ok: all digests and roots agree, every sequence is dense, nothing was dropped"
            ),
            faults => faults
                .iter()
                .try_for_each(|fault| writeln!(out, "FAILED: {fault}")),
        }
    }
}

fn print_latency(
    out: &mut impl Write,
    name: &str,
    latency: &Percentiles,
    what: &str,
) -> io::Result<()> {
    let Percentiles {
        count,
        p50,
        p90,
        p99,
        p999,
        max,
    } = *latency;
    write!(out, "{name:<12} {count:>8}")?;
    for value in [p50, p90, p99, p999, max] {
        write!(out, " {:>9}", duration(value))?;
    }
    writeln!(out, "  {what}")
}

/// Bytes, in MiB.
pub fn mib(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20))
}
