//! A loan application that converges to a decision.
//!
//! Six suggestors look at one applicant. None calls another: each waits until
//! the facts it needs are in the context, then adds exactly one of its own.
//!
//! ```text
//! cycle 0       1          2        3      4
//! application ─┬─ identity ── fraud ─┬─ risk ── decision
//!              ├─ credit ────────────┤
//!              └─ income ────────────┘
//! ```
//!
//! Cycle 5 finds nothing left to do, and that is convergence. Everything,
//! down to the last byte of every fact, is a function of the application's
//! number: there is no clock, no network, no model and no chance.

use std::ops::Range;

use async_trait::async_trait;
use converge_core::gates::TimeoutPolicy;
use converge_core::{
    AgentEffect, Context, ContextKey, ContextState, ConvergeError, ConvergeResult, Engine,
    EngineHitlPolicy, FactPayload, ProposedFact, Suggestor,
};
use ledger_client::converge::{PayloadRegistry, Recorder};
use serde::{Deserialize, Serialize};

// ---------------------------------------------------------------- the facts

/// What the applicant tells us. Money is in whole euros.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Application {
    /// The number everything else follows from.
    pub number: u64,
    /// The applicant's name.
    pub name: String,
    /// The amount asked for.
    pub amount: u64,
    /// The months to pay it back in.
    pub term_months: u64,
    /// The monthly income the applicant claims.
    pub income: u64,
    /// The monthly cost of other debts.
    pub debts: u64,
}

/// What the population register knows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Identity {
    verified: bool,
    address_months: u64,
}

/// What the credit bureau knows; scores go from 300, the worst, to 850.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Credit {
    score: u64,
    missed_payments: u64,
}

/// What the payroll confirms, and what the loan would take of it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Income {
    confirmed: u64,
    overstated_percent: u64,
    burden_percent: u64,
}

/// What makes an application look dishonest; nothing, for most.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Fraud {
    foreign_documents: bool,
    fresh_address: bool,
    many_lenders: bool,
}

/// The case against the loan, in points, by where they come from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Risk {
    credit: u64,
    income: u64,
    fraud: u64,
}

/// The answer to the applicant.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Decision {
    /// Yes, no, or a human has to look.
    pub verdict: Verdict,
    /// Why, in words for the applicant.
    pub reason: String,
}

/// What can become of an application.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// The loan is granted.
    Approved,
    /// A human decides.
    Referred,
    /// The loan is refused.
    Declined,
}

// ------------------------------------------------- where the facts are kept

/// A kind of fact: its key in the context and its id there. One run decides
/// one application, so the kind alone tells a fact from every other; the
/// suggestor that finds it has the same name.
trait Finding: FactPayload + PartialEq {
    const KEY: ContextKey;
    const NAME: &'static str;
}

macro_rules! findings {
    ($($fact:ident is $name:literal under $key:ident;)+) => {
        $(
            impl FactPayload for $fact {
                const FAMILY: &'static str = concat!("loan.", $name);
                const VERSION: u16 = 1;
            }

            impl Finding for $fact {
                const KEY: ContextKey = ContextKey::$key;
                const NAME: &'static str = $name;
            }
        )+

        /// How the facts are read back.
        pub fn registry() -> PayloadRegistry {
            let mut registry = PayloadRegistry::with_pack_payloads();
            $(registry.register::<$fact>();)+
            registry
        }
    };
}

findings! {
    Application is "application" under Seeds;
    Identity    is "identity"    under Signals;
    Credit      is "credit"      under Signals;
    Income      is "income"      under Signals;
    Fraud       is "fraud"       under Hypotheses;
    Risk        is "risk"        under Evaluations;
    Decision    is "decision"    under Strategies;
}

fn find<T: Finding>(context: &dyn Context) -> Option<&T> {
    let mut facts = context.get(T::KEY).iter();
    facts.find_map(|fact| fact.payload::<T>())
}

// ---------------------------------------------------------- the suggestors

/// A suggestor is a pure function that has an answer as soon as its inputs are
/// facts; `?` on a missing input is all the scheduling there is.
struct Rule<T> {
    wakes_on: &'static [ContextKey],
    derive: fn(&dyn Context) -> Option<T>,
}

fn rule<T>(wakes_on: &'static [ContextKey], derive: fn(&dyn Context) -> Option<T>) -> Rule<T> {
    Rule { wakes_on, derive }
}

#[async_trait]
impl<T: Finding> Suggestor for Rule<T> {
    fn name(&self) -> &str {
        T::NAME
    }

    fn dependencies(&self) -> &[ContextKey] {
        self.wakes_on
    }

    fn accepts(&self, context: &dyn Context) -> bool {
        find::<T>(context).is_none() && (self.derive)(context).is_some()
    }

    async fn execute(&self, context: &dyn Context) -> AgentEffect {
        (self.derive)(context).map_or_else(AgentEffect::empty, |finding| {
            let proposal = ProposedFact::new(T::KEY, T::NAME, finding, self.provenance());
            AgentEffect::with_proposal(proposal)
        })
    }
}

const REFER_FROM: u64 = 30;
const DECLINE_FROM: u64 = 50;

