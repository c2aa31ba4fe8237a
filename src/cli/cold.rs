//! Cold remotes as the environment says that they are used.

use std::env;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use treering::layers::Cold;
use treering::remote::{ColdOptions, cold_reader};
use treering::repository::Repository;
use treering::spoken;
use treering::store::Emulation;

use crate::cli::error::CliError;

/// Bytes of cold layers that are kept on the local disk.
const CACHE: &str = "TREERING_COLD_CACHE";
/// What every call of a store takes at least, in microseconds, to try things out.
const LATENCY: &str = "TREERING_STORE_LATENCY";
/// At how many bits in a second content passes at most.
const BANDWIDTH: &str = "TREERING_STORE_BANDWIDTH";

/// Lets the repository read layers from its cold remotes, if it has any.
pub fn attach(repository: &Repository) -> Result<(), CliError> {
    match reader(repository.path())? {
        Some(cold) => Ok(repository.read_cold(cold)?),
        None => Ok(()),
    }
}

/// What reads layers from the cold remotes of the repository at `path`, if it has any.
pub fn reader(path: &Path) -> Result<Option<Arc<Cold>>, CliError> {
    Ok(cold_reader(path, &options()?))
}

/// What the environment says.
pub fn options() -> Result<ColdOptions, CliError> {
    let mut options = ColdOptions::default();
    if let Some(bytes) = variable(CACHE, spoken::parse_size)? {
        options.cache_bytes = bytes;
    }
    let number = |text: &str| text.parse().ok();
    options.store.emulation = Emulation {
        latency: Duration::from_micros(variable(LATENCY, number)?.unwrap_or_default()),
        bits_per_second: variable(BANDWIDTH, number)?,
    };
    Ok(options)
}

fn variable(name: &'static str, parse: impl Fn(&str) -> Option<u64>) -> Result<Option<u64>, CliError> {
    let Some(value) = env::var_os(name).filter(|value| !value.is_empty()) else { return Ok(None) };
    let number = value.to_str().and_then(parse);
    number.map(Some).ok_or_else(|| CliError::Variable { name, value })
}
