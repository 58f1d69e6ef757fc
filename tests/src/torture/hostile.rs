//! Somebody who may read a context, and does to its bell and to the daemon whatever can
//! be done, while others work.

use std::time::{Duration, Instant};

use ledger_client::{Appender, NewEntry};

use super::observed::{Lateness, another, append_at_once, caught_up};
use super::promises::{HARMLESS, NO_WAITING, TRIED, WATCHED};
use super::{Effort, Verdicts};
use crate::attack::abuse::Abuse;
use crate::worker::Worker;
use crate::{Instance, PATIENCE, Programs, eventually, may_be_others, now_ns, skip};

const OWNER: u32 = 61_001;
/// How soon there is memory, and who comes is served: an append waits so long for room.
const SERVED_WITHIN: Duration = Duration::from_secs(1);
const READER: u32 = 61_002;
/// May read as well, and means no harm.
const OTHER_READER: u32 = 61_003;
const CONFIGURATION: &str = r#"
spare_min = "64K"
spare_max = "64K"
window = "256K"
archive_file = "64K"
[[rights]]
contexts = ["read"]
users = [61002, 61003]
right = "read"
"#;
/// So few places for clients that any machine gives a crowd descriptors for all of them.
const FEW: &str = "clients_max = 100\n";
/// As many connections as a daemon bears by default. Those of another uid get a part of them
/// only, so that a crowd of one uid that is to have so many needs places for more.
const CROWD: u64 = 10_000;
const MANY: &str = "clients_max = 20000\nclients_max_per_uid = 10000\n";
/// What they have in common.
const CONTEXT: &str = "read";
/// So many do the same at once.
const ABUSERS: usize = 3;
/// How often it is looked at how the others fare, of each abuse.
const ROUNDS: usize = 400;
/// Entries that are appended each time, so that the log goes on and on.
const FILLED: usize = 100;

/// Has a context abused in each way there is.
///
/// # Panics
///
/// If it cannot be tried, and everything is wanted.
pub fn hostile(programs: Programs, effort: &Effort) -> Verdicts {
    let mut verdicts = Verdicts::new("hostile", effort);
    if !may_be_others() {
        return verdicts;
    }
    let mut abuses = Abuse::ALL.to_vec();
    if !refuses_descriptors() {
        skip("descriptors: from Linux 6.16 on the kernel refuses them for the daemon");
        abuses.retain(|what| *what != Abuse::Descriptors);
    }
    for (what, _, effort) in effort.kinds(&abuses, Abuse::name) {
        let (began, name) = (Instant::now(), what.name());
        verdicts.tried(&name, |verdicts| one(programs, what, &effort, verdicts));
        eprintln!("hostile: {name}: {:.1} s", began.elapsed().as_secs_f64());
    }
    verdicts
}

/// Whether the daemon can have the kernel refuse descriptors, and is promised not to be
/// delayed by any: from Linux 6.16 on.
fn refuses_descriptors() -> bool {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").expect("Linux");
    let mut numbers = release.split(['.', '-']).map(str::parse::<u32>);
    let (major, minor) = (numbers.next(), numbers.next());
    let (Some(Ok(major)), Some(Ok(minor))) = (major, minor) else {
        panic!("a kernel of release {release:?}");
    };
    (major, minor) >= (6, 16)
}

fn one(programs: Programs, abuse: Abuse, effort: &Effort, verdicts: &mut Verdicts) {
    let mut instance = Instance::of(OWNER, programs);
    let places = match (abuse, effort.is_all()) {
        (Abuse::Crowd, true) => MANY,
        (Abuse::Crowd, false) => FEW,
        _ => "",
    };
    let config = instance.configure(&format!("{places}{CONFIGURATION}"));
    instance.start(&["--config", config.to_str().expect("text")]);
    let context = instance.context(CONTEXT);
    let mut appender = context.appender().expect("an appender");
    appender.set_wait(PATIENCE);
    let mut watcher = context.watch(1);
    let sleeper = Worker::start(&instance, "watch", CONTEXT, 1);
    fill(&mut appender);
    eventually("it watches", || sleeper.told_last().expect("numbers"));
    let sockets = socket_count(&instance);

    let what = abuse.name();
    let abusers: Vec<Worker> = (0..ABUSERS)
        .map(|_| Worker::abuser(READER, &instance, &what, CONTEXT))
        .collect();
    for abuser in &abusers {
        eventually("it has begun", || abuser.told_last().expect("numbers"));
    }
    // A suite has more to do at the same time than a machine can be on time for.
    let lateness = effort.is_all().then(Lateness::watched);
    let mut rounds = 0;
    for round in 0..ROUNDS.min(effort.cases_max) {
        let case = format!("{what}: round {round}");
        verdicts.meet(&case, |verdicts| {
            fill(&mut appender);
            check_append(&mut appender, &sleeper, lateness.as_ref(), verdicts, &case);
            let latest = context.latest().expect("readable");
            let seen = caught_up(&mut watcher);
            verdicts.check(WATCHED, seen == Ok(latest), || {
                format!("{case}: {seen:?} of {latest}")
            });
            check_newcomers(&instance, latest, lateness.as_ref(), verdicts, &case);
            true
        });
        rounds += 1;
        verdicts.largest("most_sockets_at_once", socket_count(&instance) as u64);
        if !effort.has_time() {
            break;
        }
    }
    verdicts.check_met(&what, rounds);
    if abuse == Abuse::Crowd && effort.is_all() {
        let most = verdicts.counted("most_sockets_at_once");
        verdicts.check(TRIED, most >= CROWD, || format!("a crowd of {most}"));
    }
    if let Some(lateness) = &lateness {
        lateness.tell(verdicts);
    }
    for mut abuser in abusers {
        let ended = abuser.process.try_wait().expect("our child");
        verdicts.check(TRIED, ended.is_none(), || format!("{what}: {ended:?}"));
    }
    eventually("what they had is given back", || {
        (socket_count(&instance) <= sockets).then_some(())
    });
    let status = instance.stop_daemon();
    verdicts.check(HARMLESS, status.success(), || format!("{what}: {status}"));
}

