//! Cold remotes: where they are, what was last seen of them, and reading packs that lie there.
//!
//! What is known of the cold remote NAME lies in the repository's `treering/remotes/NAME/`: its URL, which
//! may hold a secret and is for nobody else to read, the head that was last seen, one that a pull was
//! bringing when it was killed, what pushes have [begun to bring](super::uploads), and the mount that it was to be on.

use std::collections::{BTreeMap, HashMap};
use std::error::Error;
use std::ffi::OsString;
use std::fs;
use std::io;
use std::ops::Range;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{MetadataExt, chown};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use crate::atomic::{self, NewDirs};
use crate::gitkv::{Access, GitRemote};
use crate::layers::PackSource;
use crate::progress::Progress;
use crate::removals::REMOTES;
use crate::store::{self, Span, Store, StoreUrl};
use crate::trust::{self, Claim};
use crate::url::Url;

use super::RemoteError;
use super::head::{Copies, Head, Held, LayerKind};
use super::mounts::{missing_mount, mount_of};
use super::objects::LayerNames;
use super::uploads::Uploads;

/// The file of a cold remote that holds its URL.
const URL_FILE: &str = "url";

/// The head that was last seen of a remote, and one that is being brought here, in the remote's directory.
const SEEN: &str = "head";
const COMING: &str = "coming";

/// The file that names the mount on which a store of files would have been made when the remote was added.
const MOUNT: &str = "mount";

/// How stores of cold remotes are used.
#[derive(Debug, Clone)]
pub struct ColdOptions {
    /// How they are reached.
    pub store: store::Options,
    /// About how many bytes of packs that lie there are kept on the local disk.
    pub cache_bytes: u64,
}

impl Default for ColdOptions {
    fn default() -> Self {
        Self { store: store::Options::default(), cache_bytes: 1 << 30 }
    }
}

/// The cold remotes of a repository.
pub(super) struct Stores {
    dir: PathBuf,
    options: store::Options,
    /// Whom a store is for that is made.
    access: Access,
    opened: Mutex<HashMap<String, Arc<Store>>>,
}

impl Stores {
    /// Those of the repository whose private directory is `private`, and that is for whom `access` says.
    pub fn new(private: &Path, options: &store::Options, access: Access) -> Self {
        Self { dir: private.join(REMOTES), options: options.clone(), access, opened: Mutex::default() }
    }

