//! `init`, `compression` and `snapshots`: a repository as a whole.

use serde::Serialize;
use serde_json::json;
use treering::causes::chain;
use treering::gitkv::Access;
use treering::repository::{InitOptions, Repository, RepositoryId, Snapshot};

use crate::cli::args::{CompressionArguments, InitArguments};
use crate::cli::error::{CliError, Exit};
use crate::cli::filter::FilterArguments;
use crate::cli::json::{self, Name, SnapshotObject};
use crate::cli::report::{self, Align, print};
use crate::cli::{Session, host_name, secrets, user_name};

/// Makes a repository.
pub fn init(session: &Session, arguments: &InitArguments) -> Result<Exit, CliError> {
    let path = session.repository_path()?;
    let is_encrypted = arguments.encrypt || !arguments.locks.recipient.is_empty();
    let locks = match is_encrypted {
        true => secrets::locks(&session.key()?, &arguments.locks)?,
        false => Vec::new(),
    };
    let options = InitOptions {
        compression: arguments.compression,
        append_only: arguments.append_only,
        access: if arguments.shared { Access::Group } else { Access::Owner },
        locks,
        ..InitOptions::new(session.now.timestamp())
    };
    let repository = Repository::init(path, &options)?;
    let path = path.as_os_str().as_encoded_bytes();
    print(|out| {
        if session.json {
            let id = repository.config().id;
            let name = Name { key: "repository", bytes: path };
            let recipient = repository.recipient().map(ToString::to_string);
            json::message(out, "initialized", &Initialized { id, repository: name, recipient })
        } else if session.quiet {
            Ok(())
        } else {
            let what = if is_encrypted { "encrypted repository" } else { "repository" };
            writeln!(out, "Made the {what} {}", report::name(path))?;
            match repository.recipient() {
                Some(recipient) => writeln!(out, "Its public key is {recipient}\n{LOSS}"),
                None => Ok(()),
            }
        }
    })?;
    Ok(Exit::Done)
}

/// What everybody who encrypts should know.
const LOSS: &str = "Whoever loses all of its passphrases and identities loses the backups: keep one elsewhere, \
    with `treering key add`";

/// The line that `init --json` prints.
#[derive(Serialize)]
struct Initialized<'a> {
    id: RepositoryId,
    #[serde(flatten)]
    repository: Name<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    recipient: Option<String>,
}

/// Tells how data is compressed, or changes it.
pub fn compression(session: &Session, arguments: &CompressionArguments) -> Result<Exit, CliError> {
    let mut repository = session.open()?;
    if let Some(codec) = arguments.codec {
        repository.set_compression(codec, &user_name(), &host_name(), session.now.timestamp())?;
    }
    let codec = &repository.config().compression;
    session.say(
        "compression",
        &json!({ "compression": codec }),
        &format!("New data is compressed by {codec}"),
    )?;
    Ok(Exit::Done)
}

/// Lists the snapshots, oldest first.
pub fn list(session: &Session, filters: &FilterArguments) -> Result<Exit, CliError> {
    let filter = session.filter(filters);
    let mut snapshots = readable(&session.open_readable()?)?;
    snapshots.retain(|snapshot| filter.matches(snapshot));
    session.warn_of_future_in(&snapshots);
    print(|out| {
        if session.json {
            return json::line(out, &snapshots.iter().map(SnapshotObject::new).collect::<Vec<_>>());
        }
        if snapshots.is_empty() && !report::was_incomplete() {
            return match filter.is_empty() {
                true => writeln!(out, "There are no snapshots yet: make one with `treering backup DIR`"),
                false => writeln!(out, "There is no snapshot{}", report::text(&filter.to_string())),
            };
        }
        use Align::{Left, Right};
        let titles = ["ID", "Time", "Host", "Tags", "Files", "Size", "Added", "Roots"];
        let rows: Vec<_> = std::iter::once(titles.map(str::to_owned).to_vec())
            .chain(snapshots.iter().map(|snapshot| row(session, snapshot)))
            .collect();
        report::table(out, &[Left, Left, Left, Left, Right, Right, Right, Left], &rows)
    })?;
    Ok(Exit::Done)
}

/// The snapshots that can be read, oldest first. Complains about the others, without which a command is not wholly done.
pub fn readable(repository: &Repository) -> Result<Vec<Snapshot>, CliError> {
    let (snapshots, unreadable) = repository.readable_snapshots()?;
    unreadable.iter().for_each(|error| report::complain_of_loss(&chain(error)));
    Ok(snapshots)
}

fn row(session: &Session, snapshot: &Snapshot) -> Vec<String> {
    let record = &snapshot.record;
    // Early versions counted volumes only.
    let added = record.statistics.bytes_stored.max(record.statistics.bytes_volumes);
    let tags: Vec<_> = record.tags.iter().map(|tag| report::text(tag)).collect();
    let roots: Vec<_> = record.roots.iter().map(|root| report::name(root)).collect();
    vec![
        snapshot.name(),
        session.local(snapshot.time()),
        report::text(&record.host),
        tags.join(","),
        report::count(record.statistics.files),
        report::size(record.statistics.bytes),
        report::size(added),
        format!("{}{}", roots.join(", "), if record.is_partial() { " (partial)" } else { "" }),
    ]
}
