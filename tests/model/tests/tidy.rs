//! Orderings, labels, models and `docs/ORDERING.md` say the same.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

fn workspace() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn read(path: impl AsRef<Path>) -> String {
    let path = workspace().join(path);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Every source file below a directory of the workspace, by its path from there.
fn sources(directory: &str) -> Vec<(String, String)> {
    let mut sources = Vec::new();
    let mut directories = vec![PathBuf::new()];
    while let Some(below) = directories.pop() {
        let at = workspace().join(directory).join(&below);
        for entry in std::fs::read_dir(at).expect("a directory") {
            let entry = entry.expect("an entry");
            let path = below.join(entry.file_name());
            if entry.path().is_dir() {
                directories.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = read(Path::new(directory).join(&path));
                sources.push((path.to_string_lossy().into_owned(), text));
            }
        }
    }
    sources.sort();
    assert!(!sources.is_empty(), "{directory} has source files");
    sources
}

/// The log's code: all but the file that gives orderings their labels.
fn labelled_sources() -> Vec<(String, String)> {
    let mut sources = sources("ledger-shm/src");
    sources.retain(|(name, _)| name != "sync.rs");
    sources
}

/// What stands between `before` and the next character that no name has.
fn names_after<'a>(text: &'a str, before: &'a str) -> impl Iterator<Item = &'a str> {
    text.split(before).skip(1).map(|rest| {
        let is_name = |c: char| c.is_alphanumeric() || c == '_';
        &rest[..rest.find(|c| !is_name(c)).unwrap_or(rest.len())]
    })
}

fn labels() -> BTreeSet<String> {
    let sync = read("ledger-shm/src/sync.rs");
    let (_, rest) = sync.split_once("pub enum Label {").expect("the labels");
    let (variants, _) = rest.split_once('}').expect("an end of the labels");
    let lines = variants.lines().map(str::trim);
    let names = lines.filter(|line| !line.is_empty() && !line.starts_with("//"));
    names
        .map(|name| name.trim_end_matches(',').to_owned())
        .collect()
}

/// `Publish` as it stands in a comment.
fn in_comment(label: &str) -> String {
    format!("ORDER({})", label.to_lowercase())
}

/// Each label with each ordering that it is used with: `at` or `fence`.
fn edges(text: &str, calls: &[&str]) -> BTreeSet<(String, String)> {
    let dense: String = text.split_whitespace().collect();
    let mut edges = BTreeSet::new();
    for rest in dense.split("Label::").skip(1) {
        for call in calls {
            let Some((label, after)) = rest.split_once(call) else {
                continue;
            };
            if label.chars().all(char::is_alphanumeric) {
                let ordering = names_after(after, "Ordering::").next().unwrap_or("");
                edges.insert((label.to_owned(), ordering.to_owned()));
            }
        }
    }
    edges
}

#[test]
fn every_label_is_in_the_enum_in_comments_and_in_the_document() {
    let labels = labels();
    assert!(!labels.is_empty());

    let comments: BTreeSet<String> = labelled_sources()
        .iter()
        .flat_map(|(_, text)| {
            names_after(text, "ORDER(")
                .map(str::to_owned)
                .collect::<Vec<_>>()
        })
        .collect();
    let expected: BTreeSet<String> = labels.iter().map(|label| label.to_lowercase()).collect();
    assert_eq!(comments, expected, "ORDER comments of ledger-shm");

    let document = read("docs/ORDERING.md");
    let headings: BTreeSet<String> = document
        .lines()
        .filter_map(|line| line.strip_prefix("## Label "))
        .map(|heading| heading.trim_matches('`').to_owned())
        .collect();
    assert_eq!(headings, labels, "headings of docs/ORDERING.md");
}

#[test]
fn every_ordering_has_a_label() {
    for (name, text) in labelled_sources() {
        for (index, line) in text.lines().enumerate() {
            let line = line.trim();
            let is_comment = line.starts_with("//");
            let is_import = line.starts_with("use ") || line.starts_with("pub use ");
            if is_comment || is_import {
                continue;
            }
            let place = format!("{name}:{}: {line}", index + 1);
            let orderings = names_after(line, "Ordering::").filter(|name| *name != "Relaxed");
            let unlabelled = orderings.count() - edges(line, &[".at(", ".fence("]).len();
            assert_eq!(unlabelled, 0, "an ordering without a label at {place}");
            let fences = line.matches("fence(").count();
            assert_eq!(
                fences,
                edges(line, &[".fence("]).len(),
                "a fence without a label at {place}"
            );
        }
    }
}

#[test]
fn every_labelled_place_says_what_for() {
    for (name, text) in labelled_sources() {
        let mut function = Vec::new();
        for (index, line) in text.lines().enumerate() {
            if names_after(line, "fn ").next().is_some() {
                function.clear();
            }
            function.push(line);
            for (label, _) in edges(line, &[".at(", ".fence("]) {
                let comment = in_comment(&label);
                assert!(
                    function.iter().any(|line| line.contains(&comment)),
                    "{name}:{}: no {comment} in this function before it",
                    index + 1
                );
            }
        }
    }
}

#[test]
fn every_edge_has_a_model_that_fails_without_it() {
    let used: BTreeSet<_> = labelled_sources()
        .iter()
        .flat_map(|(_, text)| edges(text, &[".at(", ".fence("]))
        .collect();
    let shown: BTreeSet<_> = sources("tests/model/tests/loom")
        .iter()
        .flat_map(|(_, text)| {
            let calls: Vec<_> = text.split("assert_needed(").skip(1).collect();
            calls
                .iter()
                .flat_map(|call| edges(call.split(");").next().unwrap_or(""), &[","]))
                .collect::<Vec<_>>()
        })
        .collect();
    assert_eq!(
        used, shown,
        "edges of ledger-shm, and edges that models weaken"
    );
}

#[test]
fn every_test_that_the_document_names_exists() {
    let models = sources("tests/model/tests/loom");
    let document = read("docs/ORDERING.md");
    let mut named = 0;
    for quoted in document.split('`').skip(1).step_by(2) {
        let Some((module, test)) = quoted.split_once("::") else {
            continue;
        };
        let file = format!("{module}.rs");
        let Some((_, text)) = models.iter().find(|(name, _)| *name == file) else {
            continue;
        };
        assert!(
            text.contains(&format!("#[test]\nfn {test}()")),
            "docs/ORDERING.md names the test {quoted}, which is not in {file}"
        );
        named += 1;
    }
    assert!(
        named >= labels().len(),
        "each label's section names its tests"
    );
}
