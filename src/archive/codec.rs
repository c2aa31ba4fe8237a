//! How one member of a volume is compressed, and gzip for small blobs.
//!
//! Compressors are kept per thread: making one costs as much as compressing several small blobs.

use std::cell::RefCell;
use std::fmt;
use std::io::{self, BufRead, Read};
use std::str::FromStr;

use flate2::bufread::{GzDecoder, MultiGzDecoder};
use libdeflater::{CompressionLvl, Compressor, Decompressor};
use serde::{Deserialize, Serialize};

use super::ArchiveError;

/// How the members of a volume are compressed; as text `gzip[:LEVEL]`, `zstd[:LEVEL]` or `none`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Codec {
    /// One gzip member (RFC 1952) each; the level is libdeflate's, 1 to 12. With the feature `isal`, level 1 is
    /// ISA-L's.
    Gzip {
        /// 1 (fastest) to 12 (smallest).
        level: u8,
    },
    /// One zstd frame (RFC 8878) with a checksum each; the level is zstd's, 1 to 19.
    Zstd {
        /// 1 (fastest) to 19 (smallest).
        level: u8,
    },
    /// The bytes themselves.
    None,
}

const FASTEST_GZIP_LEVEL: u8 = 1;
const DEFAULT_GZIP_LEVEL: u8 = FASTEST_GZIP_LEVEL;
const DEFAULT_ZSTD_LEVEL: u8 = 3;
const MAX_GZIP_LEVEL: u8 = 12;
const MAX_ZSTD_LEVEL: u8 = 19;

/// Level for metadata, which is small and read often.
const BLOB_LEVEL: u8 = 6;

/// What a gzip member of stored blocks begins with: deflate, no flags, no time, unknown system.
const GZIP_HEADER: [u8; 10] = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 0xff];

/// CRC-32 and length, at the end of a gzip member.
const GZIP_TRAILER_LEN: usize = 8;

/// What ISA-L may need beyond stored blocks: head and trailer of the member, and of the last blocks.
#[cfg(feature = "isal")]
const ISAL_OVERHEAD: usize = 1024;

/// Longest content of one stored deflate block.
const STORED_BLOCK_LEN: usize = 65_535;

/// More room than this is not kept for the next member.
const MAX_SCRATCH: usize = 4 << 20;

/// No deflate stream expands to more than this many times its length.
const MAX_DEFLATE_RATIO: usize = 1032;

impl Default for Codec {
    fn default() -> Self {
        Self::Gzip { level: DEFAULT_GZIP_LEVEL }
    }
}

impl fmt::Display for Codec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Gzip { level } => write!(f, "gzip:{level}"),
            Self::Zstd { level } => write!(f, "zstd:{level}"),
            Self::None => f.write_str("none"),
        }
    }
}

impl FromStr for Codec {
    type Err = ArchiveError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (name, level) = match text.split_once(':') {
            Some((name, level)) => (name, Some(level)),
            None => (text, None),
        };
        let level = |default, max| match level {
            None => Some(default),
            Some(level) => level.parse().ok().filter(|level| (1..=max).contains(level)),
        };
        let codec = match name {
            "gzip" => level(DEFAULT_GZIP_LEVEL, MAX_GZIP_LEVEL).map(|level| Self::Gzip { level }),
            "zstd" => level(DEFAULT_ZSTD_LEVEL, MAX_ZSTD_LEVEL).map(|level| Self::Zstd { level }),
            _ => (text == "none").then_some(Self::None),
        };
        codec.ok_or_else(|| ArchiveError::UnknownCodec(text.to_owned()))
    }
}

impl TryFrom<String> for Codec {
    type Error = ArchiveError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<Codec> for String {
    fn from(codec: Codec) -> Self {
        codec.to_string()
    }
}

impl Codec {
    /// What the name of a volume ends with.
    pub fn suffix(self) -> &'static str {
        match self {
            Self::Gzip { .. } => ".tar.gz",
            Self::Zstd { .. } => ".tar.zst",
            Self::None => ".tar",
        }
    }

