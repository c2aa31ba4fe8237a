//! What it takes to resolve an object that git has stored as a delta, found out without resolving it.
//!
//! A delta may repeat the same bytes without end, and cut a few out of what it is a delta of. So that an object is small
//! says nothing of what it hangs on: each object of the chain is looked at.

use std::io::Read;
use std::os::unix::fs::FileExt;

use flate2::read::ZlibDecoder;

use crate::varint;

use super::entry::{CHECKSUM, Header, MAX_HEADER};
use super::layer::Layer;
use super::{LayerError, LayerSet, ObjectId};

/// No chain that git makes is longer.
const MAX_DEPTH: usize = 4096;

/// What is read of an entry: the header, the id of its base, and as much as the first bytes of a stream can take.
const HEAD: u64 = 1024;

/// What the longest sizes take with which a delta begins.
const SIZES: u64 = 20;

/// What resolving an object takes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ChainWeight {
    /// Bytes of the largest object, or delta, on the way.
    pub largest: u64,
    /// Bytes of all of them.
    pub total: u64,
}

impl ChainWeight {
    fn add(&mut self, bytes: u64) {
        self.largest = self.largest.max(bytes);
        self.total = self.total.saturating_add(bytes);
    }
}

impl LayerSet {
    /// What resolving an object takes, in the layer in which it takes most; `None` when no layer that is here holds it.
    /// The error is that of the first copy, where none can be weighed.
    pub fn chain_weight(&self, id: &ObjectId) -> Result<Option<ChainWeight>, LayerError> {
        let (mut most, mut fault): (Option<ChainWeight>, _) = (None, None);
        for layer in self.layers().filter(|layer| layer.pack_bytes().is_some()) {
            if let Ok(position) = layer.index.ids().binary_search(id.as_bytes()) {
                match chain_weight(layer, position) {
                    Ok(ChainWeight { largest, total }) => {
                        let known = most.get_or_insert_default();
                        known.largest = known.largest.max(largest);
                        known.total = known.total.max(total);
                    }
                    Err(error) => fault = fault.or(Some(error)),
                }
            }
        }
        match (most, fault) {
            (None, Some(fault)) => Err(fault),
            (most, _) => Ok(most),
        }
    }
}

/// The same, of the object at `position` of a layer.
fn chain_weight(layer: &Layer, mut position: usize) -> Result<ChainWeight, LayerError> {
    let id = ObjectId(layer.index.ids()[position]);
    let pack = layer.open_pack()?;
    let len = pack.metadata().map_err(LayerError::io("examine", &layer.pack))?.len();
    let mut offset = layer.index.offset(position);
    let mut weight = ChainWeight::default();
    for _ in 0..=MAX_DEPTH {
        let damaged = |fault| LayerError::Object { id, layer: layer.name().to_owned(), offset, fault };
        let available = len.saturating_sub(CHECKSUM as u64).checked_sub(offset);
        let mut head =
            vec![0; available.ok_or_else(|| damaged("the pack ends before it"))?.min(HEAD) as usize];
        pack.read_exact_at(&mut head, offset).map_err(LayerError::io("read", &layer.pack))?;
        let header = Header::parse(&head).map_err(damaged)?;
        weight.add(header.size);
        if header.kind.is_some() {
            return Ok(weight);
        }
        let rest = &head[header.len..];
        let (base, stream) = base(&head, rest).ok_or_else(|| damaged("its base is not named"))?;
        let (from, to) = sizes(stream).ok_or_else(|| damaged("its sizes cannot be read"))?;
        weight.add(from);
        weight.add(to);
        offset = match base {
            Base::Before(bytes) => {
                offset.checked_sub(bytes).ok_or_else(|| damaged("its base is not there"))?
            }
            Base::Object(base) => {
                position =
                    layer.index.ids().binary_search(&base).map_err(|_| damaged("its base is not there"))?;
                layer.index.offset(position)
            }
        };
    }
    Err(LayerError::Object {
        id,
        layer: layer.name().to_owned(),
        offset,
        fault: "it hangs on too many others",
    })
}

/// What a delta is one of.
enum Base {
    /// The entry that begins so many bytes before.
    Before(u64),
    Object([u8; 20]),
}

/// Reads what follows the header of a delta up to its stream.
fn base<'a>(head: &[u8], rest: &'a [u8]) -> Option<(Base, &'a [u8])> {
    if head[0] >> 4 & 7 == 7 {
        let (id, stream) = rest.split_first_chunk()?;
        return Some((Base::Object(*id), stream));
    }
    let mut before = 0u64;
    for (at, byte) in rest.iter().enumerate().take(MAX_HEADER) {
        before = before.checked_mul(1 << 7)?.checked_add(u64::from(byte & 0x7f))?;
        if byte & 0x80 == 0 {
            return (before > 0).then_some((Base::Before(before), &rest[at + 1..]));
        }
        before = before.checked_add(1)?;
    }
    None
}

/// The sizes of a delta's base and of what it makes.
fn sizes(stream: &[u8]) -> Option<(u64, u64)> {
    let mut begin = Vec::new();
    // What is cut off behind the sizes is an error, and none that matters.
    let _ = ZlibDecoder::new(stream).take(SIZES).read_to_end(&mut begin);
    let mut sizes = varint::Reader::new(&begin);
    Some((sizes.unsigned().ok()?, sizes.unsigned().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_base_that_is_too_far_away_is_none() {
        let far = [&[0x80][..], &[0xfe; 8], &[0xff, 0]].concat();
        assert!(base(&[0x60], &far).is_none());
        assert!(matches!(base(&[0x60], &[0x80, 0x01, 7]), Some((Base::Before(129), [7]))));
    }
}
