//! Whatever the program `rclone` reaches, through `rclone rcd`, its remote control, on loopback.
//!
//! The control makes single objects appear, move and go without a file system in between: `rclone serve
//! webdav` keeps directories in memory, so that it is either slow or does not see what others change.
//!
//! The server has a random password, given in its environment (a command line could be read by other
//! users), and a port of its own choice. It is started at the first operation that needs it, and again
//! when it has died.
//!
//! A remote made of buckets takes an object whole or not at all. On others it is put under a name that
//! ends in `.tmp` and moved, and rclone removes what it replaces just before. What a killed process leaves there is
//! removed by a later write into the same directory, once the remote has it a day older than that (see
//! [`sweep`](super::sweep)). rclone makes `.partial` files of its own when it copies, which it does here only on a
//! remote that cannot take an upload whose length it does not know; they stay.

use std::ffi::OsString;
use std::net::{Ipv4Addr, TcpStream};
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use futures_util::stream;
use http::StatusCode;
use http::header::{CONTENT_LENGTH, CONTENT_TYPE, RANGE};
use reqwest::{Body, Client, RequestBuilder, Response, Url};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::runtime::Runtime;

use super::backend::{
    Backend, Content, Entries, Entry, Extent, Kind, find_foreign, is_marker, pretended, random,
};
use super::error::Reason;
use super::kept::Kept;
use super::listing::{Walk, inside};
use super::net::{self, SLOWEST, client, runtime, shorten};
use super::sweep::{Swept, beside, dead};

const USER: &str = "treering";
/// Bytes of an upload that are read at a time.
const PIECE: usize = 1 << 20;
/// The most bytes of an answer that is a listing, and of any other that is no object.
const LIST: u64 = 256 << 20;
const ANSWER: u64 = 1 << 20;

pub(super) struct Rclone {
    runtime: Runtime,
    client: Client,
    program: Vec<OsString>,
    remote: String,
    timeout: Duration,
    server: Mutex<Option<Arc<Server>>>,
    /// Whether the directory of a new store was made.
    has_made: AtomicBool,
    swept: Swept,
}

struct Server {
    endpoint: Url,
    password: String,
    features: Features,
    process: Kept,
}

/// What the remote can do.
#[derive(Deserialize, Default)]
#[serde(rename_all = "PascalCase", default)]
struct Features {
    bucket_based: bool,
    can_have_empty_directories: bool,
    list_r: bool,
}

/// The answer of `operations/fsinfo`.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Remote {
    features: Features,
}

/// The command that lists.
const LISTING: &str = "operations/list";

/// Its answer.
#[derive(Deserialize)]
struct List {
    list: Vec<Listed>,
}

/// The answer of `operations/stat`.
#[derive(Deserialize)]
struct Stat {
    item: Option<Listed>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Listed {
    path: String,
    size: i64,
    is_dir: bool,
    #[serde(default)]
    mod_time: String,
}

impl Listed {
    /// rclone's times are those that the client gave where the remote takes them, so none is told.
    fn entry(self) -> Result<Entry, Reason> {
        let size = u64::try_from(self.size).map_err(|_| {
            Reason::permanent(format!("the remote does not tell the size of {:?}", self.path))
        })?;
        Ok(Entry { path: self.path, size, modified: None })
    }
}

/// The answer to whatever fails.
#[derive(Deserialize)]
struct Refusal {
    error: String,
}

impl Rclone {
    pub fn new(remote: &str, program: &[OsString], timeout: Duration) -> Result<Self, Reason> {
        if remote.contains([']', '\0']) {
            return Err(Reason::permanent("rclone's remote control cannot name a remote with ] in it"));
        }
        // Nothing may come between us and our own child.
        let client = client().no_proxy().build().map_err(Reason::permanent)?;
        let (program, remote) = (program.to_vec(), remote.to_owned());
        let (server, has_made) = (Mutex::new(None), AtomicBool::new(false));
        let swept = Swept::default();
        Ok(Self { runtime: runtime()?, client, program, remote, timeout, server, has_made, swept })
    }

    fn slot(&self) -> MutexGuard<'_, Option<Arc<Server>>> {
        self.server.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn server(&self) -> Result<Arc<Server>, Reason> {
        let mut server = self.slot();
        match &*server {
            Some(server) => Ok(server.clone()),
            None => Ok(server.insert(Arc::new(self.start()?)).clone()),
        }
    }

