//! Reading packs that are not here by ranges.

use std::collections::{BTreeMap, HashSet};
use std::error::Error;
use std::fmt;
use std::ops::Range;
use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, PoisonError};

use crate::causes::with_causes;
use crate::progress::Counter;

use super::LayerError;
use super::blocks::{BLOCK, Blocks};

/// Blocks that nobody asked for are read along where that makes one request of two.
const GAP: u64 = 4;

/// Blocks of one request at most: what is longer is read in several at once.
const REQUEST: u64 = (4 << 20) / BLOCK;

/// An error of a [`PackSource`] that could not be reached: nothing is known of what lies there, so nothing is damaged.
#[derive(Debug, Clone)]
pub struct OutOfReach(Arc<dyn Error + Send + Sync>);

impl OutOfReach {
    /// Because of `error`.
    pub fn new(error: impl Error + Send + Sync + 'static) -> Self {
        Self(Arc::new(error))
    }

    /// What of this kind is among `error` and its causes.
    pub fn find(error: &(dyn Error + 'static)) -> Option<Self> {
        with_causes(error).find_map(|error| error.downcast_ref::<Self>()).cloned()
    }
}

impl fmt::Display for OutOfReach {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Error for OutOfReach {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.0.source()
    }
}

/// Where packs lie that are not here: what a reader of ranges needs of it.
///
/// Any number of threads may call it at once. Where it cannot be reached, the error is [`OutOfReach`].
pub trait PackSource: Send + Sync {
    /// The size in bytes of the `.pack` of the layer of that name; `None` where it is known not to be there.
    /// What cannot be found out is an error, since a layer that is missing counts as lost.
    fn pack_bytes(&self, layer: &str) -> Result<Option<u64>, Box<dyn Error + Send + Sync>>;

    /// The bytes of each range of a `.pack`, exactly, in their order. Several requests at once are fine.
    fn read(&self, layer: &str, ranges: &[Range<u64>]) -> Result<Vec<Vec<u8>>, Box<dyn Error + Send + Sync>>;
}

/// Packs that lie elsewhere, read in blocks of 8 KiB, of which some are kept.
///
/// Shared by all readers. Blocks that several threads want at one time are read once; blocks that lie close
/// together are read by one request, and several requests are made at once. What was read is kept in a
/// directory, up to a bound, for later readers and other processes. On disk and not in memory: a command that
/// looks at one file after another finds what the one before has read, and memory stays bounded.
///
/// Bytes are as the source gives them. A block of the cache is checked against its CRC-32, so damage there is
/// read again; what the source itself gives wrong is found by who reads whole objects, which are checked
/// against their ids, and by who knows a hash of what lies in the range.
pub struct Cold {
    source: Arc<dyn PackSource>,
    blocks: Blocks,
    /// Blocks that a thread is reading now.
    under_way: Mutex<HashSet<(String, u64)>>,
    arrived: Condvar,
    requests: Counter,
    bytes: Counter,
}

impl fmt::Debug for Cold {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cold").field("blocks", &self.blocks).finish_non_exhaustive()
    }
}

/// Blocks that this thread has taken on to read; given back when dropped.
struct Claim<'a> {
    cold: &'a Cold,
    layer: &'a str,
    blocks: Vec<u64>,
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        let mut under_way = self.cold.under_way.lock().unwrap_or_else(PoisonError::into_inner);
        for &block in &self.blocks {
            under_way.remove(&(self.layer.to_owned(), block));
        }
        self.cold.arrived.notify_all();
    }
}

impl Cold {
    /// Reads from `source`, and keeps about `cache_bytes` of what it gave in the directory `cache_dir`.
    pub fn new(source: Arc<dyn PackSource>, cache_dir: &Path, cache_bytes: u64) -> Self {
        let blocks = Blocks::new(cache_dir, cache_bytes);
        let (under_way, arrived, requests, bytes) = Default::default();
        Self { source, blocks, under_way, arrived, requests, bytes }
    }

    /// How many ranges were read from the source so far.
    pub fn requests(&self) -> u64 {
        self.requests.get()
    }

    /// How many bytes they had.
    pub fn bytes(&self) -> u64 {
        self.bytes.get()
    }

    /// The size of the `.pack` of a layer, if it lies there.
    pub(super) fn pack_bytes(&self, layer: &str) -> Result<Option<u64>, LayerError> {
        let bytes = self.source.pack_bytes(layer);
        bytes.map_err(|source| LayerError::Cold { layer: layer.to_owned(), source })
    }

