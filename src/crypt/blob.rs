//! Age files for one recipient, and ranges of them.

use std::io::{self, BufRead, Read, Seek, SeekFrom, Write};

use age::stream::StreamWriter;
use age::{Decryptor, Encryptor};

use super::{CryptError, Identity, Recipient, stream};

/// Bytes that the header of an age file may have. One that is written here has less than 600.
pub const MAX_HEADER: usize = 16 * 1024;

const CHUNK: u64 = stream::CHUNK as u64;
/// A chunk as it is encrypted: with its authentication tag.
const SEALED_CHUNK: u64 = CHUNK + TAG;
const TAG: u64 = stream::TAG as u64;
const NONCE: u64 = stream::NONCE as u64;
/// What is read of a file at first, which holds any header that is written here.
const HEAD: u64 = 1024;

const MAGIC: &[u8] = b"age-encryption.org/v1\n";
/// The last line of a header: this, 43 characters, and a line feed.
const LAST_LINE: &[u8] = b"\n--- ";
const LAST_LINE_LEN: usize = LAST_LINE.len() + 43 + 1;

/// A writer that encrypts; made by [`encrypting`].
pub struct Encrypting<W: Write>(StreamWriter<W>);

impl<W: Write> Encrypting<W> {
    /// Writes the last chunk. Without this, what was written is no age file.
    pub fn finish(self) -> Result<W, CryptError> {
        self.0.finish().map_err(CryptError::write)
    }
}

impl<W: Write> Write for Encrypting<W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

/// Begins an age file in `out`, for `recipient`. In memory it takes three chunks.
pub fn encrypting<W: Write>(recipient: &Recipient, out: W) -> Result<Encrypting<W>, CryptError> {
    begin(&recipient.0, out)
}

/// Begins an age file for anything that age can encrypt to.
pub(super) fn begin<W: Write>(recipient: &dyn age::Recipient, out: W) -> Result<Encrypting<W>, CryptError> {
    let encryptor = Encryptor::with_recipients(std::iter::once(recipient))
        .map_err(|error| CryptError::Encrypt(error.into()))?;
    Ok(Encrypting(encryptor.wrap_output(out).map_err(CryptError::write)?))
}

/// The age file that holds `content`, for `recipient`.
pub fn encrypt(recipient: &Recipient, content: &[u8]) -> Result<Vec<u8>, CryptError> {
    let mut file = content.to_vec();
    encrypt_in_place(recipient, &mut file)?;
    Ok(file)
}

/// Makes of `content` the age file that holds it, for `recipient`. After an error it is neither.
pub fn encrypt_in_place(recipient: &Recipient, content: &mut Vec<u8>) -> Result<(), CryptError> {
    stream::seal(&recipient.0, content)
}

/// The content of the age file that `file` gives. What is read before an error is authentic, but only a read
/// to the end shows that the file is complete.
pub fn decrypting<R: BufRead>(identity: &Identity, file: R) -> Result<impl Read, CryptError> {
    open(&identity.0, file)
}

/// Opens an age file with anything that age can decrypt with. The header is read before more than
/// [`MAX_HEADER`] bytes of it are parsed.
pub(super) fn open<R: BufRead>(
    identity: &dyn age::Identity,
    mut file: R,
) -> Result<impl Read + use<R>, CryptError> {
    let head = read_head(&mut file)?;
    let decryptor = Decryptor::new_buffered(io::Cursor::new(head).chain(file))?;
    Ok(decryptor.decrypt(std::iter::once(identity))?)
}

/// Takes the header from `file`.
fn read_head(file: &mut impl BufRead) -> Result<Vec<u8>, CryptError> {
    let mut head = Vec::new();
    while header_len(&head)?.is_none() {
        let left = (MAX_HEADER + 1 - head.len()) as u64;
        if file.take(left).read_until(b'\n', &mut head).map_err(CryptError::Read)? == 0 {
            return Err(CryptError::Damaged("its header does not end"));
        }
    }
    Ok(head)
}

