//! Where it was measured, and what.

use std::fs;
use std::process::Command;

use crate::peers::{Missing, NAMES};

use super::stage::Stage;

/// Versions of all crates that are built in, as Cargo has chosen them.
const LOCK: &str = include_str!("../../Cargo.lock");

/// The machine, and each peer's version or why it is not run.
pub fn described(stage: &Stage) -> String {
    let mut text = format!(
        "{} cores of {}, {}, clock source {}, /dev/shm with huge={}; {}.\n\n\
         | peer | |\n|---|---|\n",
        std::thread::available_parallelism().map_or(0, usize::from),
        processor(),
        kernel(),
        read(CLOCKSOURCE),
        huge(),
        printed("rustc", &["--version"]).unwrap_or_default(),
    );
    for peer in NAMES {
        let missing = stage.missing(peer);
        let what = missing.map_or_else(
            || version(peer),
            |missing| format!("not run: {}", why(missing)),
        );
        text += &format!("| {peer} | {what} |\n");
    }
    for package in ["crossbeam-channel", "disruptor", "mmap-sync"] {
        text += &format!("| {package} | {}, within a process |\n", locked(package));
    }
    text
}

/// What was measured, and when.
pub fn revision() -> String {
    let commit = printed("git", &["describe", "--always", "--dirty", "--exclude=*"]);
    let date = printed("date", &["-u", "+%F"]).unwrap_or_default();
    format!("Revision {}, {date}.", commit.unwrap_or_default())
}

const CLOCKSOURCE: &str = "/sys/devices/system/clocksource/clocksource0/current_clocksource";

fn read(path: &str) -> String {
    let text = fs::read_to_string(path);
    text.map_or_else(|_| "unknown".to_owned(), |text| text.trim_end().to_owned())
}

/// How its mount says that large pages are given.
fn huge() -> String {
    let mounts = read("/proc/mounts");
    let mount = mounts.lines().find(|line| line.contains(" /dev/shm "));
    let options = mount.and_then(|line| line.split(' ').nth(3)).unwrap_or("");
    let huge = options
        .split(',')
        .find_map(|option| option.strip_prefix("huge="));
    huge.unwrap_or("never").to_owned()
}

/// What its builder calls it says nothing to others.
fn kernel() -> String {
    let release = printed("uname", &["-r"]).unwrap_or_default();
    let version: Vec<&str> = release.split('.').take(2).collect();
    format!("Linux {}", version.join("."))
}

fn processor() -> String {
    let info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = info
        .lines()
        .find_map(|line| line.strip_prefix("model name"));
    let model = model.and_then(|line| Some(line.split_once(':')?.1.trim().to_owned()));
    model.unwrap_or_else(|| "an unknown processor".to_owned())
}

pub fn why(missing: &Missing) -> &str {
    match missing {
        Missing::NotInstalled(how) => how,
        Missing::NoSuchThing(what) => what,
        Missing::Failed(why) => why,
    }
}

fn version(peer: &str) -> String {
    match peer {
        "ledger" => "as it is here".to_owned(),
        "bare ledger" => {
            "the same without time and checksums, which is no way to use it".to_owned()
        }
        "aeron" => format!(
            "C driver and client of rusteron-client {}",
            locked("rusteron-client")
        ),
        "iceoryx2" => locked("iceoryx2"),
        "redis" | "redis pipelined" => {
            let said = printed("redis-server", &["--version"]).unwrap_or_default();
            let version = said
                .split_whitespace()
                .find_map(|word| word.strip_prefix("v="));
            version.unwrap_or("of an unknown version").to_owned()
        }
        "mnesia" => {
            let asked = "io:put_chars(erlang:system_info(otp_release)), halt().";
            let release = printed("erl", &["-noshell", "-eval", asked]);
            format!("Erlang/OTP {}", release.unwrap_or_default())
        }
        "socket" | "pipe" => "of the kernel".to_owned(),
        _ => {
            "a cache line, a futex, and memcpy where nobody receives: what everything else rests on"
                .to_owned()
        }
    }
}

fn locked(package: &str) -> String {
    let named = format!("name = \"{package}\"\nversion = \"");
    let rest = LOCK.split_once(&named).map_or("", |(_, rest)| rest);
    rest.split('"').next().unwrap_or_default().to_owned()
}

fn printed(program: &str, arguments: &[&str]) -> Option<String> {
    let mut command = Command::new(program);
    // Git asks for its repository there, whoever calls us.
    command
        .args(arguments)
        .current_dir(env!("CARGO_MANIFEST_DIR"));
    let output = command.output().ok()?;
    Some(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}
