//! What somebody tries who may read a context, append to it, or neither. Each attack is
//! answered with what the kernel or the daemon said to it.
#![allow(unsafe_code, reason = "attacks are made with raw system calls")]

pub mod abuse;
pub mod scribble;

use std::error::Error;
use std::fmt::Debug;
use std::fs::OpenOptions;
use std::num::NonZeroUsize;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::Path;

use ledger_client::wire::{Reply, Request};
use ledger_shm::format::{BELL_LEN, PAGE_LEN};
use ledger_shm::object::{Epoch, Instance, Name};
use ledger_shm::socket::Packets;
use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, FallocateFlags, FcntlArg, OFlag, SealFlag, fallocate, fcntl};
use nix::sys::mman::{MapFlags, ProtFlags, mmap, mprotect, shm_open, shm_unlink};
use nix::sys::stat::Mode;

use crate::spoken::{ask, greeted, object, open};

/// A client without manners: it has a context open for reading.
#[derive(Debug)]
pub struct Attacker {
    connection: Packets,
    instance: Instance,
    name: String,
    epoch: [u8; 16],
    bell: OwnedFd,
    control: OwnedFd,
    part: OwnedFd,
    number: u64,
    /// A finished file, once it was asked for.
    file: Option<OwnedFd>,
    /// A part for writing, once it was asked for.
    writable: Option<OwnedFd>,
    /// What it never lets go of.
    held: Vec<OwnedFd>,
}

/// What the kernel says to whoever tries to open a file by its name, for reading and for
/// writing, to cut it, to change who may use it, to rename and to remove it.
pub fn reach(path: &str) -> String {
    let elsewhere = format!("{path}.elsewhere");
    let opened = |flags| say(nix::fcntl::open(path, flags, Mode::empty()));
    let everybody = Mode::from_bits_truncate(0o666);
    let follow = nix::sys::stat::FchmodatFlags::FollowSymlink;
    [
        opened(OFlag::O_RDONLY),
        opened(OFlag::O_RDWR),
        say(nix::unistd::truncate(path, 0)),
        say(nix::sys::stat::fchmodat(AT_FDCWD, path, everybody, follow)),
        say(nix::fcntl::renameat(
            AT_FDCWD,
            path,
            AT_FDCWD,
            elsewhere.as_str(),
        )),
        say(nix::unistd::unlink(path)),
    ]
    .join(" ")
}

fn say<T>(outcome: Result<T, Errno>) -> String {
    outcome.map_or_else(|error| format!("{error:?}"), |_| "done".to_owned())
}

/// What came of a question that should have been refused.
fn answer<F: Debug>((reply, fd): (Reply, Option<F>)) -> String {
    match (reply, fd) {
        (Reply::Refused(refusal), None) => format!("{refusal:?}"),
        (reply, fd) => format!("got {reply:?} {fd:?}"),
    }
}

impl Attacker {
    /// Opens a context for reading.
    ///
    /// # Errors
    ///
    /// The daemon's and the kernel's.
    pub fn new(socket: &Path, instance: Instance, name: &str) -> Result<Attacker, Box<dyn Error>> {
        let connection = greeted(socket)?;
        let (reply, bell) = ask(&connection, &open(name, false))?;
        let Reply::Opened { epoch, current, .. } = reply else {
            return Err(format!("{reply:?}").into());
        };
        let (_, control) = ask(&connection, &object(epoch, None, false))?;
        let (_, part) = ask(&connection, &object(epoch, Some(current), false))?;
        Ok(Attacker {
            connection,
            instance,
            name: name.to_owned(),
            epoch,
            bell: bell.ok_or("no bell")?,
            control: control.ok_or("no control object")?,
            part: part.ok_or("no part")?,
            number: current,
            file: None,
            writable: None,
            held: Vec::new(),
        })
    }

