//! Files on an SSH server.
//!
//! Not through OpenDAL: its SFTP service writes objects in place and unsynced, makes the root of a store
//! that is not there, panics at a listed name that is not UTF-8, leaves no say in how `ssh` is called,
//! and starts it anew for up to 64 requests at once. This uses what that is built on,
//! `openssh-sftp-client`, with one `ssh` process whose connection all requests share. The connection is
//! made when it is first needed, and anew when it is lost.
//!
//! As it is the `ssh` program, everything in its configuration counts: hosts, keys, agents, jumps. It
//! runs without asking: a host must be known, and a key usable, beforehand. When this process ends, so do
//! its pipes, and with them `ssh`.
//!
//! An object is written beside its place under a name that ends in `.tmp`, synced when the server can,
//! and renamed (linked, when it must be new). The protocol cannot sync a directory, so that a crash of
//! the server may undo the last renames. A server that can neither replace by a rename nor link (OpenSSH
//! can both) gets the steps one after the other.
//!
//! What a killed process was writing is removed by a later write into the same directory, once it is a day older than
//! that by the server's clock (see [`sweep`](super::sweep)).
//!
//! That a server offers links says little: rclone's answers that it made one, and makes none. So the first
//! link of a process is tried at a name that nobody else has, and after each link and rename we look at
//! both names before anything is removed.

use std::ffi::OsString;
use std::ops::Range;
use std::pin::pin;
use std::process::Stdio;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, SystemTime};

use bytes::BytesMut;
use futures_util::future::{Either, select};
use futures_util::{StreamExt, TryStreamExt, stream};
use openssh_sftp_client::error::SftpErrorKind;
use openssh_sftp_client::file::File;
use openssh_sftp_client::metadata::{MetaData, Permissions};
use openssh_sftp_client::{Error, Sftp, SftpOptions};
use tokio::io::{AsyncReadExt, AsyncSeekExt};
use tokio::process::{Child, ChildStderr, Command};
use tokio::runtime::Runtime;

use super::backend::{
    Backend, Content, Entries, Entry, Extent, Kind, find_foreign, is_marker, is_unfinished, pretended, random,
};
use super::error::Reason;
use super::listing::Walk;
use super::name::MARKER;
use super::net::{self, runtime, shorten};
use super::sweep::{ASIDE, Swept, is_dead};
use super::url;
use crate::atomic;
use crate::child::LOOK;
use crate::progress::Interrupted;
use crate::signals;

/// Bytes in one request: what OpenSSH takes at most is a little more.
const PIECE: usize = 240 << 10;
/// Requests of one object under way.
const PIECES_AT_ONCE: usize = 16;
/// How much of what ssh says is kept.
const SAID: usize = 2 << 10;

pub(super) struct Ssh {
    runtime: Runtime,
    place: url::Sftp,
    program: Vec<OsString>,
    root: String,
    timeout: Duration,
    /// The mode of the directories of a new store.
    mode: u32,
    /// Those that were made for one.
    made: Mutex<Vec<String>>,
    session: tokio::sync::Mutex<Option<Arc<Session>>>,
    /// Whether the server was seen to make hard links.
    links: OnceLock<bool>,
    /// Whether the server takes the pieces of a file in their order only.
    in_order: AtomicBool,
    swept: Swept,
}

struct Session {
    sftp: Sftp,
    _ssh: Child,
}

impl Ssh {
    pub fn new(
        place: &url::Sftp,
        program: &[OsString],
        timeout: Duration,
        mode: u32,
    ) -> Result<Self, Reason> {
        Ok(Self {
            runtime: runtime()?,
            place: place.clone(),
            program: program.to_vec(),
            root: place.path.trim_end_matches('/').to_owned(),
            timeout,
            mode,
            made: Mutex::default(),
            session: tokio::sync::Mutex::new(None),
            links: OnceLock::new(),
            in_order: AtomicBool::new(false),
            swept: Swept::default(),
        })
    }

    fn full(&self, path: &str) -> String {
        format!("{}/{path}", self.root)
    }