    fn start(&self) -> Result<Server, Reason> {
        let password = [random()?, random()?].concat();
        let seconds = format!("{}s", self.timeout.as_secs().max(1));
        let rcd = [
            "rcd",
            "--rc-addr",
            "127.0.0.1:0",
            "--rc-serve",
            "--contimeout",
            &seconds,
            "--timeout",
            &seconds,
        ];
        let arguments: Vec<_> = self.program.iter().cloned().chain(rcd.map(OsString::from)).collect();
        let environment = [("RCLONE_RC_USER", USER), ("RCLONE_RC_PASS", &password)];
        let (process, endpoint) = Kept::start(&arguments, &environment, address_in, self.timeout)?;
        let mut server = Server { endpoint, password, features: Features::default(), process };
        let remote: Remote = self.command(&server, "operations/fsinfo", json!({ "fs": self.remote }))?;
        server.features = remote.features;
        Ok(server)
    }

    /// Lets the server work, and explains its failure with what rclone logged meanwhile. A server that is
    /// gone is forgotten, so that the next attempt starts another one.
    fn served<T>(&self, work: impl FnOnce(&Server) -> Result<T, Reason>) -> Result<T, Reason> {
        let server = self.server()?;
        let before = server.process.lines();
        work(&server).map_err(|reason| {
            let Reason::Failed { temporary, source } = reason else { return reason };
            let port = server.endpoint.port().unwrap_or_default();
            let gone = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_err();
            if gone {
                self.slot().take_if(|current| Arc::ptr_eq(current, &server));
            }
            let source = match server.process.lines() == before {
                true => source,
                false => format!("{source}; rclone: {}", server.process.said()).into(),
            };
            Reason::Failed { temporary: temporary || gone, source }
        })
    }

    /// Sends a request that may take as long as `bytes` need beside the timeout.
    async fn send(&self, server: &Server, request: RequestBuilder, bytes: u64) -> Result<Response, Reason> {
        let limit = self.timeout.saturating_add(Duration::from_secs(bytes / SLOWEST));
        let request = request.basic_auth(USER, Some(&server.password)).send();
        let response = within(limit, request).await?;
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let body = match self.body(response, ANSWER).await {
            // The status is enough.
            Err(Reason::TooLarge { .. }) => Vec::new(),
            body => body?,
        };
        let said = match serde_json::from_slice::<Refusal>(&body) {
            Ok(refusal) => shorten(&refusal.error),
            Err(_) => shorten(&format!("HTTP status {status}")),
        };
        Err(match status {
            StatusCode::NOT_FOUND => Reason::NotFound,
            // rclone says 500 to nearly everything. This cannot pass by itself.
            _ if said.contains("config file") => Reason::permanent(said),
            _ if status.is_server_error() => Reason::temporary(said),
            _ => Reason::permanent(said),
        })
    }

    fn command<T: DeserializeOwned>(
        &self,
        server: &Server,
        command: &str,
        input: Value,
    ) -> Result<T, Reason> {
        let mut url = server.endpoint.clone();
        url.set_path(command);
        let request = self.client.post(url).header(CONTENT_TYPE, "application/json").body(input.to_string());
        self.runtime.block_on(async {
            let response = self.send(server, request, 0).await?;
            let limit = if command == LISTING { LIST } else { ANSWER };
            serde_json::from_slice(&self.body(response, limit).await?).map_err(Reason::permanent)
        })
    }

    /// A command on something in the remote, whose answer does not matter.
    fn order(&self, server: &Server, command: &str, path: &str) -> Result<(), Reason> {
        self.command::<Value>(server, command, json!({ "fs": self.remote, "remote": path })).map(drop)
    }

    fn list_once(&self, server: &Server, path: &str, recurse: bool) -> Result<Vec<Listed>, Reason> {
        // The time of an object may cost a request on the remote.
        self.list_with(server, path, json!({ "recurse": recurse, "noModTime": true, "noMimeType": true }))
    }

    fn list_with(&self, server: &Server, path: &str, options: Value) -> Result<Vec<Listed>, Reason> {
        let input = json!({ "fs": self.remote, "remote": path, "opt": options });
        let list: List = self.command(server, LISTING, input)?;
        let mut held = Extent::held();
        list.list.iter().try_for_each(|listed| held.add(&listed.path))?;
        Ok(list.list)
    }

