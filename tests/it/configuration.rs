//! What a daemon is run with: who goes before whom, what is refused, what a
//! reload changes.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use ledger_tests::process::Process;
use ledger_tests::{Instance, eventually};
use serde_json::Value;

use crate::PROGRAMS;
use crate::json::{check, printed};

const DOCUMENT: &str = include_str!("../../docs/CONFIGURATION.md");

fn text(path: &Path) -> &str {
    path.to_str().expect("text")
}

fn output(command: &mut Command) -> Output {
    Process::start(command.stdout(Stdio::piped()).stderr(Stdio::piped())).output()
}

#[test]
fn flags_go_before_the_environment_before_the_file() {
    let instance = Instance::new(PROGRAMS);
    let config = instance.configure("window = \"1M\"\nclients_max = 3\nspare_min = \"8K\"\n");
    let mut command = instance.ledgerd(&["config", "show", "--origin", "--window", "3M"]);
    command
        .env("LEDGER_WINDOW", "2M")
        .env("LEDGER_CLIENTS_MAX", "2")
        .env("LEDGER_CONFIG", &config);
    let shown = output(&mut command);
    assert!(shown.status.success());
    let shown = String::from_utf8(shown.stdout).expect("text");
    let line = |key: &str| {
        let mut lines = shown.lines();
        lines.find(|line| line.trim_start_matches('#').starts_with(key))
    };
    assert_eq!(line("window"), Some("window = \"3M\"  # --window"));
    let clients = Some("clients_max = 2  # $LEDGER_CLIENTS_MAX");
    assert_eq!(line("clients_max"), clients);
    let spare = format!("spare_min = \"8K\"  # {}", config.display());
    assert_eq!(line("spare_min"), Some(&*spare));
    assert_eq!(line("spare_max"), Some("#spare_max =  # default: 64M"));
}

/// What the document says is what the program says.
#[test]
fn the_document_has_every_setting_and_its_example_is_fine() {
    let instance = Instance::new(PROGRAMS);
    let shown = instance.printed(&["config", "show", "--origin"]);
    let printed: Vec<(&str, &str)> = shown
        .lines()
        .filter_map(|line| {
            let (key, default) = line.strip_prefix('#')?.split_once(" =  # default: ")?;
            Some((key, default))
        })
        .collect();
    let documented: Vec<(&str, &str)> = DOCUMENT
        .lines()
        .filter_map(|line| {
            let mut cells = line.strip_prefix("| `")?.split(" | ");
            let (key, default) = (cells.next()?.strip_suffix('`')?, cells.next()?);
            printed
                .iter()
                .any(|(known, _)| *known == key)
                .then_some((key, default))
        })
        .collect();
    assert!(!printed.is_empty());
    assert_eq!(documented, printed);

    let (_, example) = DOCUMENT.split_once("```toml\n").expect("an example");
    let (example, _) = example.split_once("```").expect("its end");
    let config = instance.configure(example);
    let said = instance.printed(&["config", "check", "--config", text(&config)]);
    assert_eq!(said, format!("{}: fine\n", config.display()));
    // What is shown says the same again.
    let shown = instance.printed(&["config", "show", "--config", text(&config)]);
    let again = instance.configure(&shown);
    let shown_again = instance.printed(&["config", "show", "--config", text(&again)]);
    assert_eq!(shown, shown_again);
}

#[test]
fn a_file_that_others_can_write_is_not_read() {
    let instance = Instance::new(PROGRAMS);
    let config = instance.configure("clients_max = 3\n");
    let args = ["config", "check", "--config", text(&config)];
    for mode in [0o664, 0o646, 0o620] {
        std::fs::set_permissions(&config, Permissions::from_mode(mode)).expect("our file");
        let said = instance.complained(&args);
        assert!(said.contains(&format!("has mode {mode:o}")), "{said}");
    }
    std::fs::set_permissions(&config, Permissions::from_mode(0o644)).expect("our file");
    instance.printed(&args);
}

#[test]
fn a_configuration_is_shown_as_json_with_its_origins() {
    let instance = Instance::new(PROGRAMS);
    let config = instance.configure(
        "window = \"2M\"\nclients_max = 3\n[[rights]]\ncontexts = [\"a*\"]\nusers = [7]\nright = \"read\"",
    );
    let args = ["config", "show", "-o", "json", "--config", text(&config)];
    let shown = printed(&instance, &[&args[..], &["--spare-min", "64K"]].concat());
    check(&shown, &["A configuration"]);
    let settings = shown["settings"].as_array().expect("an array");
    for setting in settings {
        check(setting, &["A setting"]);
    }
    let of = |key: &str| {
        let of = settings.iter().find(|setting| setting["key"] == key);
        of.unwrap_or_else(|| panic!("{key}"))
    };
    let file = config.to_str().expect("text");
    for (key, value, origin) in [
        ("window", Value::from("2M"), file),
        ("clients_max", Value::from(3), file),
        ("spare_min", Value::from("64K"), "--spare-min"),
        ("memory_budget", Value::Null, "default"),
    ] {
        assert_eq!(
            of(key).get("value").unwrap_or(&Value::Null),
            &value,
            "{key}"
        );
        assert_eq!(of(key)["origin"], origin, "{key}");
    }
    assert_eq!(shown["rights"][0]["users"], serde_json::json!([7]));
}

