//! S3 and WebDAV, through OpenDAL.
//!
//! OpenDAL speaks the protocols and signs. What is done here:
//!
//! - Paths get the root of the store here, and lose it here, because OpenDAL's own way to do that panics
//!   when a server lists a name from elsewhere.
//! - WebDAV has no atomic put: an object is put under a name that ends in `.tmp` and moved. What a killed process
//!   leaves there is removed by a later write into the same directory, once it is a day older than that by
//!   the server's clock (see [`sweep`](super::sweep)).
//! - S3 puts are atomic, and larger ones go in parts, several at once. The parts of a killed process are no objects,
//!   and no listing has them: rules of the bucket remove them.
//! - Each wait has a limit, on the answer and on each further piece of a body, so that a large object may
//!   take long but a silent server may not.
//! - A status that every service should treat alike (401, 429, 5xx, a redirect, a range answered with the whole)
//!   becomes an error at the transport.
//! - OpenDAL collects every body but that of an object, and asks for page after page of a listing. So the transport
//!   bounds the bodies, and ends a listing whose pages bring nothing new.

use std::collections::HashSet;
use std::future::{Future, ready};
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use futures_util::{StreamExt, TryStreamExt, stream};
use http::header::{LOCATION, RANGE};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use opendal::{
    Buffer, Entry as Listed, Error, ErrorKind, HttpBody, HttpTransport, HttpTransporter, Lister, Metadata,
    Operator, services,
};
use opendal_http_transport_reqwest::ReqwestTransport;
use tokio::runtime::Runtime;

use super::backend::{
    Backend, Content, Entries, Entry, Extent, Kind, find_foreign, go_on, is_marker, pretended,
};
use super::error::Reason;
use super::listing::{Walk, inside};
use super::name::{MARKER, is_file_of_store};
use super::net::{self, SLOWEST, client, runtime, shorten};
use super::sweep::{Swept, beside, dead};
use super::url::{Credentials, S3, WebDav};
use crate::url::Url;

const PIECE: usize = 16 << 20;
const PIECES_AT_ONCE: usize = 4;
/// The most bytes of an answer that is no object: the longest is a directory of WebDAV with all that is in it.
const ANSWER: u64 = 32 << 20;
/// How much of what a server says of an error is read.
const ERROR: usize = 16 << 10;
/// How many pages without an object a listing may have.
const EMPTY_PAGES: u64 = 1000;
/// The parameter by which S3 is asked for a further page.
const TOKEN: &str = "continuation-token=";
/// Where AWS says to anybody in which region a bucket is.
const AWS: &str = "https://s3.amazonaws.com";

#[derive(Clone, Copy, PartialEq, Eq)]
enum Protocol {
    S3,
    WebDav,
}

pub(super) struct Objects {
    runtime: Runtime,
    operator: Operator,
    /// The same, of which WebDAV moves replace nothing.
    sparing: Operator,
    transport: ReqwestTransport,
    protocol: Protocol,
    root: String,
    timeout: Duration,
    /// Whether the server was seen to keep to the condition of a put.
    keeps_conditions: AtomicBool,
    swept: Swept,
}

impl Objects {
    pub fn s3(place: &S3, timeout: Duration) -> Result<Self, Reason> {
        let runtime = runtime()?;
        let mut builder = services::S3::default().bucket(&place.bucket);
        if let Some(endpoint) = &place.endpoint {
            builder = builder.endpoint(endpoint);
        }
        match &place.region {
            Some(region) => builder = builder.region(region),
            None if is_set(&["AWS_REGION", "AWS_DEFAULT_REGION"]) => {}
            // Servers that stand in for AWS take any.
            None if is_set(&["AWS_ENDPOINT_URL", "AWS_ENDPOINT", "AWS_S3_ENDPOINT"]) => {
                builder = builder.region("us-east-1");
            }
            None => builder = builder.region(&runtime.block_on(region_of(AWS, &place.bucket, timeout))?),
        }
        if place.virtual_host {
            builder = builder.enable_virtual_host_style();
        }
        builder = match &place.credentials {
            Credentials::Environment => builder,
            Credentials::Profile(profile) => builder.profile(profile),
            Credentials::Key { id, secret } => {
                builder.access_key_id(id).secret_access_key(secret).disable_config_load()
            }
        };
        let operator = Operator::new(builder).map_err(reason)?;
        Self::new(runtime, operator, Protocol::S3, &place.path, timeout)
    }

