//! Text for people: lines, tables, sizes, and names made safe to print.

use std::fmt::Write as _;
use std::io::{self, BufWriter, Write};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;

use jiff::Timestamp;
use jiff::tz::TimeZone;
use serde_json::{Value, json};
use treering::diff::{Change, ChangeRef, Entry, FileTime, Kind};
use treering::gitkv::Swept;
pub use treering::printed::{name, text, unescape};
use treering::relpath::RelPath;
use treering::repository::Totals;
use treering::url::redact;

use crate::cli::error::{CliError, Exit};

/// Prints to standard output whatever `write` writes.
pub fn print(write: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> Result<(), CliError> {
    let mut out = BufWriter::with_capacity(64 << 10, io::stdout().lock());
    write(&mut out).and_then(|()| out.flush()).map_err(CliError::Output)
}

/// Whether complaints are for programs.
static AS_JSON: AtomicBool = AtomicBool::new(false);

/// From now on complaints are objects.
pub fn use_json() {
    AS_JSON.store(true, Relaxed);
}

/// Tells of something that went wrong, on standard error: a line, or with `--json` an object that is a `warning`.
pub fn complain(message: &str) {
    complain_with(message, json!({}));
}

/// Whether something was told of that a command had to do without.
static INCOMPLETE: AtomicBool = AtomicBool::new(false);

/// As [`complain`], of something that the command does without, so that it is not wholly done.
pub fn complain_of_loss(message: &str) {
    INCOMPLETE.store(true, Relaxed);
    complain(message);
}

/// Whether the command did without something.
pub fn was_incomplete() -> bool {
    INCOMPLETE.load(Relaxed)
}

/// As [`complain`], with what else the object shall say.
///
/// What is secret in an address that it quotes is not shown.
pub fn complain_with(message: &str, mut object: Value) {
    let message = &redact(message);
    // Where standard error is closed, the exit status still tells.
    let _ = match AS_JSON.load(Relaxed) {
        true => {
            object["message_type"] = "warning".into();
            object["message"] = message.as_str().into();
            writeln!(io::stderr(), "{object}")
        }
        false => writeln!(io::stderr(), "treering: {}", text(message)),
    };
}

/// As [`complain`], of what made the command fail. The object is restic's `exit_error`.
pub fn fail(exit: Exit, message: &str) {
    match AS_JSON.load(Relaxed) {
        true => {
            let message = redact(message);
            let object = json!({ "message_type": "exit_error", "code": exit as u8, "message": message });
            let _ = writeln!(io::stderr(), "{object}");
        }
        false => complain(message),
    }
}

/// A number of bytes, as `1.2 GiB`.
pub fn size(bytes: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    let mut value = bytes as f64;
    let mut unit = "B";
    for larger in UNITS {
        // What would round to 1024.0 belongs to the next unit.
        if value < 1023.95 {
            break;
        }
        (value, unit) = (value / 1024.0, larger);
    }
    if unit == "B" { format!("{bytes} B") } else { format!("{value:.1} {unit}") }
}

/// A number, as `12,345`.
pub fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut text = String::with_capacity(digits.len() + digits.len() / 3);
    for (at, digit) in digits.char_indices() {
        if at > 0 && (digits.len() - at).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

/// A number of things: `1 file`, `2 files`.
pub fn plural(number: u64, thing: &str) -> String {
    format!("{} {thing}{}", count(number), if number == 1 { "" } else { "s" })
}

/// What dead processes had left in a repository and was removed, if anything was.
pub fn leftovers(swept: &Swept) -> Option<String> {
    let things = swept.files + swept.layers;
    (things > 0).then(|| {
        let of_what = match swept.bytes {
            0 => "empty".to_owned(),
            bytes => size(bytes),
        };
        format!("removed  {} of killed processes, {of_what}", plural(things, "leftover"))
    })
}

/// How long something took, as `0.25 s`, `12.5 s` or `3 min 20 s`.
pub fn duration(took: Duration) -> String {
    let seconds = took.as_secs_f64();
    match took.as_secs() {
        0 => format!("{seconds:.2} s"),
        1..60 => format!("{seconds:.1} s"),
        whole => format!("{} min {} s", count(whole / 60), whole % 60),
    }
}

/// A time in `zone` to the second, with the offset of the zone. As the name of a snapshot it means what it was
/// printed of.
pub fn local_time(time: Timestamp, zone: &TimeZone) -> String {
    treering::spoken::local(time, zone)
}

/// A time in `zone` to the second, where lines are many and the offset would say nothing.
pub fn clock_time(time: Timestamp, zone: &TimeZone) -> String {
    time.to_zoned(zone.clone()).strftime("%Y-%m-%d %H:%M:%S").to_string()
}

/// A time of a file system; `None` where it lies outside the calendar.
pub fn timestamp(time: FileTime) -> Option<Timestamp> {
    Timestamp::new(time.seconds, i32::try_from(time.nanos).ok()?).ok()
}

/// What stands first in a line of `ls -l`, as `drwxr-xr-x`.
pub fn permissions(entry: &Entry) -> String {
    let kind = match entry.kind {
        Kind::File(_) => '-',
        Kind::Directory => 'd',
        Kind::Symlink(_) => 'l',
        Kind::Fifo => 'p',
        Kind::Socket => 's',
        Kind::CharDevice(_) => 'c',
        Kind::BlockDevice(_) => 'b',
    };
    let mode = entry.meta.mode;
    let mut text = String::from(kind);
    for (shift, special, letter) in [(6, 0o4000, 's'), (3, 0o2000, 's'), (0, 0o1000, 't')] {
        text.push(if mode >> shift & 4 != 0 { 'r' } else { '-' });
        text.push(if mode >> shift & 2 != 0 { 'w' } else { '-' });
        text.push(match (mode & special != 0, mode >> shift & 1 != 0) {
            (false, false) => '-',
            (false, true) => 'x',
            (true, false) => letter.to_ascii_uppercase(),
            (true, true) => letter,
        });
    }
    text
}

/// How a column of a table stands.
#[derive(Debug, Clone, Copy)]
pub enum Align {
    Left,
    Right,
}

/// Writes rows of cells, each column as wide as its widest cell.
pub fn table(out: &mut dyn Write, columns: &[Align], rows: &[Vec<String>]) -> io::Result<()> {
    let width = |at: usize| rows.iter().filter_map(|row| row.get(at)).map(|cell| cell.chars().count()).max();
    let widths: Vec<usize> = (0..columns.len()).map(|at| width(at).unwrap_or(0)).collect();
    let mut line = String::new();
    for row in rows {
        line.clear();
        for ((cell, align), &width) in row.iter().zip(columns).zip(&widths) {
            let _ = match align {
                Align::Left => write!(line, "{cell:<width$}  "),
                Align::Right => write!(line, "{cell:>width$}  "),
            };
        }
        writeln!(out, "{}", line.trim_end())?;
    }
    Ok(())
}

/// Writes one line a change; what each sign means stands in the help of `treering diff`. Paths are those below `base`,
/// and written with it: an empty one where what they are relative to is told elsewhere.
pub fn changes<'a>(
    out: &mut dyn Write,
    base: &Path,
    changes: impl IntoIterator<Item = ChangeRef<'a>>,
) -> io::Result<()> {
    let shown = |path: &RelPath| match (path.is_root(), base.as_os_str().is_empty()) {
        (true, true) => ".".to_owned(),
        (true, false) => name(base.as_os_str().as_encoded_bytes()),
        (false, _) => name(base.join(path.as_path()).as_os_str().as_encoded_bytes()),
    };
    for change in changes {
        let mark = match change {
            Change::Created(_) => '+',
            Change::Updated(_) => 'M',
            Change::Metadata(_) => 'U',
            Change::Renamed { .. } => 'R',
            Change::Deleted { .. } => '-',
        };
        write!(out, "{mark}  ")?;
        if let Change::Renamed { from, .. } = &change {
            write!(out, "{} -> ", shown(from))?;
        }
        let path = change.path();
        writeln!(out, "{}{}", shown(path), if is_directory(&change) && !path.is_root() { "/" } else { "" })?;
    }
    Ok(())
}

fn is_directory(change: &ChangeRef<'_>) -> bool {
    match change {
        Change::Deleted { directory, .. } => *directory,
        change => change.entry().is_some_and(|entry| matches!(entry.kind, Kind::Directory)),
    }
}

/// What a set of changes amounts to, in words.
pub fn totals(totals: &Totals) -> String {
    let parts = [
        (totals.created, "created"),
        (totals.updated, "updated"),
        (totals.metadata, "with other metadata"),
        (totals.renamed, "renamed"),
        (totals.deleted, "deleted"),
    ];
    let parts = parts.into_iter().filter(|(number, _)| *number > 0);
    let words: Vec<_> = parts.map(|(number, what)| format!("{} {what}", count(number))).collect();
    if words.is_empty() { "no differences".into() } else { words.join(", ") }
}

#[cfg(test)]
mod tests {
    use treering::diff::Metadata;

    use super::*;

    #[test]
    fn sizes_have_one_digit_after_the_point() {
        let sizes = [0, 1023, 1024, 1_048_524, 1_048_576, 1_288_490_189, u64::MAX];
        assert_eq!(
            sizes.map(size),
            ["0 B", "1023 B", "1.0 KiB", "1023.9 KiB", "1.0 MiB", "1.2 GiB", "16.0 EiB"]
        );
    }

    #[test]
    fn long_numbers_are_grouped() {
        assert_eq!([0, 999, 1000, 1_234_567].map(count), ["0", "999", "1,000", "1,234,567"]);
        assert_eq!(plural(1, "file"), "1 file");
        assert_eq!(plural(1000, "file"), "1,000 files");
    }

    #[test]
    fn durations_are_as_exact_as_they_are_short() {
        let shown = [0.041, 12.34, 200.9].map(|seconds| duration(Duration::from_secs_f64(seconds)));
        assert_eq!(shown, ["0.04 s", "12.3 s", "3 min 20 s"]);
    }

    #[test]
    fn modes_look_as_ls_shows_them() {
        let shown = |kind, mode| {
            let meta = Metadata { mode, ..Metadata::default() };
            permissions(&Entry { path: RelPath::root(), kind, meta })
        };
        assert_eq!(shown(Kind::Directory, 0o1777), "drwxrwxrwt");
        assert_eq!(shown(Kind::Fifo, 0o640), "prw-r-----");
        assert_eq!(shown(Kind::Socket, 0o6711), "srws--s--x");
        assert_eq!(shown(Kind::CharDevice(0), 0o7000), "c--S--S--T");
    }

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let rows = [["a", "12", "x"], ["bcd", "3", ""]].map(|row| row.map(str::to_owned).to_vec());
        let mut out = Vec::new();
        table(&mut out, &[Align::Left, Align::Right, Align::Left], &rows).unwrap();
        assert_eq!(String::from_utf8(out).unwrap(), "a    12  x\nbcd   3\n");
    }

    #[test]
    fn totals_name_only_what_there_is() {
        assert_eq!(totals(&Totals::default()), "no differences");
        let some = Totals { created: 1200, deleted: 1, ..Totals::default() };
        assert_eq!(totals(&some), "1,200 created, 1 deleted");
    }
}
