//! An appender, or a watcher, stopped or killed at one instruction after another.

use std::collections::HashSet;

use ledger_client::NewEntry;
use ledger_tests::torture::appends::{Path, Stage};
use ledger_tests::torture::course::Place;
use ledger_tests::torture::{Effort, freeze, kill, watcher};
use ledger_tests::traced::{Traced, TracedThread, Way};
use ledger_tests::{Instance, Peer, eventually, sleeps};
use nix::sys::signal::Signal;

use crate::waiting::dozing;
use crate::{IN_MEMORY, PROGRAMS, started};

const SMALL: [&str; 4] = ["--spare-min", "64K", "--spare-max", "64K"];
/// Fills the first segment but for a few bytes.
const ALMOST_ALL: &str = "fill 1 12000";

/// A peer with an appender and everything it could want mapped.
fn ready(instance: &Instance, context: &str) -> Peer {
    let mut peer = instance.peer();
    peer.must(&format!("open {context}"));
    eventually("two spares are mapped", || {
        (peer.writable_part_count(instance) == 3).then_some(())
    });
    peer
}

/// What one stopped appender was about to do.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Where {
    /// An append into the current segment.
    Inside,
    /// An append that has to seal it and roll.
    Rolling,
}

impl Where {
    /// Tells a peer to do it, between two markers.
    fn tell(self, peer: &mut Peer) {
        peer.tell(match self {
            Where::Inside => "marked 1 200",
            Where::Rolling => "marked 1 3000",
        });
    }
}

/// Stops a fresh appender after so many instructions of an append.
fn stop(instance: &Instance, context: &str, place: Where, instructions: usize) -> Peer {
    let mut peer = ready(instance, context);
    if place == Where::Rolling {
        peer.must(ALMOST_ALL);
    }
    let traced = peer.traced();
    place.tell(&mut peer);
    assert!(matches!(traced.run_to_marker(), Way::Marker(_)));
    traced.step(instructions);
    // Pending before it is let go, so that it does not run another instruction.
    peer.signal(Signal::SIGSTOP);
    traced.release();
    peer.wait_for_state(&['T']);
    peer
}

/// The instructions of one append, between the markers.
fn length(instance: &Instance, place: Where) -> usize {
    let context = format!("length-{place:?}");
    let mut peer = ready(instance, &context);
    if place == Where::Rolling {
        peer.must(ALMOST_ALL);
    }
    // It may make a call before: it asks for memory when it has little left.
    steps(&mut peer, place, Traced::is_about_to_mark)
}

/// The instructions of an append from its beginning to where this holds.
fn steps(peer: &mut Peer, place: Where, is_end: impl Fn(&Traced) -> bool) -> usize {
    let traced = peer.traced();
    place.tell(peer);
    assert!(matches!(traced.run_to_marker(), Way::Marker(_)));
    let mut steps = 0;
    while !is_end(&traced) {
        traced.step(1);
        steps += 1;
    }
    traced.release();
    assert!(peer.hear().starts_with("ok"), "{place:?}: it does append");
    steps
}

/// A few dozen places, evenly over an append and on odd instructions.
fn places(length: usize, count: usize) -> impl Iterator<Item = usize> {
    (0..=count).map(move |n| (n * length / count).min(length.saturating_sub(1)) | 1)
}

fn first_number(digest: &str) -> u64 {
    digest
        .split(' ')
        .next()
        .and_then(|word| word.parse().ok())
        .unwrap_or_else(|| panic!("no number in {digest:?}"))
}

#[test]
fn killed_before_any_of_its_instructions_it_leaves_all_or_nothing() {
    kill::kill(PROGRAMS, &Effort::little(40)).assert_hold();
}

#[test]
fn stopped_before_any_of_its_instructions_it_goes_on_in_the_one_sequence() {
    freeze::freeze(PROGRAMS, &Effort::little(20)).assert_hold();
}

#[test]
fn a_watcher_stopped_or_killed_anywhere_costs_nobody_an_entry_and_oversleeps_none() {
    watcher::watcher(PROGRAMS, &Effort::little(25)).assert_hold();
}