    pub fn webdav(place: &WebDav, timeout: Duration) -> Result<Self, Reason> {
        let mut builder = services::Webdav::default().endpoint(&place.endpoint).disable_create_dir(true);
        if let Some(user) = &place.user {
            builder = builder.username(user).password(place.password.as_deref().unwrap_or_default());
        }
        let operator = Operator::new(builder).map_err(reason)?;
        Self::new(runtime()?, operator, Protocol::WebDav, &place.path, timeout)
    }

    fn new(
        runtime: Runtime,
        operator: Operator,
        protocol: Protocol,
        root: &str,
        timeout: Duration,
    ) -> Result<Self, Reason> {
        let client = client().connect_timeout(timeout).build().map_err(Reason::permanent)?;
        let inner = ReqwestTransport::new(client);
        let with_transport =
            |replaces| with(&operator, Transport { inner: inner.clone(), replaces, pages: None });
        let root = root.split('/').filter(|part| !part.is_empty()).collect::<Vec<_>>().join("/");
        if root.split('/').any(|part| matches!(part, "." | "..")) {
            return Err(Reason::permanent(
                "a path with . or .. cannot be the root of a store; write it without",
            ));
        }
        let (operator, sparing) = (with_transport(true), with_transport(false));
        Ok(Self {
            runtime,
            operator,
            sparing,
            transport: inner,
            protocol,
            root,
            timeout,
            keeps_conditions: AtomicBool::new(false),
            swept: Swept::default(),
        })
    }

    /// The path of an object for the server.
    fn full(&self, path: &str) -> String {
        if self.root.is_empty() { path.into() } else { format!("{}/{path}", self.root) }
    }

    /// The path of a directory for the server; the root of the store when `path` is empty.
    fn directory(&self, path: &str) -> String {
        match (self.root.as_str(), path) {
            ("", "") => "/".into(),
            (root, "") => format!("{root}/"),
            _ => format!("{}/", self.full(path)),
        }
    }

    /// What the server listed, relative to the root of the store.
    fn entry(&self, listed: Listed) -> Result<Entry, Reason> {
        let path = match self.root.as_str() {
            "" => Some(listed.path()),
            root => listed.path().strip_prefix(root).and_then(|path| path.strip_prefix('/')),
        };
        let Some(path) = path else {
            let path = listed.path();
            return Err(Reason::permanent(format!("the server listed {path:?}, which lies elsewhere")));
        };
        let metadata = listed.metadata();
        Ok(Entry {
            path: path.into(),
            size: metadata.content_length(),
            modified: metadata.last_modified().map(SystemTime::from),
        })
    }

    fn wait<T>(&self, future: impl Future<Output = Result<T, Error>>) -> Result<T, Reason> {
        self.runtime.block_on(within(self.timeout, future))
    }

