//! Messages as bytes: what is asked is decoded by `prost`, what is answered written straight
//! from where it lies in memory.

use std::marker::PhantomData;

use bytes::{BufMut, BytesMut};
use ledger_client::{Context, Entry};
use ledger_shm::merkle::leaf_hash;
use prost::Message;
use prost::encoding::{WireType, encode_key, encode_varint, encoded_len_varint, key_len};
use tonic::Status;
use tonic::codec::{DecodeBuf, Decoder};

/// Decodes what is asked.
pub(super) struct Asking<M>(PhantomData<M>);

impl<M> Default for Asking<M> {
    fn default() -> Asking<M> {
        Asking(PhantomData)
    }
}

impl<M: Message + Default> Decoder for Asking<M> {
    type Item = M;
    type Error = Status;

    fn decode(&mut self, bytes: &mut DecodeBuf<'_>) -> Result<Option<M>, Status> {
        // Names and text that are not UTF-8 are found here, too.
        let decoded = M::decode(bytes).map(Some);
        decoded.map_err(|error| Status::invalid_argument(format!("this is no request: {error}")))
    }
}

/// Bytes before each message: whether it is compressed, and its length.
const PREFIX_LEN: usize = 5;

/// Writes a message behind others, as gRPC frames it.
pub(super) fn write_message(target: &mut BytesMut, write: impl FnOnce(&mut BytesMut)) {
    let at = target.len();
    target.put_bytes(0, PREFIX_LEN);
    write(target);
    let len = target.len() - at - PREFIX_LEN;
    let len = u32::try_from(len).expect("it holds one entry, or a page of them");
    target[at + 1..at + PREFIX_LEN].copy_from_slice(&len.to_be_bytes());
}

/// Numbers of fields, as `context.proto` has them.
mod field {
    pub(super) const ID: u32 = 1;
    pub(super) const KEY: u32 = 2;
    pub(super) const PAYLOAD: u32 = 3;
    pub(super) const SEQUENCE: u32 = 4;
    pub(super) const APPENDED_AT_NS: u32 = 5;
    pub(super) const METADATA: u32 = 6;
    pub(super) const LAMPORT: u32 = 7;
    pub(super) const CONTENT_HASH: u32 = 8;
    /// Of an entry in an answer, or in an event.
    pub(super) const ENTRY: u32 = 1;
    pub(super) const MAP_KEY: u32 = 1;
    pub(super) const MAP_VALUE: u32 = 2;
}

/// How entries of one context are put.
#[derive(Clone, Debug)]
pub(super) struct Entries {
    /// What the ids of all begin with.
    epoch: String,
}

/// The digits of a number, without an allocation.
struct Digits {
    bytes: [u8; 20],
    begin: usize,
}

impl Digits {
    fn of(mut number: u64) -> Digits {
        let mut digits = Digits {
            bytes: [b'0'; 20],
            begin: 20,
        };
        loop {
            digits.begin -= 1;
            digits.bytes[digits.begin] = b'0' + (number % 10) as u8;
            number /= 10;
            if number == 0 {
                return digits;
            }
        }
    }

    fn as_bytes(&self) -> &[u8] {
        &self.bytes[self.begin..]
    }
}

impl Entries {
    pub(super) fn of(context: &Context) -> Entries {
        Entries {
            epoch: context.epoch().to_string(),
        }
    }

    /// Bytes of an entry as the field of a message.
    pub(super) fn field_len(&self, entry: &Entry<'_>) -> usize {
        delimited_len(field::ENTRY, self.message_len(entry))
    }

    /// Writes an entry as the only field that an answer or an event has, or as one of many.
    pub(super) fn write_field(&self, entry: &Entry<'_>, target: &mut BytesMut) {
        self.write_before_payload(entry, target);
        target.put_slice(entry.payload());
    }

    /// Writes a message that has an entry as its only field, as gRPC frames it, but for the
    /// payload, which is to follow.
    pub(super) fn begin_message(&self, entry: &Entry<'_>, target: &mut BytesMut) {
        let len = u32::try_from(self.field_len(entry)).expect("no context takes as much");
        target.put_u8(0);
        target.put_u32(len);
        self.write_before_payload(entry, target);
    }

    fn write_before_payload(&self, entry: &Entry<'_>, target: &mut BytesMut) {
        let len = self.message_len(entry);
        encode_key(field::ENTRY, WireType::LengthDelimited, target);
        encode_varint(len as u64, target);
        let digits = Digits::of(entry.seq());
        let digits = digits.as_bytes();
        encode_key(field::ID, WireType::LengthDelimited, target);
        encode_varint((self.epoch.len() + 1 + digits.len()) as u64, target);
        target.put_slice(self.epoch.as_bytes());
        target.put_u8(b'-');
        target.put_slice(digits);
        write_delimited(field::KEY, entry.key().as_bytes(), target);
        write_number(field::SEQUENCE, entry.seq(), target);
        write_number(field::APPENDED_AT_NS, entry.appended_at_ns(), target);
        for (key, value) in entry.metadata() {
            encode_key(field::METADATA, WireType::LengthDelimited, target);
            encode_varint(pair_len(key, value) as u64, target);
            write_delimited(field::MAP_KEY, key.as_bytes(), target);
            write_delimited(field::MAP_VALUE, value.as_bytes(), target);
        }
        write_number(field::LAMPORT, entry.lamport(), target);
        write_delimited(field::CONTENT_HASH, &leaf_hash(entry), target);
        encode_key(field::PAYLOAD, WireType::LengthDelimited, target);
        encode_varint(entry.payload().len() as u64, target);
    }

    fn message_len(&self, entry: &Entry<'_>) -> usize {
        let id_len = self.epoch.len() + 1 + Digits::of(entry.seq()).as_bytes().len();
        let pairs = entry.metadata();
        let pairs = pairs.map(|(key, value)| delimited_len(field::METADATA, pair_len(key, value)));
        delimited_len(field::ID, id_len)
            + delimited_len(field::KEY, entry.key().len())
            + delimited_len(field::PAYLOAD, entry.payload().len())
            + number_len(field::SEQUENCE, entry.seq())
            + number_len(field::APPENDED_AT_NS, entry.appended_at_ns())
            + pairs.sum::<usize>()
            + number_len(field::LAMPORT, entry.lamport())
            + delimited_len(field::CONTENT_HASH, 32)
    }
}

fn pair_len(key: &str, value: &str) -> usize {
    delimited_len(field::MAP_KEY, key.len()) + delimited_len(field::MAP_VALUE, value.len())
}

fn delimited_len(number: u32, len: usize) -> usize {
    key_len(number) + encoded_len_varint(len as u64) + len
}

fn number_len(number: u32, value: u64) -> usize {
    key_len(number) + encoded_len_varint(value)
}

fn write_delimited(number: u32, bytes: &[u8], target: &mut BytesMut) {
    encode_key(number, WireType::LengthDelimited, target);
    encode_varint(bytes.len() as u64, target);
    target.put_slice(bytes);
}

pub(super) fn write_number(number: u32, value: u64, target: &mut BytesMut) {
    encode_key(number, WireType::Varint, target);
    encode_varint(value, target);
}
