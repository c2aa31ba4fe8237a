//! A repository: opening it, and reading from it.
//!
//! No reference moves here. Objects come from layers; those that are in none, or are deltas, come from libgit2, and may
//! not grow far beyond what lies on the disk.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, RwLock};

use git2::{ErrorClass, ErrorCode, RepositoryOpenFlags};

use crate::layers::{EXPANSION, INFLATE_LIMIT, LayerError, LayerSet, ObjectId, ObjectKind, SMALL, on_disk};
use crate::progress::Counter;
use crate::watch::Bounds;

use super::GitError;
use super::access::{self, note_owner};
use super::commit::Commit;
use super::parts::{self, is_unfinished};
use super::paths::{HEADS, pack_dir};
use super::paths_left::PathsLeft;
use super::plain::expect_plain;
use super::program::Settings;
use super::tree::{MAX_DEPTH, Mode, Node, Tree};

/// The newest version of git's format that libgit2 reads.
pub(super) const NEWEST_GIT_FORMAT: i64 = 1;

/// A git repository, bare unless it was opened [with its working tree](Git::open_with_work_tree). Any number of
/// threads may use one.
pub struct Git {
    path: PathBuf,
    branch: String,
    /// What goes along with the branch.
    pub(super) work_tree: Option<WorkTree>,
    pub(super) layers: RwLock<LayerSet>,
    libgit2: Mutex<git2::Repository>,
    /// The person's settings for the program git; read when that is first run.
    pub(super) settings: OnceLock<Settings>,
    /// What git may take that exchanges with a remote.
    pub(super) bounds: Bounds,
    trees: Mutex<TreeCache>,
    trees_read: Counter,
    bytes_read: Counter,
}

/// The working tree that `HEAD` stands for.
pub(super) struct WorkTree {
    pub root: PathBuf,
    /// Where its `HEAD` and `index` are; of a linked working tree that is not the directory of the repository.
    pub git_dir: PathBuf,
}

impl WorkTree {
    /// That of `repository`, unless it is bare.
    fn of(repository: &git2::Repository) -> Option<Self> {
        let root = repository.workdir()?.to_owned();
        Some(Self { root, git_dir: repository.path().to_owned() })
    }
}

/// Trees that were read lately, since a lookup reads those near the root each time.
#[derive(Default)]
struct TreeCache {
    trees: HashMap<ObjectId, Arc<Tree>>,
    weight: usize,
}

/// What resolving one object may take, in all that it hangs on; where packs are larger, as many times more as one object may.
const MAX_CHAIN: u64 = 64 * SMALL;

/// How many bytes of trees are kept.
const CACHE_WEIGHT: usize = 32 << 20;

impl Git {
    /// Opens the bare repository at `path` itself, not one above or below it.
    pub fn open(path: &Path) -> Result<Self, GitError> {
        Self::open_as(path, false)
    }

