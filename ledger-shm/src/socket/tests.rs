use std::collections::BTreeSet;
use std::fs::File;
use std::io::Read;
use std::net::TcpListener;
use std::os::unix::net::UnixListener;
use std::thread;

use nix::fcntl::FdFlag;
use nix::sys::socket::{getsockopt, sendmsg, socketpair};
use nix::unistd::Gid;

use super::*;

/// Longer than anything here takes.
const PATIENCE: Duration = Duration::from_secs(30);

/// Two ends of a connection without a listener, at which calls wait for ever.
fn endless_pair() -> (Packets, Packets) {
    let (family, kind) = (AddressFamily::Unix, SockType::SeqPacket);
    let (one, other) = socketpair(family, kind, None, SockFlag::SOCK_CLOEXEC).expect("two sockets");
    (Packets { fd: one }, Packets { fd: other })
}

/// As that, with a time limit.
fn pair() -> (Packets, Packets) {
    let (one, other) = endless_pair();
    for end in [&one, &other] {
        end.set_timeout(PATIENCE).expect("a time limit");
    }
    (one, other)
}

fn is_closed_on_exec(fd: impl AsFd) -> bool {
    let flags = fcntl(fd, FcntlArg::F_GETFD).expect("its flags");
    FdFlag::from_bits_retain(flags).contains(FdFlag::FD_CLOEXEC)
}

fn blocks(fd: impl AsFd) -> bool {
    let flags = fcntl(fd, FcntlArg::F_GETFL).expect("its flags");
    !OFlag::from_bits_retain(flags).contains(OFlag::O_NONBLOCK)
}

/// Whether descriptors can be passed to it; `None` where the kernel knows no such option.
fn takes_descriptors(fd: &OwnedFd) -> Option<bool> {
    let mut takes: libc::c_int = 1;
    let mut len: libc::socklen_t = size_of_val(&takes) as libc::socklen_t;
    // SAFETY: the kernel writes one integer, where there is one.
    let outcome = unsafe {
        libc::getsockopt(
            fd.as_raw_fd(),
            libc::SOL_SOCKET,
            SO_PASSRIGHTS,
            (&raw mut takes).cast(),
            &raw mut len,
        )
    };
    (outcome == 0).then_some(takes != 0)
}

#[test]
fn who_listens_waits_for_nobody_and_tells_where() {
    let dir = tempfile::tempdir().expect("a directory");
    let place = dir.path().join("socket");
    let listener = listen(&place).expect("a fresh path");
    assert!(is_closed_on_exec(&listener) && !blocks(&listener));
    assert_ne!(takes_descriptors(&listener), Some(true));
    assert_eq!(path(&listener).expect("an address"), Some(place.clone()));
    assert!(accept(&listener).expect("nobody is no error").is_none());

    let client = Packets::connect(&place, PATIENCE).expect("it listens");
    let served = accept(&listener).expect("one waits").expect("one waits");
    assert!(is_closed_on_exec(&client) && blocks(&client));
    assert!(is_closed_on_exec(&served) && !blocks(&served));
    let us = Peer {
        uid: nix::unistd::geteuid().as_raw(),
        gid: nix::unistd::getegid().as_raw(),
        pid: std::process::id(),
    };
    assert_eq!(served.peer().expect("credentials"), us);

    let (unnamed, _other) = pair();
    assert_eq!(path(&unnamed).expect("an address"), None);
}

#[test]
fn all_groups_of_who_connects_are_known() {
    let dir = tempfile::tempdir().expect("a directory");
    let place = dir.path().join("socket");
    let listener = listen(&place).expect("a fresh path");
    let told = || {
        let _client = Packets::connect(&place, PATIENCE).expect("it listens");
        let served = accept(&listener).expect("one waits").expect("one waits");
        BTreeSet::from_iter(peer_groups(&served).expect("groups"))
    };
    let own = nix::unistd::getgroups().expect("groups");
    assert_eq!(told(), own.into_iter().map(Gid::as_raw).collect());
    if !nix::unistd::geteuid().is_root() {
        return;
    }
    for count in [0, 1, 3, 1000] {
        let groups: Vec<u32> = (1..=count).collect();
        // To the kernel, groups are a thread's.
        let told = thread::scope(|scope| {
            let other = scope.spawn(|| {
                let (len, first) = (groups.len(), groups.as_ptr());
                // SAFETY: the kernel reads so many integers, which are there.
                let outcome = unsafe { libc::syscall(libc::SYS_setgroups, len, first) };
                assert_eq!(outcome, 0, "{}", io::Error::last_os_error());
                told()
            });
            other.join().expect("no panic")
        });
        assert_eq!(told, BTreeSet::from_iter(groups));
    }
}