    /// Compresses `plain` into one member that can be read alone and may be followed by others.
    ///
    /// With gzip, what looks incompressible is stored and costs little more than its checksum. The bytes
    /// depend on `plain` and the codec only.
    pub fn compress_member(self, plain: &[u8]) -> Result<Vec<u8>, ArchiveError> {
        match self {
            Self::Gzip { level } if is_incompressible(plain, level)? => Ok(store_gzip(plain)),
            Self::Gzip { level } => deflate(plain, level),
            Self::Zstd { level } => compress_zstd(plain, level),
            Self::None => Ok(plain.to_vec()),
        }
    }

    /// Restores a member of exactly `expected_len` bytes.
    ///
    /// Allocates `expected_len` bytes and, with gzip, only when `member` is long enough to hold that many.
    /// Checksums are checked.
    pub fn decompress_member(self, member: &[u8], expected_len: usize) -> Result<Vec<u8>, ArchiveError> {
        match self {
            Self::Gzip { .. } => inflate(member, expected_len),
            Self::Zstd { .. } => decompress_zstd(member, expected_len),
            Self::None if member.len() == expected_len => Ok(member.to_vec()),
            Self::None => Err(ArchiveError::Member("its length is not the one in the index")),
        }
    }
}

/// Compresses a small blob (metadata) into one gzip member.
pub fn gzip(plain: &[u8]) -> Result<Vec<u8>, ArchiveError> {
    deflate(plain, BLOB_LEVEL)
}

/// Restores what one or several gzip members hold, refusing more than `limit` bytes before they are allocated.
pub fn gunzip(bytes: &[u8], limit: usize) -> Result<Vec<u8>, ArchiveError> {
    match single_member_len(bytes) {
        Some(len) if len > limit => Err(ArchiveError::TooLong { limit }),
        Some(len) => inflate(bytes, len),
        None => {
            let mut plain = Vec::new();
            let bound = u64::try_from(limit).unwrap_or(u64::MAX).saturating_add(1);
            MultiGzDecoder::new(bytes).take(bound).read_to_end(&mut plain).map_err(ArchiveError::Gunzip)?;
            match plain.len() > limit {
                true => Err(ArchiveError::TooLong { limit }),
                false => Ok(plain),
            }
        }
    }
}

/// What gzip members hold that stand one after the other. Zeros may follow the last, as `gzip` takes them: tapes and
/// block devices leave such padding behind.
pub(super) struct GzipMembers<R> {
    /// Always there, but for the moment between two members.
    member: Option<GzDecoder<R>>,
}

impl<R: BufRead> GzipMembers<R> {
    pub fn new(members: R) -> Self {
        Self { member: Some(GzDecoder::new(members)) }
    }
}

impl<R: BufRead> Read for GzipMembers<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        while let Some(member) = &mut self.member {
            let len = member.read(buffer)?;
            if len > 0 {
                return Ok(len);
            }
            let Some(mut rest) = self.member.take().map(GzDecoder::into_inner) else { break };
            match rest.fill_buf()?.first() {
                None => break,
                Some(0) => expect_zeros(&mut rest)?,
                Some(_) => self.member = Some(GzDecoder::new(rest)),
            }
        }
        Ok(0)
    }
}

fn expect_zeros(rest: &mut impl BufRead) -> io::Result<()> {
    loop {
        let padding = rest.fill_buf()?;
        if padding.iter().any(|&byte| byte != 0) {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "something else follows the last gzip member",
            ));
        }
        match padding.len() {
            0 => return Ok(()),
            len => rest.consume(len),
        }
    }
}

/// Whether a sample says that deflate would gain nothing on `bytes`, in a few microseconds.
///
/// Looks at how often each byte occurs, so repetition of random bytes escapes it: enough to decide where a
/// member begins, not how it is written.
pub(super) fn has_high_entropy(bytes: &[u8]) -> bool {
    const RUNS: usize = 16;
    const RUN_LEN: usize = 256;
    const MIN_BITS_A_BYTE: f32 = 7.6;

    let mut counts = [0u16; 256];
    let mut total = 0u16;
    for run in bytes.chunks(bytes.len().div_ceil(RUNS).max(RUN_LEN)) {
        for &byte in run.iter().take(RUN_LEN) {
            counts[usize::from(byte)] += 1;
            total += 1;
        }
    }
    let total = f32::from(total.max(1));
    let spread: f32 = counts
        .iter()
        .filter(|&&count| count > 0)
        .map(|&count| f32::from(count))
        .map(|count| count * count.log2())
        .sum();
    total.log2() - spread / total >= MIN_BITS_A_BYTE
}