    /// The root as the server takes it.
    fn root(&self) -> &str {
        if self.root.is_empty() { "/" } else { &self.root }
    }

    /// Works on the connection; one that failed, or did not answer, is not used again.
    fn run<T>(&self, work: impl AsyncFnOnce(&Sftp) -> Result<T, Reason>) -> Result<T, Reason> {
        self.runtime.block_on(async {
            let session = self.session().await?;
            let result = work(&session.sftp).await;
            if result.as_ref().is_err_and(Reason::is_temporary) {
                let mut current = self.session.lock().await;
                current.take_if(|current| Arc::ptr_eq(current, &session));
            }
            result
        })
    }

    async fn session(&self) -> Result<Arc<Session>, Reason> {
        let mut session = self.session.lock().await;
        match &*session {
            Some(session) => Ok(session.clone()),
            None => Ok(session.insert(Arc::new(self.connect().await?)).clone()),
        }
    }

    async fn connect(&self) -> Result<Session, Reason> {
        let (program, arguments) =
            self.program.split_first().ok_or_else(|| Reason::permanent("no ssh program is given"))?;
        let mut command = Command::new(program);
        command.args(arguments).args(["-o", "BatchMode=yes", "-o", "ServerAliveInterval=15"]);
        command.arg("-o").arg(format!("ConnectTimeout={}", self.timeout.as_secs().max(1)));
        if let Some(port) = self.place.port {
            command.arg("-p").arg(port.to_string());
        }
        if let Some(user) = &self.place.user {
            command.arg("-l").arg(user);
        }
        command.args(["-s", "--", &self.place.host, "sftp"]).kill_on_drop(true);
        // An interrupt from the keyboard is for this process, which may still have to finish something.
        command.process_group(0).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        // Connected, it ends with its pipes; until then it might wait for a host for long.
        let _known = signals::Child::start().ok_or_else(|| Reason::permanent(Interrupted))?;
        let mut ssh = command.spawn().map_err(|error| {
            let program = program.display();
            Reason::permanent(format!("the program {program} cannot be started: {error}; is it installed?"))
        })?;
        let (Some(stdin), Some(stdout), Some(stderr)) =
            (ssh.stdin.take(), ssh.stdout.take(), ssh.stderr.take())
        else {
            return Err(Reason::permanent("ssh has no pipes"));
        };
        let said = Arc::new(Mutex::new(Vec::new()));
        let listening = tokio::spawn(listen(stderr, said.clone()));
        let options = SftpOptions::new().flush_interval(Duration::ZERO);
        let connected = pin!(tokio::time::timeout(self.timeout, Sftp::new(stdin, stdout, options)));
        let stopped = pin!(async {
            while !signals::is_stopping() {
                tokio::time::sleep(LOOK).await;
            }
        });
        let connected = match select(connected, stopped).await {
            Either::Left((connected, _)) => connected,
            Either::Right(_) => return Err(Reason::permanent(Interrupted)),
        };
        let error = match connected {
            Ok(Ok(sftp)) => return Ok(Session { sftp, _ssh: ssh }),
            Ok(Err(error)) => error.to_string(),
            Err(_) => return Err(Reason::TimedOut(self.timeout)),
        };
        // ssh is about to end; what it says on the way out is the reason.
        let _ = tokio::time::timeout(Duration::from_secs(1), listening).await;
        let said =
            String::from_utf8_lossy(&said.lock().unwrap_or_else(PoisonError::into_inner)).trim().to_owned();
        Err(refusal(if said.is_empty() { error } else { said }))
    }

    /// Waits, but not for longer than the timeout.
    async fn within<T>(&self, future: impl Future<Output = Result<T, Error>>) -> Result<T, Reason> {
        net::within(self.timeout, future).await?.map_err(reason)
    }

    async fn metadata(&self, sftp: &Sftp, path: &str) -> Result<MetaData, Reason> {
        self.within(sftp.fs().metadata(path)).await
    }

    async fn is_directory(&self, sftp: &Sftp, path: &str) -> Result<bool, Reason> {
        match self.metadata(sftp, path).await {
            Ok(metadata) => Ok(metadata.file_type().is_some_and(|kind| kind.is_dir())),
            Err(Reason::NotFound) => Ok(false),
            Err(reason) => Err(reason),
        }
    }