#[test]
fn a_socket_that_is_passed_on_is_one_that_listens_for_packets() {
    let dir = tempfile::tempdir().expect("a directory");
    let place = dir.path().join("socket");
    for flags in [SockFlag::empty(), SockFlag::SOCK_NONBLOCK] {
        let passed = new_socket(flags).expect("a socket");
        let error = inherited(passed.as_raw_fd()).expect_err("it does not listen");
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
        let _ = std::fs::remove_file(&place);
        let address = UnixAddr::new(&place).expect("a short path");
        nix::sys::socket::bind(passed.as_raw_fd(), &address).expect("a fresh path");
        nix::sys::socket::listen(&passed, Backlog::MAXCONN).expect("it listens");
        // As it was before exec.
        fcntl(&passed, FcntlArg::F_SETFD(FdFlag::empty())).expect("its flags");

        let listener = inherited(passed.as_raw_fd()).expect("it listens");
        assert_ne!(listener.as_raw_fd(), passed.as_raw_fd());
        assert!(is_closed_on_exec(&listener) && !blocks(&listener));
        assert_ne!(takes_descriptors(&listener), Some(true));
        assert_eq!(path(&listener).expect("an address"), Some(place.clone()));
    }

    let stream = UnixListener::bind(dir.path().join("stream")).expect("a fresh path");
    let network = TcpListener::bind("127.0.0.1:0").expect("a free port");
    for other in [stream.as_raw_fd(), network.as_raw_fd()] {
        let error = inherited(other).expect_err("it is for streams");
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
    }
    for number in [-1, -2, i32::MAX] {
        let error = inherited(number).expect_err("it is not open");
        assert_eq!(error.raw_os_error(), Some(nix::Error::EBADF as i32));
    }
    let file = File::open("/dev/null").expect("there is one");
    let error = inherited(file.as_raw_fd()).expect_err("it is no socket");
    assert_eq!(error.raw_os_error(), Some(nix::Error::ENOTSOCK as i32));
}

#[test]
fn a_packet_arrives_whole_and_with_its_descriptor_or_is_an_error() {
    let (one, other) = pair();
    let mut buffer = [0; PACKET_LEN_MAX];
    let file = File::open("/dev/null").expect("there is one");
    one.send(b"with", Some(file.as_fd())).expect("room");
    one.send(b"without", None).expect("room");
    let packet = other.receive(&mut buffer).expect("whole").expect("one");
    assert_eq!(packet.bytes, b"with");
    assert!(is_closed_on_exec(packet.fd.expect("it came along")));
    let packet = other.receive(&mut buffer).expect("whole").expect("one");
    assert_eq!(packet.bytes, b"without");
    assert!(packet.fd.is_none());

    one.send(&[7; PACKET_LEN_MAX], None).expect("room");
    let packet = other.receive(&mut buffer).expect("whole").expect("one");
    assert_eq!(packet.bytes, [7; PACKET_LEN_MAX]);

    let is_cut = |buffer: &mut _| {
        let error = other.receive(buffer).expect_err("it was cut");
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    };
    one.send(&[7; PACKET_LEN_MAX + 1], None).expect("room");
    is_cut(&mut buffer);
    // One is what a packet may have; the kernel hands out two, as control messages are padded,
    // and of more it keeps the rest.
    for count in 2..5 {
        let (mut told, passed) = std::io::pipe().expect("a pipe");
        let fds = vec![passed.as_raw_fd(); count];
        let rights = [ControlMessage::ScmRights(&fds)];
        let bytes = [IoSlice::new(b"x")];
        sendmsg::<()>(one.fd.as_raw_fd(), &bytes, &rights, MsgFlags::empty(), None).expect("room");
        drop(passed);
        is_cut(&mut buffer);
        // None of them is open here any longer.
        fcntl(&told, FcntlArg::F_SETFL(OFlag::O_NONBLOCK)).expect("its flags");
        assert_eq!(told.read(&mut [0]).expect("nobody can write"), 0, "{count}");
    }
    one.send(b"and goes on", None).expect("room");
    let packet = other.receive(&mut buffer).expect("whole").expect("one");
    assert_eq!(packet.bytes, b"and goes on");
}