    /// The names of all of them, in order. Whoever may not read their URLs can still read what is here.
    pub fn names(&self) -> Result<Vec<String>, RemoteError> {
        let entries = match fs::read_dir(&self.dir) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            entries => entries.map_err(RemoteError::io("list", &self.dir))?,
        };
        let mut found = Vec::new();
        for entry in entries {
            let name = entry.map_err(RemoteError::io("list", &self.dir))?.file_name();
            // One into which this process may not look counts: what lies there is out of its reach, and not missing.
            let is_remote = match self.dir.join(&name).join(URL_FILE).symlink_metadata() {
                Ok(_) => true,
                Err(error) => error.kind() == io::ErrorKind::PermissionDenied,
            };
            // A name is given to others as part of a reference and of a path.
            found.extend(name.into_string().ok().filter(|name| is_remote && GitRemote::is_name(name)));
        }
        found.sort_unstable();
        Ok(found)
    }

    /// Whether there are any. Where that cannot be found out there may be.
    pub fn may_be_any(&self) -> bool {
        self.names().map_or(true, |names| !names.is_empty())
    }

    /// Where the cold remote of that name is, if there is one.
    pub fn url(&self, name: &str) -> Result<Option<StoreUrl>, RemoteError> {
        let path = self.dir.join(name).join(URL_FILE);
        let text = match fs::read_to_string(&path) {
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
                return Ok(None);
            }
            text => text.map_err(RemoteError::io("read", &path))?,
        };
        let url = StoreUrl::try_from(&Url::from(text.trim_end()));
        url.map(Some).map_err(|source| RemoteError::Url { remote: name.to_owned(), source })
    }

    /// Adds a cold remote; `url` is its text, secrets included.
    pub fn add(&self, name: &str, url: &Url) -> Result<(), RemoteError> {
        let dir = self.dir.join(name);
        // What was seen of an earlier remote of that name says nothing of this one.
        self.remove(name)?;
        atomic::make_dirs(&dir).map_err(RemoteError::io("make", &dir))?;
        let write = || {
            if let Some(mount) = StoreUrl::try_from(url).ok().and_then(|url| mount_of(url.path()?)) {
                atomic::write(&dir.join(MOUNT), mount.as_os_str().as_bytes())?;
            }
            // Last: it makes this a remote.
            atomic::write_with(&dir.join(URL_FILE), format!("{}\n", url.reveal()).as_bytes(), atomic::PRIVATE)
        };
        write().map_err(RemoteError::io("write to", &dir))
    }

    /// Forgets a cold remote.
    pub fn remove(&self, name: &str) -> Result<(), RemoteError> {
        self.opened.lock().unwrap_or_else(PoisonError::into_inner).remove(name);
        let dir = self.dir.join(name);
        match fs::remove_dir_all(&dir) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(RemoteError::io("remove", &dir)(error))
            }
            _ => Ok(()),
        }
    }

    /// Where the cold remote of that name is, to be connected to. One whose address can start programs or use the
    /// person's credentials must be trusted: the repository may be somebody else's.
    fn trusted_url(&self, name: &str) -> Result<StoreUrl, RemoteError> {
        let url = self.url(name)?.ok_or_else(|| RemoteError::Unknown(name.to_owned()))?;
        let repository = self.repository();
        if url.needs_trust() && !trust::is_trusted(&repository, Claim::Address(url.url())) {
            let file = self.dir.join(name).join(URL_FILE);
            let (url, remote) = (url.url().clone(), name.to_owned());
            return Err(RemoteError::Untrusted { url, remote, file, repository });
        }
        Ok(url)
    }

    /// Trusts the address of a cold remote, where that is needed. Whether it is.
    pub fn trust(&self, name: &str) -> Result<bool, RemoteError> {
        let url = self.url(name)?.ok_or_else(|| RemoteError::Unknown(name.to_owned()))?;
        let repository = self.repository();
        if url.needs_trust() {
            trust::remember(&repository, Claim::Address(url.url()))
                .map_err(RemoteError::io("remember the trust in", &repository))?;
        }
        Ok(url.needs_trust())
    }

    /// The repository that they are of.
    fn repository(&self) -> PathBuf {
        atomic::parent(atomic::parent(&self.dir)).to_owned()
    }

    /// The store of a cold remote, opened once.
    pub fn open(&self, name: &str) -> Result<Arc<Store>, RemoteError> {
        let mut opened = self.opened.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(store) = opened.get(name) {
            return Ok(Arc::clone(store));
        }
        let url = self.trusted_url(name)?;
        let store = Arc::new(Store::open(&url, self.options.clone()).map_err(RemoteError::store(name))?);
        opened.insert(name.to_owned(), Arc::clone(&store));
        Ok(store)
    }

    /// As [`open`](Self::open), where nothing is yet: the place must be empty.
    pub fn create(&self, name: &str) -> Result<Arc<Store>, RemoteError> {
        let url = self.trusted_url(name)?;
        if let Some(path) = url.path() {
            self.expect_disk(name, path)?;
        }
        let mut options = self.options.clone();
        let new = match (self.access, url.path()) {
            // A plain repository is in it, whatever its files let others do.
            (Access::Owner, _) => {
                options.mode = self.access.mode();
                None
            }
            (Access::Group, Some(path)) => Some(self.make_for_group(path)?),
            // Nobody knows here which groups there are on a server.
            (Access::Group, None) => None,
        };
        let store = Store::create(&url, options).map_err(|error| match error.reason() {
            store::Reason::NotEmpty => RemoteError::NotTreering(name.to_owned()),
            _ => RemoteError::store(name)(error),
        })?;
        new.into_iter().for_each(NewDirs::keep);
        let store = Arc::new(store);
        let mut opened = self.opened.lock().unwrap_or_else(PoisonError::into_inner);
        opened.insert(name.to_owned(), Arc::clone(&store));
        Ok(store)
    }

    /// Makes a directory, where none is, for the group that the repository is for. What there is keeps its mode.
    fn make_for_group(&self, path: &Path) -> Result<NewDirs, RemoteError> {
        let is_new = !path.exists();
        let new = NewDirs::make_with(path, 0o770).map_err(RemoteError::io("make", path))?;
        let grant = || {
            let group = fs::metadata(self.repository())?.gid();
            chown(path, None, Some(group))?;
            self.access.grant(path)
        };
        if is_new && let Err(error) = grant() {
            // A file system without groups, or somebody else was faster.
            tracing::debug!(%error, path = %path.display(), "a store is not given to the group");
        }
        Ok(new)
    }

    /// That the disk is there on which a store is to be made at `path`.
    fn expect_disk(&self, name: &str, path: &Path) -> Result<(), RemoteError> {
        let noted = self.dir.join(name).join(MOUNT);
        let then = match fs::read(&noted) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            then => Some(PathBuf::from(OsString::from_vec(then.map_err(RemoteError::io("read", &noted))?))),
        };
        let remote = name.to_owned();
        if let Some(mount) = missing_mount(path, then.as_deref()) {
            return Err(RemoteError::NotMounted { remote, mount });
        }
        match path.parent() {
            Some(parent) if !parent.is_dir() => {
                Err(RemoteError::NoDirectory { remote, path: parent.to_owned() })
            }
            _ => Ok(()),
        }
    }

    /// The head that was last seen of a cold remote, and its number; `None` before the first, and where what
    /// was noted is damaged: then it is as if nothing had been seen.
    pub fn seen(&self, name: &str) -> Result<Option<(u64, Head)>, RemoteError> {
        self.noted(name, SEEN)
    }

    fn noted(&self, name: &str, file: &str) -> Result<Option<(u64, Head)>, RemoteError> {
        let path = self.dir.join(name).join(file);
        let bytes = match fs::read(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            bytes => bytes.map_err(RemoteError::io("read", &path))?,
        };
        let line = bytes.iter().position(|&byte| byte == b'\n').unwrap_or(bytes.len());
        let (number, rest) = bytes.split_at(line);
        let number = std::str::from_utf8(number).ok().and_then(|text| text.parse().ok());
        Ok(number.zip(rest.get(1..).and_then(|head| Head::parse(head).ok())))
    }

    /// Notes a head as seen: all that it lists is here, or was.
    pub fn see(&self, name: &str, number: u64, head: &Head) -> Result<(), RemoteError> {
        self.note(name, SEEN, number, head)?;
        let coming = self.dir.join(name).join(COMING);
        match fs::remove_file(&coming) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(RemoteError::io("remove", &coming)(error))
            }
            _ => Ok(()),
        }
    }

    /// Notes a head whose layers are about to be brought here, so that they can be read as soon as they are, also
    /// where the process is killed before all of them are.
    pub fn announce(&self, name: &str, number: u64, head: &Head) -> Result<(), RemoteError> {
        self.note(name, COMING, number, head)
    }

    fn note(&self, name: &str, file: &str, number: u64, head: &Head) -> Result<(), RemoteError> {
        let path = self.dir.join(name).join(file);
        atomic::write(&path, format!("{number}\n{}", head.encode()).as_bytes())
            .map_err(RemoteError::io("write", &path))
    }

    /// What was begun to be brought to a cold remote. Waits until no other push of this clone to it runs.
    pub fn uploads(&self, name: &str, progress: &Progress) -> Result<Uploads, RemoteError> {
        Uploads::begin(&self.dir.join(name).join("uploads"), progress)
    }

    /// For each layer that was seen in a cold remote, what it is and the names of those remotes.
    pub fn holders(&self) -> Result<BTreeMap<String, Holders>, RemoteError> {
        let mut holders: BTreeMap<String, Holders> = BTreeMap::new();
        for name in self.names()? {
            let heads = [self.noted(&name, SEEN)?, self.noted(&name, COMING)?].into_iter().flatten();
            for (layer, held) in heads.map(|(_, head)| head).flat_map(|head| head.layers).collect::<Copies>()
            {
                let entry = holders.entry(layer).or_insert(Holders {
                    kind: held.kind,
                    pack_bytes: held.pack_bytes,
                    remotes: Vec::new(),
                });
                entry.remotes.push((name.clone(), held));
            }
        }
        Ok(holders)
    }
}