    async fn expect_root(&self, sftp: &Sftp) -> Result<(), Reason> {
        if self.is_directory(sftp, self.root()).await? { Ok(()) } else { Err(Reason::NoStore) }
    }

    /// Makes `directory` where it is not there, with the mode that is given, or as the server does. Whether it was made.
    async fn make_directory(
        &self,
        sftp: &Sftp,
        directory: &str,
        mode: Option<Permissions>,
    ) -> Result<bool, Reason> {
        let mut fs = sftp.fs();
        let mut builder = fs.dir_builder();
        if let Some(mode) = mode {
            builder.permissions(mode);
        }
        match self.within(builder.create(directory)).await {
            Ok(()) => Ok(true),
            Err(reason) if !self.is_directory(sftp, directory).await? => Err(reason),
            Err(_) => Ok(false),
        }
    }

    fn made(&self) -> MutexGuard<'_, Vec<String>> {
        self.made.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes the directories below the root in which `path` lies.
    async fn make_directories(&self, sftp: &Sftp, path: &str) -> Result<(), Reason> {
        self.expect_root(sftp).await?;
        for (end, _) in path.match_indices('/') {
            self.make_directory(sftp, &self.full(&path[..end]), None).await?;
        }
        Ok(())
    }

    /// Writes the file `temporary` beside `path`, for which directories may be missing.
    async fn write_beside(
        &self,
        sftp: &Sftp,
        temporary: &str,
        path: &str,
        content: &Content<'_>,
    ) -> Result<(), Reason> {
        match self.write(sftp, temporary, content).await {
            Err(Reason::NotFound) => {
                self.make_directories(sftp, path).await?;
                self.write(sftp, temporary, content).await
            }
            result => result,
        }
    }

    async fn write(&self, sftp: &Sftp, path: &str, content: &Content<'_>) -> Result<(), Reason> {
        if self.in_order.load(Relaxed) || content.size() <= PIECE as u64 {
            return self.write_pieces(sftp, path, content, 1).await;
        }
        match self.write_pieces(sftp, path, content, PIECES_AT_ONCE).await {
            // Servers that pass a file on as it comes, as rclone's does, fail where a piece overtakes another.
            Err(Reason::Failed { temporary: false, .. }) => {
                self.within(sftp.fs().remove_file(path)).await?;
                self.write_pieces(sftp, path, content, 1).await?;
                self.in_order.store(true, Relaxed);
                Ok(())
            }
            result => result,
        }
    }

    async fn write_pieces(
        &self,
        sftp: &Sftp,
        path: &str,
        content: &Content<'_>,
        at_once: usize,
    ) -> Result<(), Reason> {
        let mut options = sftp.options();
        options.write(true).create_new(true);
        let mut file = self.within(options.open(path)).await?;
        let offsets = (0..).step_by(PIECE);
        stream::iter(offsets.zip(content.pieces(PIECE)).map(|(offset, piece)| Ok((offset, piece?))))
            .try_for_each_concurrent(at_once, |(offset, piece): (u64, Vec<u8>)| {
                let mut file = file.clone();
                async move {
                    file.seek(std::io::SeekFrom::Start(offset)).await?;
                    self.within(file.write_all(&piece)).await
                }
            })
            .await?;
        if sftp.support_fsync() {
            self.within(file.sync_all()).await?;
        }
        self.within(file.close()).await
    }

    /// The size of what is at `path`, or `None` when the server says that there is nothing.
    async fn size(&self, sftp: &Sftp, path: &str) -> Result<Option<u64>, Reason> {
        match self.metadata(sftp, path).await {
            Ok(metadata) => entry_of(path.into(), &metadata).map(|entry| Some(entry.size)),
            Err(Reason::NotFound) => Ok(None),
            Err(reason) => Err(reason),
        }
    }