#[test]
fn what_the_other_side_has_not_read_yet_is_known() {
    let (one, other) = pair();
    assert!(!one.has_unread());
    one.send(b"x", None).expect("room");
    assert!(one.has_unread());
    other.receive(&mut [0; PACKET_LEN_MAX]).expect("whole");
    assert!(!one.has_unread());
    // Of what is no socket the kernel cannot tell.
    let file = File::open("/dev/null").expect("there is one");
    assert!(Packets { fd: file.into() }.has_unread());
}

#[test]
fn who_waits_is_told_when_a_connection_ends() {
    let (one, other) = pair();
    let ended = thread::scope(|scope| {
        let waits = scope.spawn(|| {
            other
                .receive(&mut [0; PACKET_LEN_MAX])
                .map(|it| it.is_none())
        });
        shut_down(&other);
        waits.join().expect("no panic")
    });
    assert!(ended.expect("no time limit has passed"));
    assert!(
        one.receive(&mut [0; PACKET_LEN_MAX])
            .expect("ended")
            .is_none()
    );
    let error = one.send(b"x", None).expect_err("ended");
    assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
}

#[test]
fn every_call_waits_as_long_as_it_may() {
    let (one, _other) = pair();
    for (timeout, limit) in [
        (Duration::from_millis(1500), Duration::from_millis(1500)),
        // None at all would be for ever; the kernel counts in clock ticks.
        (Duration::ZERO, Duration::from_millis(1)),
    ] {
        one.set_timeout(timeout).expect("a time limit");
        let receive = getsockopt(&one.fd, sockopt::ReceiveTimeout).expect("a time limit");
        let send = getsockopt(&one.fd, sockopt::SendTimeout).expect("a time limit");
        for set in [receive, send] {
            let set = Duration::from_micros(set.num_microseconds().cast_unsigned());
            assert!(
                !set.is_zero() && set.abs_diff(limit) <= Duration::from_millis(20),
                "{set:?}"
            );
        }
    }
    let error = one
        .receive(&mut [0; PACKET_LEN_MAX])
        .expect_err("nothing comes");
    assert_eq!(error.kind(), io::ErrorKind::WouldBlock);
}

#[test]
fn who_is_interrupted_goes_on_for_as_long_as_it_may() {
    let (one, _other) = pair();
    let mut interrupted = 0;
    let outcome = one.uninterrupted(|| {
        interrupted += 1;
        (interrupted > 3)
            .then_some(interrupted)
            .ok_or(nix::Error::EINTR)
    });
    assert_eq!(outcome.expect("in time"), 4);
    let error = one
        .uninterrupted::<()>(|| Err(nix::Error::EPIPE))
        .expect_err("told");
    assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);

    one.set_timeout(Duration::ZERO).expect("a time limit");
    let error = one
        .uninterrupted::<()>(|| Err(nix::Error::EINTR))
        .expect_err("too late");
    assert_eq!(error.kind(), io::ErrorKind::WouldBlock);

    // Without a limit it is never too late.
    let (endless, _other) = endless_pair();
    let mut interrupted = false;
    let outcome = endless.uninterrupted(|| match std::mem::replace(&mut interrupted, true) {
        false => Err(nix::Error::EINTR),
        true => Ok(()),
    });
    outcome.expect("there is no limit");
}