    /// Opens the repository at `path`, with a working tree only if it may have one. What a dead process began in that is
    /// not ended yet.
    pub(super) fn open_as(path: &Path, may_have_work_tree: bool) -> Result<Self, GitError> {
        expect_plain(path)?;
        expect_config_readable(path)?;
        let no_ceilings: [&Path; 0] = [];
        let repository = git2::Repository::open_ext(path, RepositoryOpenFlags::NO_SEARCH, no_ceilings);
        let repository = repository.map_err(|error| match error.code() {
            ErrorCode::NotFound if is_unfinished(path) => GitError::Unfinished(path.to_owned()),
            // libgit2 takes what it may not look at for missing.
            ErrorCode::NotFound if let Err(source) = expect_reachable(path) => {
                GitError::io("read", path)(source)
            }
            ErrorCode::NotFound => {
                parts::fault(path).unwrap_or_else(|| GitError::NotRepository(path.to_owned()))
            }
            ErrorCode::Owner => {
                let path = path.canonicalize().unwrap_or_else(|_| path.to_owned());
                GitError::Owner { path, source: error.into() }
            }
            _ => parts::fault(path).unwrap_or_else(|| unread_format(path, error)),
        })?;
        if let Some(fault) = parts::unconfigured(path) {
            return Err(fault);
        }
        let work_tree = WorkTree::of(&repository);
        if work_tree.is_some() && !may_have_work_tree {
            return Err(GitError::NotBare(path.to_owned()));
        }
        if let Some(root) = repository.workdir() {
            // `core.worktree` of a repository from somewhere may name any directory, which would be written to.
            let (given, root) = (path.canonicalize().ok(), root.canonicalize().ok());
            let is_here = root.is_some()
                && (root == given || root.as_deref() == given.as_deref().and_then(Path::parent));
            if !is_here {
                let root = repository.workdir().unwrap_or(path).to_owned();
                return Err(GitError::WorkTreeElsewhere { path: path.to_owned(), root });
            }
        }
        let branch = {
            let head = repository.find_reference("HEAD").map_err(|error| {
                parts::fault(repository.path()).unwrap_or_else(|| GitError::git("read HEAD")(error))
            })?;
            let branch = head.symbolic_target().ok().flatten().map(str::to_owned);
            let detached = match &work_tree {
                None => GitError::Detached(path.to_owned()),
                Some(_) => GitError::DetachedClone(path.to_owned()),
            };
            branch.ok_or(detached)?
        };
        // A linked working tree has a directory of its own for `HEAD` and the index alone.
        let path = repository.commondir().to_owned();
        note_owner(&path);
        let pack_dir = pack_dir(&path);
        fs::create_dir_all(&pack_dir).map_err(GitError::io("make", &pack_dir))?;
        let layers = RwLock::new(LayerSet::open(&pack_dir)?);
        let libgit2 = Mutex::new(repository);
        let (settings, bounds, trees, trees_read, bytes_read) = Default::default();
        Ok(Self { path, branch, work_tree, layers, libgit2, settings, bounds, trees, trees_read, bytes_read })
    }

    /// Where the tree of the branch that `HEAD` stands for has no file at `wanted`, or there is no such branch, as in a
    /// repository that `git init --bare` made and others pushed to: from now on the branch is the one that has it, if
    /// there is just one.
    pub fn find_branch(&mut self, wanted: &str) -> Result<(), GitError> {
        // What cannot be read may have it.
        let holds =
            |head: ObjectId| self.find(&head, wanted.as_bytes()).map_or(true, |found| found.is_some());
        if self.head()?.is_some_and(holds) {
            return Ok(());
        }
        if let [only] = self.branches_with(HEADS, wanted)?.as_slice() {
            self.branch = format!("{HEADS}{only}");
        }
        Ok(())
    }

    /// The references below `prefix` that name a commit whose tree has a file at `wanted`, without the prefix.
    pub fn branches_with(&self, prefix: &str, wanted: &str) -> Result<Vec<String>, GitError> {
        let mut holds = Vec::new();
        for (name, id) in self.references()? {
            if let Some(name) = name.strip_prefix(prefix)
                && self.find(&id, wanted.as_bytes())?.is_some()
            {
                holds.push(name.to_owned());
            }
        }
        holds.sort_unstable();
        Ok(holds)
    }

    /// The repository's directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Whether nothing is checked out of it.
    pub fn is_bare(&self) -> bool {
        self.work_tree.is_none()
    }

    /// Whether the group is to read and write what is written here: a program that writes takes the bits of the group
    /// out of its umask first.
    pub fn is_shared(&self) -> bool {
        self.libgit2().config().is_ok_and(|config| access::is_shared(&config))
    }

    /// Where its layers lie.
    pub fn pack_dir(&self) -> PathBuf {
        pack_dir(&self.path)
    }

    /// The full name of the branch that `HEAD` stands for.
    pub fn branch(&self) -> &str {
        &self.branch
    }