    /// Whether the server makes hard links, tried with a link to `file`, which nobody else knows.
    async fn makes_links(&self, sftp: &Sftp, file: &str) -> Result<bool, Reason> {
        if !sftp.support_hardlink() {
            return Ok(false);
        }
        if let Some(known) = self.links.get() {
            return Ok(*known);
        }
        let link = sibling(file)?;
        let linked = match self.within(sftp.fs().hard_link(file, &link)).await {
            Err(reason) if reason.is_temporary() => return Err(reason),
            Err(_) => false,
            Ok(()) => self.size(sftp, &link).await?.is_some(),
        };
        if linked {
            self.within(sftp.fs().remove_file(&link)).await?;
        } else {
            tracing::debug!("the server makes no hard links");
        }
        Ok(*self.links.get_or_init(|| linked))
    }

    /// Gives a file of ours, of `size` bytes, the name `to`.
    async fn publish(&self, sftp: &Sftp, from: &str, to: &str, size: u64, new: bool) -> Result<(), Reason> {
        if !new {
            return self.replace(sftp, from, to, size).await;
        }
        if !self.makes_links(sftp, from).await? {
            return match self.size(sftp, to).await? {
                None => self.replace(sftp, from, to, size).await,
                Some(_) => Err(Reason::Exists),
            };
        }
        let linked = self.within(sftp.fs().hard_link(from, to)).await;
        if linked.as_ref().is_err_and(Reason::is_temporary) {
            return linked;
        }
        match (linked, self.size(sftp, to).await?) {
            (Ok(()), Some(held)) if held == size => self.within(sftp.fs().remove_file(from)).await,
            (Ok(()), _) => Err(pretended("link")),
            // The protocol has no code for it.
            (Err(_), Some(_)) => Err(Reason::Exists),
            (Err(reason), None) => Err(reason),
        }
    }

    /// Renames a file of `size` bytes. What `to` names is replaced.
    async fn replace(&self, sftp: &Sftp, from: &str, to: &str, size: u64) -> Result<(), Reason> {
        if sftp.support_posix_rename() {
            return self.rename_and_look(sftp, from, to, size).await;
        }
        // What is there goes aside, so that it can come back.
        let aside = sibling_of(to, ASIDE)?;
        let has_aside = match self.within(sftp.fs().rename(to, &aside)).await {
            Ok(()) => true,
            Err(Reason::NotFound) => false,
            Err(reason) => match self.size(sftp, to).await? {
                None => false,
                Some(_) => return Err(reason),
            },
        };
        let renamed = self.rename_and_look(sftp, from, to, size).await;
        if has_aside {
            match &renamed {
                Ok(()) => self.within(sftp.fs().remove_file(&aside)).await?,
                Err(_) => self.within(sftp.fs().rename(&aside, to)).await?,
            }
        }
        renamed
    }

    async fn rename_and_look(&self, sftp: &Sftp, from: &str, to: &str, size: u64) -> Result<(), Reason> {
        self.within(sftp.fs().rename(from, to)).await?;
        match futures_util::future::try_join(self.size(sftp, from), self.size(sftp, to)).await? {
            (None, Some(held)) if held == size => Ok(()),
            _ => Err(pretended("rename")),
        }
    }

    /// Removes temporary files whose writers have died from the directory of `path`, which was just written.
    async fn sweep(&self, sftp: &Sftp, path: &str) {
        let Some(directory) = self.swept.next(path) else { return };
        // What cannot be listed or removed is left to others.
        let Ok(entries) = self.list_directory(sftp, directory).await else { return };
        let now = entries.iter().find(|(listed, _)| listed == path).and_then(|(_, found)| modified(found));
        for (path, metadata) in entries {
            let name = path.rsplit('/').next().unwrap_or_default();
            let is_of_writer = is_unfinished(name) && !name.contains(ASIDE);
            let is_file = metadata.file_type().is_some_and(|kind| kind.is_file());
            if is_of_writer && is_file && is_dead(modified(&metadata), now) {
                tracing::debug!(path, "removing what a killed process left");
                let _ = self.within(sftp.fs().remove_file(self.full(&path))).await;
            }
        }
    }

