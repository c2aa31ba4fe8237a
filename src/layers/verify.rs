//! Checking a whole layer.

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};

use flate2::bufread::ZlibDecoder;
use sha1::{Digest as _, Sha1};

use super::entry::{CHECKSUM, Header, MAX_HEADER, PACK_HEADER, PACK_MAGIC};
use super::index::IndexEntry;
use super::{Layer, LayerError, ObjectId};

const BUFFER: usize = 1 << 16;

/// What [`Layer::verify`] found.
#[derive(Debug)]
pub struct LayerCheck {
    /// Objects that were read and are what their ids say.
    pub sound: u32,
    /// Objects stored as deltas. Their bytes have the checksum in the index; what they make was not checked.
    pub deltas: Vec<ObjectId>,
    /// Each thing that is damaged, an object or the layer as a whole.
    pub damage: Vec<LayerError>,
}

impl Layer {
    /// Reads the pack once from its beginning to its end and checks its count and checksum, and of each
    /// object the entry's CRC-32, the Adler-32 and the id. Takes 32 bytes of memory for each object, whatever
    /// its size. The index was checked when it was loaded.
    ///
    /// Damage is no error here; that the pack cannot be read or is not here, is.
    pub fn verify(&self) -> Result<LayerCheck, LayerError> {
        let mut check = LayerCheck { sound: 0, deltas: Vec::new(), damage: Vec::new() };
        let pack = self.open_pack()?;
        self.verify_pack(pack, &mut check).map_err(LayerError::io("read", &self.pack))?;
        Ok(check)
    }

    fn verify_pack(&self, pack: File, check: &mut LayerCheck) -> io::Result<()> {
        let damaged = |fault| LayerError::Pack { layer: self.name().to_owned(), fault };
        let Some(end) =
            pack.metadata()?.len().checked_sub(CHECKSUM as u64).filter(|&end| end >= PACK_HEADER as u64)
        else {
            check.damage.push(damaged("it is cut off"));
            return Ok(());
        };
        let mut input = Hashed { input: BufReader::with_capacity(BUFFER, pack), hasher: Sha1::new(), at: 0 };

        let mut header = [0; PACK_HEADER];
        input.read_exact(&mut header)?;
        let count = self.objects().to_be_bytes();
        if !header.starts_with(&PACK_MAGIC) {
            check.damage.push(damaged("it does not begin as a pack of version 2"));
        } else if !header.ends_with(&count) {
            check.damage.push(damaged("its object count is not that of its index"));
        }

        let mut entries: Vec<_> =
            (0..self.index.objects()).map(|position| self.index.entry(position)).collect();
        entries.sort_unstable_by_key(|entry| entry.offset);
        let ends = entries.iter().skip(1).map(|next| next.offset.min(end)).chain([end]);
        for (entry, entry_end) in entries.iter().zip(ends) {
            if input.at < entry.offset.min(end) {
                check.damage.push(damaged("it holds bytes that belong to no object"));
                input.skip_to(entry.offset.min(end))?;
            }
            let result = match input.at == entry.offset && entry.offset < entry_end {
                true => verify_entry(&mut input, entry, entry_end)?,
                false => Err("another entry or the end of the pack is in its place"),
            };
            match result {
                Ok(Content::Object) => check.sound += 1,
                Ok(Content::Delta) => check.deltas.push(entry.id),
                Err(fault) => check.damage.push(LayerError::Object {
                    id: entry.id,
                    layer: self.name().to_owned(),
                    offset: entry.offset,
                    fault,
                }),
            }
            input.skip_to(entry_end)?;
        }
        input.skip_to(end)?;

        let Hashed { mut input, hasher, .. } = input;
        let mut checksum = [0; CHECKSUM];
        input.read_exact(&mut checksum)?;
        if hasher.finalize()[..] != checksum {
            check.damage.push(damaged("its checksum does not hold"));
        }
        if checksum != self.index.pack_checksum() {
            check.damage.push(damaged("its index is that of another pack"));
        }
        Ok(())
    }
}

