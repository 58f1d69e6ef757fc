//! Who may do what, and what others can do at worst: the daemon, its readers and
//! its appenders are all of different uids.

use std::fs::Permissions;
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::path::Path;

use ledger_client::ConnectError;
use ledger_shm::object::list;
use ledger_tests::process::Process;
use ledger_tests::{Instance, Peer, eventually, may_be_others};

use crate::PROGRAMS;

const OWNER: u32 = 61_001;
const READER: u32 = 61_002;
const APPENDER: u32 = 61_003;
const STRANGER: u32 = 61_004;
/// Little is enough for a finished file.
const SMALL_FILES: [&str; 4] = ["--durability", "archive", "--archive-file", "64K"];

/// An instance with these rights, and more in its configuration.
fn shared(more: &str, args: &[&str]) -> Instance {
    let mut instance = Instance::of(OWNER, PROGRAMS);
    let config = instance.configure(&format!(
        r#"{more}
        [[rights]]
        contexts = ["shared*"]
        users = [{APPENDER}]
        right = "append"

        [[rights]]
        contexts = ["shared*", "read*"]
        groups = [{READER}]
        right = "read"
        "#
    ));
    let config = config.to_str().expect("text");
    instance.start(&[&["--config", config], args].concat());
    instance
}

#[test]
fn a_group_counts_also_when_it_is_not_the_first_one() {
    if !may_be_others() {
        return;
    }
    let instance = shared("", &[]);
    made(&instance, "read");
    let refused = instance.peer_as(STRANGER).ask("read read");
    assert!(refused.contains("may not read"), "{refused}");
    let mut member = instance.peer_in_group(STRANGER, READER);
    member.must("read read");
    let mut owner = instance.peer_as(OWNER);
    owner.must("read read");
    assert_eq!(member.must("digest"), owner.must("digest"));
}

/// A context that readers may read, with some entries, made by its owner.
fn made(instance: &Instance, name: &str) {
    let mut owner = instance.peer_as(OWNER);
    owner.must(&format!("open {name}"));
    owner.must("fill 10 100");
}

/// What the kernel refuses whoever is not the owner, though it may read or append: nothing
/// can be had for writing by its name or by what was given for reading, and what is shared
/// can be neither made shorter nor longer, sealed, nor removed.
const REFUSED: [(&str, &str); 42] = [
    ("reopen-part", "EACCES"),
    ("reopen-control", "EACCES"),
    ("map-part", "EACCES"),
    ("map-control", "EACCES"),
    ("mprotect-part", "EACCES"),
    ("mprotect-control", "EACCES"),
    ("truncate-part", "EINVAL"),
    ("truncate-control", "EINVAL"),
    ("grow-part", "EINVAL"),
    ("grow-control", "EINVAL"),
    ("cut-part", "EACCES"),
    ("cut-control", "EACCES"),
    ("truncate-bell", "EPERM"),
    ("grow-bell", "EPERM"),
    ("cut-bell", "EPERM"),
    ("seal-part", "EPERM"),
    ("seal-control", "EPERM"),
    ("seal-bell", "EPERM"),
    ("punch-part", "EBADF"),
    ("punch-control", "EBADF"),
    ("chmod-part", "EPERM"),
    ("chmod-control", "EPERM"),
    ("chmod-bell", "EPERM"),
    ("lease-part", "EACCES"),
    ("lease-control", "EACCES"),
    ("lease-bell", "EACCES"),
    ("reopen-file", "EACCES"),
    ("map-file", "EACCES"),
    ("mprotect-file", "EACCES"),
    ("truncate-file", "EINVAL"),
    ("grow-file", "EINVAL"),
    ("cut-file", "EACCES"),
    ("seal-file", "EPERM"),
    ("punch-file", "EBADF"),
    ("chmod-file", "EPERM"),
    ("lease-file", "EACCES"),
    ("name-part", "EACCES"),
    ("name-control", "EACCES"),
    ("name-lock", "EACCES"),
    ("unlink-part", "EACCES"),
    ("unlink-control", "EACCES"),
    // The kernel says EPERM, shm_unlink(3) this.
    ("unlink-lock", "EACCES"),
];