fn identity(context: &dyn Context) -> Option<Identity> {
    let number = find::<Application>(context)?.number;
    Some(Identity {
        verified: draw(number, "documents", 0..100) >= 5,
        address_months: draw(number, "address", 0..60),
    })
}

fn credit(context: &dyn Context) -> Option<Credit> {
    let number = find::<Application>(context)?.number;
    Some(Credit {
        // Two draws: most people are somewhere in the middle.
        score: 400 + draw(number, "score", 0..225) + draw(number, "history", 0..225),
        missed_payments: draw(number, "missed", 0..12).saturating_sub(8),
    })
}

fn income(context: &dyn Context) -> Option<Income> {
    let application: &Application = find(context)?;
    let overstated_percent = draw(application.number, "payroll", 0..60).saturating_sub(40);
    let confirmed = application.income.saturating_mul(100 - overstated_percent) / 100;

    // A loan without a term has no instalment. It stays undecided, because any
    // other answer would be invented.
    let repayment = application.amount.checked_div(application.term_months)?;
    let interest = application.amount / 200;
    let instalment = repayment.saturating_add(interest);
    let outgoings = instalment.saturating_add(application.debts);

    Some(Income {
        confirmed,
        overstated_percent,
        // Without an income every burden is too heavy, which is an answer.
        burden_percent: outgoings.saturating_mul(100) / confirmed.max(1),
    })
}

fn fraud(context: &dyn Context) -> Option<Fraud> {
    let number = find::<Application>(context)?.number;
    let identity: &Identity = find(context)?;
    Some(Fraud {
        foreign_documents: !identity.verified,
        fresh_address: identity.address_months < 6,
        many_lenders: draw(number, "lenders", 0..10) > 7,
    })
}

fn risk(context: &dyn Context) -> Option<Risk> {
    let credit: &Credit = find(context)?;
    let income: &Income = find(context)?;
    let fraud: &Fraud = find(context)?;
    let burden = income.burden_percent.saturating_sub(15);
    Some(Risk {
        credit: 670_u64.saturating_sub(credit.score) / 8 + 8 * credit.missed_payments.min(5),
        income: burden.min(40) + income.overstated_percent.min(20),
        fraud: 60 * u64::from(fraud.foreign_documents)
            + 10 * u64::from(fraud.fresh_address)
            + 15 * u64::from(fraud.many_lenders),
    })
}

fn decision(context: &dyn Context) -> Option<Decision> {
    let risk: &Risk = find(context)?;
    let causes = [
        ("credit history", risk.credit),
        ("income", risk.income),
        ("signs of fraud", risk.fraud),
    ];
    let (heaviest, _) = causes.into_iter().max_by_key(|(_, points)| *points)?;
    let total = causes
        .iter()
        .fold(0, |sum: u64, (_, points)| sum.saturating_add(*points));
    let (verdict, why) = match total {
        ..REFER_FROM => (Verdict::Approved, format!("fewer than {REFER_FROM}")),
        REFER_FROM..DECLINE_FROM => (Verdict::Referred, format!("most for {heaviest}")),
        DECLINE_FROM.. => (Verdict::Declined, format!("most for {heaviest}")),
    };
    Some(Decision {
        verdict,
        reason: format!("{total} risk points, {why}"),
    })
}

// ------------------------------------------------------------ the applicant

