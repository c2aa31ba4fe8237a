//! The tar entries of a volume: what is written for a segment, and how it is read back.
//!
//! POSIX.1-2017 `ustar` and `pax`. All fields but name, size and checksum are constant, so that a header
//! costs little more than the digest in its name once it is compressed.

use tar::{EntryType, Header, PaxExtensions};

use super::ArchiveError;
use crate::digest::Digest;

/// A tar stream is a sequence of blocks of this many bytes.
pub(super) const BLOCK_LEN: usize = 512;

/// What ends a tar stream: two blocks of zeros.
pub(super) const END_LEN: usize = 2 * BLOCK_LEN;

/// Most segments that a delta may copy from.
pub const MAX_BASES: usize = 3;

/// Longest segment and longest payload, in bytes: a bound for what a hostile index can ask for, far above
/// what the segmenter makes.
pub const MAX_SEGMENT_LEN: u32 = 16 * 1024 * 1024;

const CREATED: &str = "created/";
const UPDATED: &str = "updated/";
const PAX_NAME: &[u8] = b"bases";
const BASES_KEY: &str = "TREERING.bases";
const DELTA_KEY: &str = "TREERING.delta";

/// A segment as it goes into a volume.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored {
    /// The SHA-256 of the segment.
    pub digest: Digest,
    /// The length of the segment in bytes.
    pub len: u32,
    /// What is stored of it.
    pub payload: Payload,
}

/// What a volume holds of a segment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Payload {
    /// All of its bytes: entry `created/<digest>`.
    Whole(Vec<u8>),
    /// A delta whose result it is: entry `updated/<digest>`.
    Delta {
        /// The delta, in librsync's format.
        bytes: Vec<u8>,
        /// How it hangs together with other segments.
        link: DeltaLink,
    },
}

/// How a delta hangs together with other segments.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeltaLink {
    /// The segments that it copies from, in the order in which they are concatenated: 1 to [`MAX_BASES`].
    pub bases: Vec<Digest>,
    /// Deltas in its chain, this one included.
    pub depth: u8,
    /// Bytes of the deltas in its chain, this one included.
    pub chain_bytes: u32,
}

impl Payload {
    /// The bytes that are stored.
    pub fn bytes(&self) -> &[u8] {
        match self {
            Self::Whole(bytes) | Self::Delta { bytes, .. } => bytes,
        }
    }
}

impl Stored {
    /// A segment stored whole.
    pub fn whole(digest: Digest, bytes: Vec<u8>) -> Self {
        Self { digest, len: u32::try_from(bytes.len()).unwrap_or(u32::MAX), payload: Payload::Whole(bytes) }
    }

    /// Checks the bounds that readers rely on.
    pub(super) fn check(&self) -> Result<(), ArchiveError> {
        let payload_len = self.payload.bytes().len();
        let fault = match &self.payload {
            _ if self.len > MAX_SEGMENT_LEN || payload_len > MAX_SEGMENT_LEN as usize => "it is too long",
            Payload::Whole(_) if payload_len != self.len as usize => "its length is not that of its bytes",
            Payload::Delta { link, .. } => match link.fault(payload_len as u32) {
                Some(fault) => fault,
                None => return Ok(()),
            },
            Payload::Whole(_) => return Ok(()),
        };
        Err(ArchiveError::Segment { digest: self.digest, fault })
    }

    /// Appends all that stands before the payload.
    pub(super) fn write_head(&self, stream: &mut Vec<u8>) {
        let directory = match &self.payload {
            Payload::Whole(_) => CREATED,
            Payload::Delta { link, .. } => {
                let records = link.to_pax(self.len);
                write_header(stream, EntryType::XHeader, PAX_NAME, records.len());
                stream.extend_from_slice(records.as_bytes());
                pad(stream, records.len());
                UPDATED
            }
        };
        let name = format!("{directory}{}", self.digest);
        write_header(stream, EntryType::Regular, name.as_bytes(), self.payload.bytes().len());
    }
}

impl DeltaLink {
    /// What is wrong with it, for a delta of `delta_len` bytes.
    pub(super) fn fault(&self, delta_len: u32) -> Option<&'static str> {
        if self.bases.is_empty() || self.bases.len() > MAX_BASES {
            Some("its delta does not have 1 to 3 bases")
        } else if self.depth == 0 || self.chain_bytes < delta_len {
            Some("its delta is not counted in its own chain")
        } else {
            None
        }
    }

    fn to_pax(&self, segment_len: u32) -> String {
        let bases: Vec<_> = self.bases.iter().map(Digest::to_string).collect();
        pax_record(BASES_KEY, &bases.join(","))
            + &pax_record(DELTA_KEY, &format!("{segment_len},{},{}", self.depth, self.chain_bytes))
    }

    /// Reads the records that stand before an `updated/` entry: the link and the length of the segment.
    pub(super) fn from_pax(records: &[u8]) -> Option<(Self, u32)> {
        let (mut bases, mut numbers) = (None, None);
        for record in PaxExtensions::new(records) {
            let record = record.ok()?;
            match record.key() {
                Ok(BASES_KEY) => bases = Some(record.value().ok()?),
                Ok(DELTA_KEY) => numbers = Some(record.value().ok()?),
                _ => {}
            }
        }
        let mut numbers = numbers?.split(',');
        let segment_len = numbers.next()?.parse().ok()?;
        let (depth, chain_bytes) = (numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?);
        let bases = bases?.split(',').take(MAX_BASES + 1).map(str::parse).collect::<Result<_, _>>().ok()?;
        numbers.next().is_none().then_some((Self { bases, depth, chain_bytes }, segment_len))
    }
}