#[test]
fn what_makes_no_sense_is_refused_with_the_reason() {
    let instance = Instance::new(PROGRAMS);
    for (toml, said) in [
        (
            "windw = 1",
            "line 1: there is no key `windw`; did you mean `window`?",
        ),
        ("window = 0", "0 bytes hold nothing"),
        ("first_segment = \"1G\"", "choose from 8192 to 67108864"),
        (
            "[[contexts]]\nnames = [\"x\"]\nfirst_segment = 1",
            "a first segment of 1 bytes is not possible",
        ),
        (
            "[[rights]]\ncontexts = [\"*\"]\nusers = [\"nobody-here\"]\nright = \"read\"",
            "there is no user \"nobody-here\" on this machine",
        ),
        (
            "[[rights]]\ncontexts = [\"*\"]\nright = \"read\"",
            "gives nothing to anybody",
        ),
        (
            "[[rights]]\ncontexts = [\"*\"]\nusers = [-1]\nright = \"read\"",
            "expected the number or the name",
        ),
        ("clients_max = 0", "expected a nonzero"),
        ("memory_budget = 4096", "holds no context"),
        (
            "metrics = \"192.0.2.1:9464\"",
            "metrics are for this machine only",
        ),
    ] {
        let config = instance.configure(toml);
        let complaint = instance.complained(&["config", "check", "--config", text(&config)]);
        assert!(complaint.contains(said), "{toml}: {complaint}");
        let complaint = instance.complained(&["run", "--config", text(&config)]);
        assert!(complaint.contains(said), "{toml}: {complaint}");
    }
    let config = instance.configure("");
    std::fs::set_permissions(&config, Permissions::from_mode(0o666)).expect("ours");
    let complaint = instance.complained(&["run", "--config", text(&config)]);
    assert!(complaint.contains("has mode 666"), "{complaint}");
    let complaint = instance.complained(&["run", "--config", "/nowhere/at.all"]);
    assert!(complaint.contains("/nowhere/at.all"), "{complaint}");
}

#[test]
fn limits_that_are_reached_are_named_and_a_reload_moves_them() {
    let mut instance = Instance::new(PROGRAMS);
    let config = instance.configure("contexts_max = 1\nclients_max = 2\n");
    instance.start(&["--config", text(&config)]);
    let [first, second] = [instance.connect(), instance.connect()];
    first.context("one").open_or_create().expect("the first");
    let error = second
        .context("two")
        .open_or_create()
        .expect_err("the limit");
    let said = error.to_string();
    assert!(
        said.contains("1 already, as many as `contexts_max`"),
        "{said}"
    );
    let third = instance.connect();
    let error = third.context("one").open().expect_err("the limit");
    let said = error.to_string();
    assert!(
        said.contains("2 already, as many as `clients_max`"),
        "{said}"
    );

    // Who runs it is told how it does, and what only reads looks in memory.
    let status: Value = printed(&instance, &["status", "-o", "json"]);
    assert!(status["clients"].as_u64() > Some(2), "{status}");
    assert_eq!(instance.printed(&["get", "one", "-o", "raw"]), "");

    // A mistake changes nothing.
    instance.configure("contexts_max = 7\nquux = 1\n");
    instance.reload_daemon();
    instance.configure("contexts_max = 2\nclients_max = 9\n");
    instance.reload_daemon();
    eventually("the new limits", || {
        second.context("two").open_or_create().ok()
    });
    third.context("one").open().expect("there is room");
    let error = second
        .context("three")
        .open_or_create()
        .expect_err("the limit");
    assert!(error.to_string().contains("2 already"), "{error}");
}

#[test]
fn sizes_of_some_contexts_are_their_own() {
    let mut instance = Instance::new(PROGRAMS);
    let config = instance.configure("[[contexts]]\nnames = [\"big-*\"]\nfirst_segment = \"1M\"\n");
    instance.start(&["--config", text(&config)]);
    for (name, len) in [("big-1", " 1048576 B "), ("small", "   16384 B ")] {
        instance.printed(&["append", name, "k", "v"]);
        let drawn = instance.printed(&["inspect", name]);
        let first = drawn.lines().nth(1).expect("a part");
        assert!(first.contains(len), "{drawn}");
    }
}

#[test]
fn some_contexts_outlive_their_memory_and_others_do_not() {
    let mut instance = Instance::new(PROGRAMS);
    let config = instance.configure(
        "[[contexts]]\nnames = [\"kept-but-not-this\"]\nwindow = \"1M\"\n\
         [[contexts]]\nnames = [\"kept-*\"]\ndurability = \"archive\"\n",
    );
    let config = ["--config", text(&config)];
    let durable_seq = |instance: &Instance, name: &str| {
        instance.printed(&["append", name, "k", "v"]);
        instance.context(name).durable_seq().is_some()
    };
    instance.start(&[&config[..], &["--durability", "memory"]].concat());
    // The first that fits counts, also for what it does not say.
    for (name, has_files) in [
        ("kept-1", true),
        ("kept-but-not-this", false),
        ("other", false),
    ] {
        assert_eq!(durable_seq(&instance, name), has_files, "{name}");
    }
    instance.stop_daemon();
    // Contexts that exist stay what they are.
    instance.configure("[[contexts]]\nnames = [\"scratch-*\"]\ndurability = \"memory\"\n");
    instance.start(&[&config[..], &["--durability", "archive"]].concat());
    for (name, has_files) in [
        ("kept-1", true),
        ("other", false),
        ("new", true),
        ("scratch-1", false),
    ] {
        assert_eq!(durable_seq(&instance, name), has_files, "{name}");
    }
    instance.stop_daemon();
    instance.printed(&["purge"]);
    assert_eq!(instance.printed(&["ls", "-o", "raw"]), "kept-1\nnew\n");
}