    /// Tries something, and says what came of it.
    ///
    /// # Errors
    ///
    /// If it could not be tried.
    pub fn attack(&mut self, what: &str) -> Result<String, Box<dyn Error>> {
        let (verb, target) = what.split_once('-').unwrap_or((what, "part"));
        if target == "file" && self.file.is_none() {
            let (epoch, seq) = (self.epoch, 1);
            let (reply, file) = ask(&self.connection, &Request::File { epoch, seq })?;
            self.file = Some(file.ok_or_else(|| format!("{reply:?}"))?);
        }
        if target == "writable" && self.writable.is_none() {
            // Who may append is given it once it has the context open for that.
            ask(&self.connection, &open(&self.name, true))?;
            let request = object(self.epoch, Some(self.number), true);
            let (reply, part) = ask(&self.connection, &request)?;
            self.writable = Some(part.ok_or_else(|| format!("{reply:?}"))?);
        }
        let fd = match target {
            "writable" => self.writable.as_ref().expect("asked for above"),
            "bell" => &self.bell,
            "control" => &self.control,
            "file" => self.file.as_ref().expect("asked for above"),
            _ => &self.part,
        };
        let own_path = format!("/proc/self/fd/{}", fd.as_raw_fd());
        let page = NonZeroUsize::new(PAGE_LEN).expect("pages have bytes");
        let read_write = ProtFlags::PROT_READ | ProtFlags::PROT_WRITE;
        // SAFETY: a mapping of the kernel's choice that nothing refers into.
        let map = |protection| unsafe { mmap(None, page, protection, MapFlags::MAP_SHARED, fd, 0) };
        Ok(match verb {
            "reopen" => match OpenOptions::new().write(true).open(own_path) {
                Ok(_) => "done".to_owned(),
                Err(error) => format!("{:?}", Errno::from_raw(error.raw_os_error().unwrap_or(0))),
            },
            "map" => say(map(read_write)),
            "mprotect" => {
                let readable = map(ProtFlags::PROT_READ)?;
                // SAFETY: the mapping is this function's own.
                say(unsafe { mprotect(readable, PAGE_LEN, read_write) })
            }
            "truncate" => say(nix::unistd::ftruncate(fd, 0)),
            "grow" => say(nix::unistd::ftruncate(fd, 1 << 30)),
            "cut" => say(nix::unistd::truncate(own_path.as_str(), 0)),
            "seal" => say(fcntl(fd, FcntlArg::F_ADD_SEALS(SealFlag::F_SEAL_WRITE))),
            "punch" => {
                let flags =
                    FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
                say(fallocate(fd, flags, 0, PAGE_LEN as i64))
            }
            "chmod" => say(nix::sys::stat::fchmod(fd, Mode::all())),
            // SAFETY: it takes an integer.
            "lease" => say(Errno::result(unsafe {
                libc::fcntl(fd.as_raw_fd(), libc::F_SETLEASE, libc::F_RDLCK)
            })),
            "name" | "unlink" => {
                let epoch = Epoch(self.epoch);
                let name = match target {
                    "control" => Name::Control(epoch),
                    "lock" => Name::Lock,
                    _ => Name::Part(epoch, self.number),
                };
                let path = format!("/{}", name.in_instance(&self.instance));
                match verb {
                    "name" => say(shm_open(path.as_str(), OFlag::O_RDONLY, Mode::empty())),
                    _ => say(shm_unlink(path.as_str())),
                }
            }
            "scribble" => {
                // SAFETY: the bell is a page of integers that everybody writes.
                unsafe {
                    let bell = map(read_write)?;
                    bell.cast::<u8>().write_bytes(0xA5, BELL_LEN);
                }
                "done".to_owned()
            }
            "append" => answer(ask(&self.connection, &open(&self.name, true))?),
            "create" => {
                let mut request = open("none", false);
                if let Request::Open { create, .. } = &mut request {
                    *create = Some(ledger_client::Sizes::default());
                }
                answer(ask(&self.connection, &request)?)
            }
            "read" => answer(ask(&self.connection, &open(target, false))?),
            "drop" => {
                let name = self.name.clone();
                answer(ask(&self.connection, &Request::Drop { name })?)
            }
            "load" => {
                let (name, only_new) = (self.name.clone(), false);
                answer(ask(&self.connection, &Request::Load { name, only_new })?)
            }
            "write" => answer(ask(
                &self.connection,
                &object(self.epoch, Some(self.number), true),
            )?),
            "foretell" => answer(ask(
                &self.connection,
                &object(self.epoch, Some(self.number + 1), false),
            )?),
            "spares" => {
                let request = Request::Spares {
                    epoch: self.epoch,
                    record_len: 0,
                };
                answer(ask(&self.connection, &request)?)
            }
            "hold" => {
                let (reply, _) = ask(&self.connection, &open(&self.name, false))?;
                let Reply::Opened { current, .. } = reply else {
                    return Err(format!("{reply:?}").into());
                };
                match ask(&self.connection, &object(self.epoch, Some(current), false))? {
                    (Reply::Object, fd) => {
                        self.held.extend(fd);
                        "done".to_owned()
                    }
                    refused => answer(refused),
                }
            }
            other => return Err(format!("unknown attack {other:?}").into()),
        })
    }
}