/// A seal is there, and who put it there stands still before it has said in the next part
/// where that begins.
#[test]
fn who_comes_to_a_seal_waits_for_nobody() {
    let mut stage = Stage::set(PROGRAMS, Path::DataFull, &IN_MEMORY);
    let place = Place {
        instruction: stage.changed_at().expect("it seals"),
        repeated: 0,
    };
    let large = NewEntry::new("k", &[0; 3000]);
    let mut slept = Vec::new();
    for _ in 0..10 {
        let mut scene = stage.scene();
        scene.begin(stage.instance());
        if !scene.run_to(&stage, place) {
            // It has gone another way, and stands elsewhere.
            scene.release();
            continue;
        }
        scene.freeze();
        let before = sleeps();
        let appended = scene.other.try_append(&large).expect("a spare");
        slept.push(sleeps() - before);
        assert_eq!(appended.seq, scene.filled + 1);
        assert_eq!(scene.victim.thaw(), format!("ok {}", appended.seq + 1));
    }
    // A page may be had late, but hardly each time.
    assert!(slept.contains(&0), "it slept: {slept:?}");
}

/// The instructions of an append that ends by waking somebody, up to that call.
fn length_of_ringing(instance: &Instance) -> usize {
    let context = "length-of-ringing";
    let mut peer = ready(instance, context);
    let mut sleeper = dozing(instance, context);
    let steps = steps(&mut peer, Where::Inside, Traced::is_about_to_call);
    assert_eq!(sleeper.hear(), "ok rung");
    steps
}

#[test]
fn killed_or_stopped_anywhere_in_an_append_it_leaves_nobody_asleep() {
    let instance = started(&SMALL);
    let ledger = instance.connect();
    let length = length_of_ringing(&instance);
    let (mut early, mut late) = (0, 0);
    // Its last instructions are the CAS and the ring.
    for at in (length.saturating_sub(240)..=length).step_by(7) {
        for is_killed in [false, true] {
            let name = format!("ringing-{at}-{is_killed}");
            let context = ledger.context(&name).open_or_create().expect("a context");
            let mut sleeper = dozing(&instance, &name);
            let mut victim = stop(&instance, &name, Where::Inside, at);
            match context.latest().expect("readable") {
                0 => early += 1,
                _ => late += 1,
            }
            if is_killed {
                victim.kill();
            } else {
                victim.signal(Signal::SIGCONT);
                assert_eq!(victim.hear(), "ok 1", "stopped at {at} of {length}");
            }
            let woken = sleeper.hear();
            assert_eq!(woken, "ok rung", "killed: {is_killed}, at {at} of {length}");
        }
    }
    assert!(
        early > 0 && late > 0,
        "{early} before the CAS, {late} after"
    );
}

/// Whether a resumed append went in; nothing else but a refusal is an answer.
fn is_appended(answer: &str) -> bool {
    let is_appended = answer.starts_with("ok");
    assert!(is_appended || answer.contains("no room"), "{answer}");
    is_appended
}

/// A daemon that comes back does not know of a client that is stopped, so it
/// may close the context in front of it.
fn closed_meanwhile(place: Where) {
    let small = [&SMALL[..], &IN_MEMORY].concat();
    let mut instance = started(&small);
    let length = length(&instance, place);
    let quick = [&small[..], &["--idle-close-after", "0.01"]].concat();
    let mut outcomes = HashSet::new();
    for at in places(length, 10) {
        let context = format!("closed-{at}");
        let mut sleeper = stop(&instance, &context, place, at);
        instance.kill_daemon();
        instance.start(&quick);
        eventually("the context is closed", || {
            let info = instance.printed(&["info", &context, "-o", "jsonl"]);
            info.contains("\"idle\"").then_some(())
        });
        // Nobody can open it again meanwhile, be it the other thread of who goes on.
        instance.kill_daemon();
        sleeper.signal(Signal::SIGCONT);
        let answer = sleeper.hear();
        instance.start(&small);
        let appended = is_appended(&answer);
        outcomes.insert(appended);
        let before = u64::from(place == Where::Rolling) + u64::from(appended);
        assert_eq!(
            sleeper.must("fill 10 3000"),
            (before + 10).to_string(),
            "stopped at {at}: {answer}"
        );
        let digest = sleeper.must("digest");
        assert_eq!(first_number(&digest), before + 10);
        assert_eq!(instance.peer_digest(&context), digest);
    }
    assert_eq!(outcomes.len(), 2, "some were refused, some went in");
}

