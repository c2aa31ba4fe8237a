//! `blob`: files kept by their time.

use std::fs::{self, File, Permissions};
use std::io::{self, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand, ValueHint};
use jiff::Timestamp;
use serde::Serialize;
use serde_json::json;
use treering::timeline::{Blobs, Codec, Compression, Key, TimeKey};
use treering::{atomic, spoken};

use crate::cli::error::{CliError, Exit};
use crate::cli::json::{self, Name};
use crate::cli::local_path::local_path;
use crate::cli::report::{self, plural, print, size};
use crate::cli::{Session, complain_of_layers, prepare_to_write, read_input};

/// Store and retrieve time-indexed blobs in a git repository
#[derive(Debug, Subcommand)]
#[command(after_help = "\
The repository is one that `treering blob init` made, one of gitblobts, or a clone of either, bare or with a working tree. In one \
with a working tree, what is added is committed on the branch that is checked out, with index and files; `treering blob push` pushes it. What is compressed or encrypted is so before git sees it.

Examples:
  export TREERING_REPOSITORY=/srv/readings.git
  treering blob init
  sensors | treering blob add --compression xz
  treering blob add old.csv --time 'yesterday 14:00'
  treering blob list --from 'last tuesday'
  treering blob get --from '2 days ago' --output readings")]
pub enum BlobCommand {
    /// Make a new repository for blobs
    Init,
    /// Make a new key to encrypt blobs with
    Key(BlobKeyArguments),
    Add(BlobAddArguments),
    List(BlobListArguments),
    Get(BlobGetArguments),
    /// Bring the blobs to a remote
    Push(BlobRemoteArguments),
    /// Get the blobs of a remote
    Pull(BlobRemoteArguments),
}

#[derive(Debug, Args)]
pub struct BlobKeyArguments {
    /// The file to write it to; who loses it loses the blobs
    #[arg(value_name = "FILE", value_hint = ValueHint::FilePath, value_parser = local_path())]
    pub file: PathBuf,
}

/// How blobs are stored.
#[derive(Debug, Args)]
pub struct CodecArguments {
    /// How blobs are compressed: none, gzip, bz2 or xz; needed to read only what gitblobts wrote
    #[arg(long, value_name = "NAME", default_value_t)]
    pub compression: Compression,
    /// The file with the key of encrypted blobs
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath, value_parser = local_path())]
    pub key_file: Option<PathBuf>,
}

/// Add files, each as a blob, and print their keys
#[derive(Debug, Args)]
#[command(after_help = "\
All are added at once or none is, and blobs of one time keep their order.

Examples:
  sensors | treering blob add
  treering blob add *.csv --time 2026-11-01 --compression gzip")]
pub struct BlobAddArguments {
    /// The files; `-`, or none at all, is standard input
    #[arg(value_name = "FILE", value_hint = ValueHint::FilePath, value_parser = local_path())]
    pub files: Vec<PathBuf>,
    /// The time that the blobs bear instead of now, such as '2 days ago' or '2026-11-01 14:00'
    #[arg(long)]
    pub time: Option<String>,
    #[command(flatten)]
    pub codec: CodecArguments,
}

/// A range of time; both ends belong to it.
#[derive(Debug, Args)]
pub struct RangeArguments {
    /// Where to begin, instead of with the earliest; when it is later than the end, the latest come first
    #[arg(long, value_name = "TIME")]
    pub from: Option<String>,
    /// Where to end, instead of with the latest
    #[arg(long, value_name = "TIME")]
    pub to: Option<String>,
}

/// List the blobs of a range of time: when, and the key
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  treering blob list --from 'midnight yesterday' --to midnight
  treering blob list --from now --to '1 hour ago'")]
pub struct BlobListArguments {
    #[command(flatten)]
    pub range: RangeArguments,
}

/// Get a blob to standard output, or those of a range of time to a directory
#[derive(Debug, Args)]
#[command(after_help = "\
In the directory each blob is a file called as its key.

Examples:
  treering blob get 20261120T195512.123456789Z-5f0c11ab92de7340
  treering blob get --from 2026-11-01 --to 2026-11-02 --output november")]
pub struct BlobGetArguments {
    /// The key of the blob
    #[arg(value_name = "KEY", conflicts_with_all = ["from", "to", "output"])]
    pub key: Option<String>,
    #[command(flatten)]
    pub range: RangeArguments,
    /// The directory for the blobs of a range
    #[arg(short, long, value_name = "DIR", value_hint = ValueHint::DirPath, value_parser = local_path())]
    pub output: Option<PathBuf>,
    #[command(flatten)]
    pub codec: CodecArguments,
}

/// Another repository with the same blobs
#[derive(Debug, Args)]
#[command(after_help = "\
A remote is added by `treering -r REPO remote add NAME URL`, with any URL that git accepts. What was added on either side is on \
both afterwards.")]
pub struct BlobRemoteArguments {
    /// The remote
    #[arg(value_name = "REMOTE", default_value = "origin")]
    pub remote: String,
}