/// Who has invaded a context tries all that the kernel refuses, and this; and nothing
/// changes.
fn attack(
    instance: &Instance,
    attacker: &mut Peer,
    context: &str,
    refused_by_the_daemon: &[(&str, &str)],
) {
    let mut owner = instance.peer_as(OWNER);
    owner.must(&format!("open {context}"));
    owner.must("fill 1000 100");
    let digest = owner.must("digest");
    attacker.must(&format!("invade {context}"));
    eventually("a file is finished", || {
        (attacker.ask("attack reopen-file") == "ok EACCES").then_some(())
    });
    for (attack, outcome) in REFUSED.iter().chain(refused_by_the_daemon) {
        let said = attacker.must(&format!("attack {attack}"));
        assert_eq!(said, *outcome, "{attack}");
    }
    assert_eq!(owner.must("digest"), digest);
}

#[test]
fn a_reader_can_do_nothing_to_what_it_reads() {
    if !may_be_others() {
        return;
    }
    let instance = shared("", &SMALL_FILES);
    made(&instance, "read");
    made(&instance, "private");
    let mut reader = instance.peer_as(READER);
    let refused = [
        ("append", "NotAllowed { uid: 61002, right: \"append to\" }"),
        ("create", "NotAllowed { uid: 61002, right: \"append to\" }"),
        ("read-private", "NotAllowed { uid: 61002, right: \"read\" }"),
        ("read-unknown", "NotAllowed { uid: 61002, right: \"read\" }"),
        ("drop", "NotAllowed { uid: 61002, right: \"administer\" }"),
        ("load", "NotAllowed { uid: 61002, right: \"administer\" }"),
        ("write", "UnknownContext"),
        ("spares", "UnknownContext"),
        ("foretell", "UnknownPart"),
    ];
    attack(&instance, &mut reader, "read", &refused);
}

#[test]
fn an_appender_can_do_nothing_beside_appending() {
    if !may_be_others() {
        return;
    }
    let instance = shared("", &SMALL_FILES);
    made(&instance, "shared");
    made(&instance, "private");
    let mut appender = instance.peer_as(APPENDER);
    appender.must("open shared");
    let refused = [
        ("create", "NotAllowed { uid: 61003, right: \"append to\" }"),
        ("read-private", "NotAllowed { uid: 61003, right: \"read\" }"),
        ("read-unknown", "NotAllowed { uid: 61003, right: \"read\" }"),
        ("drop", "NotAllowed { uid: 61003, right: \"administer\" }"),
        ("load", "NotAllowed { uid: 61003, right: \"administer\" }"),
        ("foretell", "UnknownPart"),
        // What it may write it can do nothing else to, but for its length.
        ("reopen-writable", "EACCES"),
        ("cut-writable", "EACCES"),
        ("seal-writable", "EPERM"),
        ("chmod-writable", "EPERM"),
        ("lease-writable", "EACCES"),
    ];
    attack(&instance, &mut appender, "shared", &refused);
    assert_eq!(appender.must("append k v"), "1011");
}

#[test]
fn everyone_else_can_do_nothing_at_all() {
    if !may_be_others() {
        return;
    }
    let instance = shared("", &[]);
    made(&instance, "shared");
    let names = list(&instance.objects()).expect("listed");
    let mut stranger = instance.peer_as(STRANGER);
    for (attempt, refused) in [
        ("open shared", "may not append to this context"),
        ("open none", "may not append to this context"),
        ("read shared", "may not read this context"),
        ("read none", "may not read this context"),
        ("drop shared", "may not administer this context"),
        (
            "invade shared",
            "NotAllowed { uid: 61004, right: \"read\" }",
        ),
    ] {
        let said = stranger.ask(attempt);
        assert!(said.starts_with("error "), "{attempt}: {said}");
        assert!(said.contains(refused), "{attempt}: {said}");
    }
    // Nor by their names, which it may guess: `/dev/shm` is sticky, and everybody's.
    let objects = instance.objects();
    let reach = |path: &Path| format!("reach {}", path.display());
    for name in &names {
        let said = stranger.must(&reach(&name.path_in(&objects)));
        assert_eq!(said, "EACCES EACCES EACCES EPERM EPERM EPERM", "{name:?}");
    }
    let state = instance.state_dir().join(instance.name());
    for path in [state.join("lock"), state.join("any"), state] {
        let said = stranger.must(&reach(&path));
        assert_eq!(said, ["EACCES"; 6].join(" "), "{}", path.display());
    }
    // The daemon may have made spares meanwhile.
    let left = list(&instance.objects()).expect("listed");
    assert!(names.iter().all(|name| left.contains(name)), "{left:?}");
    assert!(instance.printed(&["ls", "-o", "raw"]).contains("shared"));
}