    /// As [`wait`](Self::wait), for a request that sends `bytes`.
    async fn sending<T>(
        &self,
        bytes: u64,
        future: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, Reason> {
        within(self.timeout.saturating_add(Duration::from_secs(bytes / SLOWEST)), future).await
    }

    async fn read(&self, path: &str, range: Option<Range<u64>>, limit: u64) -> Result<Vec<u8>, Reason> {
        let reader = within(self.timeout, self.operator.reader(path)).await?;
        let mut stream = match range {
            Some(range) => within(self.timeout, reader.into_stream(range)).await?,
            None => within(self.timeout, reader.into_stream(..)).await?,
        };
        let mut bytes = Vec::new();
        while let Some(piece) = within(self.timeout, stream.try_next()).await? {
            if (bytes.len() as u64).saturating_add(piece.len() as u64) > limit {
                return Err(Reason::TooLarge { limit });
            }
            for part in piece {
                bytes.extend_from_slice(&part);
            }
        }
        Ok(bytes)
    }

    async fn write(&self, path: &str, content: &Content<'_>, new: bool) -> Result<(), Reason> {
        let mut writer = within(
            self.timeout,
            self.operator.writer_with(path).chunk(PIECE).concurrent(PIECES_AT_ONCE).if_not_exists(new),
        )
        .await?;
        let unsent = (PIECE * PIECES_AT_ONCE) as u64;
        let sent = async {
            for piece in content.pieces(PIECE) {
                self.sending(unsent, writer.write(piece?)).await?;
            }
            self.sending(unsent, writer.close()).await
        }
        .await;
        match sent {
            Ok(_) => Ok(()),
            Err(reason) => {
                // Parts that nobody completes would be kept, and paid for.
                let _ = within(self.timeout, writer.abort()).await;
                Err(reason)
            }
        }
    }

    /// Puts the object under a name of nobody, then moves it.
    async fn put_and_move(&self, path: &str, content: &Content<'_>, new: bool) -> Result<(), Reason> {
        let replaces = !new && self.look(path).await?.is_some();
        let temporary = beside(path, replaces)?;
        let pieces = content.pieces(PIECE).map(|piece| piece.map(Buffer::from));
        let body: Buffer = pieces.collect::<Result<Vec<_>, _>>()?.into_iter().flatten().collect();
        let size = content.size();
        let stored = async {
            match self.sending(size, self.operator.write(&temporary, body.clone())).await {
                // The directory may be missing, for which servers have several codes.
                Err(reason) if !reason.is_temporary() => {
                    let directory = path.rsplit_once('/').map_or("", |(directory, _)| directory);
                    within(self.timeout, self.operator.create_dir(&format!("{directory}/"))).await?;
                    self.sending(size, self.operator.write(&temporary, body)).await?;
                }
                result => drop(result?),
            }
            self.move_and_look(&temporary, path, size, new).await.map_err(|reason| match reason {
                // It was put a moment ago.
                Reason::NotFound => pretended("put"),
                reason => reason,
            })
        }
        .await;
        // A server that does not answer will not answer this, either.
        if stored.as_ref().is_err_and(|reason| !matches!(reason, Reason::TimedOut(_))) {
            let _ = within(self.timeout, self.operator.delete(&temporary)).await;
        }
        stored
    }

    /// Removes what killed processes left in a directory on WebDAV, of which `path` was just written.
    fn sweep(&self, path: &str) {
        let Some(directory) = self.swept.next(path) else { return };
        // What cannot be listed or removed is left to others.
        let Ok((files, _)) = self.read_directory(directory) else { return };
        for left in dead(&files, path) {
            tracing::debug!(path = left, "removing what a killed process left");
            let _ = self.wait(self.operator.delete(&self.full(left)));
        }
    }

    /// Moves a file of `size` bytes on WebDAV, and looks that it is moved. With `new` the server is told to replace
    /// nothing.
    async fn move_and_look(&self, from: &str, to: &str, size: u64, new: bool) -> Result<(), Reason> {
        let operator = if new { &self.sparing } else { &self.operator };
        within(self.timeout, operator.rename(from, to)).await?;
        match (self.look(from).await?, self.look(to).await?) {
            (None, Some(held)) if held.content_length() == size => Ok(()),
            _ => Err(pretended("move")),
        }
    }

    /// Copies a file on S3, looks that the copy is there, and removes the original.
    async fn copy_and_delete(&self, from: &str, to: &str) -> Result<(), Reason> {
        let source = self.look(from).await?.ok_or(Reason::NotFound)?;
        let before = self.look(to).await?;
        self.sending(source.content_length(), self.operator.copy(from, to)).await?;
        let copy = self.look(to).await?.ok_or_else(|| pretended("copy"))?;
        // What was there before may have the same size.
        let is_older = before.is_some_and(|before| {
            before.etag() == copy.etag() && before.last_modified() == copy.last_modified()
        });
        if copy.content_length() != source.content_length() || is_older && copy.etag() != source.etag() {
            return Err(pretended("copy"));
        }
        within(self.timeout, self.operator.delete(from)).await
    }

    /// The file at a path of the server, or `None` when the server says that there is none.
    async fn look(&self, path: &str) -> Result<Option<Metadata>, Reason> {
        match within(self.timeout, self.operator.stat(path)).await {
            Ok(metadata) => Ok(Some(metadata).filter(Metadata::is_file)),
            Err(Reason::NotFound) => Ok(None),
            Err(reason) => Err(reason),
        }
    }

    fn stat(&self, path: &str) -> Result<Entry, Reason> {
        let metadata = self.runtime.block_on(self.look(&self.full(path)))?.ok_or(Reason::NotFound)?;
        let modified = metadata.last_modified().map(SystemTime::from);
        Ok(Entry { path: path.into(), size: metadata.content_length(), modified })
    }

    fn expect_free(&self, path: &str) -> Result<(), Reason> {
        match self.runtime.block_on(self.look(&self.full(path)))? {
            None => Ok(()),
            Some(_) => Err(Reason::Exists),
        }
    }

    /// All keys below a directory.
    fn keys(&self, directory: &str) -> Keys<'_> {
        Keys {
            objects: self,
            directory: self.directory(directory),
            lister: None,
            last: None,
            pages: Arc::default(),
            extent: Extent::listing(),
        }
    }

