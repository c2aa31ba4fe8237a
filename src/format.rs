//! The version of the format of repositories, and the names of what lies in their trees, as `docs/format.md` has them.

/// The version that is written, and the newest one that is read.
pub const VERSION: u32 = 1;

/// The path of the configuration.
pub const CONFIG: &str = "config.cbor";

/// What kinds of blobs there are, as directories of the tree.
pub mod kind {
    pub const SNAPSHOTS: &str = "snapshots";
    pub const DIFFS: &str = "diffs";
    pub const INDEX: &str = "index";
    pub const SIGNATURES: &str = "signatures";
    pub const ARCHIVES: &str = "archives";
    /// The keys of an encrypted repository, which have no time.
    pub const KEYS: &str = "keys";
    pub const ALL: [&str; 5] = [SNAPSHOTS, DIFFS, INDEX, SIGNATURES, ARCHIVES];
}

/// What the name of a snapshot record ends with.
pub const SNAPSHOT_SUFFIX: &str = ".cbor";
/// What the name of a volume's index ends with.
pub const INDEX_SUFFIX: &str = ".idx";
/// What the name of the signatures of a volume ends with.
pub const SIGNATURES_SUFFIX: &str = ".cbor.gz";
/// What the name of an encrypted blob ends with.
pub const ENCRYPTED: &str = ".age";

/// Whether `path` is that of a blob of a kind.
pub fn is_of(kind: &str, path: &[u8]) -> bool {
    path.strip_prefix(kind.as_bytes()).is_some_and(|rest| rest.starts_with(b"/"))
}