#[test]
fn stopped_in_an_append_while_its_context_is_closed_it_is_refused_or_in_the_one_sequence() {
    closed_meanwhile(Where::Inside);
}

#[test]
fn stopped_in_a_roll_while_its_context_is_closed_it_is_refused_or_in_the_one_sequence() {
    closed_meanwhile(Where::Rolling);
}

#[test]
fn an_append_that_nobody_waits_for_makes_no_system_call() {
    let instance = started(&SMALL);
    let mut peer = ready(&instance, "quiet");
    // Past the middle of the segment, where it asks for the next one, once.
    peer.must("fill 60 64");
    let (calls, answer) = calls_of(&mut peer, "marked 30 64");
    assert_eq!(calls, Vec::<u64>::new(), "system calls by number");
    assert!(answer.starts_with("ok"), "{answer}");
}

/// What an append calls between two markers, and its answer.
fn calls_of(peer: &mut Peer, command: &str) -> (Vec<u64>, String) {
    let traced = peer.traced();
    peer.tell(command);
    assert!(matches!(traced.run_to_marker(), Way::Marker(_)));
    let mut calls = Vec::new();
    loop {
        match traced.run_to_marker() {
            Way::Past(more) => calls.extend([more, vec![libc::SYS_write as u64]].concat()),
            Way::Marker(more) => {
                traced.release();
                return ([calls, more].concat(), peer.hear());
            }
        }
    }
}

/// Waits until its other thread has done what was wished for: it is woken for the next wish.
fn has_settled(peer: &Peer) {
    eventually("its other thread has nothing left to do", || {
        let call = peer.sleeps_in("ledger-provision", libc::SYS_poll)?;
        call[2].ends_with("ffffffff").then_some(())
    });
}

#[test]
fn an_append_that_needs_memory_wakes_its_other_thread_and_calls_nothing_else() {
    let instance = started(&SMALL);
    let mut peer = ready(&instance, "asking");
    has_settled(&peer);
    // Past the middle of the first part, and on in the next one.
    let (rolling, answer) = calls_of(&mut peer, "marked 10 3000");
    assert_eq!(answer, "ok 10");
    // Until there is no room.
    has_settled(&peer);
    instance.pause_daemon();
    let (refused, answer) = calls_of(&mut peer, "marked 100 3000");
    assert!(answer.contains("no room"), "{answer}");
    instance.resume_daemon();
    for calls in [rolling, refused] {
        let is_write = |call: &u64| *call == libc::SYS_write as u64;
        assert!(!calls.is_empty() && calls.iter().all(is_write), "{calls:?}");
    }
}

/// With whatever lock its other thread has at any of its calls.
#[test]
fn an_append_waits_for_no_lock_of_its_other_thread() {
    let instance = started(&SMALL);
    let mut peer = ready(&instance, "unlocked");
    let provision = TracedThread::attach(peer.pid().as_raw() as u32, "ledger-provision");
    let (mut appended, mut stopped_at) = (0, HashSet::new());
    for _ in 0..400 {
        // Each has the other thread do something: it ends a part, or finds no room.
        let traced = peer.traced();
        peer.tell("marked 1 40000");
        assert!(matches!(traced.run_to_marker(), Way::Marker(_)));
        // To its end; before it would wait for ever.
        let calls = std::iter::repeat_with(|| traced.run_to_call().nr as libc::c_long);
        for call in calls.take_while(|call| *call != libc::SYS_getppid) {
            assert_eq!(
                call,
                libc::SYS_write,
                "where the other was at {stopped_at:?}"
            );
        }
        traced.release();
        let answer = peer.hear();
        match answer.strip_prefix("ok ") {
            Some(seq) => appended = seq.parse().expect("a number"),
            None => assert!(answer.contains("no room"), "{answer}"),
        }
        stopped_at.insert(provision.run_to_call().nr as libc::c_long);
    }
    drop(provision);
    assert!(appended > 10, "{appended}");
    // While it holds what keeps two threads from mapping a part twice.
    for call in [libc::SYS_openat, libc::SYS_mmap, libc::SYS_madvise] {
        assert!(stopped_at.contains(&call), "{stopped_at:?}");
    }
    peer.must("fill 1 1");
}