    /// The bytes `range` of the `.pack` of a layer, which has `pack_bytes` in all. Blocks that `hints` touch
    /// are read along, since they will be asked for next.
    pub(super) fn read(
        &self,
        layer: &str,
        pack_bytes: u64,
        range: Range<u64>,
        hints: &[Range<u64>],
    ) -> Result<Vec<u8>, LayerError> {
        let mut found: BTreeMap<u64, Vec<u8>> = BTreeMap::new();
        let wanted: Vec<u64> = blocks_of(&range).collect();
        // Without a cache it would be read twice.
        let hints = if self.blocks.is_off() { &[] } else { hints };
        let hinted = hints.iter().flat_map(blocks_of);
        let mut to_do: Vec<u64> = hinted.chain(wanted.iter().copied()).collect();
        to_do.sort_unstable();
        to_do.dedup();
        let look = |to_do: &mut Vec<u64>, found: &mut BTreeMap<u64, Vec<u8>>| {
            to_do.retain(|&block| match self.blocks.get(layer, block) {
                Some(bytes) => {
                    found.insert(block, bytes);
                    false
                }
                None => true,
            });
        };
        while !to_do.is_empty() {
            look(&mut to_do, &mut found);
            let claim = self.claim(layer, &to_do);
            // Whoever had them before may have brought them between the look and the claim.
            let mut missing = claim.blocks.clone();
            look(&mut missing, &mut found);
            for (block, bytes) in self.fetch(layer, pack_bytes, &missing)? {
                self.blocks.put(layer, block, &bytes);
                found.insert(block, bytes);
            }
            to_do.retain(|block| !found.contains_key(block));
        }
        let mut bytes = Vec::with_capacity((range.end - range.start) as usize);
        for block in wanted {
            let begin = block * BLOCK;
            let content = found.get(&block).map_or(&[][..], Vec::as_slice);
            let from = range.start.saturating_sub(begin).min(content.len() as u64) as usize;
            let to = (range.end - begin).min(content.len() as u64) as usize;
            bytes.extend_from_slice(&content[from..to]);
        }
        Ok(bytes)
    }

    /// Takes on those of `blocks` that nobody is reading; where all are being read, waits until some came.
    fn claim<'a>(&'a self, layer: &'a str, blocks: &[u64]) -> Claim<'a> {
        let mut under_way = self.under_way.lock().unwrap_or_else(PoisonError::into_inner);
        let mut claim = Claim { cold: self, layer, blocks: Vec::new() };
        for &block in blocks {
            if under_way.insert((layer.to_owned(), block)) {
                claim.blocks.push(block);
            }
        }
        if claim.blocks.is_empty() && !blocks.is_empty() {
            drop(self.arrived.wait(under_way).unwrap_or_else(PoisonError::into_inner));
        }
        claim
    }

    fn fetch(&self, layer: &str, pack_bytes: u64, blocks: &[u64]) -> Result<Vec<(u64, Vec<u8>)>, LayerError> {
        let failed = |source| LayerError::Cold { layer: layer.to_owned(), source };
        let ranges: Vec<_> = requests(blocks)
            .into_iter()
            .map(|run| run.start * BLOCK..(run.end * BLOCK).min(pack_bytes))
            .filter(|range| range.start < range.end)
            .collect();
        let parts = match ranges.is_empty() {
            true => Vec::new(),
            false => self.source.read(layer, &ranges).map_err(failed)?,
        };
        self.requests.add(ranges.len() as u64);
        self.bytes.add(parts.iter().map(|part| part.len() as u64).sum());
        let is_exact = |(range, part): (&Range<u64>, &Vec<u8>)| part.len() as u64 == range.end - range.start;
        if parts.len() != ranges.len() || !ranges.iter().zip(&parts).all(is_exact) {
            return Err(failed("other bytes came than were asked for".into()));
        }
        let mut fetched = Vec::new();
        for (range, part) in ranges.iter().zip(parts) {
            let numbers = range.start / BLOCK..;
            fetched.extend(
                numbers.zip(part.chunks(BLOCK as usize)).map(|(block, bytes)| (block, bytes.to_vec())),
            );
        }
        // What lies behind the end of the pack is nothing, and need not be asked for again.
        let behind = blocks.iter().filter(|&&block| block * BLOCK >= pack_bytes);
        fetched.extend(behind.map(|&block| (block, Vec::new())));
        Ok(fetched)
    }
}

fn blocks_of(range: &Range<u64>) -> Range<u64> {
    match range.is_empty() {
        true => 0..0,
        false => range.start / BLOCK..range.end.div_ceil(BLOCK),
    }
}