/// Where a layer was seen, and how it lies there.
#[derive(Debug, Clone)]
pub(super) struct Holders {
    pub kind: LayerKind,
    pub pack_bytes: u64,
    pub remotes: Vec<(String, Held)>,
}

impl Holders {
    /// The names of the remotes.
    pub fn names(&self) -> Vec<String> {
        let mut names: Vec<_> = self.remotes.iter().map(|(remote, _)| remote.clone()).collect();
        names.dedup();
        names
    }
}

/// The packs in the cold remotes of a repository.
pub(super) struct ColdPacks {
    stores: Arc<Stores>,
    holders: RwLock<BTreeMap<String, Holders>>,
}

impl ColdPacks {
    pub fn new(stores: Arc<Stores>) -> Self {
        Self { stores, holders: RwLock::default() }
    }

    /// Where the layer was seen; looks again when it is not known.
    fn holders(&self, layer: &str) -> Result<Option<Holders>, RemoteError> {
        if let Some(known) = self.holders.read().unwrap_or_else(PoisonError::into_inner).get(layer) {
            return Ok(Some(known.clone()));
        }
        let now = self.stores.holders()?;
        let found = now.get(layer).cloned();
        *self.holders.write().unwrap_or_else(PoisonError::into_inner) = now;
        Ok(found)
    }
}