/// Whether deflate would gain next to nothing: high entropy, and a trial on two short parts agrees.
fn is_incompressible(plain: &[u8], level: u8) -> Result<bool, ArchiveError> {
    const MIN_LEN: usize = 16 * 1024;
    const MAX_TRIAL: usize = 16 * 1024;

    if plain.len() < MIN_LEN || !has_high_entropy(plain) {
        return Ok(false);
    }
    let trial = (plain.len() / 32).clamp(2048, MAX_TRIAL);
    let mut saves = false;
    for start in [plain.len() / 4, plain.len() / 4 * 3] {
        let part = &plain[start..plain.len().min(start + trial)];
        saves |= deflate(part, level)?.len() + part.len() / 32 < part.len();
    }
    Ok(!saves)
}

fn deflate(plain: &[u8], level: u8) -> Result<Vec<u8>, ArchiveError> {
    #[cfg(feature = "isal")]
    if level == FASTEST_GZIP_LEVEL {
        return deflate_fastest(plain);
    }
    thread_local! {
        static COMPRESSOR: RefCell<Option<(u8, Compressor)>> = const { RefCell::new(None) };
    }
    let libdeflate_level = CompressionLvl::new(level.into())
        .map_err(|_| ArchiveError::UnknownCodec(Codec::Gzip { level }.to_string()))?;
    COMPRESSOR.with_borrow_mut(|slot| {
        let compressor = match slot {
            Some((kept, compressor)) if *kept == level => compressor,
            _ => &mut slot.insert((level, Compressor::new(libdeflate_level))).1,
        };
        let bound = compressor.gzip_compress_bound(plain.len());
        in_scratch(bound, |member| compressor.gzip_compress(plain, member).map_err(ArchiveError::Deflate))
    })
}

/// Lets `compress` fill at most `bound` bytes, and returns as many as it says.
///
/// The room is kept per thread: fresh memory of that length costs more than copying what a member needs of it.
fn in_scratch<E>(bound: usize, compress: impl FnOnce(&mut [u8]) -> Result<usize, E>) -> Result<Vec<u8>, E> {
    thread_local! {
        static SCRATCH: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
    }
    SCRATCH.with_borrow_mut(|scratch| {
        if scratch.len() < bound {
            scratch.resize(bound, 0);
        }
        let packed = compress(&mut scratch[..bound]).map(|len| scratch[..len].to_vec());
        if scratch.len() > MAX_SCRATCH {
            *scratch = Vec::new();
        }
        packed
    })
}

/// As [`deflate`], by ISA-L.
#[cfg(feature = "isal")]
fn deflate_fastest(plain: &[u8]) -> Result<Vec<u8>, ArchiveError> {
    use isal::{Codec, CompressionLevel, compress_into};

    let bound = plain.len() + plain.len() / STORED_BLOCK_LEN * 5 + ISAL_OVERHEAD;
    in_scratch(bound, |member| {
        compress_into(plain, member, CompressionLevel::One, Codec::Gzip)
            .map_err(|error| ArchiveError::Isal(error.to_string()))
    })
}

fn inflate(member: &[u8], expected_len: usize) -> Result<Vec<u8>, ArchiveError> {
    thread_local! {
        static DECOMPRESSOR: RefCell<Decompressor> = RefCell::new(Decompressor::new());
    }
    if expected_len / MAX_DEFLATE_RATIO > member.len() {
        return Err(ArchiveError::Member("it is too short for its content"));
    }
    let mut plain = vec![0; expected_len];
    let len = DECOMPRESSOR
        .with_borrow_mut(|decompressor| decompressor.gzip_decompress(member, &mut plain))
        .map_err(ArchiveError::Inflate)?;
    match len == expected_len {
        true => Ok(plain),
        false => Err(ArchiveError::Member("its length is not the one in the index")),
    }
}

