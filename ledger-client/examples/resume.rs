//! Answers what a run waits for, and brings it to its end:
//! `cargo run --features converge --example resume -- loan-7 approve`.
//!
//! Needs a daemon, and a run that the example `record` has begun.

use std::error::Error;

use converge_core::RunResult;
use converge_core::gates::GateDecision;
use ledger_client::Ledger;
use ledger_client::converge::{PayloadRegistry, Recorder, decide, rebuild};
use pollster::block_on;

mod plan;

fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args().skip(1);
    let mut arg = || args.next().ok_or("usage: resume CONTEXT approve|reject");
    let (scope, verdict) = (arg()?, arg()?);

    let ledger = Ledger::connect()?;
    let context = ledger.context(&scope).open()?;
    let registry = PayloadRegistry::with_pack_payloads();
    // In a program of its own this is all that a human's answer takes.
    for gate in rebuild(&context, &registry)?.open_gates {
        let gate_id = gate.gate_id.clone().into();
        let decision = match &*verdict {
            "approve" => GateDecision::approve(gate_id, "example"),
            "reject" => GateDecision::reject(gate_id, "example", None),
            other => return Err(format!("{other}: approve or reject").into()),
        };
        decide(&context, &gate, &decision)?;
    }

    let rebuilt = rebuild(&context, &registry)?;
    for missing in &rebuilt.missing {
        eprintln!("{missing}");
    }
    let recorder = Recorder::continuing(&ledger, &rebuilt).suggestors(["planner"]);
    match block_on(rebuilt.resume(&recorder, &mut plan::engine()))? {
        RunResult::Complete(result) => {
            let result = result?;
            println!(
                "{:?}: {}",
                result.stop_reason,
                result.integrity.merkle_root.to_hex()
            );
        }
        RunResult::HitlPause(pause) => println!("{}?", pause.request.summary),
    }
    Ok(())
}
