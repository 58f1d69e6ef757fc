//! What the documents name exists.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::started;

fn root() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn markdown_in(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).expect("a folder");
    let paths = entries.map(|entry| entry.expect("readable").path());
    let is_markdown = |path: &PathBuf| path.extension().is_some_and(|end| end == "md");
    paths.filter(is_markdown).collect()
}

/// Every document with its text.
fn documents() -> Vec<(PathBuf, String)> {
    let mut paths = markdown_in(root());
    paths.extend(markdown_in(&root().join("docs")));
    paths.extend(markdown_in(&root().join("docs/decisions")));
    let texts = paths.iter().map(|path| read(path));
    let texts: Vec<_> = texts.collect();
    paths.into_iter().zip(texts).collect()
}

#[test]
fn every_test_that_a_document_names_exists() {
    let mut named = 0;
    for (path, text) in documents() {
        for quoted in text.split('`').skip(1).step_by(2) {
            let Some((module, test)) = quoted.split_once("::") else {
                continue;
            };
            let source = root().join(format!("tests/it/{module}.rs"));
            if !source.exists() {
                continue;
            }
            let test = test.rsplit("::").next().expect("there is a last one");
            let source = read(&source);
            let is_test = source.contains(&format!("fn {test}()"));
            assert!(is_test, "{}: {quoted}", path.display());
            named += 1;
        }
    }
    assert!(named > 20, "{named} tests named");
}

#[cfg(target_arch = "x86_64")]
#[test]
fn every_promise_that_is_tortured_is_written_down() {
    let text = read(&root().join("docs/PROMISES.md"));
    for promise in ledger_tests::torture::promises::ALL {
        let row = format!("| **{promise}**");
        assert!(text.contains(&row), "docs/PROMISES.md: {promise}");
    }
}

#[cfg(target_arch = "x86_64")]
#[test]
fn every_patch_of_the_museum_fits_and_names_a_test() {
    let exhibits = ledger_tests::torture::museum::exhibits();
    assert!(!exhibits.is_empty());
    for exhibit in exhibits {
        let path = exhibit.path.display();
        if let Err(error) = exhibit.applies(root()) {
            panic!("{path}: {error}");
        }
        let test = exhibit.fails.last().expect("arguments");
        let test = format!("fn {}()", test.rsplit("::").next().expect("a name"));
        let is_there = |folder: &&str| {
            let mut grep = Command::new("grep");
            grep.args(["-rqF", &test]).arg(root().join(folder));
            grep.status().is_ok_and(|status| status.success())
        };
        let folders = [
            "tests/it",
            "tests/model/tests",
            "ledgerd/src",
            "ledger-shm/src",
            "ledger-shm/tests",
        ];
        assert!(folders.iter().any(is_there), "{path}: {test}");
    }
}

#[test]
fn every_row_of_the_crash_table_that_names_a_test_names_it_by_its_module() {
    for line in read(&root().join("docs/CRASHES.md")).lines() {
        let last = line
            .strip_suffix(" |")
            .and_then(|row| row.rsplit("| ").next());
        for quoted in last.unwrap_or_default().split('`').skip(1).step_by(2) {
            let is_model = ["life_cycle", "tests/model", "roll"].contains(&quoted);
            let is_file = root().join(quoted).is_file();
            assert!(is_test(quoted) || is_model || is_file, "{quoted}");
        }
    }
}

/// Whether `module::test` is a test of this suite.
fn is_test(named: &str) -> bool {
    let (Some((module, _)), Some((_, test))) = (named.split_once("::"), named.rsplit_once("::"))
    else {
        return false;
    };
    let text = std::fs::read_to_string(root().join(format!("tests/it/{module}.rs")));
    text.is_ok_and(|text| text.contains(&format!("fn {test}()")))
}

#[test]
fn every_test_that_shows_a_promise_exists() {
    let text = read(&root().join("docs/PROMISES.md"));
    let named = text.split('`').skip(1).step_by(2);
    let named: Vec<_> = named.filter(|quoted| quoted.contains("::")).collect();
    assert!(named.len() > 20);
    for test in named {
        assert!(is_test(test) || test == "module::test", "{test}");
    }
    // Nothing is promised without an end.
    for line in text.lines() {
        let cells = line.trim_start_matches("| |");
        assert!(!cells.contains("| |"), "{line}");
    }
}

#[test]
fn every_link_between_documents_leads_somewhere() {
    let mut followed = 0;
    for (path, text) in documents() {
        for link in text.split("](").skip(1) {
            let target = link.split([')', '#']).next().expect("there is a first one");
            if target.is_empty() || target.starts_with("https:") {
                continue;
            }
            let folder = path.parent().expect("it lies in a folder");
            assert!(folder.join(target).exists(), "{}: {target}", path.display());
            followed += 1;
        }
    }
    assert!(followed > 10, "{followed} links followed");
}

/// Every file of Rust under a folder.
fn sources(folder: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).expect("a folder") {
        let path = entry.expect("readable").path();
        if path.is_dir() {
            found.extend(sources(&path));
        } else if path.extension().is_some_and(|end| end == "rs") {
            found.push(path);
        }
    }
    found
}

