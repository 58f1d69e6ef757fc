//! Entries as a table for analysis, in row groups that are written one by one.

use std::fs::File;
use std::io;
use std::sync::Arc;

use ::parquet::basic::Compression;
use ::parquet::data_type::{ByteArray, ByteArrayType, DataType, Int64Type};
use ::parquet::errors::ParquetError;
use ::parquet::file::properties::WriterProperties;
use ::parquet::file::writer::{SerializedFileWriter, SerializedRowGroupWriter};
use ::parquet::schema::parser::parse_message_type;
use ledger_client::Entry;

use super::Rows;

/// Metadata is a list, not a map: names may repeat, and readers refuse a map where
/// they do.
const SCHEMA: &str = "
message entries {
  required int64 seq (INTEGER(64, false));
  required int64 appended_at (TIMESTAMP(NANOS, true));
  required int64 lamport (INTEGER(64, false));
  required binary key (STRING);
  required binary payload;
  optional binary payload_text (STRING);
  required group metadata (LIST) {
    repeated group list {
      required group element {
        required binary name (STRING);
        required binary value (STRING);
      }
    }
  }
}";

/// Bytes of entries that are held for one row group, but for the last entry.
const GROUP_LEN: usize = 16 << 20;

pub(super) struct Table {
    writer: SerializedFileWriter<File>,
    group: Group,
}

/// The columns of some entries. Where a value may be missing or repeat, levels say
/// so: see the format's specification, "Nested Encoding".
#[derive(Default)]
struct Group {
    len: usize,
    seq: Vec<i64>,
    appended_at: Vec<i64>,
    lamport: Vec<i64>,
    key: Vec<ByteArray>,
    payload: Vec<ByteArray>,
    text: Vec<ByteArray>,
    text_defined: Vec<i16>,
    name: Vec<ByteArray>,
    value: Vec<ByteArray>,
    pair_defined: Vec<i16>,
    pair_repeated: Vec<i16>,
}

impl Group {
    fn push(&mut self, entry: &Entry<'_>) -> io::Result<()> {
        let at = entry.appended_at_ns();
        let at = i64::try_from(at).map_err(|_| {
            io::Error::other(format!(
                "entry {} was appended {at} ns after 1970, and times in parquet end at {}; use \
                 csv or jsonl",
                entry.seq(),
                i64::MAX
            ))
        })?;
        // Unsigned numbers are stored as the signed ones of the same bits.
        self.seq.push(entry.seq().cast_signed());
        self.appended_at.push(at);
        self.lamport.push(entry.lamport().cast_signed());
        self.key.push(entry.key().into());
        let payload = ByteArray::from(entry.payload());
        let is_text = std::str::from_utf8(entry.payload()).is_ok();
        self.text_defined.push(is_text.into());
        if is_text {
            self.text.push(payload.clone());
        }
        self.payload.push(payload);
        let pairs = entry.metadata();
        if pairs.len() == 0 {
            self.pair_defined.push(0);
            self.pair_repeated.push(0);
        }
        for (index, (name, value)) in pairs.enumerate() {
            self.pair_defined.push(1);
            self.pair_repeated.push((index > 0).into());
            self.name.push(name.into());
            self.value.push(value.into());
        }
        self.len += entry.record_bytes().len();
        Ok(())
    }

    fn write(&self, rows: &mut SerializedRowGroupWriter<'_, File>) -> Result<(), ParquetError> {
        let pairs = (&*self.pair_defined, &*self.pair_repeated);
        column::<Int64Type>(rows, &self.seq, None, None)?;
        column::<Int64Type>(rows, &self.appended_at, None, None)?;
        column::<Int64Type>(rows, &self.lamport, None, None)?;
        column::<ByteArrayType>(rows, &self.key, None, None)?;
        column::<ByteArrayType>(rows, &self.payload, None, None)?;
        column::<ByteArrayType>(rows, &self.text, Some(&self.text_defined), None)?;
        column::<ByteArrayType>(rows, &self.name, Some(pairs.0), Some(pairs.1))?;
        column::<ByteArrayType>(rows, &self.value, Some(pairs.0), Some(pairs.1))
    }
}

fn column<T: DataType>(
    rows: &mut SerializedRowGroupWriter<'_, File>,
    values: &[T::T],
    defined: Option<&[i16]>,
    repeated: Option<&[i16]>,
) -> Result<(), ParquetError> {
    let column = rows.next_column()?;
    let mut column = column.expect("as many as the schema has");
    column.typed::<T>().write_batch(values, defined, repeated)?;
    column.close()
}

impl Table {
    pub(super) fn begin(file: File) -> io::Result<Table> {
        let schema = parse_message_type(SCHEMA).expect("a schema");
        let properties = WriterProperties::builder()
            .set_compression(Compression::SNAPPY)
            .build();
        let writer = SerializedFileWriter::new(file, Arc::new(schema), Arc::new(properties));
        Ok(Table {
            writer: writer.map_err(cause)?,
            group: Group::default(),
        })
    }

    fn write_group(&mut self) -> Result<(), ParquetError> {
        let group = std::mem::take(&mut self.group);
        let mut rows = self.writer.next_row_group()?;
        group.write(&mut rows)?;
        rows.close()?;
        Ok(())
    }
}

/// What the file said, which decides what the command says.
fn cause(error: ParquetError) -> io::Error {
    match error {
        ParquetError::External(error) => match error.downcast::<io::Error>() {
            Ok(error) => *error,
            Err(other) => io::Error::other(other),
        },
        other => io::Error::other(other),
    }
}

impl Rows for Table {
    fn push(&mut self, entry: &Entry<'_>) -> io::Result<()> {
        self.group.push(entry)?;
        if self.group.len >= GROUP_LEN {
            self.write_group().map_err(cause)?;
        }
        Ok(())
    }

    fn finish(mut self: Box<Self>) -> io::Result<()> {
        if self.group.len > 0 {
            self.write_group().map_err(cause)?;
        }
        self.writer.close().map(drop).map_err(cause)
    }
}

#[cfg(test)]
mod tests {
    use ledger_client::{Entry, NewEntry};
    use ledger_shm::Appended;

    use super::Group;

    #[test]
    fn a_time_that_parquet_cannot_say_is_an_error_that_names_the_entry() {
        let pushed = |appended_at_ns| {
            let appended = Appended {
                seq: 7,
                lamport: 7,
                appended_at_ns,
            };
            let record = NewEntry::new("k", "v").record(&appended, &Default::default());
            let record = record.expect("an entry");
            let entry = Entry::from_bytes(&record).expect("a record");
            Group::default().push(&entry)
        };
        let last = i64::MAX.cast_unsigned();
        pushed(last).expect("in 2262");
        let said = pushed(last + 1).expect_err("later").to_string();
        assert!(
            said.starts_with("entry 7 was appended 9223372036854775808 ns"),
            "{said}"
        );
    }
}