/// An append is done at once, and a watcher sees it in time.
fn check_append(
    appender: &mut Appender,
    sleeper: &Worker,
    lateness: Option<&Lateness>,
    verdicts: &mut Verdicts,
    case: &str,
) {
    let latest = appender.context().latest().expect("readable");
    let asked_ns = now_ns().expect("a clock");
    let is_ready = appender.wait_ready(PATIENCE);
    let since_ns = now_ns().expect("a clock");
    // So long an append waits for it.
    let is_in_time =
        lateness.is_none_or(|lateness| lateness.allows_within(SERVED_WITHIN, asked_ns, since_ns));
    verdicts.check(NO_WAITING, is_ready && is_in_time, || {
        format!("{case}: memory after {} ns", since_ns - asked_ns)
    });
    append_at_once(appender, &another(), latest + 1, lateness, verdicts, case);
    let seen = eventually("it is seen", || match sleeper.told_last() {
        Ok(Some((seq, _))) if seq <= latest => None,
        Ok(None) => None,
        seen => Some(seen),
    });
    let is_seen = matches!(seen, Ok(Some((seq, _))) if seq == latest + 1);
    verdicts.check(WATCHED, is_seen, || format!("{case}: {seen:?}"));
    if let (Some(lateness), Ok(Some((_, at_ns)))) = (lateness, seen) {
        lateness.check_woken(since_ns, at_ns, verdicts, case);
    }
}

/// Others who come meanwhile are served: the owner's, and other readers.
fn check_newcomers(
    instance: &Instance,
    latest: u64,
    lateness: Option<&Lateness>,
    verdicts: &mut Verdicts,
    case: &str,
) {
    let since_ns = now_ns().expect("a clock");
    let served = instance.builder().connect().map(|ledger| {
        let read = ledger.context(CONTEXT).open();
        let made = ledger.context(case).open_or_create();
        let first = read.map(|context| context.get(1).map(|entry| entry.is_some()));
        (format!("{first:?}"), made.map(|made| made.latest()))
    });
    let until_ns = now_ns().expect("a clock");
    let took_us = (until_ns - since_ns) / 1000;
    verdicts.largest("longest_until_served_us", took_us);
    let is_served = matches!(&served, Ok((first, Ok(Ok(0)))) if first == "Ok(Ok(true))");
    let is_in_time =
        lateness.is_none_or(|lateness| lateness.allows_within(SERVED_WITHIN, since_ns, until_ns));
    verdicts.check(HARMLESS, is_served && is_in_time, || {
        format!("{case}: {served:?} after {took_us} µs")
    });

    let mut reader = instance.peer_as(OTHER_READER);
    let opened = reader.ask(&format!("read {CONTEXT}"));
    let digest = reader.ask("digest");
    let is_served = opened == "ok" && digest.starts_with(&format!("ok {latest} "));
    verdicts.check(HARMLESS, is_served, || {
        format!("{case}: {opened}, {digest} of {latest}")
    });
}

/// Has the log go on, in new memory.
fn fill(appender: &mut Appender) {
    let payload = [b'o'; 2000];
    for _ in 0..FILLED {
        let appended = appender.append(&NewEntry::new("other", &payload));
        appended.expect("room");
    }
}

/// How many sockets the daemon has.
fn socket_count(instance: &Instance) -> usize {
    let path = format!("/proc/{}/fd", instance.daemon_pid());
    let is_socket = |fd: std::io::Result<std::fs::DirEntry>| {
        let target = fd.and_then(|fd| fd.path().read_link());
        // It may be closed meanwhile.
        target.is_ok_and(|target| target.to_string_lossy().starts_with("socket:"))
    };
    let fds = std::fs::read_dir(path).expect("it lives");
    fds.map(is_socket).filter(|is_socket| *is_socket).count()
}