    /// The layers, as they were when an object was last missed or [`refresh`](Self::refresh) called.
    pub fn layers(&self) -> LayerSet {
        self.layers.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Looks which layers are there now.
    pub fn refresh(&self) -> Result<LayerSet, GitError> {
        let now = self.layers().reopen()?;
        self.layers.write().unwrap_or_else(PoisonError::into_inner).clone_from(&now);
        Ok(now)
    }

    /// How many trees were read so far, not counting those that were still in memory: the work that lookups
    /// took.
    pub fn trees_read(&self) -> u64 {
        self.trees_read.get()
    }

    /// How many bytes of objects were read so far, as they are without compression.
    pub fn bytes_read(&self) -> u64 {
        self.bytes_read.get()
    }

    /// The commit at the tip of the branch; `None` before the first.
    pub fn head(&self) -> Result<Option<ObjectId>, GitError> {
        self.reference(&self.branch)
    }

    /// The commit at the tip of the branch, for those to whom an empty repository means that nothing is there:
    /// where `HEAD` names no branch but there are others, that is an error.
    pub fn head_or_none(&self) -> Result<Option<ObjectId>, GitError> {
        let head = self.head()?;
        if head.is_none() {
            self.expect_no_branch(&self.branch, HEADS)?;
        }
        Ok(head)
    }

    /// Fails where there are branches, whose names begin with `prefix`, although that of `reference` is not.
    pub(super) fn expect_no_branch(&self, reference: &str, prefix: &str) -> Result<(), GitError> {
        let others = self.branches_below(prefix)?;
        match others.is_empty() {
            true => Ok(()),
            false => Err(GitError::NoBranch {
                path: self.path.clone(),
                branch: reference.strip_prefix(prefix).unwrap_or(reference).to_owned(),
                others: others.join(", "),
            }),
        }
    }

    /// The names of branches below `prefix`, without that.
    pub(super) fn branches_below(&self, prefix: &str) -> Result<Vec<String>, GitError> {
        let names = self.references()?.into_iter();
        let names = names.filter_map(|(name, _)| Some(name.strip_prefix(prefix)?.to_owned()));
        let mut branches: Vec<_> = names.filter(|name| name != "HEAD").collect();
        branches.sort_unstable();
        Ok(branches)
    }

    /// The object that the reference of that full name stands for, if there is one.
    pub fn reference(&self, name: &str) -> Result<Option<ObjectId>, GitError> {
        let repository = self.libgit2();
        match repository.refname_to_id(name) {
            Ok(id) => Ok(Some(from_git2(id)?)),
            Err(error) if error.code() == ErrorCode::NotFound => Ok(None),
            Err(error) if error.class() == ErrorClass::Reference && self.path.join(name).is_file() => {
                Err(GitError::Reference { path: self.path.components().collect(), name: name.to_owned() })
            }
            Err(error) => Err(GitError::git("read a reference")(error)),
        }
    }

    /// Every reference that names an object itself, by its full name.
    pub fn references(&self) -> Result<Vec<(String, ObjectId)>, GitError> {
        let repository = self.libgit2();
        let list = || {
            let mut found = Vec::new();
            for reference in repository.references()? {
                let reference = reference?;
                if let Some(id) = reference.target() {
                    found.push((reference.name()?.to_owned(), id));
                }
            }
            Ok(found)
        };
        let found = list().map_err(GitError::git("list the references"))?;
        found.into_iter().map(|(name, id)| Ok((name, from_git2(id)?))).collect()
    }

    /// A commit.
    pub fn read_commit(&self, id: &ObjectId) -> Result<Commit, GitError> {
        parse_commit(id, &self.read(id, ObjectKind::Commit)?)
    }

    /// The content of a blob, which hashes to `id`.
    pub fn read_blob(&self, id: &ObjectId) -> Result<Vec<u8>, GitError> {
        self.read(id, ObjectKind::Blob)
    }

    /// As [`read_blob`](Self::read_blob), of a blob that may have no more than `limit` bytes.
    pub fn read_blob_within(&self, id: &ObjectId, limit: u64) -> Result<Vec<u8>, GitError> {
        match self.blob_size(id)? {
            size if size > limit => Err(LayerError::TooLarge { id: *id, size }.into()),
            _ => self.read_blob(id),
        }
    }

    /// At most `len` bytes from `offset` on of a blob, fewer where it ends. A range from a layer is not
    /// checked against any hash.
    pub fn read_blob_range(&self, id: &ObjectId, offset: u64, len: u64) -> Result<Vec<u8>, GitError> {
        match self.in_layers(|layers| layers.read_range(id, offset, len))? {
            Some(bytes) => {
                self.bytes_read.add(bytes.len() as u64);
                Ok(bytes)
            }
            None => {
                let (kind, bytes) = self.read_with_libgit2(id)?;
                expect_kind(id, kind, ObjectKind::Blob)?;
                let clamp = |at: u64| usize::try_from(at).unwrap_or(usize::MAX).min(bytes.len());
                Ok(bytes[clamp(offset)..clamp(offset.saturating_add(len))].to_owned())
            }
        }
    }

    /// The size of a blob in bytes.
    pub fn blob_size(&self, id: &ObjectId) -> Result<u64, GitError> {
        let (kind, size) = self.header(id)?;
        expect_kind(id, kind, ObjectKind::Blob)?;
        Ok(size)
    }

    /// Kind and size in bytes of an object, without reading it.
    fn header(&self, id: &ObjectId) -> Result<(ObjectKind, u64), GitError> {
        match self.in_layers(|layers| layers.header(id))? {
            Some(header) => Ok(header),
            None => {
                let repository = self.libgit2();
                let odb = repository.odb().map_err(GitError::git("open the object database"))?;
                let (size, kind) = odb.read_header(to_git2(id)?).map_err(not_read(id))?;
                Ok((from_git2_kind(kind), size as u64))
            }
        }
    }

    /// A tree. Some 32 MiB of trees are kept in memory.
    pub fn read_tree(&self, id: &ObjectId) -> Result<Arc<Tree>, GitError> {
        let cache = || self.trees.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(tree) = cache().trees.get(id) {
            return Ok(Arc::clone(tree));
        }
        let tree = Arc::new(parse_tree(id, self.read(id, ObjectKind::Tree)?)?);
        self.trees_read.add(1);
        cache().insert(*id, &tree);
        Ok(tree)
    }

    /// What lies at `path` in the tree of the commit or tree `root`.
    pub fn find(&self, root: &ObjectId, path: &[u8]) -> Result<Option<Node>, GitError> {
        let mut tree = self.root_tree(root)?;
        let mut names = path.split(|&byte| byte == b'/').peekable();
        while let Some(name) = names.next() {
            let found = tree.lookup(name).map(|entry| entry.node());
            match found {
                Some(node) if names.peek().is_some() && node.mode == Mode::Directory => {
                    tree = self.read_tree(&node.id)?;
                }
                Some(node) if names.peek().is_none() => return Ok(Some(node)),
                _ => break,
            }
        }
        Ok(None)
    }

    /// The files that lie right in the directory `path` of a commit or tree, with their full paths; none where there is no
    /// such directory. Unlike a [`walk`](Self::walk) it takes no longer than one tree does.
    pub fn files_in(&self, root: &ObjectId, path: &[u8]) -> Result<Vec<(Vec<u8>, Node)>, GitError> {
        let Some(Node { mode: Mode::Directory, id }) = self.find(root, path)? else { return Ok(Vec::new()) };
        let tree = self.read_tree(&id)?;
        let files = tree.entries().filter(|entry| entry.mode != Mode::Directory);
        Ok(files.map(|entry| ([path, b"/", entry.name].concat(), entry.node())).collect())
    }

    /// The files at and below `prefix` (empty: all) in the tree of the commit or tree `root`, with their
    /// paths, in git's order. A tree is read when the walk comes to it.
    pub fn walk(&self, root: &ObjectId, prefix: &[u8]) -> Result<Walk<'_>, GitError> {
        let (file, open, left) = (None, Vec::new(), PathsLeft::new(MAX_DEPTH));
        let mut walk = Walk { git: self, file, open, path: prefix.to_owned(), left };
        if prefix.is_empty() {
            walk.open.push((self.root_tree(root)?, 0, 0));
            return Ok(walk);
        }
        match self.find(root, prefix)? {
            Some(Node { mode: Mode::Directory, id }) => {
                walk.path.push(b'/');
                walk.open.push((self.read_tree(&id)?, 0, walk.path.len()));
            }
            file => walk.file = file,
        }
        Ok(walk)
    }