    /// Removes what killed processes left in a directory of which `path` was just written.
    fn sweep(&self, server: &Server, path: &str) {
        let Some(directory) = self.swept.next(path) else { return };
        // What cannot be listed or removed is left to others.
        let Ok(listed) = self.list_with(server, directory, json!({ "noMimeType": true })) else { return };
        let files = listed.into_iter().filter(|listed| !listed.is_dir).filter_map(|listed| {
            let modified = listed.mod_time.parse::<jiff::Timestamp>().ok().map(SystemTime::from);
            Some(Entry { modified, ..listed.entry().ok()? })
        });
        let files: Vec<_> = files.collect();
        for left in dead(&files, path) {
            tracing::debug!(path = left, "removing what a killed process left");
            let _ = self.order(server, "operations/deletefile", left);
        }
    }

    fn expect_root(&self, server: &Server) -> Result<(), Reason> {
        match self.list_once(server, "", false) {
            // Where there are no directories, a store without objects is none, and there all the same.
            Err(Reason::NotFound) if server.features.can_have_empty_directories => Err(Reason::NoStore),
            Ok(_) | Err(Reason::NotFound) => Ok(()),
            Err(reason) => Err(reason),
        }
    }

    fn read_directory(&self, server: &Server, path: &str) -> Result<(Vec<Entry>, Vec<String>), Reason> {
        let (mut files, mut directories) = (Vec::new(), Vec::new());
        // Some remotes list all that lies below as quickly as one directory.
        let mut recurse = server.features.list_r;
        let mut listed = self.list_once(server, path, recurse);
        if recurse && matches!(listed, Err(Reason::TooLarge { .. })) {
            recurse = false;
            listed = self.list_once(server, path, recurse);
        }
        let listed = match listed {
            Err(Reason::NotFound) => {
                self.expect_root(server)?;
                return Ok((files, directories));
            }
            result => result?,
        };
        for listed in listed {
            match inside(&listed.path, path) {
                None | Some("") => {
                    let path = listed.path;
                    return Err(Reason::permanent(format!("rclone listed {path:?}, which lies elsewhere")));
                }
                Some(_) if !listed.is_dir => files.push(listed.entry()?),
                Some(_) if !recurse => directories.push(listed.path),
                Some(_) => {}
            }
        }
        Ok((files, directories))
    }

    fn stat(&self, server: &Server, path: &str) -> Result<Entry, Reason> {
        let options = json!({ "noModTime": true, "noMimeType": true });
        let input = json!({ "fs": self.remote, "remote": path, "opt": options });
        match self.command::<Stat>(server, "operations/stat", input)?.item {
            Some(item) if !item.is_dir => item.entry(),
            _ => Err(Reason::NotFound),
        }
    }

    fn move_file(&self, server: &Server, from: &str, to: &str) -> Result<(), Reason> {
        let input = json!({
            "srcFs": self.remote, "srcRemote": from, "dstFs": self.remote, "dstRemote": to,
            // Else rclone leaves what is there when it has the same size and time.
            "_config": { "IgnoreTimes": true },
        });
        self.command::<Value>(server, "operations/movefile", input).map(drop)
    }

    /// Looks whether there is a file, of which rclone said so.
    fn expect_file(&self, server: &Server, path: &str, size: u64, operation: &str) -> Result<(), Reason> {
        match self.stat(server, path) {
            Ok(entry) if entry.size == size => Ok(()),
            Ok(_) | Err(Reason::NotFound) => Err(pretended(operation)),
            Err(reason) => Err(reason),
        }
    }

    /// Moves a file of `size` bytes, and looks that it is moved.
    fn move_and_look(&self, server: &Server, from: &str, to: &str, size: u64) -> Result<(), Reason> {
        self.move_file(server, from, to)?;
        match self.stat(server, from) {
            Err(Reason::NotFound) => self.expect_file(server, to, size, "move"),
            Err(reason) => Err(reason),
            Ok(_) => Err(pretended("move")),
        }
    }

