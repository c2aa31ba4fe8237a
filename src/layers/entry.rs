//! One entry of a pack: a header of type and size, then a zlib stream.

use libdeflater::{Compressor, Decompressor};

use super::ObjectKind;

/// What the longest header takes: four bits of a 64-bit size in the first byte, seven in each that follows.
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

/// The most bytes worth reading for a zlib stream of `size` bytes: somewhat more than the worst that zlib writes.
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

/// Inflates the zlib stream that `stream` begins with, which must give exactly `size` bytes, and checks its Adler-32.
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