    /// The tree that the commit or tree `root` stands for.
    fn root_tree(&self, root: &ObjectId) -> Result<Arc<Tree>, GitError> {
        match self.read_tree(root) {
            Err(GitError::Kind { found: "commit", .. }) => self.read_tree(&self.read_commit(root)?.tree),
            tree => tree,
        }
    }

    fn read(&self, id: &ObjectId, expected: ObjectKind) -> Result<Vec<u8>, GitError> {
        let (kind, bytes) = self.read_any(id)?;
        expect_kind(id, kind, expected)?;
        Ok(bytes)
    }

    /// An object of whatever kind, which hashes to `id`.
    pub(super) fn read_any(&self, id: &ObjectId) -> Result<(ObjectKind, Vec<u8>), GitError> {
        match self.in_layers(|layers| layers.read(id))? {
            Some((kind, bytes)) => {
                self.bytes_read.add(bytes.len() as u64);
                Ok((kind, bytes))
            }
            None => self.read_with_libgit2(id),
        }
    }

    /// Does `read` with the layers, and again if it fails and there are other layers by now: a process beside
    /// this one may have added, merged or removed some. `None` when the object is not in a layer as a whole.
    fn in_layers<T>(
        &self,
        read: impl Fn(&LayerSet) -> Result<Option<T>, LayerError>,
    ) -> Result<Option<T>, GitError> {
        match read(&self.layers()) {
            Ok(Some(found)) => return Ok(Some(found)),
            Err(LayerError::Delta { .. }) => return Ok(None),
            Ok(None) | Err(LayerError::Missing { .. } | LayerError::Io { .. }) => {}
            Err(error) => return Err(error.into()),
        }
        match read(&self.refresh()?) {
            Err(LayerError::Delta { .. }) => Ok(None),
            found => Ok(found?),
        }
    }