    fn upload(&self, server: &Server, path: &str, content: &Content<'_>) -> Result<(), Reason> {
        let (directory, name) = path.rsplit_once('/').unwrap_or(("", path));
        let boundary = format!("treering-{}{}", random()?, random()?);
        // RFC 7578: the name is quoted, and a quote in it escaped.
        let head = format!(
            "--{boundary}\r\ncontent-disposition: form-data; name=\"file\"; filename=\"{}\"\r\n\
             content-type: application/octet-stream\r\n\r\n",
            name.replace('"', "\\\"")
        );
        let tail = format!("\r\n--{boundary}--\r\n");
        let length = content.size() + (head.len() + tail.len()) as u64;
        let mut url = server.endpoint.clone();
        url.set_path("operations/uploadfile");
        url.query_pairs_mut().append_pair("fs", &self.remote).append_pair("remote", directory);
        // The request outlives this call when it times out, so it cannot borrow.
        let (send, receive) = tokio::sync::mpsc::channel::<std::io::Result<Bytes>>(2);
        let body =
            stream::unfold(receive, async |mut receive| receive.recv().await.map(|piece| (piece, receive)));
        let request = self
            .client
            .post(url)
            .header(CONTENT_TYPE, format!("multipart/form-data; boundary={boundary}"))
            .header(CONTENT_LENGTH, length)
            .body(Body::wrap_stream(Box::pin(body)));
        self.runtime.block_on(async {
            let feed = async {
                let ends = |text: String| std::iter::once(Ok(text.into_bytes()));
                for piece in ends(head).chain(content.pieces(PIECE)).chain(ends(tail)) {
                    if send.send(piece.map(Bytes::from)).await.is_err() {
                        // The request has ended; its result says why.
                        break;
                    }
                }
                drop(send);
            };
            let (sent, ()) =
                futures_util::future::join(self.send(server, request, content.size()), feed).await;
            sent.map(drop)
        })
    }

    async fn read(
        &self,
        server: &Server,
        path: &str,
        range: Option<Range<u64>>,
        limit: u64,
    ) -> Result<Vec<u8>, Reason> {
        let mut url = server.endpoint.clone();
        url.path_segments_mut()
            .map_err(|()| Reason::permanent("the address of rclone has no path"))?
            .push(&format!("[{}]", self.remote))
            .extend(path.split('/'));
        let mut request = self.client.get(url);
        if let Some(range) = &range {
            request = request.header(RANGE, format!("bytes={}-{}", range.start, range.end.saturating_sub(1)));
        }
        let response = self.send(server, request, 0).await?;
        if range.is_some() && response.status() != StatusCode::PARTIAL_CONTENT {
            return Err(Reason::permanent("rclone answers a range with the whole object"));
        }
        self.body(response, limit).await
    }

    /// What an answer holds, which has `limit` bytes at most.
    async fn body(&self, mut response: Response, limit: u64) -> Result<Vec<u8>, Reason> {
        let mut bytes = Vec::new();
        while let Some(piece) = within(self.timeout, response.chunk()).await? {
            if (bytes.len() as u64).saturating_add(piece.len() as u64) > limit {
                return Err(Reason::TooLarge { limit });
            }
            bytes.extend_from_slice(&piece);
        }
        Ok(bytes)
    }
}

/// Waits for our child, but not for longer than `limit`. That it does not answer may pass: it is started
/// again.
async fn within<T>(limit: Duration, future: impl Future<Output = reqwest::Result<T>>) -> Result<T, Reason> {
    // The address holds the remote, which may hold a password.
    net::within(limit, future).await?.map_err(|error| Reason::temporary(error.without_url()))
}

/// The address that a line of the log says the server has.
fn address_in(line: &str) -> Option<Url> {
    let (_, rest) = line.split_once("http://127.0.0.1:")?;
    let port: u16 = rest.split(|letter: char| !letter.is_ascii_digit()).next()?.parse().ok()?;
    Url::parse(&format!("http://127.0.0.1:{port}")).ok()
}

impl Backend for Rclone {
    fn create(&self) -> Result<(), Reason> {
        self.served(|server| {
            let is_new = matches!(self.list_once(server, "", false), Err(Reason::NotFound));
            self.order(server, "operations/mkdir", "")?;
            self.has_made.fetch_or(is_new, Relaxed);
            match self.list_once(server, "", false) {
                Ok(listed) if !listed.iter().all(|listed| is_marker(&listed.path)) => Err(Reason::NotEmpty),
                _ => self.expect_root(server),
            }
        })
    }