/// The applicant with this number, the same one every time.
pub fn application(number: u64) -> Application {
    const GIVEN: [&str; 6] = ["Ada", "Bruno", "Chiara", "Dmitri", "Esra", "Farah"];
    const FAMILY: [&str; 6] = ["Almeida", "Brandt", "Dahl", "Gruber", "Horvat", "Ito"];
    let pick = |what, names: [&'static str; 6]| names[draw(number, what, 0..6) as usize];
    Application {
        number,
        name: format!("{} {}", pick("given", GIVEN), pick("family", FAMILY)),
        amount: 500 * draw(number, "amount", 2..41),
        term_months: 12 * draw(number, "term", 1..7),
        income: 50 * draw(number, "income", 32..120),
        debts: 10 * draw(number, "debts", 0..40),
    }
}

/// What chance would have been. Each question has its own label, so that a new
/// question leaves the answers to all others as they were.
fn draw(number: u64, what: &str, range: Range<u64>) -> u64 {
    // FNV-1a takes in the label, the finalizer of SplitMix64 spreads it.
    let mut x = number ^ 0xcbf2_9ce4_8422_2325;
    for byte in what.bytes() {
        x = (x ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
    }
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^= x >> 31;
    range.start + x % (range.end - range.start)
}

// ------------------------------------------------------------------ the run

/// The suggestors' names, in the order in which an engine has them.
pub const SUGGESTORS: [&str; 6] = [
    Identity::NAME,
    Credit::NAME,
    Income::NAME,
    Fraud::NAME,
    Risk::NAME,
    Decision::NAME,
];

/// An engine with the six suggestors.
pub fn engine() -> Engine {
    use ContextKey::{Evaluations, Hypotheses, Seeds, Signals};

    let mut engine = Engine::new();
    engine.register_suggestor(rule(&[Seeds], identity));
    engine.register_suggestor(rule(&[Seeds], credit));
    engine.register_suggestor(rule(&[Seeds], income));
    engine.register_suggestor(rule(&[Signals], fraud));
    engine.register_suggestor(rule(&[Signals, Hypotheses], risk));
    engine.register_suggestor(rule(&[Evaluations], decision));
    engine
}

/// A human has to approve every decision.
pub fn policy() -> EngineHitlPolicy {
    EngineHitlPolicy {
        confidence_threshold: None,
        gated_keys: vec![Decision::KEY],
        timeout: TimeoutPolicy::default(),
    }
}

/// A context in which an application waits for an engine.
///
/// # Errors
///
/// None that an application of this module causes.
pub fn context(application: Application) -> Result<ContextState, ConvergeError> {
    let mut context = ContextState::new();
    let (key, name) = (Application::KEY, Application::NAME);
    context.add_proposal(ProposedFact::new(key, name, application, "applicant"))?;
    Ok(context)
}

/// How a run ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// What the suggestors arrived at.
    pub decision: Decision,
    /// How many cycles it took, the one that found nothing to do included.
    pub cycles: u32,
    /// How many facts the context holds, the application included.
    pub facts: usize,
}

/// What a context's application has come to, if it has.
pub fn decision_in(context: &ContextState) -> Option<&Decision> {
    find(context)
}

/// Why a run has no outcome.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The engine gave up; its error says why.
    #[error(transparent)]
    Engine(#[from] ConvergeError),
    /// The run converged, but a suggestor missed what it cannot do without.
    #[error("the application cannot be decided as it is")]
    Undecided,
}

impl Outcome {
    /// What a run came to.
    ///
    /// # Errors
    ///
    /// [`Error::Undecided`]; no application of this module stays so.
    pub fn of(result: &ConvergeResult) -> Result<Outcome, Error> {
        let decision = decision_in(&result.context).ok_or(Error::Undecided)?;
        Ok(Outcome {
            decision: decision.clone(),
            cycles: result.cycles,
            facts: result.integrity.fact_count,
        })
    }
}

/// Runs application `number` to convergence, with everything recorded. The future never
/// waits, so any executor will do.
///
/// # Errors
///
/// [`Error::Engine`] if the engine gives up.
pub async fn run(number: u64, recorder: &Recorder) -> Result<Outcome, Error> {
    let context = context(application(number))?;
    Outcome::of(&recorder.run(&mut engine(), context).await?)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::sync::{Arc, Mutex};

    use converge_core::{ContextFact, StreamingCallback};
    use pollster::block_on;

    use super::*;

    #[derive(Default)]
    struct Facts(Mutex<Vec<(String, String)>>);

    impl StreamingCallback for Facts {
        fn on_cycle_start(&self, _: u32) {}
        fn on_fact(&self, _: u32, fact: &ContextFact) {
            let text = serde_json::to_string(fact).unwrap();
            self.0.lock().unwrap().push((fact.id().to_string(), text));
        }
        fn on_cycle_end(&self, _: u32, _: usize) {}
    }

    fn decided(application: Application) -> (Result<Outcome, Error>, Vec<(String, String)>) {
        let facts = Arc::new(Facts::default());
        let mut engine = engine();
        engine.set_streaming(facts.clone());
        let result = block_on(engine.run(context(application).unwrap())).unwrap();
        let facts = facts.0.lock().unwrap().clone();
        (Outcome::of(&result), facts)
    }

    fn recorded(number: u64) -> (Outcome, Vec<(String, String)>) {
        let (outcome, facts) = decided(application(number));
        (outcome.unwrap(), facts)
    }

    #[test]
    fn same_number_gives_the_same_facts_to_the_byte() {
        for number in (0..50).chain([u64::MAX]) {
            assert_eq!(recorded(number), recorded(number));
        }
    }

    #[test]
    fn different_numbers_give_different_facts() {
        let facts = (0..50).map(|number| recorded(number).1);
        assert_eq!(facts.collect::<BTreeSet<_>>().len(), 50);
    }

    #[test]
    fn fifty_applications_see_every_verdict() {
        let verdicts = (0..50).map(|number| recorded(number).0.decision.verdict);
        let all = [Verdict::Approved, Verdict::Referred, Verdict::Declined];
        assert_eq!(verdicts.collect::<BTreeSet<_>>(), BTreeSet::from(all));
    }

    #[test]
    fn every_suggestor_contributes_one_fact_in_order() {
        let (outcome, facts) = recorded(7);
        let mut ids = facts.iter().map(|(id, _)| id.as_str());
        assert_eq!(ids.next(), Some(Application::NAME));
        assert_eq!(ids.collect::<Vec<_>>(), SUGGESTORS);
        assert_eq!((outcome.cycles, outcome.facts), (5, 7));
    }

    #[test]
    fn loan_without_a_term_stays_undecided() {
        let mut application = application(7);
        application.term_months = 0;
        let (result, _) = decided(application);
        assert!(matches!(result, Err(Error::Undecided)), "{result:?}");
    }
}
