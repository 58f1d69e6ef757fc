//! `ledgerd doctor`: what on this machine stands in the way, and what to do.

mod host;

use std::fs;
use std::path::Path;

use ledger_client::wire::Trouble;
use ledger_client::{admin, place};
use ledger_shm::object::{self, Instance};
use serde::Serialize;

use crate::cli::{Failure, InstanceArgs, Output, OutputArgs};
use crate::commands::print::Printer;
use crate::commands::{READER_CONNECT_TIMEOUT, builder, connect_to_read, since};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Verdict {
    Ok,
    /// It works, but not as well or as long as one may think.
    Warning,
    /// It does not work.
    Bad,
}

#[derive(Debug, Serialize)]
struct Finding {
    check: &'static str,
    verdict: Verdict,
    found: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    remedy: Option<String>,
}

impl Finding {
    /// What was found, and that it is as it should be.
    fn new(check: &'static str, found: impl Into<String>) -> Finding {
        Finding {
            check,
            verdict: Verdict::Ok,
            found: found.into(),
            remedy: None,
        }
    }

    /// That it is not, if this is so, and what to do.
    fn but(self, verdict: Verdict, is_so: bool, remedy: impl Into<String>) -> Finding {
        if !is_so {
            return self;
        }
        Finding {
            verdict,
            remedy: Some(remedy.into()),
            ..self
        }
    }
}

pub(crate) fn run(instance: &InstanceArgs, args: OutputArgs) -> Result<(), Failure> {
    let place = instance.instance()?;
    let mut findings = vec![
        host::memory(),
        host::control_group(),
        host::descriptors()?,
        host::mappings(),
        host::swap(),
        host::login_manager(&place),
    ];
    findings.push(runtime_dir(&instance.runtime_dir(&place), place.uid()));
    let daemon = daemon(instance)?;
    let is_served = daemon.verdict == Verdict::Ok;
    findings.push(daemon);
    if is_served {
        findings.extend(archive(instance)?);
        findings.extend(torn(instance)?);
    }
    if place.may_open_by_name() {
        findings.extend(objects(instance, &place, is_served)?);
    } else if is_served {
        findings.push(rights(instance)?);
    }

    let mut printer = Printer::new(args.output());
    for finding in &findings {
        if printer.output() != Output::Short {
            printer.json(finding)?;
            continue;
        }
        let verdict = match finding.verdict {
            Verdict::Ok => "ok",
            Verdict::Warning => "warning",
            Verdict::Bad => "bad",
        };
        let (check, found) = (finding.check, &finding.found);
        printer.line(&format!("{verdict:<8} {check:<14} {found}"))?;
        if let Some(remedy) = &finding.remedy {
            printer.line(&format!("{:23} {remedy}", ""))?;
        }
    }
    printer.finish()?;
    let bad = findings.iter().filter(|it| it.verdict == Verdict::Bad);
    match bad.count() {
        0 => Ok(()),
        count => Err(format!("{count} of {} findings are bad", findings.len()).into()),
    }
}

fn mib(bytes: u64) -> String {
    format!("{} MiB", bytes >> 20)
}

fn runtime_dir(dir: &Path, uid: u32) -> Finding {
    let check = "runtime dir";
    match place::check_runtime_dir(dir, uid) {
        Ok(()) => Finding::new(check, dir.display().to_string()),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            Finding::new(check, format!("{} is made at the start", dir.display()))
        }
        Err(error) => Finding::new(check, error.to_string()).but(
            Verdict::Bad,
            true,
            "no daemon starts with it: remove it, or name another with --runtime-dir",
        ),
    }
}

