//! What service managers and scrapers are told, and what they pass on.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::fd::{AsFd, OwnedFd};
use std::os::linux::net::SocketAddrExt;
use std::os::unix::net::{SocketAddr, UnixDatagram, UnixStream};
use std::process::{Command, Stdio};

use ledger_client::NewEntry;
use ledger_shm::socket;
use ledger_tests::Instance;
use ledger_tests::process::{Lines, Process};
use ledger_tests::small_memory::with_small_memory;
use nix::mount::{MsFlags, mount};
use nix::sys::signal::Signal;
use nix::sys::stat::fstat;

use crate::PROGRAMS;

#[test]
fn a_service_manager_is_told_what_the_daemon_is_doing() {
    let mut instance = Instance::new(PROGRAMS);
    let path = instance.runtime_dir().join("notify");
    let manager = UnixDatagram::bind(&path).expect("a fresh folder");
    manager
        .set_read_timeout(Some(ledger_tests::PATIENCE))
        .expect("a socket");
    let hear = || {
        let mut text = [0; 1000];
        let len = manager.recv(&mut text).expect("it is told");
        String::from_utf8_lossy(&text[..len]).into_owned()
    };
    let environment = [
        ("NOTIFY_SOCKET", path.to_str().expect("text")),
        // The socket keeps ten of them unread, a second and a half.
        ("WATCHDOG_USEC", "300000"),
    ];
    instance.start_in(&environment, &[]);
    let ready = hear();
    assert!(ready.starts_with("READY=1\nSTATUS=instance "), "{ready}");
    for _ in 0..3 {
        assert_eq!(hear(), "WATCHDOG=1\n");
    }
    assert!(instance.stop_daemon().success());
    let last = std::iter::repeat_with(hear).find(|said| said != "WATCHDOG=1\n");
    assert_eq!(last.as_deref(), Some("STOPPING=1\n"));
}

#[test]
fn a_service_manager_can_listen_at_an_abstract_socket() {
    let mut instance = Instance::new(PROGRAMS);
    let name = format!("ledger-notify-{}", instance.name());
    let address = SocketAddr::from_abstract_name(&name).expect("short");
    let manager = UnixDatagram::bind_addr(&address).expect("nobody else's");
    manager
        .set_read_timeout(Some(ledger_tests::PATIENCE))
        .expect("a socket");
    instance.start_in(&[("NOTIFY_SOCKET", &format!("@{name}"))], &[]);
    let mut text = [0; 1000];
    let len = manager.recv(&mut text).expect("it is told");
    assert!(text[..len].starts_with(b"READY=1\nSTATUS=instance "));
}

/// In mounts of its own: the journal's socket has one place.
#[test]
fn a_daemon_whose_standard_error_is_the_journal_reports_to_it() {
    with_small_memory(
        PROGRAMS,
        "service::a_daemon_whose_standard_error_is_the_journal_reports_to_it",
        "64M",
        || {
            if !ledger_tests::may_be_others() {
                return;
            }
            let none: Option<&str> = None;
            mount(Some("tmpfs"), "/run", Some("tmpfs"), MsFlags::empty(), none).expect("root may");
            std::fs::create_dir_all("/run/systemd/journal").expect("ours");
            let journal = UnixDatagram::bind("/run/systemd/journal/socket").expect("ours");
            journal
                .set_read_timeout(Some(ledger_tests::PATIENCE))
                .expect("a socket");
            let instance = Instance::new(PROGRAMS);
            let (ours, theirs) = UnixStream::pair().expect("sockets");
            let stat = fstat(&theirs).expect("open");
            let mut command = instance.ledgerd(&["run"]);
            command
                .env("JOURNAL_STREAM", format!("{}:{}", stat.st_dev, stat.st_ino))
                .stderr(OwnedFd::from(theirs));
            let daemon = Process::start(&mut command);
            // The command has the other end, too.
            drop(command);
            let mut record = [0; 4000];
            let record = std::iter::repeat_with(|| {
                let len = journal.recv(&mut record).expect("it reports");
                String::from_utf8_lossy(&record[..len]).into_owned()
            })
            .find(|record| record.contains(" listens at "))
            .expect("an endless iterator");
            // A value's length is given in eight bytes; 5 is a notice.
            let priority = "PRIORITY\n\x01\0\0\0\0\0\0\x005\n";
            assert!(record.contains(priority), "{record:?}");
            assert!(record.contains(instance.name()), "{record}");
            daemon.signal(Signal::SIGTERM);
            assert!(daemon.ended().success());
            let mut lines = String::new();
            (&ours).read_to_string(&mut lines).expect("text");
            assert_eq!(lines, "", "nothing is said twice");
        },
    );
}

/// `ledgerd run` as a service manager starts it that listens at `listener`.
fn activated(instance: &Instance, listener: &impl AsFd) -> Process {
    let run = instance.ledgerd(&["run"]);
    let mut command = Command::new("sh");
    command
        .arg("-c")
        // Not by its own number: some shells know of one digit only.
        .arg("exec 3<&0 </dev/null; LISTEN_PID=$$ LISTEN_FDS=1 exec \"$0\" run")
        .arg(run.get_program())
        .stdin(listener.as_fd().try_clone_to_owned().expect("a socket"))
        .envs(
            run.get_envs()
                .filter_map(|(name, value)| Some((name, value?))),
        )
        .stderr(Stdio::piped());
    Process::start(&mut command)
}