/// One gzip member of stored deflate blocks (RFC 1951, 3.2.4).
fn store_gzip(plain: &[u8]) -> Vec<u8> {
    let blocks = plain.len().div_ceil(STORED_BLOCK_LEN).max(1);
    let mut member = Vec::with_capacity(GZIP_HEADER.len() + blocks * 5 + plain.len() + GZIP_TRAILER_LEN);
    member.extend_from_slice(&GZIP_HEADER);
    let mut rest = plain;
    loop {
        let (block, after) = rest.split_at(rest.len().min(STORED_BLOCK_LEN));
        let len = block.len() as u16;
        member.push(after.is_empty().into());
        member.extend_from_slice(&len.to_le_bytes());
        member.extend_from_slice(&(!len).to_le_bytes());
        member.extend_from_slice(block);
        if after.is_empty() {
            break;
        }
        rest = after;
    }
    member.extend_from_slice(&libdeflater::crc32(plain).to_le_bytes());
    member.extend_from_slice(&(plain.len() as u32).to_le_bytes());
    member
}

/// The length that a gzip stream declares for its content when it certainly is one member.
///
/// libdeflate does not say where a member ends, so a stream that might hold a second one (the magic occurs
/// again) is left to the streaming decoder.
fn single_member_len(bytes: &[u8]) -> Option<usize> {
    let second = bytes.get(1..)?.windows(3).any(|window| window == &GZIP_HEADER[..3]);
    let len = u32::from_le_bytes(*bytes.last_chunk()?);
    (!second).then_some(len.try_into().ok()?)
}