    /// The operator for one listing.
    fn listing(&self, pages: &Arc<Pages>) -> Operator {
        let (inner, pages) = (self.transport.clone(), Some(pages.clone()));
        with(&self.operator, Transport { inner, replaces: true, pages })
    }

    /// What is at the root of the store, a few things at a time. On WebDAV the first is the directory itself.
    async fn top(&self) -> Result<Lister, Error> {
        self.listing(&Arc::default()).lister_with(&self.directory("")).limit(3).await
    }

    fn read_directory(&self, path: &str) -> Result<(Vec<Entry>, Vec<String>), Reason> {
        let directory = self.directory(path);
        let listed = self.wait(self.operator.list_with(&directory).into_future())?;
        if listed.is_empty() {
            // Nothing, not even the directory itself: that is well only as long as the store is there.
            self.check()?;
        }
        let (mut files, mut directories) = (Vec::new(), Vec::new());
        for listed in listed {
            if listed.path() == directory {
                continue;
            }
            let is_directory = listed.metadata().is_dir();
            let entry = self.entry(listed)?;
            let name = inside(&entry.path, path).unwrap_or_default();
            if !is_directory {
                files.push(entry);
            } else if matches!(name.split_once('/'), Some((name, "")) if !name.is_empty()) {
                // Only a real child: so no answer can lead back up, and the walk ends.
                directories.push(entry.path.trim_end_matches('/').to_owned());
            }
        }
        Ok((files, directories))
    }
}

impl Backend for Objects {
    fn create(&self) -> Result<(), Reason> {
        let root = self.directory("");
        let is_nothing = |listed: &Listed| {
            listed.path() == root
                || listed.path().strip_prefix(root.trim_start_matches('/')).is_some_and(is_marker)
        };
        let mut is_listed = false;
        let something = self.wait(async {
            let top = self.top().await?.inspect_ok(|_| is_listed = true);
            top.try_filter(|listed| ready(!is_nothing(listed))).try_next().await
        })?;
        if something.is_some() {
            return Err(Reason::NotEmpty);
        }
        match self.protocol {
            Protocol::WebDav if !is_listed => self.wait(self.operator.create_dir(&root)),
            _ => Ok(()),
        }
    }

    fn check(&self) -> Result<(), Reason> {
        // An object store has no directories: a store without objects is there when the bucket is.
        let first = self.wait(async { self.top().await?.try_next().await })?;
        match first.is_none() && self.protocol == Protocol::WebDav {
            true => Err(Reason::NoStore),
            false => Ok(()),
        }
    }

