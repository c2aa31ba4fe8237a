//! The objects of a cold remote: their names, and reading them.
//!
//! Reads are bounded: the mark and a head have a size limit, and a layer is read in pieces, as far as the size in the
//! head says. A head of a repository other than the one that the store is marked with is an error.

use crate::gitkv::GitError;
use crate::pipeline;
use crate::progress::Progress;
use crate::store::{Item, Name, NameError, Namespace, Span, Store};

use super::RemoteError;
use super::head::{self, Head, HeadError, Held, LAYOUT};

/// Pieces in which a pack is brought, and how many of them are asked for at once: a pull that is to stop ends after
/// so much.
const PIECE: u64 = 4 << 20;
const PIECES_AT_ONCE: usize = 4;

/// Bytes of a head at most: it lists some hundred thousand layers.
const MAX_HEAD: u64 = 64 << 20;

/// Bytes of a mark at most.
const MAX_MARK: u64 = 4096;

/// What a cold remote is marked with: the repository that it holds.
pub(super) const MARK: &str = "repository";

/// The namespaces of a store that is a cold remote.
pub(super) struct Namespaces {
    pub config: Namespace,
    pub heads: Namespace,
    pub locks: Namespace,
}

impl Namespaces {
    pub fn new() -> Result<Self, NameError> {
        let [config, heads, locks] = ["config", "heads", "locks"].map(Namespace::new);
        Ok(Self { config: config?, heads: heads?, locks: locks? })
    }
}

/// The two files of a layer in a store.
pub(super) struct LayerNames {
    pub pack: Name,
    pub index: Name,
}

impl LayerNames {
    pub fn new(layer: &str, Held { kind, tag, .. }: &Held) -> Result<Self, NameError> {
        let namespace = Namespace::new(kind.name())?;
        let name = |extension: &str| namespace.name(&format!("{layer}-{tag:016x}.{extension}"));
        Ok(Self { pack: name("pack")?, index: name("idx")? })
    }
}

/// The id of the repository that a store is marked to hold; `None` where there is no mark.
pub(super) fn load_mark(
    store: &Store,
    remote: &str,
    names: &Namespaces,
) -> Result<Option<String>, RemoteError> {
    let bytes = match store.load_within(&names.config.name(MARK)?, MAX_MARK) {
        Err(error) if error.is_not_found() => return Ok(None),
        bytes => bytes.map_err(RemoteError::store(remote))?,
    };
    head::parse_mark(&bytes).map(Some).map_err(|error| unreadable(remote, "config/repository", error))
}

pub(super) fn load_head(
    store: &Store,
    remote: &str,
    repository: &str,
    item: &Item,
) -> Result<Head, RemoteError> {
    let name = item.name.to_string();
    if item.size > MAX_HEAD {
        return Err(unreadable(remote, &name, HeadError::Damaged("it is too large")));
    }
    let bytes = store.load_within(&item.name, MAX_HEAD).map_err(RemoteError::layer(remote, &name))?;
    let head = Head::parse(&bytes).map_err(|error| unreadable(remote, &name, error))?;
    match head.repository == repository {
        true => Ok(head),
        false => Err(unreadable(remote, &name, HeadError::Damaged("it is that of another repository"))),
    }
}

fn unreadable(remote: &str, object: &str, error: HeadError) -> RemoteError {
    match error {
        HeadError::Newer(found) => RemoteError::Version { remote: remote.to_owned(), found, newest: LAYOUT },
        HeadError::Damaged(fault) => {
            let (remote, object) = (remote.to_owned(), object.to_owned());
            RemoteError::Unreadable { remote, object, fault }
        }
    }
}

/// Reads an object of a layer piece by piece, telling `progress`, which can stop it between two.
pub(super) fn read_watched(
    remote: &str,
    store: &Store,
    layer: &str,
    (name, bytes): (&Name, u64),
    progress: &Progress,
    mut take: impl FnMut(&[u8]) -> Result<(), RemoteError>,
) -> Result<(), RemoteError> {
    let mut offset = 0;
    while offset < bytes {
        progress.check().map_err(GitError::from)?;
        let mut spans = Vec::new();
        while offset < bytes && spans.len() < PIECES_AT_ONCE {
            let size = PIECE.min(bytes - offset);
            spans.push(Span { name: name.clone(), offset, size });
            offset += size;
        }
        for piece in store.load_many(&spans).map_err(RemoteError::layer(remote, layer))? {
            take(&piece)?;
            progress.bytes.add(piece.len() as u64);
        }
    }
    Ok(())
}

/// Does `work` with each item, `threads` at once; the first error ends it.
pub(super) fn at_once<T: Sync>(
    threads: usize,
    items: &[T],
    work: impl Fn(&T) -> Result<(), RemoteError> + Sync,
) -> Result<(), RemoteError> {
    pipeline::ordered(
        threads,
        threads,
        |feed| items.iter().try_for_each(|item| feed.send(item)).unwrap_or_default(),
        work,
        |result| result,
    )
}