impl PackSource for ColdPacks {
    fn pack_bytes(&self, layer: &str) -> Result<Option<u64>, Box<dyn Error + Send + Sync>> {
        let holders = self.holders(layer).map_err(RemoteError::in_reading)?;
        Ok(holders.map(|holders| holders.pack_bytes))
    }

    fn read(&self, layer: &str, ranges: &[Range<u64>]) -> Result<Vec<Vec<u8>>, Box<dyn Error + Send + Sync>> {
        let holders = self.holders(layer).map_err(RemoteError::in_reading)?;
        let holders = holders.ok_or_else(|| RemoteError::NoSuchLayer(layer.to_owned()))?;
        let mut failed: Option<RemoteError> = None;
        for (remote, held) in &holders.remotes {
            let pack = LayerNames::new(layer, held)?.pack;
            let span = |range: &Range<u64>| Span {
                name: pack.clone(),
                offset: range.start,
                size: range.end - range.start,
            };
            let spans: Vec<_> = ranges.iter().map(span).collect();
            let read = self
                .stores
                .open(remote)
                .and_then(|store| store.load_many(&spans).map_err(RemoteError::layer(remote, layer)));
            match read {
                Ok(parts) => return Ok(parts),
                // One that cannot be reached may have what another one has lost.
                Err(error) if failed.as_ref().is_none_or(|failed| !failed.is_out_of_reach()) => {
                    failed = Some(error);
                }
                Err(_) => {}
            }
        }
        Err(failed.unwrap_or_else(|| RemoteError::NoSuchLayer(layer.to_owned())).in_reading())
    }
}