#[test]
fn a_spoilt_bell_delays_nobody_for_long_and_keeps_nobody_out() {
    if !may_be_others() {
        return;
    }
    for attack in ["scribble-bell", "punch-bell"] {
        let instance = shared("", &[]);
        made(&instance, "read");
        let mut owner = instance.peer_as(OWNER);
        owner.must("open read");
        let mut watcher = instance.peer_as(OWNER);
        watcher.must("read read");
        watcher.must("watch 11");
        assert_eq!(watcher.ask("next"), "waiting");
        watcher.wait_for_state(&['S']);
        let mut reader = instance.peer_as(READER);
        reader.must("invade read");
        assert_eq!(reader.must(&format!("attack {attack}")), "done");
        owner.must("append k v");
        assert_eq!(watcher.hear(), "ok 11 k");
        let mut late = instance.peer_as(READER);
        late.must("read read");
        owner.must("read read");
        assert_eq!(late.must("digest"), owner.must("digest"));
        // What watchers say of themselves may be nonsense, and ends nothing.
        let mut command = instance.ledgerd_as(READER, &["watchers", "read", "-o", "json"]);
        assert!(Process::start(&mut command).ended().success());
    }
}

#[cfg(target_arch = "x86_64")]
#[test]
fn who_may_only_read_harms_nobody() {
    use ledger_tests::torture::{Effort, hostile};

    if may_be_others() {
        hostile::hostile(PROGRAMS, &Effort::little(5)).assert_hold();
    }
}

#[cfg(target_arch = "x86_64")]
#[test]
fn what_a_writer_spoils_is_its_own_context() {
    use ledger_tests::torture::{Effort, wild};

    if may_be_others() {
        wild::wild(PROGRAMS, &Effort::little(12)).assert_hold();
    }
}

#[test]
fn a_reader_of_another_uid_sees_everything_across_segments() {
    if !may_be_others() {
        return;
    }
    let instance = shared("", &["--spare-min", "8K", "--spare-max", "16K"]);
    made(&instance, "read");
    made(&instance, "private");
    let mut owner = instance.peer_as(OWNER);
    owner.must("open read");
    let mut reader = instance.peer_as(READER);
    reader.must("read read");
    reader.must("watch 1");
    for seq in 1..=10 {
        assert_eq!(reader.ask("next"), "waiting");
        assert_eq!(reader.hear(), format!("ok {seq} fill"));
    }
    assert_eq!(reader.ask("next"), "waiting");
    reader.wait_for_state(&['S']);
    owner.must("fill 500 200");
    assert_eq!(reader.hear(), "ok 11 fill");
    owner.must("read read");
    assert_eq!(reader.must("digest"), owner.must("digest"));

    let listed = |uid| {
        let mut command = instance.ledgerd_as(uid, &["ls", "-o", "raw"]);
        let output = Process::start(command.stdout(std::process::Stdio::piped())).output();
        String::from_utf8(output.stdout).expect("text")
    };
    assert_eq!(listed(READER), "read\n");
    assert_eq!(listed(OWNER), "private\nread\n");
    assert_eq!(listed(STRANGER), "");
}

#[test]
fn a_reader_of_another_uid_is_told_that_it_needs_the_daemon() {
    if !may_be_others() {
        return;
    }
    let mut instance = shared("", &[]);
    made(&instance, "read");
    instance.kill_daemon();
    for args in [&["ls"][..], &["get", "read"]] {
        let mut command = instance.ledgerd_as(READER, args);
        command.stderr(std::process::Stdio::piped());
        let output = Process::start(&mut command).output();
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(3), "{args:?}: {said}");
        assert!(said.contains("no ledger daemon at"), "{args:?}: {said}");
    }
}

#[test]
fn an_appender_of_another_uid_shares_the_log() {
    if !may_be_others() {
        return;
    }
    let instance = shared("", &["--spare-min", "8K", "--spare-max", "16K"]);
    let mut appender = instance.peer_as(APPENDER);
    appender.must("open shared");
    appender.must("fill 200 100");
    let mut owner = instance.peer_as(OWNER);
    owner.must("open shared");
    assert_eq!(owner.must("append k v"), "201");
    assert_eq!(appender.must("append k v"), "202");
    assert_eq!(appender.must("fill 200 100"), "402");
    let mut reader = instance.peer_as(READER);
    reader.must("read shared");
    assert_eq!(reader.must("digest"), owner.must("digest"));
    assert!(
        reader
            .ask("open shared")
            .contains("uid 61002 may not append to this context")
    );
    assert!(
        appender
            .ask("open other")
            .contains("uid 61003 may not append to this context")
    );
    let mut stranger = instance.peer_as(STRANGER);
    assert!(
        stranger
            .ask("read shared")
            .contains("uid 61004 may not read this context")
    );
}

