//! Records a run of a Converge engine:
//! `cargo run --features converge --example record -- loan-7 "4200 euros"`.
//!
//! Needs a daemon: `ledgerd run`. `ledgerd timeline loan-7` shows what happened,
//! `ledgerd gates --open` what waits for a human; the example `resume` goes on.

use std::error::Error;

use converge_core::{ContextKey, ContextState, RunResult};
use ledger_client::Ledger;
use ledger_client::converge::Recorder;
use pollster::block_on;

mod plan;

fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args().skip(1);
    let mut arg = || args.next().ok_or("usage: record CONTEXT WISH");
    let (scope, wish) = (arg()?, arg()?);

    let mut context = ContextState::new();
    context.add_input(ContextKey::Seeds, "wish", wish)?;
    let mut engine = plan::engine();

    let ledger = Ledger::connect()?;
    let recorded = Recorder::new(&ledger, scope).suggestors(["planner"]);
    match block_on(recorded.run_with_hitl(&mut engine, context)) {
        RunResult::Complete(result) => println!("{} cycles", result?.cycles),
        // A human may take days. Nothing of this process is needed meanwhile.
        RunResult::HitlPause(pause) => println!("{}?", pause.request.summary),
    }
    Ok(())
}