    fn destroy(&self) -> Result<(), Reason> {
        self.check()?;
        let root = self.directory("");
        match self.protocol {
            Protocol::S3 => {
                let mut deleter = self.wait(self.operator.deleter())?;
                for entry in self.keys("") {
                    let path = entry?.path;
                    if path != MARKER {
                        // Keys are removed many at once, and each request has its own time.
                        self.wait(deleter.delete(self.full(&path)))?;
                    }
                }
                self.wait(deleter.close())?;
                self.wait(self.operator.delete(&self.full(MARKER)))
            }
            Protocol::WebDav => {
                for directory in self.read_directory("")?.1 {
                    self.wait(self.operator.delete(&self.directory(&directory)))?;
                }
                self.wait(self.operator.delete(&root))
            }
        }
    }

    fn foreign(&self) -> Result<Option<String>, Reason> {
        match self.protocol {
            Protocol::S3 => {
                for entry in self.keys("") {
                    let path = entry?.path;
                    if !is_file_of_store(&path) {
                        return Ok(Some(path));
                    }
                }
                Ok(None)
            }
            Protocol::WebDav => find_foreign(|directory| {
                let (files, directories) = self.read_directory(directory)?;
                let files = files.into_iter().map(|entry| (entry.path, Kind::File));
                Ok(files.chain(directories.into_iter().map(|path| (path, Kind::Directory))).collect())
            }),
        }
    }

    fn list<'a>(&'a self, directory: &str) -> Entries<'a> {
        match self.protocol {
            Protocol::S3 => Box::new(self.keys(directory)),
            Protocol::WebDav => Box::new(Walk::new(directory, |path: &str| self.read_directory(path))),
        }
    }

    fn load(&self, path: &str, range: Option<Range<u64>>, limit: u64) -> Result<Vec<u8>, Reason> {
        let full = self.full(path);
        let Some(range) = range else {
            return self.runtime.block_on(self.read(&full, None, limit));
        };
        let (offset, size) = (range.start, range.end.saturating_sub(range.start));
        let out_of_range = Reason::OutOfRange { offset, size };
        match self.runtime.block_on(self.read(&full, Some(range.clone()), size)) {
            Ok(bytes) if bytes.len() as u64 == size => Ok(bytes),
            Ok(_) => Err(out_of_range),
            // Servers differ in how they refuse a range that begins behind the end.
            Err(Reason::Failed { temporary: false, .. }) if self.stat(path)?.size < range.end => {
                Err(out_of_range)
            }
            Err(reason) => Err(reason),
        }
    }

    fn store(&self, path: &str, content: &Content<'_>, new: bool) -> Result<(), Reason> {
        match self.protocol {
            Protocol::S3 => {
                // There are servers that ignore the condition.
                if new && !self.keeps_conditions.load(Relaxed) {
                    self.expect_free(path)?;
                }
                self.runtime.block_on(self.write(&self.full(path), content, new))
            }
            Protocol::WebDav => {
                if new {
                    self.expect_free(path)?;
                }
                self.runtime.block_on(self.put_and_move(&self.full(path), content, new))?;
                self.sweep(path);
                Ok(())
            }
        }
    }

    fn info(&self, path: &str) -> Result<Entry, Reason> {
        self.stat(path)
    }

    fn delete(&self, path: &str) -> Result<(), Reason> {
        // To delete what is not there succeeds on the server.
        self.stat(path)?;
        self.wait(self.operator.delete(&self.full(path)))
    }

    fn rename(&self, path: &str, to: &str, new: bool) -> Result<(), Reason> {
        let (from, to) = (self.full(path), self.full(to));
        match self.protocol {
            Protocol::S3 => self.runtime.block_on(self.copy_and_delete(&from, &to)),
            Protocol::WebDav => {
                let size = self.stat(path)?.size;
                self.runtime.block_on(self.move_and_look(&from, &to, size, new))
            }
        }
    }

    fn is_exclusive(&self, path: &str) -> Result<bool, Reason> {
        if self.protocol != Protocol::S3 {
            return Ok(false);
        }
        let put = |bytes| self.runtime.block_on(self.write(&self.full(path), &Content::Bytes(bytes), true));
        put(b"first")?;
        let second = put(b"second");
        self.delete(path)?;
        let keeps = match second {
            Ok(()) => false,
            Err(Reason::Exists) => true,
            Err(reason) => return Err(reason),
        };
        self.keeps_conditions.store(keeps, Relaxed);
        Ok(keeps)
    }
}

