//! A context out of the lines that `ledgerd export --format jsonl` writes: out and in
//! and out again they are the same. Entries keep what the ledger gave them, so they
//! are not appended but become a snapshot, to be loaded.

use std::io::{BufRead, Write};

use ledger_client::NewEntry;
use ledger_shm::Appended;
use ledger_shm::control::Facts;
use ledger_shm::entry::{LAMPORT_RECEIVED_MAX, Limits};
use ledger_shm::file::{FileWriter, Head};
use ledger_shm::format::SEQ_MAX;
use ledger_shm::slot::OFFSET_MAX;

use crate::cli::Failure;
use crate::commands::jsonl::{Line, Lines};

/// Writes a snapshot of a context that these facts describe and that holds these
/// lines, one by one. Returns how many there are.
pub(super) fn snapshot_of_lines(
    input: impl BufRead,
    facts: Facts,
    out: impl Write,
) -> Result<u64, Failure> {
    let unwritten = |error| format!("cannot write the snapshot: {error}");
    let limits = facts.limits;
    let mut lines = Lines::of(input);
    let mut line = next(&mut lines)?;
    let first_seq = match &line {
        Some(line) => first_seq(line).map_err(|why| wrong(&lines, &why))?,
        None => 1,
    };
    let head = Head {
        first_seq,
        // The least that the entry before can have had.
        base_lamport: first_seq - 1,
        begun_at_ns: facts.created_at_ns,
        facts,
    };
    let mut writer = FileWriter::begin(out, &head).map_err(unwritten)?;
    while let Some(found) = line {
        let record = expect(&found, writer.next_seq(), writer.last_lamport())
            .and_then(|appended| record(&found, &appended, &limits));
        let record = record.map_err(|why| wrong(&lines, &why))?;
        if writer.len() > OFFSET_MAX {
            let why = format!("a file has room for {OFFSET_MAX} bytes before the last entry");
            return Err(wrong(&lines, &why));
        }
        writer.push(&record).map_err(unwritten)?;
        line = next(&mut lines)?;
    }
    let count = writer.count();
    writer.finish(false).map_err(unwritten)?;
    Ok(count)
}

fn next<R: BufRead>(lines: &mut Lines<R>) -> Result<Option<Line<u64>>, Failure> {
    let line = lines.next();
    let line = line.map_err(|error| format!("cannot read the next line: {error}"))?;
    let line = line.transpose();
    line.map_err(|why| wrong(lines, &why))
}

fn wrong<R: BufRead>(lines: &Lines<R>, why: &str) -> Failure {
    format!("line {}: {why}; nothing is imported", lines.number()).into()
}

/// Where the lines begin: later than with 1 if what came before had left memory.
fn first_seq(line: &Line<u64>) -> Result<u64, String> {
    let seq = kept("seq", line.seq)?;
    if (1..=SEQ_MAX).contains(&seq) {
        return Ok(seq);
    }
    Err(format!("`seq` is {seq}, expected 1 to {SEQ_MAX}"))
}

fn kept(name: &str, value: Option<u64>) -> Result<u64, String> {
    value.ok_or_else(|| {
        format!("no `{name}`, and an import gives none; `append --jsonl` gives entries new ones")
    })
}

/// What the ledger has given the entry, if it can be the next one.
fn expect(line: &Line<u64>, next_seq: u64, last_lamport: u64) -> Result<Appended, String> {
    let appended = Appended {
        seq: kept("seq", line.seq)?,
        lamport: kept("lamport", line.lamport)?,
        appended_at_ns: kept("appended_at_ns", line.appended_at_ns)?,
    };
    if appended.seq != next_seq {
        return Err(format!("`seq` is {}, expected {next_seq}", appended.seq));
    }
    // Each of the entries so far may have received the largest there is, at most.
    let (min, max) = (last_lamport + 1, LAMPORT_RECEIVED_MAX - 1 + next_seq);
    if !(min..=max).contains(&appended.lamport) {
        let lamport = appended.lamport;
        return Err(format!("`lamport` is {lamport}, expected {min} to {max}"));
    }
    if line.received_lamport != 0 {
        let received = line.received_lamport;
        return Err(format!(
            "`received_lamport` is {received}, expected none; it is for `append --jsonl`"
        ));
    }
    Ok(appended)
}

fn record(line: &Line<u64>, appended: &Appended, limits: &Limits) -> Result<Vec<u8>, String> {
    let payload = line.payload()?;
    let metadata = line.metadata();
    let entry = NewEntry::new(&line.key, &payload).metadata(&metadata);
    let record = entry.record(appended, limits);
    record.map_err(|refused| refused.to_string())
}

#[cfg(test)]
mod tests {
    use ledger_client::{Entry, NewEntry};
    use ledger_shm::control::{Facts, Sizes};
    use ledger_shm::entry::Limits;
    use ledger_shm::file::verify;
    use ledger_shm::format::RECORD_ALIGN;
    use ledger_shm::object::Epoch;

    use super::snapshot_of_lines;
    use crate::cli::Failure;
    use crate::commands::print;

