//! The bytes of a pack: a header, entries, a checksum. An entry is a header of type and size, then a zlib
//! stream.

use libdeflater::{Compressor, Decompressor};

use super::ObjectKind;

/// How a pack of version 2 begins; its object count follows in four bytes.
pub(super) const PACK_MAGIC: [u8; 8] = *b"PACK\0\0\0\x02";

/// What a pack has in front of its first entry.
pub(super) const PACK_HEADER: usize = PACK_MAGIC.len() + 4;

/// The SHA-1 that a pack ends in.
pub(super) const CHECKSUM: usize = 20;

/// What the longest header of an entry takes: four bits of a 64-bit size in the first byte, seven in each
/// that follows.
pub(super) const MAX_HEADER: usize = 10;

/// The most that one stored block of deflate holds (RFC 1951, 3.2.4).
pub(super) const STORED_BLOCK: usize = 65_535;

/// Bytes before the content of a stored block.
pub(super) const BLOCK_HEADER: usize = 5;

/// How a zlib stream of stored blocks begins (RFC 1950): a window of 32 KiB, the fastest level.
pub(super) const STORED_ZLIB_HEADER: [u8; ZLIB_HEADER] = [0x78, 0x01];

/// Bytes of a zlib stream before its deflate blocks (RFC 1950).
pub(super) const ZLIB_HEADER: usize = 2;

/// Bytes of a zlib stream after its deflate blocks.
const ZLIB_TRAILER: usize = 4;

/// Deflate makes at most this many bytes from one.
const MAX_RATIO: u64 = 1_032;

/// What an entry says of itself.
pub(super) struct Header {
    /// `None` for a delta.
    pub kind: Option<ObjectKind>,
    /// The bytes that its zlib stream inflates to.
    pub size: u64,
    /// How many bytes the header takes.
    pub len: usize,
}

impl Header {
    /// Reads the header that `bytes` begin with.
    pub fn parse(bytes: &[u8]) -> Result<Self, &'static str> {
        const TRUNCATED: &str = "its header is cut off";
        let (&first, rest) = bytes.split_first().ok_or(TRUNCATED)?;
        let kind = match first >> 4 & 7 {
            1 => Some(ObjectKind::Commit),
            2 => Some(ObjectKind::Tree),
            3 => Some(ObjectKind::Blob),
            4 => Some(ObjectKind::Tag),
            6 | 7 => None,
            _ => return Err("its type is unknown"),
        };
        let mut header = Self { kind, size: u64::from(first & 15), len: 1 };
        let mut more = first & 0x80 != 0;
        let mut rest = rest.iter();
        for shift in (4..).step_by(7) {
            if !more {
                break;
            }
            let byte = *rest.next().ok_or(TRUNCATED)?;
            let bits = u64::from(byte & 0x7f);
            if shift >= u64::BITS || bits > u64::MAX >> shift {
                return Err("its size is out of range");
            }
            header.size |= bits << shift;
            header.len += 1;
            more = byte & 0x80 != 0;
        }
        Ok(header)
    }

    /// Appends the header of a whole object of `size` bytes to `out`.
    pub fn encode(kind: ObjectKind, size: u64, out: &mut Vec<u8>) {
        let code = match kind {
            ObjectKind::Commit => 1,
            ObjectKind::Tree => 2,
            ObjectKind::Blob => 3,
            ObjectKind::Tag => 4,
        };
        let mut byte = code << 4 | (size & 15) as u8;
        let mut rest = size >> 4;
        while rest != 0 {
            out.push(byte | 0x80);
            byte = (rest & 0x7f) as u8;
            rest >>= 7;
        }
        out.push(byte);
    }
}

/// Whether `bytes` begin with a zlib header for deflate without a preset dictionary (RFC 1950, 2.2).
pub(super) fn is_zlib_header(bytes: [u8; ZLIB_HEADER]) -> bool {
    bytes[0] & 15 == 8 && bytes[1] & 0x20 == 0 && u16::from_be_bytes(bytes).is_multiple_of(31)
}

/// The header of the stored block that begins when `remaining` bytes are still to come.
pub(super) fn block_header(remaining: u64) -> [u8; BLOCK_HEADER] {
    let len = remaining.min(STORED_BLOCK as u64) as u16;
    let [low, high] = len.to_le_bytes();
    [u8::from(remaining <= STORED_BLOCK as u64), low, high, !low, !high]
}

/// What `size` bytes take as a zlib stream of full stored blocks.
pub(super) fn stored_len(size: usize) -> usize {
    ZLIB_HEADER + size + BLOCK_HEADER * size.div_ceil(STORED_BLOCK).max(1) + ZLIB_TRAILER
}

/// The length of the header and the size of the object whose entry has `entry_len` bytes, if it is one of full
/// stored blocks; `None` when no such entry has that length.
pub(super) fn stored_size(entry_len: u64) -> Option<(u64, u64)> {
    const BLOCK: u64 = (STORED_BLOCK + BLOCK_HEADER) as u64;
    (1..=MAX_HEADER as u64).find_map(|header_len| {
        let blocks = entry_len.checked_sub(header_len + (ZLIB_HEADER + ZLIB_TRAILER) as u64)?;
        let size = blocks.checked_sub(blocks.div_ceil(BLOCK).max(1) * BLOCK_HEADER as u64)?;
        let bits = u64::from(u64::BITS - size.leading_zeros());
        (header_len == 1 + bits.saturating_sub(4).div_ceil(7)).then_some((header_len, size))
    })
}