#[test]
fn a_socket_that_was_passed_is_served_and_left_alone() {
    let instance = Instance::new(PROGRAMS);
    let listener = socket::listen(&instance.socket()).expect("a fresh folder");
    // Who comes first waits for the daemon, and is not turned away.
    let early = std::thread::scope(|scope| {
        let early = scope.spawn(|| instance.connect());
        let mut daemon = activated(&instance, &listener);
        let mut lines = Lines::of(daemon.stderr.take().expect("piped"));
        let line = lines.line().expect("a line");
        let path = instance.socket();
        assert!(
            line.contains(&format!("listens at {}", path.display())),
            "{line}"
        );
        let early = early.join().expect("a connection");
        early.context("log").open_or_create().expect("a context");
        daemon.signal(Signal::SIGTERM);
        assert!(daemon.ended().success());
        early
    });
    assert!(instance.socket().exists());
    // The next client has the next daemon started.
    let mut daemon = activated(&instance, &listener);
    let _lines = Lines::of(daemon.stderr.take().expect("piped"));
    let context = instance.context("log");
    let mut appender = context.appender().expect("an appender");
    appender.append(&NewEntry::new("k", b"v")).expect("room");
    drop(early);
}

#[test]
fn something_else_that_was_passed_is_refused() {
    let instance = Instance::new(PROGRAMS);
    let datagrams = UnixDatagram::unbound().expect("a socket");
    let said = activated(&instance, &datagrams).output();
    assert_eq!(said.status.code(), Some(1));
    let said = String::from_utf8_lossy(&said.stderr);
    assert!(
        said.contains("no listening Unix socket of type SOCK_SEQPACKET"),
        "{said}"
    );
}

/// What a scraper gets at this path.
fn scraped(address: &str, path: &str) -> String {
    let mut stream = TcpStream::connect(address).expect("it listens");
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nHost: here\r\nConnection: close\r\n\r\n"
    )
    .expect("sent");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("text");
    answer
}

#[test]
fn a_scraper_is_told_how_the_daemon_does() {
    let instance = Instance::new(PROGRAMS);
    let mut command = instance.ledgerd(&["run", "--metrics", "127.0.0.1:0"]);
    let mut daemon = Process::start(command.stderr(Stdio::piped()));
    let mut lines = Lines::of(daemon.stderr.take().expect("piped"));
    let line = lines.line().expect("a line");
    let (_, url) = line.split_once("http://").expect("where");
    let address = url.strip_suffix("/metrics").expect("where");
    let context = instance.context("log");
    let mut appender = context.appender().expect("an appender");
    for _ in 0..7 {
        appender.append(&NewEntry::new("k", b"v")).expect("room");
    }
    let answer = scraped(address, "/metrics");
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    assert!(head.contains("text/plain; version=0.0.4"), "{head}");
    for sample in [
        "ledger_contexts 1",
        "ledger_contexts_attached 1",
        "ledger_attached_entries 7",
    ] {
        assert!(body.lines().any(|line| line == sample), "{sample}: {body}");
    }
    // Every sample has its help and its type, and is in the document.
    let document = include_str!("../../docs/CONFIGURATION.md");
    let samples: Vec<&str> = body.lines().filter(|line| !line.starts_with('#')).collect();
    assert_eq!(body.lines().count(), samples.len() * 3);
    for sample in samples {
        let (name, value) = sample.split_once(' ').expect("a value");
        value.parse::<f64>().expect("a number");
        assert!(body.contains(&format!("# TYPE {name} ")), "{name}");
        assert!(document.contains(&format!("| `{name}` |")), "{name}");
    }
    let value = |body: &str, name: &str| {
        let sample = body.lines().find_map(|line| line.strip_prefix(name));
        let value = sample.and_then(|sample| sample.trim_start().parse::<f64>().ok());
        value.expect("a sample")
    };
    // What it does in the background opens and closes some, too.
    ledger_tests::eventually("its descriptors are counted", || {
        let told = value(&scraped(address, "/metrics"), "process_open_fds ");
        let found = std::fs::read_dir(format!("/proc/{}/fd", daemon.id()));
        let found = found.expect("it lives").count() as f64;
        // The connection over which it was asked may be gone.
        (found..=found + 1.0).contains(&told).then_some(())
    });
    assert!(value(body, "process_resident_memory_bytes ") > 1e6);
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    let age = now.expect("after 1970").as_secs_f64() - value(body, "process_start_time_seconds ");
    assert!((0.0..60.0).contains(&age), "{age}");
    assert!(scraped(address, "/").starts_with("HTTP/1.1 404 "));
    assert!(scraped(address, "/metrics?of=ledger").starts_with("HTTP/1.1 200 "));
    daemon.signal(Signal::SIGTERM);
    assert!(daemon.ended().success());
}

#[test]
fn metrics_are_for_this_machine_only() {
    let instance = Instance::new(PROGRAMS);
    let said = instance.complained(&["run", "--metrics", "192.0.2.1:9464"]);
    assert!(said.contains("metrics are for this machine only"), "{said}");
}
