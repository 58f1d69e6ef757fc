//! The story: who starts when, and what they must agree on.

use std::io::{self, Write};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use ledger_client::Ledger;
use ledger_shm::object;
use nix::sys::signal::Signal;

use crate::Failure;
use crate::crew::{Crew, Stopped, signals};
use crate::gate;
use crate::instance::Instance;
use crate::message::Gated;
use crate::plan::{Plan, Role};
use crate::summary::{Summary, mib};
use crate::watcher::LIVE_HEADING;

/// Nothing here takes as long, beside the applications' own time.
const PATIENCE: Duration = Duration::from_secs(30);
/// No application takes as long.
const PATIENCE_PER_APPLICATION: Duration = Duration::from_millis(10);

/// Runs the demo. Whatever happens, nothing is left behind.
pub fn coordinate(plan: &Plan) -> ExitCode {
    match run(plan) {
        Ok(summary) => match summary.faults().as_slice() {
            [] => ExitCode::SUCCESS,
            _ => ExitCode::FAILURE,
        },
        // Nobody reads what it prints: nothing to say, and nothing was shown.
        Err(Stopped::Failed(failure)) if is_closed_pipe(&failure) => {
            ExitCode::from(128 + Signal::SIGPIPE as u8)
        }
        Err(Stopped::Failed(failure)) => {
            eprintln!("demo: {failure}");
            ExitCode::FAILURE
        }
        Err(Stopped::Signal(signal)) => {
            eprintln!("demo: stopped by {signal}");
            // As shells have it.
            ExitCode::from(128 + u8::try_from(signal as i32).unwrap_or(0))
        }
    }
}

fn is_closed_pipe(failure: &Failure) -> bool {
    failure
        .downcast_ref::<io::Error>()
        .is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}

fn run(plan: &Plan) -> Result<Summary, Stopped> {
    // Before there is any thread, so that all inherit it.
    signals().thread_block().map_err(io::Error::from)?;
    check_room(plan)?;
    let start = Instant::now();
    let instance = Instance::create()?;
    print_plan(plan, instance.name())?;
    let applications = plan.runs.saturating_mul(plan.applications());
    let patience = PATIENCE_PER_APPLICATION
        .saturating_mul(applications)
        .saturating_add(PATIENCE)
        .saturating_add(plan.seconds);
    // Dropped before the instance: nobody uses its memory when that is freed.
    let mut crew = Crew::new(&instance, patience)?;

    crew.start(Role::Daemon)?;
    crew.wait_until_ready(Role::Daemon)?;
    // The engines make their contexts and wait for those who watch.
    crew.start(Role::Engines)?;
    crew.wait_until_ready(Role::Engines)?;
    crew.start(Role::Watcher)?;
    crew.wait_until_ready(Role::Watcher)?;
    crew.go(Role::Engines)?;
    let engines = crew.report(Role::Engines)?;
    crew.start(Role::Late)?;
    let late = crew.report(Role::Late)?;
    let watcher = crew.report(Role::Watcher)?;
    let gated = play_gate(&mut crew, &instance)?;
    crew.end(Role::Daemon)?;

    let summary = Summary {
        engines,
        watcher,
        late,
        gated,
        elapsed: start.elapsed(),
    };
    summary.print(&mut io::stdout())?;
    Ok(summary)
}

/// A run asks, its process is killed, a human answers, and another process ends the run.
fn play_gate(crew: &mut Crew<'_>, instance: &Instance) -> Result<Gated, Stopped> {
    let ledger = Ledger::builder()
        .instance(instance.name())
        .runtime_dir(instance.runtime_dir())
        .connect()?;
    gate::make(&ledger)?;
    crew.start(Role::Asking)?;
    let asked = crew.asked()?;
    let mut out = io::stdout();
    writeln!(
        out,
        "\nA run in context {:?} asks a human to approve",
        gate::CONTEXT
    )?;
    writeln!(out, "  {asked}")?;
    crew.kill(Role::Asking)?;
    writeln!(
        out,
        "Its process is killed. The answer goes into the ledger."
    )?;
    gate::answer(&ledger)?;
    crew.start(Role::Resuming)?;
    crew.gated(Role::Resuming)
}

fn print_plan(plan: &Plan, instance: &str) -> io::Result<()> {
    let mut out = io::stdout();
    let arriving = if plan.seconds.is_zero() {
        "all at once".to_owned()
    } else {
        format!("arriving over {:.1} s", plan.seconds.as_secs_f64())
    };
    writeln!(
        out,
        "instance {instance}: {} runs of {} loan applications each, {arriving}",
        plan.runs,
        plan.applications(),
    )?;
    let what = if plan.print_all {
        "every entry"
    } else {
        "one application of each run (--print-all for every entry)"
    };
    writeln!(out, "Live from the watcher, {what}:\n\n{LIVE_HEADING}")
}

fn check_room(plan: &Plan) -> Result<(), Failure> {
    let (needed, free) = (plan.memory().needed, object::free_len()?);
    if needed <= free {
        return Ok(());
    }
    Err(format!(
        "this takes up to {} of {}, and {} are free; try fewer --runs or --applications",
        mib(needed),
        object::MEMORY_DIR,
        mib(free)
    )
    .into())
}
