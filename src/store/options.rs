//! What is to be known about a store besides where it is.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::time::Duration;

use super::cache::CachePolicy;
use super::calls::{Emulation, Retry};
use super::local::LocalOptions;
use super::name::Namespace;
use super::url::StoreUrl;

/// How a namespace is laid out and cached.
#[derive(Debug, Clone, Default)]
pub struct NamespaceOptions {
    /// The nesting level at which objects are stored.
    pub level: u8,
    /// Other levels at which objects may still lie, the likeliest first.
    pub older_levels: Vec<u8>,
    /// Whether and how much of it is kept in the cache.
    pub cache: CachePolicy,
}

/// What is to be known about a store besides its URL.
#[derive(Debug, Clone)]
pub struct Options {
    /// The namespaces. One that is not here lies at level 0 and is not cached.
    pub namespaces: BTreeMap<Namespace, NamespaceOptions>,
    /// Where the copies of cached namespaces lie; without it, nothing is cached.
    pub cache: Option<StoreUrl>,
    /// Bounds on local files; other backends refuse to work with any.
    pub local: LocalOptions,
    /// How often failed calls are tried again.
    pub retry: Retry,
    /// How long the backend may be silent. Sending gets more time, for a rate of at least 64 KiB/s.
    pub timeout: Duration,
    /// Operations under way at once. One on a large object may have several requests under way.
    pub at_once: usize,
    /// The largest object that is loaded whole, in bytes.
    pub max_object: u64,
    /// Slows the backend down.
    pub emulation: Emulation,
    /// The mode of the directories that are made for a new store, on local files and over SFTP, before the umask takes its
    /// bits away there. Other backends have no modes.
    pub mode: u32,
    /// The ssh program and its first arguments.
    pub ssh: Vec<OsString>,
    /// The rclone program and its first arguments.
    pub rclone: Vec<OsString>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            namespaces: BTreeMap::new(),
            cache: None,
            local: LocalOptions::default(),
            retry: Retry::default(),
            timeout: Duration::from_secs(60),
            at_once: 8,
            max_object: 1 << 30,
            emulation: Emulation::default(),
            mode: 0o777,
            ssh: vec!["ssh".into()],
            rclone: vec!["rclone".into()],
        }
    }
}