/// The most bytes worth reading for a zlib stream of `size` bytes: somewhat more than the worst that zlib
/// writes.
pub(super) fn stream_bound(size: u64) -> u64 {
    size.saturating_add(size / 16).saturating_add(64)
}

/// Deflates `bytes` into `out` if the zlib stream is then shorter than a stored one.
pub(super) fn deflate_smaller<'a>(
    deflater: &mut Compressor,
    bytes: &[u8],
    out: &'a mut Vec<u8>,
) -> Option<&'a [u8]> {
    out.resize(stored_len(bytes.len()) - 1, 0);
    let len = deflater.zlib_compress(bytes, out).ok()?;
    out.get(..len)
}

/// Inflates the zlib stream that `stream` begins with, which must give exactly `size` bytes, and checks its
/// Adler-32.
pub(super) fn inflate(stream: &[u8], size: usize) -> Result<Vec<u8>, &'static str> {
    if size as u64 > (stream.len() as u64).saturating_mul(MAX_RATIO) {
        return Err("its size is more than its bytes can give");
    }
    let mut out = vec![0; size];
    match Decompressor::new().zlib_decompress(stream, &mut out) {
        Ok(len) if len == size => Ok(out),
        _ => Err("its content does not inflate to its size and checksum"),
    }
}

#[cfg(test)]
mod tests {
    use libdeflater::CompressionLvl;
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_header_reads_as_it_was_written(size: u64, shift in 0..64, trailing: [u8; 3]) {
            let size = size >> shift;
            for kind in [ObjectKind::Commit, ObjectKind::Tree, ObjectKind::Blob, ObjectKind::Tag] {
                let mut bytes = Vec::new();
                Header::encode(kind, size, &mut bytes);
                let len = bytes.len();
                prop_assert!(len <= MAX_HEADER);
                for cut in 0..len {
                    prop_assert!(Header::parse(&bytes[..cut]).is_err());
                }
                bytes.extend(trailing);
                let header = Header::parse(&bytes).unwrap();
                prop_assert_eq!((header.kind, header.size, header.len), (Some(kind), size, len));
            }
        }

        #[test]
        fn the_size_of_a_stored_object_follows_from_the_length_of_its_entry(
            size in prop_oneof![0..300_000_usize, (1..40_usize, -3..3_isize).prop_map(|(blocks, off)| (blocks * STORED_BLOCK).saturating_add_signed(off))],
        ) {
            let mut header = Vec::new();
            Header::encode(ObjectKind::Blob, size as u64, &mut header);
            let entry_len = (header.len() + stored_len(size)) as u64;
            prop_assert_eq!(super::stored_size(entry_len), Some((header.len() as u64, size as u64)));
        }

        #[test]
        fn any_length_is_that_of_a_stored_object_or_not(entry_len: u64) {
            if let Some((header, size)) = super::stored_size(entry_len) {
                prop_assert!(size < entry_len && header < entry_len);
            }
        }

        #[test]
        fn any_bytes_are_a_header_or_an_error(bytes: Vec<u8>) {
            if let Ok(header) = Header::parse(&bytes) {
                prop_assert!(header.len <= bytes.len().min(MAX_HEADER));
            }
        }

        #[test]
        fn what_is_deflated_is_smaller_and_inflates(byte: u8, bytes in prop::collection::vec(0..4_u8, 0..3_000)) {
            let bytes = [bytes, vec![byte; 200]].concat();
            let mut out = Vec::new();
            let stream = deflate_smaller(&mut Compressor::new(CompressionLvl::default()), &bytes, &mut out).unwrap();
            prop_assert!(stream.len() < stored_len(bytes.len()));
            prop_assert_eq!(inflate(stream, bytes.len()), Ok(bytes.clone()));
            prop_assert!(inflate(stream, bytes.len() + 1).is_err());
            prop_assert!(inflate(stream, bytes.len() - 1).is_err());
        }

        #[test]
        fn any_bytes_inflate_or_are_an_error(bytes: Vec<u8>, size: usize) {
            let _ = inflate(&bytes, size);
        }
    }

    #[test]
    fn a_size_of_more_than_64_bits_is_refused() {
        let mut bytes = [0xff; 10];
        bytes[0] = 0xbf;
        bytes[9] = 0x0f;
        assert_eq!(Header::parse(&bytes).unwrap().size, u64::MAX);
        bytes[9] = 0x10;
        assert!(Header::parse(&bytes).is_err());
        assert!(Header::parse(&[0xbf; 64]).is_err());
    }

    #[test]
    fn a_claimed_size_allocates_no_more_than_deflate_can_give() {
        assert!(inflate(&[0x78, 0x01, 0x03, 0x00], usize::MAX).is_err());
    }
}