    /// Reads loose objects, and those that a git program has stored as deltas.
    fn read_with_libgit2(&self, id: &ObjectId) -> Result<(ObjectKind, Vec<u8>), GitError> {
        let repository = self.libgit2();
        let odb = repository.odb().map_err(GitError::git("open the object database"))?;
        let oid = to_git2(id)?;
        let too_large = |size| Err(LayerError::TooLarge { id: *id, size }.into());
        // What it hangs on is inflated with it.
        let chain = self.in_layers(|layers| layers.chain_weight(id).map(Some))?;
        let chain = chain.flatten().unwrap_or_default();
        let limit = || self.expansion_limit(id);
        if chain.largest > SMALL && chain.largest > limit() {
            return too_large(chain.largest);
        }
        if chain.total > MAX_CHAIN && chain.total > limit().saturating_mul(MAX_CHAIN / SMALL) {
            return too_large(chain.total);
        }
        // The whole file is read, also behind the end of the object.
        if let Some(loose) = self.loose(id)
            && loose.len() > SMALL
            && loose.len() > limit()
        {
            return too_large(loose.len());
        }
        let (size, kind) = odb.read_header(oid).map_err(not_read(id))?;
        let size_limit = from_git2_kind(kind).max_len().min(INFLATE_LIMIT);
        // The limit by what lies on the disk is never below what counts as small.
        if size as u64 > size_limit || (size as u64 > SMALL && size as u64 > limit()) {
            return too_large(size as u64);
        }
        let object = odb.read(oid).map_err(not_read(id))?;
        self.bytes_read.add(size as u64);
        Ok((from_git2_kind(object.kind()), object.data().to_owned()))
    }

    /// How many bytes a loose object, or one that is a delta, may have, by what lies on the disk: a delta may repeat the
    /// same bytes without end.
    fn expansion_limit(&self, id: &ObjectId) -> u64 {
        let loose = self.loose(id).map_or(0, |file| on_disk(&file));
        SMALL.saturating_add(self.layers().pack_disk().saturating_add(loose).saturating_mul(EXPANSION))
    }

    /// The file of a loose object.
    fn loose(&self, id: &ObjectId) -> Option<fs::Metadata> {
        let hex = id.to_string();
        let (directory, name) = hex.split_at(2);
        fs::metadata(self.path.join("objects").join(directory).join(name)).ok()
    }

