//! Trees to try things on, and what they look like.

use std::collections::BTreeMap;
use std::fs;
use std::io::{Seek, SeekFrom, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::Path;

use walkdir::WalkDir;

/// Everything that can be seen of a tree from outside, a line a name: what `ls`, `stat`, `getfattr` and `cmp`
/// would tell.
pub fn look(root: &Path) -> BTreeMap<String, String> {
    let mut seen = BTreeMap::new();
    let mut names: BTreeMap<u64, String> = BTreeMap::new();
    for entry in WalkDir::new(root).sort_by_file_name() {
        let entry = entry.unwrap();
        let path = entry.path().strip_prefix(root).unwrap().as_os_str().as_bytes().escape_ascii().to_string();
        let meta = entry.path().symlink_metadata().unwrap();
        let kind = meta.file_type();
        let what = if kind.is_symlink() {
            format!("link {:?}", fs::read_link(entry.path()).unwrap())
        } else if kind.is_file() {
            let first = names.entry(meta.ino()).or_insert_with(|| path.clone());
            let sparse = meta.blocks() * 512 < meta.len();
            let bytes = fs::read(entry.path());
            let digest = bytes.map(|bytes| treering::digest::Digest::of(&bytes).to_string());
            format!("file {} {:?} sparse {sparse} same as {first}", meta.len(), digest.ok())
        } else if kind.is_dir() {
            "directory".into()
        } else if kind.is_fifo() {
            "fifo".into()
        } else if kind.is_char_device() || kind.is_block_device() {
            format!("device {:?} {}", kind, meta.rdev())
        } else {
            "socket".into()
        };
        let xattrs: BTreeMap<_, _> = xattr::list(entry.path())
            .into_iter()
            .flatten()
            .map(|name| (name.clone(), xattr::get(entry.path(), &name).unwrap()))
            .collect();
        let mode = if kind.is_symlink() { 0 } else { meta.permissions().mode() };
        let (mtime, nanos) = (meta.mtime(), meta.mtime_nsec());
        seen.insert(
            path,
            format!("{what} {mode:o} {}:{} {mtime}.{nanos:09} {xattrs:?}", meta.uid(), meta.gid()),
        );
    }
    seen
}

/// Asserts that two trees look the same, naming what differs.
#[track_caller]
pub fn assert_same(left: &Path, right: &Path) {
    assert_same_names(look(left), look(right));
}

/// As [`assert_same`], of what stands in two directories that may differ themselves.
#[track_caller]
pub fn assert_same_inside(left: &Path, right: &Path) {
    let inside = |root: &Path| look(root).into_iter().filter(|(path, _)| !path.is_empty()).collect();
    assert_same_names(inside(left), inside(right));
}

#[track_caller]
fn assert_same_names(left: BTreeMap<String, String>, right: BTreeMap<String, String>) {
    for (path, what) in &left {
        assert_eq!(Some(what), right.get(path), "{path}");
    }
    let extra: Vec<_> = right.keys().filter(|path| !left.contains_key(*path)).collect();
    assert!(extra.is_empty(), "also there: {extra:?}");
}

/// Bytes that do not compress, the same for the same seed.
pub fn noise(len: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.wrapping_mul(0x2545_f491_4f6c_dd1d).to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}

/// Whether the tests run as root, who may do more.
pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// A tree with one of everything.
pub fn everything(root: &Path) {
    fs::create_dir_all(root.join("sub/deep/er")).unwrap();
    fs::create_dir(root.join("empty")).unwrap();
    fs::write(root.join("sub/text"), "some text\n".repeat(100)).unwrap();
    fs::write(root.join("sub/deep/er/blank"), "").unwrap();
    fs::write(root.join("noise"), noise(3_000_000, 1)).unwrap();
    fs::hard_link(root.join("noise"), root.join("sub/same")).unwrap();
    fs::hard_link(root.join("sub/text"), root.join("another")).unwrap();
    std::os::unix::fs::symlink("sub/text", root.join("link")).unwrap();
    std::os::unix::fs::symlink("/does/not/exist", root.join("dangling")).unwrap();
    let odd = std::ffi::OsStr::from_bytes(b"not \xff utf-8 \n");
    fs::write(root.join(odd), "odd").unwrap();
    let mut sparse = fs::File::create(root.join("sparse")).unwrap();
    sparse.seek(SeekFrom::Start(1 << 20)).unwrap();
    sparse.write_all(&noise(100_000, 2)).unwrap();
    sparse.set_len(4 << 20).unwrap();
    rustix::fs::mknodat(
        rustix::fs::CWD,
        root.join("pipe"),
        rustix::fs::FileType::Fifo,
        rustix::fs::Mode::RUSR,
        0,
    )
    .unwrap();
    let mode =
        |path: &str, mode| fs::set_permissions(root.join(path), fs::Permissions::from_mode(mode)).unwrap();
    mode("noise", 0o4751);
    mode("sub/text", 0o640);
    // A file system without user attributes is no reason to skip the rest.
    let _ = xattr::set(root.join("noise"), "user.colour", b"green\0blue");
    let _ = xattr::set(root.join("empty"), "user.of", b"a directory");
    if is_root() {
        let device = rustix::fs::makedev(1, 3);
        let kind = rustix::fs::FileType::CharacterDevice;
        // A container may forbid devices even to root.
        let _ = rustix::fs::mknodat(rustix::fs::CWD, root.join("null"), kind, rustix::fs::Mode::RUSR, device);
        std::os::unix::fs::chown(root.join("sub/deep"), Some(1234), Some(4321)).unwrap();
        std::os::unix::fs::lchown(root.join("link"), Some(12), Some(13)).unwrap();
    }
    let old = fs::FileTimes::new()
        .set_modified(std::time::UNIX_EPOCH + std::time::Duration::new(1_000_000_000, 123_456_789));
    for path in ["sub/text", "sub", "empty"] {
        fs::File::open(root.join(path)).unwrap().set_times(old).unwrap();
    }
    mode("sub/deep/er", 0o555);
}

/// Lets a tree with read-only directories be removed.
pub fn unlock(root: &Path) {
    for entry in WalkDir::new(root).into_iter().flatten().filter(|entry| entry.file_type().is_dir()) {
        let _ = fs::set_permissions(entry.path(), fs::Permissions::from_mode(0o755));
    }
}