fn compress_zstd(plain: &[u8], level: u8) -> Result<Vec<u8>, ArchiveError> {
    use zstd::bulk::Compressor;
    thread_local! {
        static COMPRESSOR: RefCell<Option<(u8, Compressor<'static>)>> = const { RefCell::new(None) };
    }
    COMPRESSOR.with_borrow_mut(|slot| {
        let compressor = match slot {
            Some((kept, compressor)) if *kept == level => compressor,
            _ => {
                let mut compressor = Compressor::new(level.into()).map_err(ArchiveError::Zstd)?;
                compressor.include_checksum(true).map_err(ArchiveError::Zstd)?;
                &mut slot.insert((level, compressor)).1
            }
        };
        in_scratch(zstd::zstd_safe::compress_bound(plain.len()), |member| {
            compressor.compress_to_buffer(plain, member).map_err(ArchiveError::Zstd)
        })
    })
}

fn decompress_zstd(member: &[u8], expected_len: usize) -> Result<Vec<u8>, ArchiveError> {
    use zstd::bulk::Decompressor;
    thread_local! {
        static DECOMPRESSOR: RefCell<Decompressor<'static>> = RefCell::new(Decompressor::default());
    }
    let mut plain = vec![0; expected_len];
    let len = DECOMPRESSOR
        .with_borrow_mut(|decompressor| decompressor.decompress_to_buffer(member, &mut plain[..]))
        .map_err(ArchiveError::Zstd)?;
    match len == expected_len {
        true => Ok(plain),
        false => Err(ArchiveError::Member("its length is not the one in the index")),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flate2::write::GzEncoder;
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::super::tests::{noise, text};
    use super::*;

    const CODECS: [Codec; 4] =
        [Codec::Gzip { level: 1 }, Codec::Gzip { level: 12 }, Codec::Zstd { level: 1 }, Codec::None];

    fn any_codec() -> impl Strategy<Value = Codec> {
        prop::sample::select(&CODECS)
    }

    #[test]
    fn codecs_print_as_they_parse() {
        for text in ["gzip:1", "gzip:12", "zstd:1", "zstd:19", "none"] {
            assert_eq!(text.parse::<Codec>().unwrap().to_string(), text);
        }
        assert_eq!("gzip".parse::<Codec>().unwrap(), Codec::default());
        assert_eq!("zstd".parse::<Codec>().unwrap(), Codec::Zstd { level: 3 });
        for text in ["", "gzip:", "gzip:0", "gzip:13", "zstd:20", "zstd:-1", "none:1", "Gzip", "gzip:1:1"] {
            assert!(text.parse::<Codec>().is_err(), "{text}");
        }
    }

    #[test]
    fn a_level_that_does_not_exist_is_an_error() {
        assert!(Codec::Gzip { level: 13 }.compress_member(b"x").is_err());
    }

    #[test]
    fn incompressible_bytes_are_stored_and_others_are_not() {
        let codec = Codec::default();
        let random = noise(1, 1_000_000);
        let stored = codec.compress_member(&random).unwrap();
        assert_eq!(stored, store_gzip(&random));
        assert_eq!(codec.decompress_member(&stored, random.len()).unwrap(), random);

        let repeated = noise(1, 1000).repeat(1000);
        assert!(codec.compress_member(&repeated).unwrap().len() < repeated.len() / 2);
        let text = text(1, 1_000_000);
        assert!(codec.compress_member(&text).unwrap().len() < text.len() / 2);
    }

    #[test]
    fn stored_members_of_any_length_inflate() {
        for len in [0, 1, STORED_BLOCK_LEN - 1, STORED_BLOCK_LEN, STORED_BLOCK_LEN + 1, 3 * STORED_BLOCK_LEN]
        {
            let plain = noise(2, len);
            let member = store_gzip(&plain);
            assert_eq!(inflate(&member, len).unwrap(), plain);
            let mut streamed = Vec::new();
            MultiGzDecoder::new(&member[..]).read_to_end(&mut streamed).unwrap();
            assert_eq!(streamed, plain);
        }
    }

    #[test]
    fn another_length_than_the_expected_one_is_an_error() {
        let plain = text(3, 5000);
        for codec in CODECS {
            let member = codec.compress_member(&plain).unwrap();
            assert!(codec.decompress_member(&member, plain.len() - 1).is_err(), "{codec}");
            assert!(codec.decompress_member(&member, plain.len() + 1).is_err(), "{codec}");
        }
        assert!(inflate(&gzip(b"").unwrap(), usize::MAX).is_err());
    }

    #[test]
    fn gunzip_reads_several_members_and_keeps_its_limit() {
        let once = gzip(b"once ").unwrap();
        let twice = [&once[..], &once[..]].concat();
        assert_eq!(gunzip(&twice, 10).unwrap(), b"once once ");
        assert!(gunzip(&twice, 9).is_err());
        assert_eq!(gunzip(&once, 5).unwrap(), b"once ");
        assert!(gunzip(&once, 4).is_err());
        assert!(gunzip(&[&once[..], b"rest"].concat(), 100).is_err());
        let mut foreign = GzEncoder::new(Vec::new(), flate2::Compression::best());
        foreign.write_all(&text(4, 100_000)).unwrap();
        assert_eq!(gunzip(&foreign.finish().unwrap(), 100_000).unwrap(), text(4, 100_000));
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

        #[test]
        fn members_restore_what_they_were_made_of(plain in vec(any::<u8>(), 0..40_000), codec in any_codec()) {
            let member = codec.compress_member(&plain).unwrap();
            prop_assert_eq!(codec.decompress_member(&member, plain.len()).unwrap(), plain);
        }

        #[test]
        fn damaged_gzip_and_zstd_members_are_errors(
            seed in any::<u64>(), at in any::<prop::sample::Index>(), flip in 1u8.., cut in any::<prop::sample::Index>(),
        ) {
            let plain = text(seed, 3000);
            for codec in [Codec::default(), Codec::Zstd { level: 1 }] {
                let mut member = codec.compress_member(&plain).unwrap();
                prop_assert!(codec.decompress_member(&member[..cut.index(member.len())], plain.len()).is_err());
                let at = at.index(member.len());
                member[at] ^= flip;
                // Some header bytes carry nothing, so damage there may go unseen, but never in the content.
                if let Ok(read) = codec.decompress_member(&member, plain.len()) {
                    prop_assert_eq!(read, plain.clone());
                }
            }
        }

        #[test]
        fn random_bytes_are_an_error_or_a_value(bytes in vec(any::<u8>(), 0..200), gzip in any::<bool>(), len in 0usize..5000) {
            let bytes = if gzip { [&GZIP_HEADER[..], &bytes].concat() } else { bytes };
            for codec in CODECS {
                if let Ok(plain) = codec.decompress_member(&bytes, len) {
                    prop_assert_eq!(plain.len(), len);
                }
            }
            if let Ok(plain) = gunzip(&bytes, 1000) {
                prop_assert!(plain.len() <= 1000);
            }
        }
    }
}