#[test]
fn what_is_read_in_place_is_not_given_to_new_appenders() {
    if !may_be_others() {
        return;
    }
    let mut instance = Instance::of(OWNER, PROGRAMS);
    let config = instance.configure("");
    let path = config.to_str().expect("text").to_owned();
    instance.start(&["--config", &path]);
    made(&instance, "shared");
    let rights =
        format!("[[rights]]\ncontexts = [\"*\"]\nusers = [{APPENDER}]\nright = \"append\"\n");
    std::fs::write(&config, rights).expect("our directory");
    instance.reload_daemon();
    // It takes over when it has read the file.
    let mut appender = instance.peer_as(APPENDER);
    let said = eventually("the new rights", || {
        let said = appender.ask("open shared");
        (!said.contains("may not") && !said.contains("no ledger daemon")).then_some(said)
    });
    assert!(said.contains("begin a new context"), "{said}");
    appender.must("open fresh");
    assert_eq!(appender.must("append k v"), "1");
}

#[test]
fn a_reader_holds_a_bounded_amount_of_what_has_left_the_window() {
    if !may_be_others() {
        return;
    }
    const SIZES: [&str; 10] = [
        // What is evicted then is not written first, which takes its time.
        "--durability",
        "memory",
        "--first-segment",
        "8K",
        "--spare-min",
        "8K",
        "--spare-max",
        "8K",
        "--window",
        "16K",
    ];
    let instance = shared("held_max = \"64K\"", &SIZES);
    made(&instance, "read");
    let mut owner = instance.peer_as(OWNER);
    owner.must("open read");
    let mut reader = instance.peer_as(READER);
    reader.must("invade read");
    let refused = eventually("a limit", || {
        owner.must("fill 20 200");
        let said = reader.must("attack hold");
        (said != "done").then_some(said)
    });
    let held = refused.strip_prefix("Held { len: ").expect("the limit");
    let (len, max) = held.split_once(", max: ").expect("both");
    assert_eq!(max, "65536 }");
    let len: u64 = len.parse().expect("a number");
    // Beside those, what was in memory when it was given: two sealed segments in
    // the window, the current one, and the two spares that an appender goes
    // through before it asks for more, which is when the window is kept.
    assert!((65_536..=65_536 + 5 * 8192).contains(&len), "{len}");
    // Another process of that uid is as well refused, with what to do.
    let mut other = instance.peer_as(READER);
    other.must("read read");
    assert!(
        other
            .ask("digest")
            .contains("let go of entries that are kept")
    );
    // Who has gone holds nothing, whatever it said.
    reader.kill();
    let mut late = instance.peer_as(READER);
    late.must("read read");
    late.must("watch 1");
    let said = eventually("memory again", || {
        let said = late.ask("digest");
        (!said.contains("let go of entries")).then_some(said)
    });
    // The first entries have left the window, which is another matter.
    assert!(
        said.starts_with("ok") || said.contains("has left memory"),
        "{said}"
    );
}

#[test]
fn a_place_that_somebody_prepared_is_not_used() {
    if !may_be_others() {
        return;
    }
    let instance = Instance::of(OWNER, PROGRAMS);
    let dir = instance.runtime_dir();
    chown(dir, Some(STRANGER), None).expect("root may");
    let said = instance.complained(&["run", "--durability", "memory"]);
    assert!(
        said.contains("belongs to uid 61004, not to 61001"),
        "{said}"
    );
    chown(dir, Some(OWNER), None).expect("root may");
    std::fs::set_permissions(dir, Permissions::from_mode(0o777)).expect("root may");
    let said = instance.complained(&["run", "--durability", "memory"]);
    assert!(said.contains("can be written by others"), "{said}");
    std::fs::set_permissions(dir, Permissions::from_mode(0o711)).expect("root may");

    let other = dir.join("real");
    std::fs::create_dir(&other).expect("root may");
    chown(&other, Some(OWNER), None).expect("root may");
    let link = dir.join("link");
    symlink(&other, &link).expect("root may");
    let link = link.to_str().expect("text");
    let said = instance.complained(&["run", "--durability", "memory", "--runtime-dir", link]);
    assert!(said.contains("is a symbolic link"), "{said}");

    // A client does not speak to who is not the daemon.
    let socket = ledger_shm::socket::listen(&instance.socket()).expect("a socket");
    let error = instance.builder().connect().expect_err("not the owner");
    let is_named = matches!(
        error,
        ConnectError::Impostor {
            found: 0,
            expected: OWNER,
            ..
        }
    );
    assert!(is_named, "{error}");
    drop(socket);
}