/// All keys below a directory, in the order of S3, which lets a broken listing go on behind the last key.
struct Keys<'a> {
    objects: &'a Objects,
    directory: String,
    lister: Option<Lister>,
    last: Option<String>,
    pages: Arc<Pages>,
    extent: Extent,
}

impl Keys<'_> {
    fn step(&mut self) -> Result<Option<Entry>, Reason> {
        let objects = self.objects;
        loop {
            let lister = match &mut self.lister {
                Some(lister) => lister,
                none => {
                    let operator = objects.listing(&self.pages);
                    let mut listing = operator.lister_with(&self.directory).recursive(true);
                    if let Some(last) = &self.last {
                        listing = listing.start_after(last);
                    }
                    none.insert(objects.wait(listing.into_future())?)
                }
            };
            let Some(listed) = objects.wait(lister.try_next())? else {
                return Ok(None);
            };
            self.extent.add(listed.path())?;
            self.pages.listed.fetch_add(1, Relaxed);
            self.last = Some(listed.path().to_owned());
            if listed.metadata().is_file() {
                return objects.entry(listed).map(Some);
            }
        }
    }
}

impl Iterator for Keys<'_> {
    type Item = Result<Entry, Reason>;

    fn next(&mut self) -> Option<Self::Item> {
        let step = self.step();
        if step.is_err() {
            self.lister = None;
            self.pages.begin_again();
        }
        step.transpose()
    }
}

/// Whether one of the variables has a value.
fn is_set(variables: &[&str]) -> bool {
    variables.iter().any(|name| std::env::var_os(name).is_some_and(|value| !value.is_empty()))
}

/// The region of a bucket. AWS names it in the answer to whoever asks for the bucket, also where it refuses.
async fn region_of(endpoint: &str, bucket: &str, timeout: Duration) -> Result<String, Reason> {
    const WAYS_OUT: &str = "add ?region=NAME to the URL, or set AWS_REGION";
    let client = client().connect_timeout(timeout).redirect(reqwest::redirect::Policy::none()).build();
    let request = client.map_err(Reason::permanent)?.head(format!("{endpoint}/{bucket}")).send();
    let response = net::within(timeout, request).await?.map_err(|error| {
        let text = format!("the region of the bucket cannot be asked for: {error}; {WAYS_OUT}");
        Reason::permanent(text)
    })?;
    let region = response.headers().get("x-amz-bucket-region").and_then(|region| region.to_str().ok());
    region.map(str::to_owned).ok_or_else(|| {
        let text = format!("AWS knows no region of the bucket {bucket:?}; check its name, or {WAYS_OUT}");
        Reason::permanent(text)
    })
}

/// Waits for an answer, but not for longer than `limit`.
async fn within<T>(limit: Duration, future: impl IntoFuture<Output = Result<T, Error>>) -> Result<T, Reason> {
    net::within(limit, future.into_future()).await?.map_err(reason)
}

