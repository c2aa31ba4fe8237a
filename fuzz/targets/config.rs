//! The configuration of a repository: what is read is written and read again.

use treering::cbor;
use treering::repository::{Config, FORMAT_VERSION};

pub fn run(bytes: &[u8]) {
    let values = cbor::count_values(bytes);
    let Ok(config) = Config::parse(bytes, FORMAT_VERSION) else { return };
    assert!(values > 0 && values <= bytes.len());
    let written = cbor::to_vec(&config).unwrap();
    let again: Config = cbor::from_slice(&written).unwrap();
    assert_eq!(cbor::to_vec(&again).unwrap(), written);
    let _ = config.codec();
}
