//! What the documents name exists.

const CRASHES: &str = include_str!("../../docs/CRASHES.md");

const SOURCES: [(&str, &str); 11] = [
    ("appenders", include_str!("appenders.rs")),
    ("commands", include_str!("commands.rs")),
    ("daemon", include_str!("daemon.rs")),
    ("damage", include_str!("damage.rs")),
    ("entries", include_str!("entries.rs")),
    ("format", include_str!("format.rs")),
    ("memory", include_str!("memory.rs")),
    ("names", include_str!("names.rs")),
    ("stopped", include_str!("stopped.rs")),
    ("versions", include_str!("versions.rs")),
    ("waiting", include_str!("waiting.rs")),
];

#[test]
fn every_test_that_the_crash_table_names_exists() {
    let mut named = 0;
    for quoted in CRASHES.split('`').skip(1).step_by(2) {
        let Some((module, test)) = quoted.split_once("::") else {
            continue;
        };
        if (module, test) == ("module", "test") {
            continue;
        }
        let source = SOURCES.iter().find(|(name, _)| *name == module);
        let (_, source) = source.unwrap_or_else(|| panic!("no module {module}"));
        assert!(source.contains(&format!("fn {test}()")), "{quoted}");
        named += 1;
    }
    assert!(named > 20, "{named} tests named");
}