/// What an error of OpenDAL means, in few words and with its causes: its own text repeats them, and all headers.
fn reason(error: Error) -> Reason {
    match error.kind() {
        ErrorKind::NotFound => return Reason::NotFound,
        ErrorKind::ConditionNotMatch | ErrorKind::AlreadyExists => return Reason::Exists,
        ErrorKind::ConfigInvalid if error.message().contains("NoSuchBucket") => return Reason::NoStore,
        _ => {}
    }
    let mut text = match error.message().trim() {
        "" => error.kind().to_string(),
        message => shorten(message),
    };
    let mut cause = std::error::Error::source(&error);
    while let Some(inner) = cause {
        text = format!("{text}: {inner}");
        cause = inner.source();
    }
    let (denied, temporary) = (error.kind() == ErrorKind::PermissionDenied, error.is_temporary());
    // OpenDAL would ask again. A body that breaks off is another error.
    if error.message() == "deserialize xml" {
        let text = format!("the answer cannot be read; check that the URL is that of such a server ({text})");
        return Reason::permanent(text);
    }
    match denied {
        true => Reason::Denied(text.into()),
        false => Reason::Failed { temporary, source: text.into() },
    }
}

fn with(operator: &Operator, transport: Transport) -> Operator {
    let context = operator.context().with_http_transport(HttpTransporter::new(transport));
    operator.clone().with_context(context)
}

/// The pages of one listing.
#[derive(Default)]
struct Pages {
    asked: AtomicU64,
    /// How many entries they had.
    listed: AtomicU64,
    tokens: Mutex<HashSet<[u8; 32]>>,
}