fn daemon(instance: &InstanceArgs) -> Result<Finding, Failure> {
    let outcome = builder(instance)?
        .connect_timeout(READER_CONNECT_TIMEOUT)
        .connect();
    Ok(match outcome {
        Ok(ledger) => {
            let name = ledger.instance().name().to_owned();
            Finding::new("daemon", format!("instance {name:?} is served"))
        }
        Err(error) => {
            let verdict = if error.is_unreachable() {
                Verdict::Warning
            } else {
                Verdict::Bad
            };
            let error = error.to_string();
            let (found, remedy) = error.rsplit_once("; ").unwrap_or((
                &error,
                "nothing can be opened for appending until that is mended",
            ));
            Finding::new("daemon", found).but(verdict, true, remedy)
        }
    })
}

/// What keeps contexts from being written behind.
fn archive(instance: &InstanceArgs) -> Result<Vec<Finding>, Failure> {
    let check = "archive";
    let ledger = connect_to_read(instance)?;
    let troubles = match admin::troubles(&ledger, None) {
        Ok(troubles) => troubles,
        // It has ended meanwhile.
        Err(error) => return Ok(vec![Finding::new(check, error.to_string())]),
    };
    if troubles.is_empty() {
        return Ok(vec![Finding::new(check, "no context is in trouble")]);
    }
    let finding = |trouble: &Trouble| {
        let (context, since) = (&trouble.context, since(trouble));
        let found = format!("context {context:?} is not written since {since}: ");
        let (error, remedy) = trouble.error.rsplit_once("; ").unwrap_or((
            &trouble.error,
            "appends go on while memory lasts; make room on the disk, or mend it, and the daemon goes on by itself",
        ));
        Finding::new(check, found + error).but(Verdict::Bad, true, remedy)
    };
    Ok(troubles.iter().map(finding).collect())
}

/// Ends of files that were not whole, which are kept and not served.
fn torn(instance: &InstanceArgs) -> Result<Vec<Finding>, Failure> {
    let mut findings = Vec::new();
    for context in connect_to_read(instance)?.contexts()?.readable {
        let names = context.files_dir().map(fs::read_dir);
        // It was dropped meanwhile.
        let Some(Ok(names)) = names else { continue };
        let is_torn = |name: &str| name.contains(".torn-");
        let mut names = names.flatten().map(|entry| entry.file_name());
        if names.any(|name| name.to_str().is_some_and(is_torn)) {
            let (name, dir) = (context.name(), context.files_dir().expect("read above"));
            let found = format!("context {name:?} has torn ends in {}", dir.display());
            let remedy = "a crash has cut entries off that were not durable, or the disk damaged some; \
                          the log has when: remove *.torn-* once nobody misses anything";
            findings.push(Finding::new("archive", found).but(Verdict::Warning, true, remedy));
        }
    }
    Ok(findings)
}

/// What this uid may do in an instance of another.
fn rights(instance: &InstanceArgs) -> Result<Finding, Failure> {
    let count = connect_to_read(instance)?.contexts()?.readable.len();
    let found = format!("this uid may read {count} of the contexts there are");
    Ok(Finding::new("rights", found).but(
        Verdict::Warning,
        count == 0,
        "the instance's owner gives rights in the daemon's configuration, `[[rights]]`",
    ))
}

/// What lies in memory, and what of it cannot be read.
fn objects(
    instance: &InstanceArgs,
    place: &Instance,
    is_served: bool,
) -> Result<Vec<Finding>, Failure> {
    let check = "objects";
    let names = object::list(place)?;
    let lens = names
        .iter()
        .filter_map(|name| Some(fs::metadata(name.path_in(place)).ok()?.len()));
    let len: u64 = lens.sum();
    let found = format!("{} in memory, {}", names.len(), mib(len));
    let mut findings = vec![Finding::new(check, found).but(
        Verdict::Warning,
        !is_served && names.iter().any(|name| *name != object::Name::Lock),
        "nobody serves them: `ledgerd run` does, `ledgerd purge` frees them",
    )];
    for (epoch, error) in connect_to_read(instance)?.contexts()?.unreadable {
        let found = format!("the context of epoch {epoch} cannot be read");
        findings.push(Finding::new(check, found).but(Verdict::Bad, true, error.to_string()));
    }
    Ok(findings)
}
