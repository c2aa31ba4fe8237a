//! `compression`: how new data is compressed.

use clap::Args;
use serde_json::json;
use treering::archive::Codec;

use crate::cli::error::{CliError, Exit};
use crate::cli::{Session, host_name, user_name};

/// Show or set how new data is compressed
#[derive(Debug, Args)]
#[command(after_help = "\
What is there stays as it is until `prune` repacks it; each volume says how it is compressed.

Example:
  treering compression zstd")]
pub struct CompressionArguments {
    /// gzip[:1..12], zstd[:1..19] or none
    #[arg(value_name = "CODEC")]
    pub codec: Option<Codec>,
}

/// Tells how data is compressed, or changes it.
pub fn run(session: &Session, arguments: &CompressionArguments) -> Result<Exit, CliError> {
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