/// The content of the age file `file`.
pub fn decrypt(identity: &Identity, file: &[u8]) -> Result<Vec<u8>, CryptError> {
    let mut content = Vec::with_capacity(file.len());
    decrypting(identity, file)?.read_to_end(&mut content).map_err(CryptError::Read)?;
    Ok(content)
}

/// How long the header is of the age file that begins with `head`; `None` where `head` ends before it does.
///
/// A longer one than [`MAX_HEADER`], or what begins in another way, is an error. No key is needed.
pub fn header_len(head: &[u8]) -> Result<Option<usize>, CryptError> {
    let common = head.len().min(MAGIC.len());
    if head[..common] != MAGIC[..common] {
        return Err(CryptError::Damaged("it begins in another way"));
    }
    let end = head.windows(LAST_LINE.len()).take(MAX_HEADER).position(|window| window == LAST_LINE);
    match end.map(|end| end + LAST_LINE_LEN) {
        Some(len) if len > MAX_HEADER => Err(CryptError::Damaged("its header is too long")),
        Some(len) if len <= head.len() => Ok(Some(len)),
        _ if head.len() > MAX_HEADER => Err(CryptError::Damaged("its header is too long")),
        _ => Ok(None),
    }
}

/// How long the content is of an age file of `len` bytes whose header has `header` bytes. No key is needed,
/// and nothing is checked but that there can be such a file.
pub fn content_len(len: u64, header: usize) -> Result<u64, CryptError> {
    let truncated = || CryptError::Damaged("it is cut short");
    let sealed =
        len.checked_sub(header as u64 + NONCE).filter(|sealed| *sealed >= TAG).ok_or_else(truncated)?;
    let last = sealed % SEALED_CHUNK;
    // Only content of no bytes at all has an empty chunk.
    if last > 0 && last <= TAG && sealed != TAG {
        return Err(truncated());
    }
    Ok(sealed - sealed.div_ceil(SEALED_CHUNK) * TAG)
}

/// At most `len` bytes of the content of an age file from `offset` on, fewer where it ends.
///
/// The file has `file_len` bytes, and `fetch` gives ranges of it, by offset and length; it is asked for the
/// first KiB, and then at once for the chunks that hold the range.
pub fn decrypt_range(
    identity: &Identity,
    file_len: u64,
    offset: u64,
    len: u64,
    fetch: impl FnMut(u64, u64) -> io::Result<Vec<u8>>,
) -> Result<Vec<u8>, CryptError> {
    let mut window = Window { fetch, file_len, at: 0, start: 0, bytes: Vec::new(), ahead: HEAD };
    let header = loop {
        if let Some(len) = header_len(&window.bytes)? {
            break len;
        }
        if !window.grow().map_err(CryptError::Read)? {
            return Err(CryptError::Damaged("its header does not end"));
        }
    };
    let end = offset.saturating_add(len).min(content_len(file_len, header)?);
    if offset >= end {
        return Ok(Vec::new());
    }
    window.ahead = ((end - 1) / CHUNK - offset / CHUNK + 1) * SEALED_CHUNK;
    let decryptor = Decryptor::new_buffered(window)?;
    let mut reader = decryptor.decrypt(std::iter::once(&identity.0 as &dyn age::Identity))?;
    // Sought by way of the second byte of a chunk: age looks for the end of the file before it goes to a
    // first one.
    let mut seek = |to| reader.seek(SeekFrom::Start(to)).map_err(CryptError::Read);
    if offset > 0 && offset.is_multiple_of(CHUNK) {
        seek(offset + 1)?;
    }
    seek(offset)?;
    let mut content =
        vec![0; usize::try_from(end - offset).map_err(|_| CryptError::Damaged("it is too long"))?];
    reader.read_exact(&mut content).map_err(CryptError::Read)?;
    Ok(content)
}

/// A file that is fetched in few pieces.
struct Window<F> {
    fetch: F,
    file_len: u64,
    at: u64,
    /// Where in the file `bytes` begin.
    start: u64,
    bytes: Vec<u8>,
    /// How much is fetched at once.
    ahead: u64,
}