    pub(super) fn libgit2(&self) -> MutexGuard<'_, git2::Repository> {
        self.libgit2.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn to_git2(id: &ObjectId) -> Result<git2::Oid, GitError> {
    git2::Oid::from_bytes(id.as_bytes()).map_err(GitError::git("name an object"))
}

fn from_git2_kind(kind: git2::ObjectType) -> ObjectKind {
    match kind {
        git2::ObjectType::Commit => ObjectKind::Commit,
        git2::ObjectType::Tree => ObjectKind::Tree,
        git2::ObjectType::Tag => ObjectKind::Tag,
        _ => ObjectKind::Blob,
    }
}

fn not_read(id: &ObjectId) -> impl FnOnce(git2::Error) -> GitError {
    let id = *id;
    move |error| match error.code() {
        ErrorCode::NotFound => GitError::Missing(id),
        _ => GitError::git("read an object")(error),
    }
}

impl TreeCache {
    fn insert(&mut self, id: ObjectId, tree: &Arc<Tree>) {
        if self.weight + tree.weight() > CACHE_WEIGHT {
            *self = Self::default();
        }
        if tree.weight() <= CACHE_WEIGHT && self.trees.insert(id, Arc::clone(tree)).is_none() {
            self.weight += tree.weight();
        }
    }
}

/// The files of a tree in order, with their paths; made by [`Git::walk`]. It ends after an error.
pub struct Walk<'a> {
    git: &'a Git,
    /// The one file that the walk began at.
    file: Option<Node>,
    /// The directories that are being walked: the position of the next entry of each, and the length of its
    /// path.
    open: Vec<(Arc<Tree>, usize, usize)>,
    path: Vec<u8>,
    left: PathsLeft,
}

impl Walk<'_> {
    fn step(&mut self) -> Result<Option<(Vec<u8>, Node)>, GitError> {
        if let Some(file) = self.file.take() {
            return Ok(Some((self.path.clone(), file)));
        }
        while let Some((tree, position, above)) = self.open.last_mut() {
            self.path.truncate(*above);
            let Some(entry) = tree.get(*position) else {
                self.open.pop();
                continue;
            };
            *position += 1;
            self.path.extend_from_slice(entry.name);
            let node = entry.node();
            // What is in a directory has a name more.
            let names = self.open.len() + usize::from(node.mode == Mode::Directory);
            self.left.count(&self.path, names)?;
            if node.mode != Mode::Directory {
                return Ok(Some((self.path.clone(), node)));
            }
            self.path.push(b'/');
            self.open.push((self.git.read_tree(&node.id)?, 0, self.path.len()));
        }
        Ok(None)
    }
}

impl Iterator for Walk<'_> {
    type Item = Result<(Vec<u8>, Node), GitError>;

    fn next(&mut self) -> Option<Self::Item> {
        let step = self.step().transpose();
        if matches!(step, Some(Err(_))) {
            self.open.clear();
        }
        step
    }
}

pub(super) fn parse_commit(id: &ObjectId, bytes: &[u8]) -> Result<Commit, GitError> {
    Commit::parse(bytes).map_err(|fault| GitError::Corrupt { id: *id, kind: "commit", fault })
}

pub(super) fn parse_tree(id: &ObjectId, bytes: Vec<u8>) -> Result<Tree, GitError> {
    Tree::parse(bytes).map_err(|fault| GitError::Corrupt { id: *id, kind: "tree", fault })
}

pub(super) fn expect_kind(id: &ObjectId, found: ObjectKind, expected: ObjectKind) -> Result<(), GitError> {
    match found == expected {
        true => Ok(()),
        false => Err(GitError::Kind { id: *id, found: found.name(), expected: expected.name() }),
    }
}

/// That a repository at `path`, if there is one, is in a format that can be read.
pub(super) fn expect_known_format(path: &Path) -> Result<(), GitError> {
    expect_plain(path)?;
    let no_ceilings: [&Path; 0] = [];
    match git2::Repository::open_ext(path, RepositoryOpenFlags::NO_SEARCH, no_ceilings) {
        Err(error) if error.code() != ErrorCode::NotFound => match unread_format(path, error) {
            format @ (GitError::Format { .. } | GitError::FormatVersion { .. }) => Err(format),
            // Whoever opens it says what else is the matter.
            _ => Ok(()),
        },
        _ => Ok(()),
    }
}