    fn facts() -> Facts {
        Facts {
            name: "loan-7".to_owned(),
            epoch: Epoch([7; 16]),
            limits: Limits::default(),
            sizes: Sizes::default(),
            has_foreign_writers: false,
            created_at_ns: 17,
        }
    }

    /// The entries of a file that verifies, as lines again.
    fn lines_of(file: &[u8]) -> String {
        let (head, trailer) = verify(file).expect("a snapshot");
        assert_eq!(head.facts, facts_as_stored());
        let mut rest = &file[head.data_offset()..];
        let mut lines = String::new();
        for _ in 0..trailer.count {
            let header = rest.first_chunk().expect("a header");
            let header = ledger_shm::format::RecordHeader::decode(header);
            let len = ledger_shm::format::RECORD_HEADER_LEN + header.body_len as usize;
            let entry = Entry::from_bytes(&rest[..len]).expect("verified");
            lines += &serde_json::to_string(&print::Line::of(&entry)).expect("text");
            lines.push('\n');
            rest = &rest[len.next_multiple_of(RECORD_ALIGN)..];
        }
        lines
    }

    /// A file says of every size that it is 0 where it is not said.
    fn facts_as_stored() -> Facts {
        Facts {
            sizes: Sizes {
                first_len: Some(0),
                spare_len_min: Some(0),
                spare_len_max: Some(0),
                window_len: Some(0),
            },
            ..facts()
        }
    }

    #[test]
    fn lines_come_back_byte_for_byte() {
        let mut lines = String::new();
        ledger_tests::example(|ledger| {
            let context = ledger.context("loan-7").open_or_create()?;
            let mut appender = context.appender()?;
            let twice = [("a", "1"), ("", "\n\"\0"), ("a", "a value of some length")];
            appender.append(&NewEntry::new("facts", "income: 4200").metadata(&twice))?;
            appender.append(&NewEntry::new("k\0\"\n", &[0, 159, 146, 150]))?;
            appender.append(&NewEntry::new("empty", "").received_lamport(1 << 40))?;
            appender.append(&NewEntry::new("long", &"\u{1f600}\u{7f}".repeat(1000)))?;
            let mut range = context.range(1);
            while let Some(entry) = range.next_entry()? {
                lines += &serde_json::to_string(&print::Line::of(&entry))?;
                lines.push('\n');
            }
            Ok(())
        });
        for from in 0..=4 {
            let skipped: usize = lines.split_inclusive('\n').take(from).map(str::len).sum();
            let lines = &lines[skipped..];
            let mut file = Vec::new();
            let count = snapshot_of_lines(lines.as_bytes(), facts(), &mut file);
            assert_eq!(count.expect("lines"), 4 - from as u64);
            assert_eq!(lines_of(&file), lines);
        }
    }

    #[test]
    fn what_cannot_be_the_next_entry_is_named_with_its_line() {
        let line = |seq: u64, lamport: u64| {
            format!("{{\"seq\":{seq},\"appended_at_ns\":5,\"lamport\":{lamport},\"key\":\"k\"}}\n")
        };
        let large = format!(
            "{{\"seq\":2,\"appended_at_ns\":5,\"lamport\":9,\"key\":\"k\",\"payload\":\"{}\"}}",
            "x".repeat(5 << 20)
        );
        for (lines, said) in [
            (
                line(0, 1),
                "line 1: `seq` is 0, expected 1 to 4611686018427387904; nothing is imported",
            ),
            (
                line(1, 1) + "\n" + &line(3, 2),
                "line 3: `seq` is 3, expected 2",
            ),
            (line(4, 9) + &line(4, 10), "line 2: `seq` is 4, expected 5"),
            (
                line(4, 9) + &line(5, 9),
                "line 2: `lamport` is 9, expected 10 to 9223372036854775812",
            ),
            (line(1, 0), "line 1: `lamport` is 0, expected 1 to"),
            (line(7, 6), "line 1: `lamport` is 6, expected 7 to"),
            (
                line(1, (1 << 63) + 1),
                "`lamport` is 9223372036854775809, expected 1 to 9223372036854775808",
            ),
            (
                "{\"key\":\"k\"}".to_owned(),
                "line 1: no `seq`, and an import",
            ),
            (
                line(1, 1).replace("\"lamport\"", "\"received_lamport\":3,\"lamport\""),
                "line 1: `received_lamport` is 3, expected none",
            ),
            (
                line(1, 1).replace("lamport", "lampart"),
                "line 1: unknown field `lampart`",
            ),
            (
                line(1, 1).replace("\"k\"", "\"\""),
                "line 1: the key is empty",
            ),
            (
                line(1, 1) + &large,
                "line 2: payload has 5242880 bytes, the limit is 4194304",
            ),
            (line(1, 1) + "[", "line 2: EOF"),
        ] {
            let outcome = snapshot_of_lines(lines.as_bytes(), facts(), Vec::new());
            match outcome {
                Err(Failure::Said(_, found)) => assert!(found.contains(said), "{found}"),
                other => panic!("{said}: {other:?}"),
            }
        }
    }
}