impl<F: FnMut(u64, u64) -> io::Result<Vec<u8>>> Window<F> {
    /// Fetches what follows the bytes that are here; false where nothing does.
    fn grow(&mut self) -> io::Result<bool> {
        let end = self.start + self.bytes.len() as u64;
        let len = self.ahead.min(self.file_len.saturating_sub(end));
        if len == 0 {
            return Ok(false);
        }
        let more = (self.fetch)(end, len)?;
        if more.len() as u64 != len {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.bytes.extend(more);
        Ok(true)
    }

    /// The bytes that are here from the present place on.
    fn here(&self) -> &[u8] {
        let skipped = self.at.checked_sub(self.start).and_then(|skipped| usize::try_from(skipped).ok());
        skipped.and_then(|skipped| self.bytes.get(skipped..)).unwrap_or_default()
    }
}

impl<F: FnMut(u64, u64) -> io::Result<Vec<u8>>> BufRead for Window<F> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.here().is_empty() {
            (self.start, self.bytes) = (self.at, Vec::new());
            self.grow()?;
        }
        Ok(self.here())
    }

    fn consume(&mut self, len: usize) {
        self.at += len as u64;
    }
}

impl<F: FnMut(u64, u64) -> io::Result<Vec<u8>>> Read for Window<F> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let len = self.fill_buf()?.read(buffer)?;
        self.consume(len);
        Ok(len)
    }
}