/// What the name of an entry says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Name {
    Created(Digest),
    Updated(Digest),
}

impl Name {
    pub(super) fn parse(name: &[u8]) -> Option<Self> {
        let digest = |text| std::str::from_utf8(text).ok()?.parse().ok();
        match (name.strip_prefix(CREATED.as_bytes()), name.strip_prefix(UPDATED.as_bytes())) {
            (Some(text), _) => digest(text).map(Self::Created),
            (_, Some(text)) => digest(text).map(Self::Updated),
            _ => None,
        }
    }
}

/// `len` rounded up to whole blocks.
pub(super) fn padded(len: u64) -> u64 {
    len.next_multiple_of(BLOCK_LEN as u64)
}

/// Appends what fills the last block of `len` bytes.
pub(super) fn pad(stream: &mut Vec<u8>, len: usize) {
    stream.resize(stream.len() + len.next_multiple_of(BLOCK_LEN) - len, 0);
}

fn write_header(stream: &mut Vec<u8>, kind: EntryType, name: &[u8], len: usize) {
    let mut header = Header::new_ustar();
    for (byte, &named) in header.as_old_mut().name.iter_mut().zip(name) {
        *byte = named;
    }
    header.set_mode(0o644);
    header.set_uid(0);
    header.set_gid(0);
    header.set_entry_type(kind);
    header.set_size(len as u64);
    header.set_cksum();
    stream.extend_from_slice(header.as_bytes());
}

/// `<length> <key>=<value>\n`, where the length counts all of that.
fn pax_record(key: &str, value: &str) -> String {
    let rest = key.len() + value.len() + 3;
    let mut digits = 1;
    while (rest + digits).to_string().len() > digits {
        digits += 1;
    }
    format!("{} {key}={value}\n", rest + digits)
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_pax_record_counts_its_own_length() {
        assert_eq!(pax_record("k", "v"), "6 k=v\n");
        for len in 0..1200 {
            let record = pax_record("key", &"v".repeat(len));
            assert!(record.starts_with(&format!("{} key=", record.len())), "{record}");
        }
    }

    #[test]
    fn names_of_another_shape_are_refused() {
        let digest = Digest::of(b"x");
        assert_eq!(Name::parse(format!("created/{digest}").as_bytes()), Some(Name::Created(digest)));
        assert_eq!(Name::parse(format!("updated/{digest}").as_bytes()), Some(Name::Updated(digest)));
        for name in [
            format!("{digest}"),
            format!("/created/{digest}"),
            format!("created/{digest}/"),
            "created/..".into(),
        ] {
            assert_eq!(Name::parse(name.as_bytes()), None, "{name}");
        }
    }

    #[test]
    fn a_head_is_one_block_or_three() {
        let digest = Digest::of(b"x");
        let mut stream = Vec::new();
        Stored::whole(digest, b"x".to_vec()).write_head(&mut stream);
        assert_eq!(stream.len(), BLOCK_LEN);
        let link = DeltaLink { bases: vec![digest; MAX_BASES], depth: u8::MAX, chain_bytes: u32::MAX };
        let payload = Payload::Delta { bytes: vec![1], link };
        Stored { digest, len: MAX_SEGMENT_LEN, payload }.write_head(&mut stream);
        assert_eq!(stream.len(), 4 * BLOCK_LEN);
    }

    proptest! {
        #[test]
        fn links_survive_their_pax_records(
            bases in vec(any::<[u8; 32]>(), 1..=MAX_BASES), depth in 1u8.., chain_bytes in any::<u32>(), len in any::<u32>(),
        ) {
            let bases = bases.into_iter().map(Digest::from_bytes).collect();
            let link = DeltaLink { bases, depth, chain_bytes };
            let records = link.to_pax(len);
            prop_assert_eq!(DeltaLink::from_pax(records.as_bytes()), Some((link, len)));
        }

        #[test]
        fn damaged_pax_records_are_no_panic(
            at in any::<prop::sample::Index>(), byte in any::<u8>(), cut in any::<prop::sample::Index>(),
        ) {
            let link = DeltaLink { bases: vec![Digest::of(b"x"); 2], depth: 1, chain_bytes: 9 };
            let mut records = link.to_pax(5).into_bytes();
            let at = at.index(records.len());
            records[at] = byte;
            DeltaLink::from_pax(&records);
            DeltaLink::from_pax(&records[..cut.index(records.len())]);
        }
    }
}