impl Pages {
    /// The listing begins again behind the last key.
    fn begin_again(&self) {
        self.tokens.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// That one more page may be asked for, if `query` does so.
    fn expect_progress(&self, query: &str) -> Result<(), Reason> {
        go_on()?;
        let Some(token) = query.split('&').find_map(|parameter| parameter.strip_prefix(TOKEN)) else {
            return Ok(());
        };
        let mut tokens = self.tokens.lock().unwrap_or_else(PoisonError::into_inner);
        let is_new = tokens.insert(*blake3::hash(token.as_bytes()).as_bytes());
        let asked = self.asked.fetch_add(1, Relaxed);
        if is_new && asked < self.listed.load(Relaxed) + EMPTY_PAGES {
            return Ok(());
        }
        Err(Reason::permanent(
            "the server gives page after page without anything new; the listing has no end",
        ))
    }
}

/// The connections, with the errors that every service should see alike.
struct Transport {
    inner: ReqwestTransport,
    /// Whether a move of WebDAV replaces what is there. OpenDAL always says so.
    replaces: bool,
    /// Those of the listing for which this is used.
    pages: Option<Arc<Pages>>,
}

impl HttpTransport for Transport {
    async fn fetch(&self, mut request: Request<Buffer>) -> opendal::Result<Response<HttpBody>> {
        let ranged = request.headers().contains_key(RANGE);
        let query = request.uri().query();
        // Its pieces are passed on as they come, and counted there.
        let is_object = request.method() == Method::GET && query.is_none();
        if let Some(pages) = &self.pages {
            pages
                .expect_progress(query.unwrap_or_default())
                .map_err(|reason| Error::new(ErrorKind::Unexpected, reason.to_string()))?;
        }
        if !self.replaces && request.method().as_str() == "MOVE" {
            // RFC 4918, 10.6.
            request.headers_mut().insert("Overwrite", HeaderValue::from_static("F"));
        }
        let asked = request.uri().path().to_owned();
        let response = self.inner.fetch(request).await?;
        let status = response.status();
        let (kind, temporary) = match status {
            StatusCode::OK if ranged => {
                let text = "the server answers a range with the whole object; it cannot be used for a store";
                return Err(Error::new(ErrorKind::Unsupported, text));
            }
            _ if status.is_success() && is_object => return Ok(response),
            _ if status.is_success() => return Ok(response.map(bounded)),
            StatusCode::UNAUTHORIZED => (ErrorKind::PermissionDenied, false),
            StatusCode::TOO_MANY_REQUESTS => (ErrorKind::RateLimited, true),
            StatusCode::NOT_IMPLEMENTED => (ErrorKind::Unsupported, false),
            _ if status.is_redirection() && status != StatusCode::NOT_MODIFIED => {
                return Err(redirected(&asked, &response));
            }
            _ if status.is_server_error() => (ErrorKind::Unexpected, true),
            _ => {
                let (parts, body) = response.into_parts();
                let body = HttpBody::new(stream::iter([beginning(body).await]), None);
                return Ok(Response::from_parts(parts, body));
            }
        };
        // The body may say more, but it is an error without it, too.
        let body = beginning(response.into_body()).await.unwrap_or_default();
        let said = String::from_utf8_lossy(&body.to_vec()).into_owned();
        let error =
            Error::new(kind, format!("HTTP status {status} {}", shorten(said.trim())).trim_end().to_owned());
        Err(if temporary { error.set_temporary() } else { error })
    }
}

/// The body of an answer that is no object.
fn bounded(body: HttpBody) -> HttpBody {
    let mut left = ANSWER;
    body.map_inner(|pieces| {
        Box::new(pieces.map(move |piece| {
            let piece = piece?;
            left = left.checked_sub(piece.len() as u64).ok_or_else(|| {
                let text = format!(
                    "the answer has more than {ANSWER} bytes; check that the URL is that of such a server, or let objects lie at \
                     deeper levels"
                );
                Error::new(ErrorKind::Unexpected, text)
            })?;
            Ok(piece)
        }))
    })
}

/// What a server says first of an error; the rest is not read.
async fn beginning(body: HttpBody) -> opendal::Result<Buffer> {
    let mut pieces = None;
    body.map_inner(|inner| {
        pieces = Some(inner);
        Box::new(stream::empty())
    });
    let mut said = Vec::new();
    if let Some(mut pieces) = pieces {
        while said.len() < ERROR
            && let Some(piece) = pieces.try_next().await?
        {
            said.extend_from_slice(&piece.to_bytes());
        }
    }
    said.truncate(ERROR);
    Ok(Buffer::from(said))
}

/// The error for an answer that sends us elsewhere: who answers there need not be whom the person named.
fn redirected(asked: &str, response: &Response<HttpBody>) -> Error {
    let to = response.headers().get(LOCATION).map(|to| String::from_utf8_lossy(to.as_bytes()).into_owned());
    let path = to
        .as_deref()
        .map(|to| to.split_once("://").map_or(to, |(_, rest)| &rest[rest.find('/').unwrap_or(0)..]));
    if path.and_then(|path| path.strip_prefix(asked)) == Some("/") {
        // A directory, and no object.
        return Error::new(ErrorKind::NotFound, "a directory");
    }
    let text = format!(
        "the server answers with HTTP status {}, a redirect to {}, which is not followed; if that is the right place, give its \
         URL",
        response.status(),
        shorten(&to.map_or_else(|| "nowhere".into(), |to| Url::from(to.as_str()).to_string()))
    );
    Error::new(ErrorKind::Unsupported, text)
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpListener;

    use super::*;

    /// What comes of asking a server with that answer for the region of a bucket.
    fn region(answer: &'static str) -> Result<String, Reason> {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let server = std::thread::spawn(move || {
            let (mut socket, _) = listener.accept().unwrap();
            let mut request = Vec::new();
            while !request.ends_with(b"\r\n\r\n") {
                let mut byte = [0];
                socket.read_exact(&mut byte).unwrap();
                request.extend_from_slice(&byte);
            }
            socket.write_all(answer.as_bytes()).unwrap();
            String::from_utf8(request).unwrap()
        });
        let limit = Duration::from_secs(20);
        let region = runtime().unwrap().block_on(region_of(&endpoint, "bucket", limit));
        assert!(server.join().unwrap().starts_with("HEAD /bucket "));
        region
    }

    #[test]
    fn a_bucket_tells_its_region_also_to_strangers() {
        for status in ["200 OK", "301 Moved Permanently\r\nlocation: http://127.0.0.1:1/", "403 Forbidden"] {
            let answer =
                format!("HTTP/1.1 {status}\r\nx-amz-bucket-region: eu-north-1\r\ncontent-length: 0\r\n\r\n");
            assert_eq!(region(answer.leak()).unwrap(), "eu-north-1");
        }
        let text = region("HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n").unwrap_err().to_string();
        assert!(text.contains("bucket") && text.contains("AWS_REGION"), "{text}");
    }
}