    fn abandon(&self) {
        if self.has_made.swap(false, Relaxed) {
            // It removes what is empty only.
            let _ = self.served(|server| self.order(server, "operations/rmdir", ""));
        }
    }

    fn check(&self) -> Result<(), Reason> {
        self.served(|server| self.expect_root(server))
    }

    fn destroy(&self) -> Result<(), Reason> {
        self.served(|server| {
            self.expect_root(server)?;
            for listed in self.list_once(server, "", false).or_else(|reason| match reason {
                Reason::NotFound => Ok(Vec::new()),
                reason => Err(reason),
            })? {
                if listed.is_dir {
                    self.order(server, "operations/purge", &listed.path)?;
                }
            }
            match self.order(server, "operations/purge", "") {
                Err(Reason::NotFound) => Ok(()),
                result => result,
            }
        })
    }

    fn foreign(&self) -> Result<Option<String>, Reason> {
        find_foreign(|directory| {
            let listed = self.served(|server| match self.list_once(server, directory, false) {
                Err(Reason::NotFound) => self.expect_root(server).map(|()| Vec::new()),
                result => result,
            })?;
            let kind = |is_dir| if is_dir { Kind::Directory } else { Kind::File };
            Ok(listed.into_iter().map(|Listed { path, is_dir, .. }| (path, kind(is_dir))).collect())
        })
    }

    fn list<'a>(&'a self, directory: &str) -> Entries<'a> {
        Box::new(Walk::new(directory, |path: &str| self.served(|server| self.read_directory(server, path))))
    }

    fn load(&self, path: &str, range: Option<Range<u64>>, limit: u64) -> Result<Vec<u8>, Reason> {
        let Some(range) = range else {
            return self.served(|server| self.runtime.block_on(self.read(server, path, None, limit)));
        };
        let (offset, size) = (range.start, range.end.saturating_sub(range.start));
        let bytes =
            self.served(|server| self.runtime.block_on(self.read(server, path, Some(range), size)))?;
        if bytes.len() as u64 == size { Ok(bytes) } else { Err(Reason::OutOfRange { offset, size }) }
    }

    fn store(&self, path: &str, content: &Content<'_>, new: bool) -> Result<(), Reason> {
        self.served(|server| {
            let is_taken = || match self.stat(server, path) {
                Ok(_) => Ok(true),
                Err(Reason::NotFound) => Ok(false),
                Err(reason) => Err(reason),
            };
            if new && is_taken()? {
                return Err(Reason::Exists);
            }
            if server.features.bucket_based {
                self.upload(server, path, content)?;
                return self.expect_file(server, path, content.size(), "store");
            }
            let temporary = beside(path, !new && is_taken()?)?;
            let stored = self
                .upload(server, &temporary, content)
                .and_then(|()| self.move_and_look(server, &temporary, path, content.size()));
            match stored {
                Ok(()) => self.sweep(server, path),
                Err(_) => drop(self.order(server, "operations/deletefile", &temporary)),
            }
            stored
        })
    }

    fn info(&self, path: &str) -> Result<Entry, Reason> {
        self.served(|server| self.stat(server, path))
    }

    fn delete(&self, path: &str) -> Result<(), Reason> {
        self.served(|server| self.order(server, "operations/deletefile", path))
    }

    fn rename(&self, from: &str, to: &str, _: bool) -> Result<(), Reason> {
        self.served(|server| {
            let size = self.stat(server, from)?.size;
            self.move_and_look(server, from, to, size)
        })
    }

    fn is_exclusive(&self, _: &str) -> Result<bool, Reason> {
        Ok(false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_address_in_the_log() {
        let old = "2022/09/20 19:41:00 NOTICE: Serving remote control on http://127.0.0.1:38937/";
        let new = "NOTICE: Serving remote control on [http://127.0.0.1:5/]";
        assert_eq!(address_in(old).unwrap().as_str(), "http://127.0.0.1:38937/");
        assert_eq!(address_in(new).unwrap().as_str(), "http://127.0.0.1:5/");
        assert_eq!(address_in("http://127.0.0.1:x"), None);
    }
}