/// What a line declares for everybody, if it does.
fn declared(line: &str) -> Option<&str> {
    let mut words = line
        .strip_prefix("pub ")?
        .split([' ', '(', '<', ':', ';', '{']);
    let kinds = ["fn", "struct", "enum", "trait", "const", "type"];
    words.find(|word| kinds.contains(word))?;
    words.find(|word| !["", "fn"].contains(word))
}

/// The lines of all examples in a source file's documentation.
fn examples(text: &str) -> impl Iterator<Item = &str> {
    let docs = text.lines().filter_map(|line| {
        let line = line.trim_start();
        line.strip_prefix("///").or(line.strip_prefix("//!"))
    });
    docs.scan(false, |is_within, line| {
        let is_fence = line.trim_start().starts_with("```");
        *is_within ^= is_fence;
        Some((*is_within && !is_fence).then_some(line))
    })
    .flatten()
}

#[test]
fn every_public_item_that_programs_use_is_shown_in_an_example() {
    let mut files = sources(&root().join("ledger-client/src"));
    files.extend(sources(&root().join("ledgerd/src")));
    // What of the log itself programs see.
    for file in [
        "entry.rs",
        "error.rs",
        "object/instance.rs",
        "object/error.rs",
        "control/name.rs",
        "control/sizes.rs",
    ] {
        files.push(root().join("ledger-shm/src").join(file));
    }
    // No program reaches the one, and the other is the protocol's, which says what it means.
    let is_other = ["import/round_trip.rs", "proto/generated.rs"];
    files.retain(|path| !is_other.iter().any(|other| path.ends_with(other)));
    let mut count = 0;
    for path in files {
        let text = read(&path);
        // What a message's own example packs and unpacks.
        let is_shown = |item: &str| {
            let is_part = |c: char| c.is_alphanumeric() || c == '_';
            let mut words = examples(&text).flat_map(|line| line.split(|c| !is_part(c)));
            path.ends_with("wire.rs") && words.any(|word| word == item)
        };
        let mut has_own = false;
        for line in text.lines().map(str::trim_start) {
            if let Some(item) = declared(line) {
                let path = path.display();
                assert!(has_own || is_shown(item), "{path}: no example has {item}");
                count += 1;
                has_own = false;
            }
            let doc = line.strip_prefix("///").unwrap_or_default();
            // An empty line is before every item and nowhere within one's head.
            let doc = doc.trim_start();
            let is_fence = doc.starts_with("```") && doc != "```text";
            has_own = !line.is_empty() && (has_own || is_fence);
        }
    }
    assert!(count > 100, "{count}");
}

/// The options in a text: `--` and a word.
fn options(text: &str) -> BTreeSet<&str> {
    let is_part = |c: char| c.is_ascii_lowercase() || c == '-';
    let words = text.split(|c| !is_part(c));
    words
        .filter(|word| {
            let name = word.strip_prefix("--").unwrap_or_default();
            !name.is_empty() && !name.starts_with('-')
        })
        .collect()
}

#[test]
fn every_option_of_ours_that_a_document_names_exists() {
    let instance = started(&[]);
    let commands: [&[&str]; 22] = [
        &["run"],
        &["ls"],
        &["info"],
        &["append"],
        &["get"],
        &["tail"],
        &["export"],
        &["import"],
        &["snapshot", "export"],
        &["snapshot", "load"],
        &["prove"],
        &["check-proof"],
        &["drop"],
        &["verify"],
        &["inspect"],
        &["timeline"],
        &["gates"],
        &["explain"],
        &["diff"],
        &["purge"],
        &["config", "check"],
        &["config", "show"],
    ];
    let help = |command: &&[&str]| instance.printed(&[*command, &["--help"]].concat());
    let helps: Vec<String> = commands.iter().map(help).collect();
    // Each is a field there.
    let arguments = [
        "ledgerd/examples/demo/plan.rs",
        "benches/src/main.rs",
        "tests/torture/main.rs",
    ];
    let arguments = arguments.map(|file| read(&root().join(file)));
    let is_of_a_tool = |option: &str| {
        let field = option.trim_start_matches('-').replace('-', "_");
        let (field, long) = (format!(" {field}: "), format!("long = \"{field}\""));
        let is_argument = |file: &String| file.contains(&field) || file.contains(&long);
        arguments.iter().any(is_argument)
    };
    let ours: BTreeSet<&str> = helps.iter().flat_map(|help| options(help)).collect();
    // Those of cargo and its tools.
    let others = BTreeSet::from([
        "--features",
        "--ignored",
        "--locked",
        "--manifest-path",
        "--path",
        "--release",
        "--test",
        "--workspace",
    ]);
    for (path, text) in documents() {
        for option in options(&text) {
            let is_known = ours.contains(option) || others.contains(option);
            assert!(
                is_known || is_of_a_tool(option),
                "{}: {option}",
                path.display()
            );
        }
    }
}