/// An entry's content; the fault, if it is not sound.
type Finding = Result<Content, &'static str>;

enum Content {
    Object,
    Delta,
}

/// Reads the entry that begins where `input` is and must end at `end`.
fn verify_entry(input: &mut Hashed, entry: &IndexEntry, end: u64) -> io::Result<Finding> {
    let mut bytes = EntryBytes { end, crc: crc32fast::Hasher::new(), input };
    let content = verify_content(&mut bytes, entry.id)?;
    io::copy(&mut bytes, &mut io::sink())?;
    let fault = "its bytes do not have the checksum in the index";
    Ok(if bytes.crc.finalize() == entry.crc { content } else { Err(fault) })
}

fn verify_content(bytes: &mut EntryBytes<'_>, id: ObjectId) -> io::Result<Finding> {
    let entry_len = bytes.end - bytes.input.at;
    let mut head = Vec::with_capacity(MAX_HEADER);
    bytes.by_ref().take(MAX_HEADER as u64).read_to_end(&mut head)?;
    let header = match Header::parse(&head) {
        Ok(header) => header,
        Err(fault) => return Ok(Err(fault)),
    };
    let Some(kind) = header.kind else { return Ok(Ok(Content::Delta)) };

    let mut hasher = kind.hasher(header.size);
    let mut inflater = ZlibDecoder::new(head[header.len..].chain(&mut *bytes));
    let mut inflated = 0_u64;
    let mut buffer = [0; BUFFER];
    loop {
        match inflater.read(&mut buffer) {
            Ok(0) => break,
            Ok(len) => {
                hasher.update(&buffer[..len]);
                inflated += len as u64;
            }
            Err(error) => match error.kind() {
                io::ErrorKind::InvalidInput | io::ErrorKind::UnexpectedEof => {
                    return Ok(Err("its content does not inflate"));
                }
                _ => return Err(error),
            },
        }
        if inflated > header.size {
            return Ok(Err("its content inflates to more than its size"));
        }
    }
    let taken = header.len as u64 + inflater.total_in();
    Ok(if inflated != header.size {
        Err("its content inflates to less than its size")
    } else if taken != entry_len {
        Err("bytes follow its content")
    } else if hasher.finalize()[..] != *id.as_bytes() {
        Err("its content does not hash to its id")
    } else {
        Ok(Content::Object)
    })
}

/// A file that is hashed as it is consumed.
struct Hashed {
    input: BufReader<File>,
    hasher: Sha1,
    /// How many bytes were consumed.
    at: u64,
}

impl Hashed {
    fn skip_to(&mut self, end: u64) -> io::Result<()> {
        while self.at < end {
            let available = self.fill_buf()?.len();
            if available == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            self.consume((end - self.at).min(available as u64) as usize);
        }
        Ok(())
    }
}

impl BufRead for Hashed {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        self.input.fill_buf()
    }

    fn consume(&mut self, len: usize) {
        self.hasher.update(&self.input.buffer()[..len]);
        self.at += len as u64;
        self.input.consume(len);
    }
}

impl Read for Hashed {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        read_buffered(self, out)
    }
}

/// The bytes of one entry, with their CRC-32 as they are consumed.
struct EntryBytes<'a> {
    input: &'a mut Hashed,
    end: u64,
    crc: crc32fast::Hasher,
}

impl BufRead for EntryBytes<'_> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        let left = self.end - self.input.at;
        let buffer = self.input.fill_buf()?;
        Ok(&buffer[..left.min(buffer.len() as u64) as usize])
    }

    fn consume(&mut self, len: usize) {
        self.crc.update(&self.input.input.buffer()[..len]);
        self.input.consume(len);
    }
}

impl Read for EntryBytes<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        read_buffered(self, out)
    }
}

/// Reads through the buffer, so that `consume` sees every byte.
fn read_buffered(input: &mut impl BufRead, out: &mut [u8]) -> io::Result<usize> {
    let len = input.fill_buf()?.read(out)?;
    input.consume(len);
    Ok(len)
}
