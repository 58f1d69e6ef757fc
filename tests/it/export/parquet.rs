//! `ledgerd export --format parquet`, where it is built.

use std::fs::File;
use std::process::Stdio;

use ::parquet::file::metadata::ParquetMetaData;
use ::parquet::file::reader::{FileReader, SerializedFileReader};
use ::parquet::record::{Field, Row};
use ledger_client::NewEntry;
use ledger_tests::process::Process;
use ledger_tests::{Instance, PATIENCE};
use nix::pty::openpty;

use super::{HARD, LARGE_COUNT, append_hard, exported, text};
use crate::commands::lines;
use crate::started;

/// The rows of a file, and what it says of itself.
fn read(instance: &Instance) -> (Vec<Row>, ParquetMetaData) {
    let path = instance.runtime_dir().join("table.parquet");
    exported(instance, "parquet", &["-o", text(&path)]);
    let file = File::open(path).expect("whole");
    let reader = SerializedFileReader::new(file).expect("a table");
    let rows = reader.get_row_iter(None).expect("rows");
    let rows = rows.map(|row| row.expect("a row")).collect();
    (rows, reader.metadata().clone())
}

/// The pairs of a list of them.
fn pairs(field: &Field) -> Vec<(String, String)> {
    let Field::ListInternal(list) = field else {
        panic!("{field:?} is no list");
    };
    let pair = |pair: &Field| {
        let Field::Group(pair) = pair else {
            panic!("{pair:?} is no pair");
        };
        let fields: Vec<_> = pair.get_column_iter().collect();
        match fields[..] {
            [(_, Field::Str(name)), (_, Field::Str(value))] => (name.clone(), value.clone()),
            _ => panic!("{fields:?} is no pair of strings"),
        }
    };
    list.elements().iter().map(pair).collect()
}

#[test]
fn a_table_for_analysis_holds_every_entry_whatever_is_in_it() {
    let instance = started(&[]);
    append_hard(&instance.context("log"));
    let entries = lines(&instance.printed(&["get", "log", "-o", "jsonl"]));
    let (rows, metadata) = read(&instance);
    assert_eq!(rows.len(), HARD.len());
    for ((row, entry), (key, payload, metadata)) in rows.iter().zip(&entries).zip(HARD) {
        let number = |name: &str| entry[name].as_u64().expect("a number");
        let string = |text: &str| Field::Str(text.to_owned());
        let text = std::str::from_utf8(payload).map_or(Field::Null, string);
        let at = i64::try_from(number("appended_at_ns")).expect("this century");
        let expected = [
            ("seq", Field::ULong(number("seq"))),
            ("appended_at", Field::Long(at)),
            ("lamport", Field::ULong(number("lamport"))),
            ("key", string(key)),
            ("payload", Field::Bytes(payload.into())),
            ("payload_text", text),
        ];
        let fields: Vec<_> = row.get_column_iter().collect();
        let (last, fields) = fields.split_last().expect("columns");
        for ((name, field), (expected_name, expected)) in fields.iter().zip(&expected) {
            assert_eq!((&***name, *field), (*expected_name, expected));
        }
        assert_eq!(fields.len(), expected.len());
        let owned = |pair: &(&str, &str)| (pair.0.to_owned(), pair.1.to_owned());
        assert_eq!(last.0, "metadata");
        assert_eq!(
            pairs(last.1),
            metadata.iter().map(owned).collect::<Vec<_>>()
        );
    }
    // Which the numbers of a row do not say.
    let schema = metadata.file_metadata().schema_descr();
    let kind = |index: usize| format!("{:?}", schema.column(index).logical_type_ref());
    assert!(
        kind(1).contains("is_adjusted_to_u_t_c: true") && kind(1).contains("NANOS"),
        "{}",
        kind(1)
    );
}

#[test]
fn an_empty_context_is_a_table_without_rows() {
    let instance = started(&[]);
    instance.context("log");
    let (rows, metadata) = read(&instance);
    assert_eq!((rows.len(), metadata.num_row_groups()), (0, 0));
    assert_eq!(metadata.file_metadata().schema_descr().num_columns(), 8);
}

#[test]
fn row_groups_are_of_bounded_length() {
    let instance = started(&["--window", "1G"]);
    let context = instance.context("log");
    let mut appender = context.appender().expect("an appender");
    appender.set_wait(PATIENCE);
    for _ in 0..LARGE_COUNT {
        let appended = appender.append(&NewEntry::new("k", &[7; 1 << 16]));
        appended.expect("room");
    }
    let (rows, metadata) = read(&instance);
    assert_eq!(rows.len(), LARGE_COUNT);
    let counts: Vec<_> = metadata
        .row_groups()
        .iter()
        .map(|group| group.num_rows())
        .collect();
    assert!(counts.iter().all(|count| *count <= 256), "{counts:?}");
}

#[test]
fn a_terminal_is_not_written_to() {
    let instance = started(&[]);
    append_hard(&instance.context("log"));
    let terminal = openpty(None, None).expect("a terminal");
    let mut command = instance.ledgerd(&["export", "log", "--format", "parquet"]);
    command.stdout(terminal.slave).stderr(Stdio::piped());
    let output = Process::start(&mut command).output();
    assert_eq!(output.status.code(), Some(2));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("name a file with --output"), "{said}");
}