    /// What is in a directory: paths, and metadata of what is there, not of what a link leads to.
    async fn list_directory(&self, sftp: &Sftp, path: &str) -> Result<Vec<(String, MetaData)>, Reason> {
        let directory = self.within(sftp.fs().open_dir(self.full(path))).await?;
        let (mut entries, mut extent) = (Vec::new(), Extent::held());
        let mut listed = std::pin::pin!(directory.read_dir());
        while let Some(entry) = self.within(listed.try_next()).await? {
            // The length alone: it need not be UTF-8.
            extent.add(&entry.filename().to_string_lossy())?;
            // What is not UTF-8 is not an object.
            let Some(name) = entry.filename().to_str().filter(|name| !matches!(*name, "." | "..")) else {
                continue;
            };
            if name.contains('/') {
                return Err(Reason::permanent(format!("the server listed {name:?}, which lies elsewhere")));
            }
            let path = if path.is_empty() { name.to_owned() } else { format!("{path}/{name}") };
            entries.push((path, entry.metadata()));
        }
        Ok(entries)
    }

    /// Whether there is nothing but what one leaves who was killed while he stored the first object.
    async fn has_only_leftovers(&self, sftp: &Sftp) -> Result<bool, Reason> {
        for (directory, metadata) in self.list_directory(sftp, "").await? {
            if is_marker(&directory) {
                continue;
            }
            if !metadata.file_type().is_some_and(|kind| kind.is_dir()) {
                return Ok(false);
            }
            let files = self.list_directory(sftp, &directory).await?;
            if !files.iter().all(|(path, _)| path.rsplit('/').next().is_some_and(is_unfinished)) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    async fn read_directory(&self, sftp: &Sftp, path: &str) -> Result<(Vec<Entry>, Vec<String>), Reason> {
        let (mut files, mut directories) = (Vec::new(), Vec::new());
        let entries = match self.list_directory(sftp, path).await {
            Err(Reason::NotFound) => {
                self.expect_root(sftp).await?;
                return Ok((files, directories));
            }
            result => result?,
        };
        for (path, mut metadata) in entries {
            if metadata.file_type().is_none_or(|kind| kind.is_symlink()) {
                metadata = match self.metadata(sftp, &self.full(&path)).await {
                    Err(Reason::NotFound) => continue,
                    result => result?,
                };
            }
            match metadata.file_type() {
                Some(kind) if kind.is_dir() => directories.push(path),
                Some(kind) if kind.is_file() => files.push(entry_of(path, &metadata)?),
                _ => {}
            }
        }
        Ok((files, directories))
    }

    async fn read(
        &self,
        sftp: &Sftp,
        path: &str,
        range: Option<Range<u64>>,
        limit: u64,
    ) -> Result<Vec<u8>, Reason> {
        let mut file = self.within(sftp.open(path)).await?;
        let range = match range {
            Some(range) => range,
            None => {
                let size = entry_of(String::new(), &self.within(file.metadata()).await?)?.size;
                if size > limit {
                    return Err(Reason::TooLarge { limit });
                }
                0..size
            }
        };
        let size = range.end.saturating_sub(range.start);
        let out_of_range = || Reason::OutOfRange { offset: range.start, size };
        let mut pieces = stream::iter((range.start..range.end).step_by(PIECE))
            .map(|start| self.read_piece(&file, start, (range.end - start).min(PIECE as u64) as usize))
            .buffered(PIECES_AT_ONCE);
        let mut bytes = Vec::new();
        while let Some(piece) = pieces.next().await {
            bytes.extend_from_slice(&piece?.ok_or_else(out_of_range)?);
        }
        drop(pieces);
        self.within(file.close()).await?;
        Ok(bytes)
    }

    /// The bytes, or `None` when the file ends before.
    async fn read_piece(&self, file: &File, start: u64, size: usize) -> Result<Option<BytesMut>, Reason> {
        let mut file = file.clone();
        file.seek(std::io::SeekFrom::Start(start)).await?;
        let mut piece = BytesMut::with_capacity(size);
        while piece.len() < size {
            let wanted = size - piece.len();
            match self.within(file.read(wanted as u32, BytesMut::new())).await? {
                None => return Ok(None),
                Some(bytes) if bytes.is_empty() || bytes.len() > wanted => {
                    return Err(Reason::permanent(
                        "the server answers with another length than was asked for",
                    ));
                }
                Some(bytes) => piece.extend_from_slice(&bytes),
            }
        }
        Ok(Some(piece))
    }
}

/// A name beside `path` that nobody else has, which marks what is unfinished.
fn sibling(path: &str) -> Result<String, Reason> {
    sibling_of(path, "")
}

fn sibling_of(path: &str, sort: &str) -> Result<String, Reason> {
    let directory = path.rsplit_once('/').map_or("", |(directory, _)| directory);
    Ok(format!("{directory}/{}{sort}{}.tmp", atomic::TEMP_PREFIX, random()?))
}

async fn listen(mut stderr: ChildStderr, said: Arc<Mutex<Vec<u8>>>) {
    let mut buffer = [0; 512];
    while let Ok(length @ 1..) = stderr.read(&mut buffer).await {
        let mut said = said.lock().unwrap_or_else(PoisonError::into_inner);
        said.extend_from_slice(&buffer[..length]);
        let surplus = said.len().saturating_sub(SAID);
        said.drain(..surplus);
    }
}

/// Why ssh did not connect, by what it says.
fn refusal(said: String) -> Reason {
    let text = shorten(&said);
    let denied = ["Permission denied", "Host key verification failed", "Too many authentication failures"];
    match denied.iter().any(|words| text.contains(words)) {
        true => Reason::Denied(text.into()),
        false => Reason::temporary(text),
    }
}

fn reason(error: Error) -> Reason {
    match error {
        Error::SftpError(SftpErrorKind::NoSuchFile, _) => Reason::NotFound,
        Error::SftpError(SftpErrorKind::PermDenied, _) => Reason::Denied(error.into()),
        Error::SftpError(..) | Error::UnsupportedExtension(_) => Reason::permanent(error),
        // The connection is lost, or cannot be used any more.
        _ => Reason::temporary(error),
    }
}

fn entry_of(path: String, metadata: &MetaData) -> Result<Entry, Reason> {
    let size =
        metadata.len().ok_or_else(|| Reason::permanent("the server does not tell the size of a file"))?;
    Ok(Entry { path, size, modified: modified(metadata) })
}

fn modified(metadata: &MetaData) -> Option<SystemTime> {
    metadata.modified().map(|time| SystemTime::UNIX_EPOCH + time.as_duration())
}

impl Backend for Ssh {
    fn create(&self) -> Result<(), Reason> {
        self.run(async |sftp| {
            let mode = Some(Permissions::from((self.mode & 0o777) as u16));
            let above = self.root.match_indices('/').filter(|(end, _)| *end > 0);
            for directory in above.map(|(end, _)| &self.root[..end]).chain([self.root()]) {
                if self.make_directory(sftp, directory, mode).await? {
                    self.made().push(directory.to_owned());
                }
            }
            Ok(())
        })?;
        match self.run(async |sftp| self.has_only_leftovers(sftp).await)? {
            true => Ok(()),
            false => Err(Reason::NotEmpty),
        }
    }

    fn abandon(&self) {
        let made = std::mem::take(&mut *self.made());
        // Below what stays, nothing else would go either.
        let _ = made.iter().rev().try_for_each(|directory| {
            self.run(async |sftp| self.within(sftp.fs().remove_dir(directory)).await)
        });
    }

    fn check(&self) -> Result<(), Reason> {
        self.run(async |sftp| self.expect_root(sftp).await)
    }

    fn destroy(&self) -> Result<(), Reason> {
        self.check()?;
        let (mut pending, mut emptied) = (vec![String::new()], Vec::new());
        while let Some(directory) = pending.pop() {
            self.run(async |sftp| {
                for (path, metadata) in self.list_directory(sftp, &directory).await? {
                    // A link goes, and what it leads to stays.
                    match metadata.file_type() {
                        Some(kind) if kind.is_dir() => pending.push(path),
                        _ if path == MARKER => {}
                        _ => self.within(sftp.fs().remove_file(self.full(&path))).await?,
                    }
                }
                Ok(())
            })?;
            emptied.push(directory);
        }
        for directory in emptied.iter().rev().filter(|directory| !directory.is_empty()) {
            self.run(async |sftp| self.within(sftp.fs().remove_dir(self.full(directory))).await)?;
        }
        self.run(async |sftp| match self.within(sftp.fs().remove_file(self.full(MARKER))).await {
            Err(Reason::NotFound) => Ok(()),
            result => result,
        })?;
        // The root may be in a directory that is not ours; empty, it is as good as gone.
        let _ = self.run(async |sftp| self.within(sftp.fs().remove_dir(self.root())).await);
        Ok(())
    }

    fn foreign(&self) -> Result<Option<String>, Reason> {
        find_foreign(|directory| {
            let entries = self.run(async |sftp| {
                self.expect_root(sftp).await?;
                self.list_directory(sftp, directory).await
            })?;
            let kind = |metadata: &MetaData| match metadata.file_type() {
                Some(kind) if kind.is_file() => Kind::File,
                Some(kind) if kind.is_dir() => Kind::Directory,
                _ => Kind::Other,
            };
            Ok(entries.into_iter().map(|(path, metadata)| (path, kind(&metadata))).collect())
        })
    }

    fn list<'a>(&'a self, directory: &str) -> Entries<'a> {
        Box::new(Walk::new(directory, |path: &str| {
            self.run(async |sftp| self.read_directory(sftp, path).await)
        }))
    }