/// Does one of the `blob` commands.
pub fn run(session: &Session, command: &BlobCommand) -> Result<Exit, CliError> {
    match command {
        BlobCommand::Init => init(session),
        BlobCommand::Key(arguments) => make_key(session, arguments),
        BlobCommand::Add(arguments) => add(session, arguments),
        BlobCommand::List(arguments) => list(session, arguments),
        BlobCommand::Get(arguments) => match (&arguments.key, &arguments.output) {
            (Some(key), _) => get(session, arguments, key),
            (None, Some(directory)) => get_range(session, arguments, directory),
            (None, None) => Err(CliError::KeyNotGiven),
        },
        BlobCommand::Push(arguments) => push(session, arguments),
        BlobCommand::Pull(arguments) => pull(session, arguments),
    }
}

fn init(session: &Session) -> Result<Exit, CliError> {
    let path = session.repository_path()?;
    Blobs::create(path, Codec::default())?;
    let path = path.as_os_str().as_encoded_bytes();
    let made = format!("Made the repository {}", report::name(path));
    session.say("initialized", &Name { key: "repository", bytes: path }, &made)?;
    Ok(Exit::Done)
}

fn make_key(session: &Session, arguments: &BlobKeyArguments) -> Result<Exit, CliError> {
    let path = &arguments.file;
    let key = Key::generate().map_err(|source| CliError::Key { path: path.clone(), source })?;
    let write = || {
        let mut file = File::options().write(true).create_new(true).mode(0o600).open(path)?;
        writeln!(file, "{}", key.expose())?;
        file.sync_all()?;
        atomic::sync_dir(atomic::parent(path))
    };
    write().map_err(CliError::file("make the key", path))?;
    let path = path.as_os_str().as_encoded_bytes();
    session.say(
        "key_made",
        &Name { key: "path", bytes: path },
        &format!("Made the key {}", report::name(path)),
    )?;
    Ok(Exit::Done)
}

fn add(session: &Session, arguments: &BlobAddArguments) -> Result<Exit, CliError> {
    let time = session.time("--time", arguments.time.as_deref())?;
    let time = time.unwrap_or_else(|| session.now.timestamp());
    let blobs = open(session, &arguments.codec)?;
    prepare_to_write(blobs.timeline().git(), session.repository_path()?)?;
    let files = match arguments.files.as_slice() {
        [] => &[PathBuf::from("-")],
        files => files,
    };
    let contents = files.iter().map(|file| read_input(file)).collect::<Result<Vec<_>, _>>()?;
    blobs.timeline().sweep()?;
    let names = blobs.add_many(contents.iter().map(|content| (time, content)), &session.who())?;
    print(|out| {
        for ((name, content), file) in names.iter().zip(&contents).zip(files) {
            if !session.json {
                writeln!(out, "{}", key(name))?;
                continue;
            }
            let added = Added {
                key: key(name),
                time: time.to_string(),
                size: content.len(),
                path: Name { key: "path", bytes: file.as_os_str().as_encoded_bytes() },
            };
            json::message(out, "added", &added)?;
        }
        Ok(())
    })?;
    Ok(Exit::Done)
}

/// The line that `blob add --json` prints for each file.
#[derive(Serialize)]
struct Added<'a> {
    key: &'a str,
    time: String,
    size: usize,
    #[serde(flatten)]
    path: Name<'a>,
}

fn list(session: &Session, arguments: &BlobListArguments) -> Result<Exit, CliError> {
    let (from, to) = range(session, &arguments.range)?;
    let path = session.repository_path()?;
    let blobs = open_with(path, Codec::default())?;
    let names = blobs.list(from, to)?;
    let mut exit = Exit::Done;
    print(|out| {
        for blob in names {
            match blob {
                Ok(blob) if session.json => json::message(
                    out,
                    "blob",
                    &json!({ "key": key(&blob.name), "name": blob.name, "time": blob.time.to_string() }),
                )?,
                Ok(blob) => {
                    let time = blob.time.to_zoned(session.now.time_zone().clone());
                    writeln!(out, "{}  {}", time.strftime("%Y-%m-%d %H:%M:%S%.9f"), key(&blob.name))?;
                }
                Err(error) => {
                    session.tell(out, "list", path, &error)?;
                    exit = Exit::Partial;
                }
            }
        }
        Ok(())
    })?;
    Ok(exit)
}

fn get(session: &Session, arguments: &BlobGetArguments, key: &str) -> Result<Exit, CliError> {
    let blobs = open(session, &arguments.codec)?;
    let blob = blobs.get(key)?.ok_or_else(|| CliError::NoBlob(key.to_owned()))?;
    print(|out| out.write_all(&blob.content))?;
    Ok(Exit::Done)
}