/// Why libgit2 does not open the repository at `path`, of which it says `error`.
fn unread_format(path: &Path, error: git2::Error) -> GitError {
    const KNOWN: [&str; 5] =
        ["noop", "objectformat", "worktreeconfig", "preciousobjects", "relativeworktrees"];
    let at = [path.join("config"), path.join(".git/config")];
    let open = || git2::Config::open(at.iter().find(|file| file.is_file())?).ok();
    let version = open().and_then(|config| config.get_i64("core.repositoryformatversion").ok());
    if let Some(found) = version.filter(|found| *found > NEWEST_GIT_FORMAT) {
        return GitError::FormatVersion { path: path.to_owned(), found, source: Box::new(error.into()) };
    }
    let extension = || {
        let config = open()?;
        let mut entries = config.entries(Some("^extensions\\.")).ok()?;
        while let Some(Ok(entry)) = entries.next() {
            let name = entry.name().ok()?.strip_prefix("extensions.")?.to_owned();
            let value = entry.value().unwrap_or_default().to_owned();
            let is_known = KNOWN.contains(&name.as_str());
            if !is_known || name == "objectformat" && !value.eq_ignore_ascii_case("sha1") {
                return Some((name, value));
            }
        }
        None
    };
    match extension() {
        Some((extension, value)) => {
            GitError::Format { path: path.to_owned(), extension, value, source: Box::new(error.into()) }
        }
        None => GitError::git("open the git repository")(error),
    }
}

pub(super) fn from_git2(id: git2::Oid) -> Result<ObjectId, GitError> {
    let bytes = id.as_bytes().try_into();
    bytes
        .map(ObjectId::from_bytes)
        .map_err(|_| GitError::git("take an id")(git2::Error::from_str("it is no SHA-1")))
}

/// That this process may read the configuration of the repository at `path`, or of the clone whose root that is, if
/// there is one. Libgit2 takes one that it may not read for empty, and what is bare for a clone.
fn expect_config_readable(path: &Path) -> Result<(), GitError> {
    for config in [path.join("config"), path.join(".git/config")] {
        match File::open(&config) {
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied && config.is_file() => {
                return Err(GitError::io("read", &config)(error));
            }
            _ => {}
        }
    }
    Ok(())
}