    fn load(&self, path: &str, range: Option<Range<u64>>, limit: u64) -> Result<Vec<u8>, Reason> {
        self.run(async |sftp| self.read(sftp, &self.full(path), range, limit).await)
    }

    fn store(&self, path: &str, content: &Content<'_>, new: bool) -> Result<(), Reason> {
        let target = self.full(path);
        let temporary = sibling(&target)?;
        self.run(async |sftp| {
            let stored = match self.write_beside(sftp, &temporary, path, content).await {
                Ok(()) => self.publish(sftp, &temporary, &target, content.size(), new).await,
                Err(reason) => Err(reason),
            };
            match stored {
                Ok(()) => self.sweep(sftp, path).await,
                Err(_) => drop(self.within(sftp.fs().remove_file(&temporary)).await),
            }
            stored
        })
    }

    fn info(&self, path: &str) -> Result<Entry, Reason> {
        self.run(async |sftp| {
            let metadata = self.metadata(sftp, &self.full(path)).await?;
            match metadata.file_type() {
                Some(kind) if kind.is_file() => entry_of(path.into(), &metadata),
                _ => Err(Reason::NotFound),
            }
        })
    }

    fn delete(&self, path: &str) -> Result<(), Reason> {
        self.run(async |sftp| self.within(sftp.fs().remove_file(self.full(path))).await)
    }

    fn rename(&self, from: &str, to: &str, new: bool) -> Result<(), Reason> {
        let (source, target) = (self.full(from), self.full(to));
        self.run(async |sftp| {
            let size = entry_of(from.into(), &self.metadata(sftp, &source).await?)?.size;
            // A server may have no better word for a directory that is missing than "failure".
            let directory = target.rsplit_once('/').map_or("", |(directory, _)| directory);
            if !self.is_directory(sftp, directory).await? {
                self.make_directories(sftp, to).await?;
            }
            self.publish(sftp, &source, &target, size, new).await
        })
    }

    fn is_exclusive(&self, path: &str) -> Result<bool, Reason> {
        let target = self.full(path);
        self.run(async |sftp| {
            self.write_beside(sftp, &target, path, &Content::Bytes(b"probe")).await?;
            let links = self.makes_links(sftp, &target).await;
            self.within(sftp.fs().remove_file(&target)).await?;
            links
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_ssh_says_tells_whether_to_try_again() {
        let denied = "me@host: Permission denied (publickey).\r\n";
        assert!(matches!(refusal(denied.into()), Reason::Denied(_)));
        let refused = "ssh: connect to host h port 22: Connection refused\r\n";
        assert!(refusal(refused.into()).is_temporary());
    }
}
