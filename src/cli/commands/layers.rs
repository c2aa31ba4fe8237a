//! `layers`: which packs are here and which in cold remotes.

use clap::{Args, Subcommand};
use serde_json::{Value, json};
use treering::causes::chain;
use treering::remote::{LayerStatus, Moved, Remotes};
use treering::repository::FORMAT_VERSION;

use crate::cli::error::{CliError, Exit};
use crate::cli::json::ErrorObject;
use crate::cli::remotes::open_or_rescue;
use crate::cli::report::{self, Align, complain, plural, print, text};
use crate::cli::{Session, cold, json};

/// List layers, and move them to and from cold remotes
#[derive(Debug, Subcommand)]
#[command(after_help = "\
A layer is a git pack. Those of data may be in cold remotes only; what is read of them is kept for a while in the \
repository's treering/blocks, at most TREERING_COLD_CACHE bytes (1G).

Examples:
  treering layers list
  treering layers evict           # free the disk of what a cold remote has
  treering layers fetch 1a2b3c    # bring one back
  treering layers merge           # after thousands of backups: tens of layers")]
pub enum LayersCommand {
    /// List the layers: name, kind, size, objects, and where each one is
    List,
    Fetch(LayersFetchArguments),
    Evict(LayersEvictArguments),
    /// Put many small layers together, until each is twice as large as all smaller ones
    Merge,
}

/// Bring layers here that are in cold remotes only
#[derive(Debug, Args)]
pub struct LayersFetchArguments {
    /// The layers, by name or the beginning of its digits; all where none is given
    #[arg(value_name = "LAYER")]
    pub layers: Vec<String>,
}

/// Remove the packs of layers of data that a cold remote has
#[derive(Debug, Args)]
#[command(after_help = "\
Each layer is read back from the remote and compared first, which takes as long as a download. What is not there or not the \
same stays, and the exit status is 1.")]
pub struct LayersEvictArguments {
    /// The layers, by name or the beginning of its digits; all of data where none is given
    #[arg(value_name = "LAYER")]
    pub layers: Vec<String>,
    /// The cold remote that must have them; else any will do
    #[arg(long, value_name = "NAME")]
    pub remote: Option<String>,
}

/// Lists or moves layers.
pub fn run(session: &Session, command: &LayersCommand) -> Result<Exit, CliError> {
    let repository = match command {
        LayersCommand::Fetch(_) => open_or_rescue(session, None)?,
        _ => session.open()?,
    };
    let remotes = Remotes::open_with(repository.path(), FORMAT_VERSION, &cold::options()?)?;
    match command {
        LayersCommand::List => {
            list(session, &remotes.layers()?)?;
            Ok(Exit::Done)
        }
        LayersCommand::Fetch(arguments) => {
            let moved = session.watch(|progress| remotes.fetch_layers_with(&arguments.layers, progress))?;
            tell(session, "layers_fetched", ("fetch", "Fetched"), &moved)
        }
        LayersCommand::Merge => {
            let merged = session.watch(|progress| remotes.merge_layers_with(progress))?;
            let made = merged.made.iter().map(|layer| layer.pack_bytes + layer.index_bytes).sum();
            let object = json!({
                "layers_removed": merged.removed,
                "layers_written": merged.made.iter().map(|layer| &layer.name).collect::<Vec<_>>(),
                "bytes_written": made,
            });
            let text = match merged.removed {
                0 => "The layers are few and large already".to_owned(),
                removed => format!(
                    "Merged {} into {}, {}",
                    plural(removed, "layer"),
                    report::count(merged.made.len() as u64),
                    report::size(made)
                ),
            };
            session.say("layers_merged", &object, &text)?;
            Ok(Exit::Done)
        }
        LayersCommand::Evict(arguments) => {
            let remote = arguments.remote.as_deref();
            let moved =
                session.watch(|progress| remotes.evict_layers_with(&arguments.layers, remote, progress))?;
            tell(session, "layers_evicted", ("evict", "Evicted"), &moved)
        }
    }
}

fn list(session: &Session, layers: &[LayerStatus]) -> Result<(), CliError> {
    print(|out| {
        if session.json {
            return json::list(out, "layers", layers.iter().map(object));
        }
        let row = |layer: &LayerStatus| {
            let here = if layer.is_here { "here" } else { "" };
            let places = [here].into_iter().chain(layer.remotes.iter().map(String::as_str));
            let places: Vec<_> = places.filter(|place| !place.is_empty()).collect();
            vec![
                text(&layer.name),
                text(layer.kind.name()),
                report::size(layer.pack_bytes),
                report::count(layer.objects.into()),
                text(&places.join(" ")),
            ]
        };
        let columns = [Align::Left, Align::Left, Align::Right, Align::Right, Align::Left];
        report::table(out, &columns, &layers.iter().map(row).collect::<Vec<_>>())
    })
}

fn object(layer: &LayerStatus) -> Value {
    json!({
        "name": layer.name,
        "type": layer.kind.name(),
        "pack_bytes": layer.pack_bytes,
        "index_bytes": layer.index_bytes,
        "objects_count": layer.objects,
        "local": layer.is_here,
        "remotes": layer.remotes,
    })
}

fn tell(
    session: &Session,
    message: &'static str,
    (during, verb): (&'static str, &str),
    moved: &Moved,
) -> Result<Exit, CliError> {
    let bytes = moved.layers.iter().map(|layer| layer.pack_bytes).sum();
    print(|out| {
        if session.json {
            let errors =
                moved.failures.iter().map(|(layer, error)| ErrorObject::new(during, layer.as_ref(), error));
            let summary = json!({
                "layers": moved.layers.iter().map(object).collect::<Vec<_>>(),
                "bytes": bytes,
                "errors": errors.collect::<Vec<_>>(),
            });
            return json::message(out, message, &summary);
        }
        if session.quiet {
            return Ok(());
        }
        writeln!(out, "{verb} {}, {}", plural(moved.layers.len() as u64, "layer"), report::size(bytes))
    })?;
    if !session.json {
        for (layer, error) in &moved.failures {
            complain(&format!("{layer}: {}", chain(error)));
        }
    }
    Ok(if moved.failures.is_empty() { Exit::Done } else { Exit::Failed })
}
