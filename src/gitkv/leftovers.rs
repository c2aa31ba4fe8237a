//! What git leaves when it is killed: locks and temporary files.
//!
//! While git runs for this program there is a *mark* of that in the repository's private directory, which the
//! program and git hold locked by `flock`; git by its standard input. So a mark that nobody has locked is one of
//! a run whose processes are no more. What git left then is removed here and, where the remote is on this machine,
//! there: locks and temporary files that are no older than the mark, that no process has open, and that have
//! not been touched for [`SETTLED`]. Those of a git that somebody else runs beside are open, or touched now. A git that
//! ended well has removed its own, so its mark goes. One that this process stopped may not have: its temporary files go
//! as soon as no git uses them any more. Nor has one that failed because something killed a program that it ran, such as
//! `index-pack`, which it does not say; so after a failure the temporary files go once they are not touched any more.
//!
//! Temporary files of a git that this program did not run are removed by the sweep when they are older than
//! [`FORGOTTEN`] and no process has them open. Locks of such a git stay, and are named when they are in the way.

use std::fs::{self, File, TryLockError};
use std::io::{self, Read};
use std::ops::Add;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::thread;
use std::time::{Duration, SystemTime};

use crate::atomic;
use crate::progress::{Interrupted, Progress};

use super::lockfile::{Turn, age, lock_files};
use super::{Git, GitError};

/// What the name of every mark begins with.
const MARK_PREFIX: &str = "git-";

/// What a git that was killed has left is not touched for this long before it is removed.
pub(super) const SETTLED: Duration = Duration::from_secs(3);

/// How often it is looked whether that time is over.
pub(super) const LOOK: Duration = Duration::from_millis(100);

/// How old temporary files are of which nobody knows who made them.
pub(super) const FORGOTTEN: Duration = Duration::from_secs(24 * 3600);

/// How long a process that stops git waits for what git ran to end too.
const ENDING: Duration = Duration::from_secs(2);

/// Clocks of file systems are coarse.
const SLACK: Duration = Duration::from_millis(20);

/// Bytes of a `.keep` file that are looked at.
const LONGEST_WORD: u64 = 16;

/// How long the path of a remote may be that a mark names.
const MAX_PATH: usize = 1 << 16;

/// What [`Git::sweep`] found and removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Swept {
    /// Somebody is writing now, so nothing was looked at. A later sweep will do.
    pub busy: bool,
    /// Layers removed.
    pub layers: u64,
    /// Unfinished files removed.
    pub files: u64,
    /// How many bytes all of them had.
    pub bytes: u64,
}

impl Add for Swept {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            busy: self.busy || other.busy,
            layers: self.layers + other.layers,
            files: self.files + other.files,
            bytes: self.bytes + other.bytes,
        }
    }
}

/// A run of git; it ends with the processes, or when dropped.
pub(super) struct GitRun {
    mark: PathBuf,
    file: File,
    /// The repositories that it changes.
    places: Vec<PathBuf>,
    has_finished: bool,
}

impl GitRun {
    /// The standard input of git: empty, and locked as long as git has it.
    pub fn stdin(&self) -> Result<Stdio, GitError> {
        self.file.try_clone().map(Stdio::from).map_err(GitError::io("use", &self.mark))
    }

    /// Git has ended well, and left nothing; or it never began.
    pub fn finish(mut self) {
        self.has_finished = true;
    }

    /// Git was stopped. Removes the temporary files of what it ran when that has ended too. Where it does not end soon, or
    /// a lock is left, that is for the next run.
    pub fn clean_up_stopped(self) {
        self.clean_up(Duration::ZERO, true, None);
    }

    /// Git has failed, and what it ran may have been killed. Removes the temporary files that nobody touches any more, and
    /// waits for that unless `progress` says to stop. Locks are for the next run if git was `cut_off` from what it ran: mostly
    /// it has failed because of a lock that somebody else has.
    pub fn clean_up_failed(self, cut_off: bool, progress: &Progress) {
        self.clean_up(SETTLED, cut_off, Some(progress));
    }

