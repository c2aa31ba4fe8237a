//! An S3 server for tests and benches.

use std::fs;
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::thread;

use http::header::CONTENT_LENGTH;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use tempfile::TempDir;
use tokio::sync::oneshot;

/// A real S3 protocol server in this process, in front of files.
pub struct S3Server {
    _dir: TempDir,
    pub root: PathBuf,
    pub address: SocketAddr,
    served: Arc<Served>,
    _stop: oneshot::Sender<()>,
}

/// What a server was asked for and gave so far.
#[derive(Default)]
struct Served {
    requests: AtomicU64,
    bytes: AtomicU64,
}

impl S3Server {
    pub const KEY: &str = "AKTEST";
    pub const SECRET: &str = "secret/with%and@";

    pub fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("bucket/some/path");
        fs::create_dir(dir.path().join("bucket")).unwrap();
        let files = s3s_fs::FileSystem::new(dir.path()).unwrap();
        let mut builder = s3s::service::S3ServiceBuilder::new(files);
        builder.set_auth(s3s::auth::SimpleAuth::from_single(Self::KEY, Self::SECRET));
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        // A bucket can be part of the path or of the name of the host.
        let hosts = [address.to_string(), format!("localhost:{}", address.port())];
        builder.set_host(s3s::host::MultiDomain::new(hosts).unwrap());
        let service = builder.build();
        let one = Arc::new(tokio::sync::Mutex::new(()));
        let served = Arc::new(Served::default());
        let counts = served.clone();
        listener.set_nonblocking(true).unwrap();
        let (stop, mut stopped) = oneshot::channel::<()>();
        thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async move {
                let listener = tokio::net::TcpListener::from_std(listener).unwrap();
                loop {
                    let socket = tokio::select! {
                        accepted = listener.accept() => accepted.unwrap().0,
                        _ = &mut stopped => break,
                    };
                    socket.set_nodelay(true).unwrap();
                    let (service, one, counts) = (service.clone(), one.clone(), counts.clone());
                    let service = service_fn(move |request: http::Request<Incoming>| {
                        let (service, one, counts) = (service.clone(), one.clone(), counts.clone());
                        async move {
                            // s3s-fs looks and then writes; S3 does both in one step.
                            let conditional = request.headers().contains_key("if-none-match");
                            let _one = if conditional { Some(one.lock().await) } else { None };
                            let is_get = request.method() == http::Method::GET;
                            let response = service.call(request.map(s3s::Body::from)).await;
                            counts.requests.fetch_add(1, Relaxed);
                            let len =
                                response.as_ref().ok().and_then(|one| one.headers().get(CONTENT_LENGTH));
                            let len = len.and_then(|len| len.to_str().ok()?.parse().ok());
                            counts.bytes.fetch_add(len.filter(|_| is_get).unwrap_or(0), Relaxed);
                            response
                        }
                    });
                    tokio::spawn(async move {
                        let server = auto::Builder::new(TokioExecutor::new());
                        // A client that goes away is no failure.
                        let _ = server.serve_connection(TokioIo::new(socket), service).await;
                    });
                }
            });
        });
        Self { _dir: dir, root, address, served, _stop: stop }
    }

    /// How many requests were answered so far, and how many bytes were given for them.
    pub fn served(&self) -> (u64, u64) {
        (self.served.requests.load(Relaxed), self.served.bytes.load(Relaxed))
    }

    /// The URL of a store there, for who has `secret`.
    pub fn url(&self, secret: &str) -> String {
        let secret = secret.replace('%', "%25").replace('@', "%40");
        format!("s3:{}:{secret}@http://{}/bucket/some/path", Self::KEY, self.address)
    }
}
