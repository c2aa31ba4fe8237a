//! A tree deeper than any path reaches that the system takes in one call.

use std::fs::File;
use std::io::Write;
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{CWD, FileType, Mode, OFlags, mkdirat, mknodat, openat, symlinkat};
use treering::relpath::RelPath;

/// The lowest directory of such a tree.
pub struct Deep {
    directory: OwnedFd,
    /// The path of a file in it.
    pub file: RelPath,
}

/// Makes a chain of 24 directories below `root`, with a file, a link and a pipe in each of the last ten.
pub fn make(root: &Path) -> Deep {
    let mode = Mode::from_raw_mode(0o755);
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let mut directory = openat(CWD, root, flags, Mode::empty()).unwrap();
    let mut path = RelPath::root();
    for level in 0..24 {
        let name = format!("{level:02}{}", "d".repeat(240));
        mkdirat(&directory, &name, mode).unwrap();
        directory = openat(&directory, &name, flags, Mode::empty()).unwrap();
        path = path.join(name.as_bytes()).unwrap();
        if level < 14 {
            continue;
        }
        write(&directory, "file", &format!("content {level}"));
        symlinkat("file", &directory, "link").unwrap();
        mknodat(&directory, "pipe", FileType::Fifo, mode, 0).unwrap();
    }
    Deep { directory, file: path.join(b"file").unwrap() }
}

impl Deep {
    /// Writes a file of the lowest directory.
    #[allow(dead_code, reason = "one of the two binaries of tests does not")]
    pub fn write(&self, name: &str, text: &str) {
        write(&self.directory, name, text);
    }
}

fn write(directory: &OwnedFd, name: &str, text: &str) {
    let flags = OFlags::CREATE | OFlags::TRUNC | OFlags::WRONLY | OFlags::CLOEXEC;
    let mut file = File::from(openat(directory, name, flags, Mode::from_raw_mode(0o644)).unwrap());
    file.write_all(text.as_bytes()).unwrap();
}