/// That nothing keeps this process from what may be a repository at `path`.
fn expect_reachable(path: &Path) -> io::Result<()> {
    match fs::metadata(path.join("HEAD")) {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => Err(error),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::super::testing::Fixture;
    use super::*;

    fn paths(git: &Git, root: &ObjectId, prefix: &str) -> Vec<String> {
        let walk = git.walk(root, prefix.as_bytes()).unwrap();
        walk.map(|file| String::from_utf8(file.unwrap().0).unwrap()).collect()
    }

    #[test]
    fn tells_apart_what_cannot_be_opened_or_made() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        fs::write(at("file"), "x").unwrap();
        git2::Repository::init(at("tree")).unwrap();
        let bare = Git::init(&at("a/b/bare"), &[]).unwrap();
        for name in ["", "nothing", "file", "a"] {
            assert!(matches!(Git::open(&at(name)), Err(GitError::NotRepository(_))), "{name}");
        }
        assert!(matches!(Git::open(&bare.pack_dir()), Err(GitError::NotRepository(_))));
        assert!(matches!(Git::open(&at("tree")), Err(GitError::NotBare(_))));
        for name in ["", "file"] {
            assert!(matches!(Git::init(&at(name), &[]), Err(GitError::Occupied(_))), "{name}");
        }
        for name in ["tree", "a/b/bare"] {
            assert!(matches!(Git::init(&at(name), &[]), Err(GitError::Present(_))), "{name}");
        }
        fs::write(at("a/b/bare/HEAD"), "0123456789012345678901234567890123456789\n").unwrap();
        assert!(matches!(Git::open(&at("a/b/bare")), Err(GitError::Detached(_))));
    }

    #[test]
    fn finds_and_walks_in_order() {
        let fixture = Fixture::new();
        let git = fixture.open();
        let files = ["a-b", "a/1", "a/b/2", "a/b/3", "a/c", "b"];
        let head = fixture.commit(&git, &files.map(|path| (path, path)));
        assert_eq!(paths(&git, &head, ""), files);
        assert_eq!(paths(&git, &head, "a/b"), ["a/b/2", "a/b/3"]);
        assert_eq!(paths(&git, &head, "a/1"), ["a/1"]);
        assert_eq!(paths(&git, &head, "b"), ["b"]);
        for nothing in ["c", "a/b/", "/a", "a/b/2/x", "a//b"] {
            assert!(paths(&git, &head, nothing).is_empty(), "{nothing}");
        }
        let entry = git.find(&head, b"a/b/3").unwrap().unwrap();
        assert_eq!(git.read_blob(&entry.id).unwrap(), b"a/b/3");
        assert_eq!(git.find(&head, b"a/b").unwrap().unwrap().mode, Mode::Directory);
        assert_eq!(git.read_tree(&git.read_commit(&head).unwrap().tree).unwrap().entries().len(), 3);
    }

    #[test]
    fn a_walk_reads_a_tree_when_it_comes_to_it() {
        let fixture = Fixture::new();
        let head = fixture.commit(&fixture.open(), &[("a/1", "x"), ("b/1", "y"), ("c/1", "z")]);
        let git = fixture.open();
        let before = git.trees_read();
        let mut walk = git.walk(&head, b"").unwrap();
        walk.next().unwrap().unwrap();
        assert_eq!(git.trees_read() - before, 2);
        assert_eq!(walk.count(), 2);
        assert_eq!(git.trees_read() - before, 4);
        assert_eq!(git.walk(&head, b"").unwrap().count(), 3);
        assert_eq!(git.trees_read() - before, 4, "they are kept");
    }

    #[test]
    fn the_file_of_a_damaged_reference_is_named_as_it_is_written() {
        let fixture = Fixture::new();
        let git = fixture.open();
        fixture.commit(&git, &[("a", "1")]);
        let file = fixture.path().join("refs/heads/main");
        fs::write(&file, "").unwrap();
        let fault = git.head().unwrap_err().to_string();
        assert!(fault.starts_with(&format!("{} is damaged", file.display())), "{fault}");
    }

    #[test]
    fn says_what_is_missing_or_of_another_kind() {
        let fixture = Fixture::new();
        let git = fixture.open();
        let head = fixture.commit(&git, &[("a", "x")]);
        let nowhere = ObjectId::from_bytes([9; 20]);
        assert!(matches!(git.read_blob(&nowhere), Err(GitError::Missing(id)) if id == nowhere));
        assert!(matches!(git.read_blob(&head), Err(GitError::Kind { found: "commit", .. })));
        assert!(matches!(git.blob_size(&head), Err(GitError::Kind { .. })));
        assert!(matches!(git.read_tree(&head), Err(GitError::Kind { .. })));
        let blob = git.find(&head, b"a").unwrap().unwrap().id;
        assert!(matches!(git.find(&blob, b"a"), Err(GitError::Kind { .. })));
    }

    #[test]
    fn reads_what_git_wrote_loose_or_as_deltas() {
        let fixture = Fixture::new();
        let git = fixture.open();
        let text: String = (0..4000).map(|line| format!("line {line}\n")).collect();
        let head = fixture.commit(&git, &[("one", &text), ("two", &format!("{text}more"))]);
        let id = |name: &[u8]| git.find(&head, name).unwrap().unwrap().id;
        let (one, two) = (id(b"one"), id(b"two"));
        let packs: Vec<_> =
            fs::read_dir(git.pack_dir()).unwrap().map(|entry| entry.unwrap().path()).collect();
        fixture.run(&["-c", "pack.window=10", "repack", "-adf", "--pack-kept-objects"]);
        for path in packs {
            let _ = fs::remove_file(path);
        }
        assert!(
            fixture
                .run(&["cat-file", "--batch-all-objects", "--batch-check=%(deltabase)"])
                .lines()
                .any(|base| base.bytes().any(|digit| digit != b'0'))
        );
        for git in [&git, &fixture.open()] {
            assert_eq!(git.read_blob(&one).unwrap(), text.as_bytes());
            assert_eq!(git.read_blob(&two).unwrap(), format!("{text}more").as_bytes());
            assert_eq!(git.blob_size(&two).unwrap(), text.len() as u64 + 4);
            assert_eq!(git.read_blob_range(&two, text.len() as u64, 100).unwrap(), b"more");
            assert_eq!(git.read_blob_range(&one, u64::MAX, 1).unwrap(), b"");
        }
        let loose = fixture.run(&["hash-object", "-w", "-t", "blob", "HEAD"]).trim().parse().unwrap();
        assert_eq!(git.read_blob(&loose).unwrap(), fs::read(fixture.path().join("HEAD")).unwrap());
    }

    #[test]
    fn sees_what_another_process_committed() {
        let fixture = Fixture::new();
        let (git, other) = (fixture.open(), fixture.open());
        let head = fixture.commit(&other, &[("a", "x")]);
        assert_eq!(git.head().unwrap(), Some(head));
        assert_eq!(paths(&git, &head, ""), ["a"]);
    }
}
