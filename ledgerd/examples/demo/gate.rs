//! A run that waits for a human, whose process is killed meanwhile, and that another
//! process brings to its end.

use converge_core::gates::GateDecision;
use converge_core::{ConvergeResult, RunResult};
use ledger_client::converge::history::gates;
use ledger_client::converge::{Recorder, decide, rebuild};
use ledger_client::{Ledger, Sizes};
use pollster::block_on;

use crate::Failure;
use crate::loan;
use crate::message::{Gated, Message, end_with_the_coordinator};
use crate::plan::GATE_SEGMENT_LEN;

/// The context of this one run.
pub const CONTEXT: &str = "gate";
/// Whose application a human looks at.
const NUMBER: u64 = 7;
const HUMAN: &str = "kari";

/// Makes the context, which needs less than those of many runs.
pub fn make(ledger: &Ledger) -> Result<(), Failure> {
    let sizes = Sizes {
        first_len: Some(GATE_SEGMENT_LEN),
        spare_len_min: Some(GATE_SEGMENT_LEN),
        spare_len_max: Some(GATE_SEGMENT_LEN),
        ..Sizes::default()
    };
    ledger.context(CONTEXT).sizes(sizes).open_or_create()?;
    Ok(())
}

/// The process that asks. It is killed while it waits for the answer.
pub fn ask() -> Result<(), Failure> {
    let ledger = Ledger::connect()?;
    let recorder = Recorder::new(&ledger, CONTEXT)
        .suggestors(loan::SUGGESTORS)
        .policy(&loan::policy());
    let mut engine = loan::engine();
    engine.set_hitl_policy(loan::policy());
    let context = loan::context(loan::application(NUMBER))?;
    match block_on(recorder.run_with_hitl(&mut engine, context)) {
        RunResult::HitlPause(pause) => {
            Message::Asked(pause.request.summary.clone()).say()?;
            end_with_the_coordinator()?;
            loop {
                std::thread::park();
            }
        }
        RunResult::Complete(result) => {
            let cycles = result?.cycles;
            Err(format!("nobody was asked in {cycles} cycles").into())
        }
    }
}

/// The human, who knows nothing but the ledger: approves whatever is open.
pub fn answer(ledger: &Ledger) -> Result<(), Failure> {
    let context = ledger.context(CONTEXT).open()?;
    let found = gates(&context)?;
    let gate = found.iter().find(|gate| gate.is_open);
    let gate = gate.ok_or("nobody is asked anything")?;
    let decision = GateDecision::approve(gate.gate_id.clone().into(), HUMAN);
    decide(&context, gate, &decision)?;
    Ok(())
}

/// The process that goes on where the other one was killed.
pub fn resume() -> Result<(), Failure> {
    let ledger = Ledger::connect()?;
    let context = ledger.context(CONTEXT).open()?;
    let rebuilt = rebuild(&context, &loan::registry())?;
    if let Some(missing) = rebuilt.missing.first() {
        return Err(missing.to_string().into());
    }
    let recorder = Recorder::continuing(&ledger, &rebuilt).suggestors(loan::SUGGESTORS);
    let mut engine = loan::engine();
    engine.set_hitl_policy(loan::policy());
    let attempt = rebuilt.attempt + 1;
    let result = block_on(rebuilt.resume(&recorder, &mut engine))?;
    let RunResult::Complete(result) = result else {
        return Err("it asks again".into());
    };
    Message::Gated(Gated {
        attempt,
        merkle_root: root(&result?),
        uninterrupted: uninterrupted()?,
    })
    .say()?;
    Ok(())
}

/// What the same run comes to that is neither recorded nor killed.
fn uninterrupted() -> Result<String, Failure> {
    let mut engine = loan::engine();
    engine.set_hitl_policy(loan::policy());
    let context = loan::context(loan::application(NUMBER))?;
    let mut result = block_on(engine.run_with_hitl(context));
    loop {
        match result {
            RunResult::Complete(result) => return Ok(root(&result?)),
            RunResult::HitlPause(pause) => {
                let decision = GateDecision::approve(pause.request.gate_id.clone(), HUMAN);
                result = block_on(engine.resume(*pause, decision));
            }
        }
    }
}

fn root(result: &ConvergeResult) -> String {
    result.integrity.merkle_root.to_hex()
}