impl<F: FnMut(u64, u64) -> io::Result<Vec<u8>>> Seek for Window<F> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let at = match to {
            SeekFrom::Start(at) => Some(at),
            SeekFrom::Current(by) => self.at.checked_add_signed(by),
            SeekFrom::End(by) => self.file_len.checked_add_signed(by),
        };
        self.at = at.ok_or(io::ErrorKind::InvalidInput)?;
        Ok(self.at)
    }
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::sync::LazyLock;

    use proptest::prelude::*;

    use super::*;

    static IDENTITY: LazyLock<Identity> = LazyLock::new(Identity::generate);

    fn content(len: usize) -> Vec<u8> {
        (0..len as u32).map(|at| (at.wrapping_mul(2_654_435_761) >> 13) as u8).collect()
    }

    /// Offsets and lengths of what was fetched.
    type Fetched = Vec<(u64, u64)>;

    /// The range, and what was fetched for it.
    fn range(file: &[u8], offset: u64, len: u64) -> (Result<Vec<u8>, CryptError>, Fetched) {
        let fetched = RefCell::new(Vec::new());
        let fetch = |offset, len| {
            fetched.borrow_mut().push((offset, len));
            Ok(file[offset as usize..][..len as usize].to_vec())
        };
        (decrypt_range(&IDENTITY, file.len() as u64, offset, len, fetch), fetched.into_inner())
    }

    /// Lengths around those at which the number of chunks changes.
    fn lens() -> impl Strategy<Value = usize> {
        prop_oneof![
            0usize..300_000,
            (0usize..5, 0usize..5).prop_map(|(n, by)| (n * 65536 + by).saturating_sub(2))
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn a_range_is_that_of_the_whole(len in lens(), offset in lens(), wanted in lens()) {
            let content = content(len);
            let file = encrypt(&IDENTITY.recipient(), &content).unwrap();
            prop_assert!(file.len() < len + (len / 65536 + 1) * 16 + HEAD as usize);
            prop_assert_eq!(&decrypt(&IDENTITY, &file).unwrap(), &content);
            let header = header_len(&file).unwrap().unwrap();
            prop_assert_eq!(content_len(file.len() as u64, header).unwrap(), len as u64);
            let (got, fetched) = range(&file, offset as u64, wanted as u64);
            let (from, to) = (offset.min(len), offset.saturating_add(wanted).min(len));
            prop_assert_eq!(got.unwrap(), &content[from..to]);
            prop_assert!(fetched.len() <= 2, "{:?}", fetched);
            let bytes: u64 = fetched.iter().map(|(_, len)| len).sum();
            prop_assert!(bytes <= HEAD + (wanted as u64 / CHUNK + 2) * SEALED_CHUNK, "{:?}", fetched);
        }

        #[test]
        fn what_is_not_as_it_was_is_refused(
            len in lens(), offset in lens(), wanted in lens(), at: prop::sample::Index, flip in 1u8.., cut: bool,
        ) {
            let content = content(len);
            let mut file = encrypt(&IDENTITY.recipient(), &content).unwrap();
            let at = at.index(file.len());
            if cut { file.truncate(at) } else { file[at] ^= flip }
            // A body of the grease in the header, or of any other stanza, is covered by the header's checksum.
            prop_assert!(decrypt(&IDENTITY, &file).is_err());
            let (from, to) = (offset.min(len), offset.saturating_add(wanted).min(len));
            if let (Ok(range), _) = range(&file, offset as u64, wanted as u64) {
                prop_assert!(range.is_empty() || content[from..to].starts_with(&range));
            }
        }

        #[test]
        fn any_bytes_are_an_error(mut bytes: Vec<u8>, offset in 0u64..200_000, len in 0u64..200_000, begun: bool) {
            if begun {
                bytes.splice(..0, MAGIC.iter().copied());
            }
            prop_assert!(decrypt(&IDENTITY, &bytes).is_err());
            prop_assert!(range(&bytes, offset, len).0.is_err());
            let _ = header_len(&bytes);
        }
    }

    #[test]
    fn another_key_opens_nothing() {
        let file = encrypt(&Identity::generate().recipient(), b"secret").unwrap();
        assert!(matches!(decrypt(&IDENTITY, &file), Err(CryptError::OtherKey)));
        assert!(matches!(range(&file, 0, 1).0, Err(CryptError::OtherKey)));
    }

    #[test]
    fn chunks_do_not_change_places() {
        let mut file = encrypt(&IDENTITY.recipient(), &content(200_000)).unwrap();
        let first = header_len(&file).unwrap().unwrap() + NONCE as usize;
        let second = first + SEALED_CHUNK as usize;
        let moved = file[first..second].to_vec();
        file.copy_within(second..second + SEALED_CHUNK as usize, first);
        file[second..second + SEALED_CHUNK as usize].copy_from_slice(&moved);
        assert!(decrypt(&IDENTITY, &file).is_err());
        assert!(matches!(range(&file, 0, 10).0, Err(CryptError::Read(_))));
        assert!(range(&file, 150_000, 10).0.is_ok());
    }

    #[test]
    fn a_header_without_end_is_not_read_to_its_end() {
        let endless = [MAGIC, "-> X\n".repeat(10_000).as_bytes()].concat();
        assert!(matches!(decrypt(&IDENTITY, &endless), Err(CryptError::Damaged(_))));
        let (refused, fetched) = range(&endless, 0, 10);
        assert!(matches!(refused, Err(CryptError::Damaged(_))));
        assert!(fetched.iter().map(|(_, len)| len).sum::<u64>() <= MAX_HEADER as u64 + HEAD);
        let one_line = [MAGIC, "x".repeat(50_000).as_bytes()].concat();
        assert!(matches!(decrypt(&IDENTITY, &one_line), Err(CryptError::Damaged(_))));
    }

    #[test]
    fn lengths_that_no_file_has_are_refused() {
        for len in [0, 100, 115, 100 + 16 + 15] {
            assert!(content_len(len, 100).is_err(), "{len}");
        }
        assert_eq!(content_len(100 + 16 + 16, 100).unwrap(), 0);
        let full = 100 + 16 + SEALED_CHUNK;
        assert_eq!(content_len(full, 100).unwrap(), CHUNK);
        assert!(content_len(full + 16, 100).is_err(), "an empty chunk after a full one");
        assert_eq!(content_len(full + 17, 100).unwrap(), CHUNK + 1);
    }
}