fn get_range(session: &Session, arguments: &BlobGetArguments, directory: &Path) -> Result<Exit, CliError> {
    let (from, to) = range(session, &arguments.range)?;
    let blobs = open(session, &arguments.codec)?;
    fs::create_dir_all(directory).map_err(CliError::file("make", directory))?;
    let (mut written, mut bytes, mut faults) = (0, 0, Vec::new());
    for blob in blobs.range(from, to)? {
        match blob {
            Ok(blob) => {
                let target = directory.join(key(&blob.name));
                write(&target, &blob.content).map_err(CliError::file("write", &target))?;
                written += 1;
                bytes += blob.content.len() as u64;
            }
            Err(fault) => faults.push(fault),
        }
    }
    let path = session.repository_path()?;
    print(|out| faults.iter().try_for_each(|fault| session.tell(out, "get", path, fault)))?;
    let summary = json!({ "blobs_count": written, "bytes": bytes, "error_count": faults.len() });
    let shown = report::name(directory.as_os_str().as_encoded_bytes());
    let text = format!("Wrote {}, {}, to {shown}", plural(written, "blob"), size(bytes));
    session.say("summary", &summary, &text)?;
    Ok(if faults.is_empty() { Exit::Done } else { Exit::Partial })
}

/// Makes `content` that of the file at `target`, which is never seen half written.
fn write(target: &Path, content: &[u8]) -> io::Result<()> {
    let mut builder = tempfile::Builder::new();
    // The umask applies, as it does to every new file.
    let builder = builder.prefix(atomic::TEMP_PREFIX).permissions(Permissions::from_mode(0o666));
    let mut file = builder.tempfile_in(atomic::parent(target))?;
    file.write_all(content)?;
    file.persist(target).map(drop).map_err(|error| error.error)
}

fn push(session: &Session, arguments: &BlobRemoteArguments) -> Result<Exit, CliError> {
    let (blobs, remote) = remote(session, arguments)?;
    blobs.push(remote, &session.who())?;
    session.say("push", &json!({ "remote": remote }), &format!("Pushed to {}", report::text(remote)))?;
    Ok(Exit::Done)
}

fn pull(session: &Session, arguments: &BlobRemoteArguments) -> Result<Exit, CliError> {
    let (blobs, remote) = remote(session, arguments)?;
    let changed = blobs.pull(remote, &session.who())?;
    let shown = report::text(remote);
    let text = if changed { format!("Pulled from {shown}") } else { format!("{shown} has nothing new") };
    session.say("pull", &json!({ "remote": remote, "changed": changed }), &text)?;
    Ok(Exit::Done)
}

fn open(session: &Session, arguments: &CodecArguments) -> Result<Blobs, CliError> {
    let read = |path: &PathBuf| {
        let text = fs::read_to_string(path).map_err(CliError::file("read", path))?;
        text.parse::<Key>().map_err(|source| CliError::Key { path: path.clone(), source })
    };
    let key = arguments.key_file.as_ref().map(read).transpose()?;
    open_with(session.repository_path()?, Codec { compression: arguments.compression, key })
}

fn open_with(repository: &Path, codec: Codec) -> Result<Blobs, CliError> {
    let blobs = Blobs::open(repository, codec)?;
    complain_of_layers(&blobs.timeline().git().layers());
    Ok(blobs)
}

/// The repository, to be written to, and its remote of the name that was given.
fn remote<'a>(session: &Session, arguments: &'a BlobRemoteArguments) -> Result<(Blobs, &'a str), CliError> {
    let repository = session.repository_path()?;
    let blobs = open_with(repository, Codec::default())?;
    let name = &arguments.remote;
    let git = blobs.timeline().git();
    prepare_to_write(git, repository)?;
    if git.remotes()?.iter().any(|remote| remote.name == *name) {
        return Ok((blobs, name));
    }
    let how = match git.is_bare() {
        true => format!("treering -r {}", repository.display()),
        false => format!("git -C {}", repository.display()),
    };
    Err(CliError::NoRemote { name: name.clone(), how })
}

/// From when to when.
fn range(session: &Session, arguments: &RangeArguments) -> Result<(Timestamp, Timestamp), CliError> {
    let from = session.time("--from", arguments.from.as_deref())?;
    let to = arguments.to.as_deref().map(|to| spoken::parse_range(to, &session.now)).transpose();
    let to = to.map_err(|source| CliError::Time { option: "--to", source })?;
    Ok((from.unwrap_or(Timestamp::MIN), to.map_or(Timestamp::MAX, |to| to.last.timestamp())))
}

/// What a person calls a blob: its name without what tells how it is stored.
fn key(name: &str) -> &str {
    match name.split_at_checked(TimeKey::LEN) {
        Some((key, _)) if key.parse::<TimeKey>().is_ok() => key,
        _ => name,
    }
}
