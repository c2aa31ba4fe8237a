//! What the system says of a file without opening it.

use std::os::fd::AsFd;

use rustix::fs::{AtFlags, FileType, StatxAttributes, StatxFlags};

use crate::diff::entry::FileTime;

/// The part of `lstat` that is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stat {
    /// Type and permission bits, as `st_mode`.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Length in bytes.
    pub size: u64,
    /// Bytes that are allocated.
    pub allocated: u64,
    /// When the content last changed.
    pub mtime: FileTime,
    /// When the inode last changed.
    pub ctime: FileTime,
    /// Device that holds it.
    pub device: u64,
    /// Inode number.
    pub inode: u64,
    /// How many names it has.
    pub links: u64,
    /// Which device it is, for a device.
    pub special: u64,
}

impl From<rustix::fs::Stat> for Stat {
    #[allow(clippy::unnecessary_cast, reason = "the fields differ in type between platforms")]
    fn from(stat: rustix::fs::Stat) -> Self {
        let time = |seconds, nanos| FileTime { seconds, nanos };
        Self {
            mode: stat.st_mode as u32,
            uid: stat.st_uid,
            gid: stat.st_gid,
            size: stat.st_size as u64,
            allocated: stat.st_blocks as u64 * 512,
            mtime: time(stat.st_mtime as i64, stat.st_mtime_nsec as u32),
            ctime: time(stat.st_ctime as i64, stat.st_ctime_nsec as u32),
            device: stat.st_dev as u64,
            inode: stat.st_ino as u64,
            links: stat.st_nlink as u64,
            special: stat.st_rdev as u64,
        }
    }
}

impl Stat {
    /// What kind of thing it is.
    pub fn file_type(&self) -> FileType {
        FileType::from_raw_mode(self.mode as _)
    }
}

/// Whether a mount begins at `name` in an open directory, or at that itself where it is empty; `None` where the kernel
/// does not tell.
pub(super) fn is_mount_root(directory: impl AsFd, name: impl rustix::path::Arg) -> Option<bool> {
    let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT | AtFlags::EMPTY_PATH;
    let statx = rustix::fs::statx(directory, name, flags, StatxFlags::empty()).ok()?;
    let told = StatxAttributes::from_bits_retain(statx.stx_attributes_mask.bits());
    told.contains(StatxAttributes::MOUNT_ROOT)
        .then(|| statx.stx_attributes.contains(StatxAttributes::MOUNT_ROOT))
}
