//! A process that decides one loan application with an engine, recorded, and that can be
//! killed in the middle of it.
//!
//! `engine CONTEXT NUMBER [OPTION…]` begins a run, or with `--resume` goes on with the one
//! that was started last, if one was. It prints what became of it, as JSON.
//!
//! | option | does |
//! |---|---|
//! | `--resume` | goes on from what is recorded |
//! | `--gate` | a human has to approve the decision |
//! | `--approve`, `--reject` | what the human says; without one of them it stops to ask |
//! | `--die-after N` | kills this process right after its Nth entry |
//! | `--fork` | has a fork's child decide it first, then in context `child` with a recorder of its own |

use std::error::Error;

use converge_core::gates::GateDecision;
use converge_core::{ContextState, Engine, RunResult};
use ledger_client::Ledger;
use ledger_client::converge::{RebuildError, Rebuilt, Recorder, rebuild};
use nix::sys::signal::{Signal, raise};
use nix::sys::wait::waitpid;
use nix::unistd::ForkResult;
use pollster::block_on;
use serde_json::{Value, json};

#[allow(dead_code, reason = "used by the demo")]
#[path = "../../ledgerd/examples/demo/loan.rs"]
mod loan;

struct Options {
    scope: String,
    number: u64,
    is_resumed: bool,
    is_gated: bool,
    /// The human's answer.
    approves: Option<bool>,
    die_after: Option<u64>,
    is_forked: bool,
}

fn options(arguments: &[String]) -> Result<Options, Box<dyn Error>> {
    let [scope, number, options @ ..] = arguments else {
        return Err("which context, and which application?".into());
    };
    let has = |option: &str| options.iter().any(|given| given == option);
    let mut after = options.iter().skip_while(|given| *given != "--die-after");
    Ok(Options {
        scope: scope.clone(),
        number: number.parse()?,
        is_resumed: has("--resume"),
        is_gated: has("--gate"),
        approves: (has("--approve") || has("--reject")).then(|| has("--approve")),
        die_after: after.nth(1).map(|count| count.parse()).transpose()?,
        is_forked: has("--fork"),
    })
}

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let options = options(&arguments)?;
    let ledger = Ledger::connect()?;
    let said = match last_run(&ledger, &options)? {
        Some(rebuilt) if rebuilt.has_ended => of_context(&rebuilt.context),
        Some(rebuilt) => {
            let recorder = Recorder::continuing(&ledger, &rebuilt);
            let (recorder, mut engine) = prepared(recorder, &options);
            let result = block_on(rebuilt.resume(&recorder, &mut engine))?;
            answered(&recorder, &mut engine, result, &options)?
        }
        None => {
            let recorder = Recorder::new(&ledger, &*options.scope);
            if options.is_forked {
                fork(&recorder, &options)?;
            }
            let (recorder, mut engine) = prepared(recorder, &options);
            let context = loan::context(loan::application(options.number))?;
            let result = block_on(recorder.run_with_hitl(&mut engine, context));
            answered(&recorder, &mut engine, result, &options)?
        }
    };
    println!("{said}");
    Ok(())
}

/// Waits for the child, which says what becomes of what it records.
#[allow(unsafe_code, reason = "fork(2)")]
fn fork(recorder: &Recorder, options: &Options) -> Result<(), Box<dyn Error>> {
    // SAFETY: the threads of this process hold no lock that the child needs: nothing is
    // recorded yet, so that the recorder's thread has nothing to say, and the one that
    // provides memory sleeps until somebody wants some.
    match unsafe { nix::unistd::fork() }? {
        ForkResult::Parent { child } => {
            waitpid(child, None)?;
            Ok(())
        }
        ForkResult::Child => {
            println!("{}", decided(recorder, options)?);
            let ledger = Ledger::connect()?;
            println!("{}", decided(&Recorder::new(&ledger, "child"), options)?);
            std::process::exit(0);
        }
    }
}

fn decided(recorder: &Recorder, options: &Options) -> Result<Value, Box<dyn Error>> {
    let context = loan::context(loan::application(options.number))?;
    let result = block_on(recorder.run(&mut loan::engine(), context))?;
    let mut said = of_context(&result.context);
    said["recorded"] = recorder.recorded().into();
    said["dropped"] = recorder.dropped().into();
    said["trouble"] = recorder.trouble().into();
    Ok(said)
}

fn last_run(ledger: &Ledger, options: &Options) -> Result<Option<Rebuilt>, Box<dyn Error>> {
    if !options.is_resumed {
        return Ok(None);
    }
    let context = ledger.context(&options.scope).open()?;
    match rebuild(&context, &loan::registry()) {
        Ok(rebuilt) => Ok(Some(rebuilt)),
        // It was killed before it had begun.
        Err(RebuildError::NotStarted { .. }) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

fn prepared(recorder: Recorder, options: &Options) -> (Recorder, Engine) {
    let mut engine = loan::engine();
    if options.is_gated {
        engine.set_hitl_policy(loan::policy());
    }
    let mut left = options.die_after;
    let recorder = recorder
        .suggestors(loan::SUGGESTORS)
        .observed_by(move |tried| {
            assert!(tried.outcome.is_ok(), "{:?}", tried.outcome);
            left = left.map(|left| left - 1);
            if left == Some(0) {
                raise(Signal::SIGKILL).expect("it is our own process");
            }
        });
    (recorder, engine)
}

fn answered(
    recorder: &Recorder,
    engine: &mut Engine,
    mut result: RunResult,
    options: &Options,
) -> Result<Value, Box<dyn Error>> {
    let mut asked = 0;
    loop {
        match result {
            RunResult::Complete(result) => {
                let mut said = of_context(&result?.context);
                said["asked"] = asked.into();
                said["recorded"] = recorder.recorded().into();
                return Ok(said);
            }
            RunResult::HitlPause(pause) => {
                asked += 1;
                let gate = pause.request.gate_id.clone();
                let decision = match options.approves {
                    Some(true) => GateDecision::approve(gate, "kari"),
                    Some(false) => GateDecision::reject(gate, "kari", Some("too much".into())),
                    None => return Ok(json!({"asked": asked, "recorded": recorder.recorded()})),
                };
                result = block_on(recorder.resume(engine, *pause, decision));
            }
        }
    }
}

fn of_context(context: &ContextState) -> Value {
    let decision = loan::decision_in(context).map(|decision| &decision.reason);
    let root = context.snapshot().merkle_root().to_hex();
    json!({"asked": 0, "recorded": 0, "merkle_root": root, "decision": decision})
}