    fn clean_up(mut self, settled: Duration, with_locks: bool, progress: Option<&Progress>) {
        let made = self.file.metadata().and_then(|metadata| metadata.modified());
        let made = made.unwrap_or_else(|_| SystemTime::now());
        let clean = |place: &PathBuf| {
            let is_clean = remove_temporaries(place, made, settled, progress)?;
            let mut locks = if with_locks { locks_of_transfers(place)? } else { Vec::new() };
            locks.retain(|path| is_since(path, made));
            Ok::<_, io::Error>(is_clean && locks.is_empty())
        };
        // What is left in one place does not keep the other from being cleaned up.
        self.has_finished = self.places.iter().filter(|place| !clean(place).unwrap_or(false)).count() == 0;
    }
}

impl Drop for GitRun {
    fn drop(&mut self) {
        if self.has_finished {
            // A mark that stays makes the next run look for leftovers.
            let _ = fs::remove_file(&self.mark);
        }
    }
}

impl Git {
    /// Marks that git is about to run for this repository, and change the repository at `there` too, and removes
    /// what earlier runs left.
    pub(super) fn run_of_git(&self, there: Option<&Path>, progress: &Progress) -> Result<GitRun, GitError> {
        self.remove_leftovers_of_git(Some(progress))?;
        let private = self.private_dir()?;
        let mark = private.join(format!("{MARK_PREFIX}{:016x}", getrandom::u64()?));
        // Nobody looks at marks without the turn, so this one is locked when it is first seen.
        let turn = self.turn()?;
        let begin = || {
            let there = there.map_or(&[][..], |there| there.as_os_str().as_encoded_bytes());
            fs::write(&mark, there)?;
            let file = File::options().read(true).open(&mark)?;
            file.lock_shared()?;
            // Git reads nothing.
            io::copy(&mut &file, &mut io::sink())?;
            Ok(file)
        };
        let file = begin().map_err(GitError::io("make", &mark))?;
        drop(turn);
        let places = std::iter::once(self.path()).chain(there).map(Path::to_owned).collect();
        Ok(GitRun { mark, file, places, has_finished: false })
    }

    /// Removes what runs of git left that were killed. Where there is a `patient` that can be asked to stop, this waits
    /// for some seconds until it is certain that nobody uses it.
    pub(super) fn remove_leftovers_of_git(&self, patient: Option<&Progress>) -> Result<Swept, GitError> {
        let mut swept = Swept::default();
        let private = self.private_dir()?;
        if !marks(&private).map_err(GitError::io("list", &private))?.iter().any(|mark| !mark.is_locked) {
            return Ok(swept);
        }
        let turn = self.turn()?;
        for mark in
            marks(&private).map_err(GitError::io("list", &private))?.iter().filter(|mark| !mark.is_locked)
        {
            let mut is_clean = true;
            let places = std::iter::once(self.path()).chain(mark.there.as_deref());
            for directory in places {
                match remove_leftovers(directory, mark.made, patient, &mut swept) {
                    Ok(is_done) => is_clean &= is_done,
                    Err(error) if error.kind() == io::ErrorKind::Interrupted => {
                        return Err(Interrupted.into());
                    }
                    // It may be gone, or not for this user; then git will say so.
                    Err(_) if Some(directory) == mark.there.as_deref() => {}
                    Err(error) => return Err(GitError::io("clean up", directory)(error)),
                }
            }
            if is_clean {
                fs::remove_file(&mark.path).map_err(GitError::io("remove", &mark.path))?;
            }
        }
        drop(turn);
        Ok(swept)
    }
}

impl Turn {
    /// Removes the lock at `path` if a git left it that ran for this program and was killed. Whether it did.
    pub fn remove_lock_of_dead_git(&self, path: &Path) -> io::Result<bool> {
        let Ok(made) = fs::symlink_metadata(path).and_then(|metadata| metadata.modified()) else {
            return Ok(false);
        };
        let is_of = |mark: &Mark| !mark.is_locked && made + SLACK >= mark.made;
        let is_dead = marks(self.private())?.iter().any(is_of)
            && age(path).is_some_and(|age| age >= SETTLED)
            && !are_used(&[path], self.directory());
        if is_dead {
            fs::remove_file(path)?;
        }
        Ok(is_dead)
    }
}