/// Runs of blocks to ask for, of blocks in ascending order.
fn requests(blocks: &[u64]) -> Vec<Range<u64>> {
    let mut runs: Vec<Range<u64>> = Vec::new();
    for &block in blocks {
        match runs.last_mut() {
            Some(run) if block <= run.end + GAP && block < run.start + REQUEST => run.end = block + 1,
            _ => runs.push(block..block + 1),
        }
    }
    runs
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::SeqCst};
    use std::thread;

    use proptest::prelude::*;

    use super::*;

    /// A pack in memory that counts what is read.
    #[derive(Default)]
    struct Memory {
        pack: Vec<u8>,
        requests: AtomicUsize,
        bytes: AtomicU64,
        fails: AtomicUsize,
    }

    impl PackSource for Memory {
        fn pack_bytes(&self, _: &str) -> Result<Option<u64>, Box<dyn Error + Send + Sync>> {
            Ok(Some(self.pack.len() as u64))
        }

        fn read(&self, _: &str, ranges: &[Range<u64>]) -> Result<Vec<Vec<u8>>, Box<dyn Error + Send + Sync>> {
            if self.fails.fetch_update(SeqCst, SeqCst, |left| left.checked_sub(1)).is_ok() {
                return Err("it rains".into());
            }
            self.requests.fetch_add(ranges.len(), SeqCst);
            self.bytes.fetch_add(ranges.iter().map(|range| range.end - range.start).sum(), SeqCst);
            Ok(ranges
                .iter()
                .map(|range| self.pack[range.start as usize..range.end as usize].to_vec())
                .collect())
        }
    }

    fn memory(len: usize) -> Arc<Memory> {
        let pack = (0..len).map(|at| (at / 7) as u8 ^ (at >> 11) as u8).collect();
        Arc::new(Memory { pack, ..Memory::default() })
    }

    fn cold(memory: &Arc<Memory>, limit: u64) -> (tempfile::TempDir, Cold) {
        let dir = tempfile::tempdir().unwrap();
        let cold = Cold::new(memory.clone(), &dir.path().join("blocks"), limit);
        (dir, cold)
    }

    #[test]
    fn near_blocks_are_one_request_and_long_runs_are_several() {
        assert_eq!(requests(&[1, 2 + GAP, 20]), [1..3 + GAP, 20..21]);
        let long: Vec<_> = (0..REQUEST + 1).collect();
        assert_eq!(requests(&long), [0..REQUEST, REQUEST..REQUEST + 1]);
    }

    #[test]
    fn what_was_read_is_not_asked_for_again() {
        let memory = memory(1_000_000);
        let (dir, cold) = cold(&memory, 1 << 22);
        let read = |cold: &Cold| cold.read("pack-a", 1_000_000, 100_000..200_000, &[5..9, 40..41]).unwrap();
        assert_eq!(read(&cold), memory.pack[100_000..200_000]);
        assert_eq!(memory.requests.load(SeqCst), 2, "the range, and the hint far off");
        assert_eq!(read(&cold), memory.pack[100_000..200_000]);
        assert_eq!(cold.read("pack-a", 1_000_000, 0..10, &[]).unwrap(), memory.pack[..10]);
        let later = Cold::new(memory.clone(), &dir.path().join("blocks"), 1 << 22);
        assert_eq!(read(&later), memory.pack[100_000..200_000]);
        assert_eq!(memory.requests.load(SeqCst), 2);
    }

    #[test]
    fn threads_that_want_the_same_read_it_once() {
        let memory = memory(1_000_000);
        let (_dir, cold) = cold(&memory, 1 << 22);
        thread::scope(|scope| {
            for from in 0..8_u64 {
                let (cold, memory) = (&cold, &memory);
                scope.spawn(move || {
                    let range = from * 50_000..from * 50_000 + 500_000;
                    let bytes = cold.read("pack-a", 1_000_000, range.clone(), &[]).unwrap();
                    assert!(bytes == memory.pack[range.start as usize..range.end as usize]);
                });
            }
        });
        assert!(memory.bytes.load(SeqCst) <= 850_000 + 8 * (GAP + 2) * BLOCK, "{:?}", memory.bytes);
    }

    #[test]
    fn without_a_cache_everything_can_be_read() {
        let memory = memory(100_000);
        let (_dir, cold) = cold(&memory, 0);
        for _ in 0..2 {
            assert_eq!(cold.read("pack-a", 100_000, 1..99_999, &[]).unwrap(), memory.pack[1..99_999]);
        }
    }

    #[test]
    fn what_fails_is_told_and_can_be_tried_again() {
        let memory = memory(100_000);
        let (_dir, cold) = cold(&memory, 1 << 20);
        memory.fails.store(1, SeqCst);
        let error = cold.read("pack-a", 100_000, 0..10, &[]).unwrap_err();
        assert!(matches!(&error, LayerError::Cold { layer, .. } if layer == "pack-a"), "{error}");
        assert_eq!(cold.read("pack-a", 100_000, 0..10, &[]).unwrap(), memory.pack[..10]);
    }

    #[test]
    fn behind_the_end_is_nothing() {
        let memory = memory(10_000);
        let (_dir, cold) = cold(&memory, 1 << 20);
        assert_eq!(cold.read("pack-a", 10_000, 9_990..30_000, &[]).unwrap(), memory.pack[9_990..]);
    }

    proptest! {
        #[test]
        fn any_ranges_come_as_they_are(
            limit in prop_oneof![Just(0_u64), Just(40_000), Just(1 << 20)],
            ranges in prop::collection::vec((0..300_000_u64, 0..50_000_u64, 0..300_000_u64), 1..12),
        ) {
            let memory = memory(300_000);
            let (_dir, cold) = cold(&memory, limit);
            for (begin, len, hint) in ranges {
                let end = (begin + len).min(300_000);
                let bytes = cold.read("pack-a", 300_000, begin..end, std::slice::from_ref(&(hint..hint + 5))).unwrap();
                prop_assert_eq!(&bytes[..], &memory.pack[begin as usize..end as usize]);
            }
        }
    }
}