/// A mark that git runs, or ran.
struct Mark {
    path: PathBuf,
    made: SystemTime,
    /// A repository beside this one that git changes.
    there: Option<PathBuf>,
    /// Whether a process of the run lives.
    is_locked: bool,
}

fn marks(private: &Path) -> io::Result<Vec<Mark>> {
    let mut marks = Vec::new();
    for entry in fs::read_dir(private)? {
        let entry = entry?;
        if !entry.file_name().as_encoded_bytes().starts_with(MARK_PREFIX.as_bytes()) {
            continue;
        }
        let path = entry.path();
        let look = || {
            let file = File::open(&path)?;
            let is_locked = match file.try_lock() {
                Ok(()) => false,
                Err(TryLockError::WouldBlock) => true,
                Err(TryLockError::Error(error)) => return Err(error),
            };
            let there = fs::read(&path)?;
            let is_path = there.starts_with(b"/") && there.len() <= MAX_PATH;
            let there = is_path
                .then(|| std::os::unix::ffi::OsStringExt::from_vec(there))
                .map(|path: std::ffi::OsString| path.into());
            Ok(Mark { path: path.clone(), made: file.metadata()?.modified()?, there, is_locked })
        };
        match look() {
            Ok(mark) => marks.push(mark),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(marks)
}

/// Whether the file at `path` was last changed at `since` or later.
fn is_since(path: &Path, since: SystemTime) -> bool {
    let made = fs::symlink_metadata(path).and_then(|metadata| metadata.modified());
    made.is_ok_and(|made| made + SLACK >= since)
}

/// Removes the temporary files of a git that began at `since`, and that has ended, from the repository at `directory`,
/// once no git is at work there and nobody has touched them for `settled`. Whether none is left.
fn remove_temporaries(
    directory: &Path,
    since: SystemTime,
    settled: Duration,
    progress: Option<&Progress>,
) -> io::Result<bool> {
    let mut waited = Duration::ZERO;
    loop {
        let mut left = temporaries(directory)?;
        left.retain(|path| is_since(path, since));
        let paths: Vec<&Path> = left.iter().map(PathBuf::as_path).collect();
        let is_settled = |path: &PathBuf| last_touched(path).is_none_or(|age| age >= settled);
        if left.iter().all(is_settled) && !are_used(&paths, directory) {
            left.iter().try_for_each(|path| remove(path, &mut Swept::default()))?;
            return Ok(true);
        }
        if waited >= ENDING + settled || progress.is_some_and(|progress| progress.check().is_err()) {
            return Ok(false);
        }
        thread::sleep(LOOK);
        waited += LOOK;
    }
}

/// The lock files that a git which fetches or pushes may have left in the repository at `directory`. That of the index is
/// of somebody who commits, perhaps for as long as an editor is open.
fn locks_of_transfers(directory: &Path) -> io::Result<Vec<PathBuf>> {
    let mut locks = lock_files(directory)?;
    locks.retain(|path| path.file_name().is_none_or(|name| name != "index.lock"));
    Ok(locks)
}

/// Removes what a git that began at `since` and is dead may have left in the repository at `directory`. Whether
/// nothing is left.
fn remove_leftovers(
    directory: &Path,
    since: SystemTime,
    patient: Option<&Progress>,
    swept: &mut Swept,
) -> io::Result<bool> {
    let mut left = temporaries(directory)?;
    left.extend(locks_of_transfers(directory)?);
    left.retain(|path| is_since(path, since));
    let deadline = SETTLED + 2 * LOOK;
    let mut waited = Duration::ZERO;
    loop {
        left.retain(|path| path.exists());
        let is_settled = |path: &PathBuf| last_touched(path).is_none_or(|age| age >= SETTLED);
        let paths: Vec<&Path> = left.iter().map(PathBuf::as_path).collect();
        if left.is_empty() {
            return Ok(true);
        }
        if left.iter().all(is_settled) && !are_used(&paths, directory) {
            break;
        }
        let Some(progress) = patient.filter(|_| waited < deadline) else { return Ok(false) };
        progress.check().map_err(|_| io::Error::from(io::ErrorKind::Interrupted))?;
        thread::sleep(LOOK);
        waited += LOOK;
    }
    for path in &left {
        remove(path, swept)?;
    }
    Ok(true)
}

/// Temporary files and directories of git, and of libgit2, in the repository at `directory`; and the `.keep` files of packs
/// that were being received, which make git refuse to receive the same pack once more.
pub(super) fn temporaries(directory: &Path) -> io::Result<Vec<PathBuf>> {
    let objects = directory.join("objects");
    let mut found = Vec::new();
    let mut look = |directory: &Path, is_one: fn(&Path, &[u8]) -> bool| -> io::Result<()> {
        let entries = match fs::read_dir(directory) {
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
                return Ok(());
            }
            entries => entries?,
        };
        for entry in entries {
            let entry = entry?;
            let path = entry.path();
            if is_one(&path, entry.file_name().as_encoded_bytes()) {
                found.push(path);
            }
        }
        Ok(())
    };
    // As the boundary of a shallow history that is being pushed; git's random names have six letters.
    look(directory, |_, name| name.strip_prefix(b"shallow_").is_some_and(|random| random.len() == 6))?;
    look(&objects, |_, name| name.starts_with(b"tmp_objdir-") || name.starts_with(b"tmp_obj_"))?;
    look(&objects.join("pack"), |path, name| {
        name.starts_with(b"tmp_")
            || name.starts_with(b".tmp-")
            || name.starts_with(b"pack_git2_")
            || name.ends_with(b".keep") && is_of_transfer(path)
    })?;
    for first in 0..=u8::MAX {
        look(&objects.join(format!("{first:02x}")), |_, name| name.starts_with(b"tmp_obj_"))?;
    }
    Ok(found)
}

/// Whether git wrote the `.keep` file at `path` for as long as it receives or fetches the pack; then it says so.
fn is_of_transfer(path: &Path) -> bool {
    let mut said = Vec::new();
    let read = File::open(path).and_then(|file| file.take(LONGEST_WORD).read_to_end(&mut said));
    read.is_ok() && [&b"receive-pack "[..], b"fetch-pack "].iter().any(|word| said.starts_with(word))
}

/// Those of the temporary files of git that are so old that nobody knows who made them, and that no process has
/// open.
pub(super) fn forgotten(directory: &Path) -> io::Result<Vec<PathBuf>> {
    let mut old = temporaries(directory)?;
    old.retain(|path| last_touched(path).is_some_and(|age| age >= FORGOTTEN));
    old.retain(|path| !are_used(&[path], directory));
    Ok(old)
}

/// Removes a file or a directory, and counts it.
pub(super) fn remove(path: &Path, swept: &mut Swept) -> io::Result<()> {
    let bytes = bytes_of(path);
    let removed = match fs::symlink_metadata(path).is_ok_and(|metadata| metadata.is_dir()) {
        true => fs::remove_dir_all(path),
        false => fs::remove_file(path),
    };
    match removed {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
        Ok(()) => {
            swept.files += 1;
            swept.bytes += bytes;
            atomic::sync_dir(atomic::parent(path))
        }
    }
}

/// How many bytes the file at `path` has, or all files in the directory there.
pub(super) fn bytes_of(path: &Path) -> u64 {
    let entries = walkdir::WalkDir::new(path).into_iter().filter_map(Result::ok);
    let files = entries.filter_map(|entry| entry.metadata().ok()).filter(fs::Metadata::is_file);
    files.map(|metadata| metadata.len()).sum()
}

/// How long ago the file at `path`, or anything in the directory there, was last changed.
fn last_touched(path: &Path) -> Option<Duration> {
    let entries = walkdir::WalkDir::new(path).into_iter().filter_map(Result::ok);
    entries.filter_map(|entry| age(entry.path())).min()
}

/// Whether a process on this machine uses one of `paths`: has it, or something in it, open, or is a git at work in the
/// repository at `directory`. Of a git that may not be looked at that is not known, so it counts.
pub(super) fn are_used(paths: &[&Path], directory: &Path) -> bool {
    // Without it nobody knows.
    let Ok(processes) = fs::read_dir("/proc") else { return true };
    let resolved = |path: &Path| fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
    let directory = resolved(directory);
    let paths: Vec<PathBuf> = paths.iter().map(|path| resolved(path)).collect();
    processes.filter_map(Result::ok).any(|process| {
        let is_process = process.file_name().as_encoded_bytes().iter().all(u8::is_ascii_digit);
        let process = process.path();
        if !is_process {
            return false;
        }
        let is_git = || fs::read(process.join("comm")).is_ok_and(|name| name.starts_with(b"git"));
        let Ok(open) = fs::read_dir(process.join("fd")) else {
            // It has ended, or is somebody else's.
            return process.exists() && is_git();
        };
        let mut open = open.filter_map(|file| fs::read_link(file.ok()?.path()).ok());
        open.any(|file| paths.iter().any(|path| file.starts_with(path)))
            || fs::read_link(process.join("cwd")).is_ok_and(|cwd| cwd.starts_with(&directory)) && is_git()
    })
}

#[cfg(test)]
mod tests {
    use super::super::testing::Fixture;
    use super::*;

    const OLD: Duration = Duration::from_secs(30);

    fn leave(path: &Path, age: Duration) {
        fs::create_dir_all(atomic::parent(path)).unwrap();
        let file = File::create(path).unwrap();
        file.set_modified(SystemTime::now() - age).unwrap();
    }

    /// A run that began a while ago.
    fn old_run(git: &Git, there: Option<&Path>) -> GitRun {
        let run = git.run_of_git(there, &Progress::new()).unwrap();
        let mark = File::options().write(true).open(&run.mark).unwrap();
        mark.set_modified(SystemTime::now() - 2 * OLD).unwrap();
        run
    }

    #[test]
    fn what_a_dead_git_left_here_and_there_goes_and_nothing_older() {
        let (here, there) = (Fixture::new(), Fixture::new());
        let git = here.open();
        drop(old_run(&git, Some(&there.path())));
        let left =
            ["objects/pack/tmp_pack_x", "refs/remotes/far/main.lock", "shallow.lock", "objects/00/tmp_obj_x"];
        for name in left {
            leave(&here.path().join(name), OLD);
        }
        let quarantine = there.path().join("objects/tmp_objdir-incoming-x/pack/tmp_pack_y");
        leave(&quarantine, OLD);
        leave(&there.path().join("HEAD.lock"), OLD);
        let before = [here.path().join("objects/pack/tmp_pack_z"), there.path().join("refs/heads/main.lock")];
        before.iter().for_each(|path| leave(path, 4 * OLD));
        let swept = git.remove_leftovers_of_git(Some(&Progress::new())).unwrap();
        assert_eq!(swept.files, 6);
        assert!(left.iter().all(|name| !here.path().join(name).exists()));
        assert!(!quarantine.exists() && !there.path().join("HEAD.lock").exists());
        assert!(before.iter().all(|path| path.exists()));
        assert!(marks(&git.private_dir().unwrap()).unwrap().is_empty());
        assert_eq!(git.remove_leftovers_of_git(Some(&Progress::new())).unwrap(), Swept::default());
    }

    #[test]
    fn nothing_goes_that_a_process_has_open_or_while_the_run_lives() {
        let fixture = Fixture::new();
        let git = fixture.open();
        let path = fixture.path().join("objects/pack/tmp_pack_x");
        let run = old_run(&git, None);
        leave(&path, OLD);
        assert_eq!(git.remove_leftovers_of_git(None).unwrap(), Swept::default());
        drop(run);
        let open = File::open(&path).unwrap();
        assert_eq!(git.remove_leftovers_of_git(None).unwrap(), Swept::default());
        assert!(path.exists());
        drop(open);
        assert_eq!(git.remove_leftovers_of_git(Some(&Progress::new())).unwrap().files, 1);
    }

    #[test]
    fn a_child_keeps_the_mark_when_its_parent_is_dead() {
        let fixture = Fixture::new();
        let git = fixture.open();
        let run = git.run_of_git(None, &Progress::new()).unwrap();
        let mut child =
            std::process::Command::new("sleep").arg("100").stdin(run.stdin().unwrap()).spawn().unwrap();
        drop(run);
        let private = git.private_dir().unwrap();
        assert!(marks(&private).unwrap()[0].is_locked);
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(!marks(&private).unwrap()[0].is_locked);
    }

    #[test]
    fn a_run_that_ended_well_leaves_no_mark() {
        let fixture = Fixture::new();
        let git = fixture.open();
        git.run_of_git(None, &Progress::new()).unwrap().finish();
        assert!(marks(&git.private_dir().unwrap()).unwrap().is_empty());
    }

    #[test]
    fn what_a_stopped_git_left_goes_at_once_when_nobody_uses_it() {
        let (here, there) = (Fixture::new(), Fixture::new());
        let git = here.open();
        for is_used in [false, true] {
            let run = git.run_of_git(Some(&there.path()), &Progress::new()).unwrap();
            let left = there.path().join("objects/tmp_objdir-incoming-x/pack/tmp_pack_y");
            fs::create_dir_all(atomic::parent(&left)).unwrap();
            let file = File::create(&left).unwrap();
            let _open = is_used.then_some(file);
            run.clean_up_stopped();
            assert_eq!(left.exists(), is_used);
            assert_eq!(
                marks(&git.private_dir().unwrap()).unwrap().len(),
                usize::from(is_used),
                "for the next run"
            );
        }
    }

    #[test]
    fn what_a_failed_git_left_goes_when_nobody_touches_it_and_locks_are_for_the_next_run() {
        let (here, there) = (Fixture::new(), Fixture::new());
        let git = here.open();
        let run = old_run(&git, Some(&there.path()));
        let left = ["objects/pack/tmp_idx_x", "objects/pack/tmp_pack_x", "objects/tmp_objdir-incoming-x/y"];
        for directory in [here.path(), there.path()] {
            left.iter().for_each(|name| leave(&directory.join(name), OLD));
        }
        leave(&there.path().join("refs/heads/main.lock"), OLD);
        leave(&here.path().join("index.lock"), OLD);
        leave(&here.path().join("objects/pack/tmp_pack_z"), 4 * OLD);
        run.clean_up_failed(true, &Progress::new());
        for directory in [here.path(), there.path()] {
            assert!(!left.iter().any(|name| directory.join(name).exists()));
        }
        assert!(here.path().join("objects/pack/tmp_pack_z").exists(), "it is older");
        assert_eq!(marks(&git.private_dir().unwrap()).unwrap().len(), 1, "a lock is left");
        git.remove_leftovers_of_git(Some(&Progress::new())).unwrap();
        assert!(!there.path().join("refs/heads/main.lock").exists());
        assert!(here.path().join("index.lock").exists(), "no transfer makes it");

        let run = old_run(&git, None);
        leave(&here.path().join("refs/heads/main.lock"), OLD);
        run.clean_up_failed(false, &Progress::new());
        assert!(marks(&git.private_dir().unwrap()).unwrap().is_empty(), "the lock is somebody else's");
    }

    #[test]
    fn after_a_failure_what_is_touched_now_stays_for_the_next_run() {
        let here = Fixture::new();
        let git = here.open();
        let run = git.run_of_git(None, &Progress::new()).unwrap();
        let path = here.path().join("objects/pack/tmp_pack_x");
        leave(&path, Duration::ZERO);
        let progress = Progress::new();
        progress.stop();
        run.clean_up_failed(false, &progress);
        assert!(path.exists());
        assert_eq!(marks(&git.private_dir().unwrap()).unwrap().len(), 1);
    }

    #[test]
    fn waiting_for_what_is_left_stops_when_it_is_asked_to() {
        let fixture = Fixture::new();
        let git = fixture.open();
        drop(git.run_of_git(None, &Progress::new()).unwrap());
        leave(&fixture.path().join("objects/pack/tmp_pack_x"), Duration::ZERO);
        let progress = Progress::new();
        progress.stop();
        let waited = git.remove_leftovers_of_git(Some(&progress));
        assert!(matches!(waited, Err(GitError::Interrupted(_))));
    }
}
