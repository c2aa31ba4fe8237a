//! The places: local files, and servers that a test starts and ends.

use std::env;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use tempfile::TempDir;
use treering::store::StoreUrl;

use super::s3_server::S3Server;
use super::{Place, options};

/// What runs as long as a place is used, and where the files lie in the end.
pub trait Server {
    fn files(&self) -> &Path;
}

/// Whether the program is here. When it is not, that is a failure in CI, and elsewhere a line that says
/// what was skipped.
pub fn find(program: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let mut directories: Vec<_> = env::split_paths(&path).collect();
    directories.push("/usr/sbin".into());
    let found = directories.into_iter().map(|directory| directory.join(program)).find(|path| path.is_file());
    if found.is_none() {
        missing(program);
    }
    found
}

/// Says that a test is skipped for want of `what`; fails in CI.
pub fn missing(what: &str) {
    assert!(env::var("CI").as_deref() != Ok("true"), "{what} is missing, and CI must have it");
    eprintln!("SKIPPED: {what} is missing");
}

pub struct LocalFiles(TempDir, PathBuf);

pub fn local_files() -> Place {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("a store");
    Place { url: StoreUrl::file(&root).unwrap(), options: options(), server: Box::new(LocalFiles(dir, root)) }
}

impl Server for LocalFiles {
    fn files(&self) -> &Path {
        debug_assert!(self.1.starts_with(self.0.path()));
        &self.1
    }
}

/// An S3 server, and a store there.
pub fn s3() -> Place {
    let server = S3Server::start();
    Place { url: server.url(S3Server::SECRET).parse().unwrap(), options: options(), server: Box::new(server) }
}

impl Server for S3Server {
    fn files(&self) -> &Path {
        &self.root
    }
}

/// The `local` remote of a real rclone.
pub struct RcloneRemote {
    _dir: TempDir,
    root: PathBuf,
}

impl RcloneRemote {
    /// The program, told not to look for anybody's configuration.
    pub fn program() -> Option<Vec<OsString>> {
        Some(vec![find("rclone")?.into(), "--config".into(), "/dev/null".into()])
    }

    pub fn place() -> Option<Place> {
        let rclone = Self::program()?;
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("a store");
        let url = format!("rclone::local:{}", root.display()).parse().unwrap();
        let options = treering::store::Options { rclone, ..options() };
        Some(Place { url, options, server: Box::new(Self { _dir: dir, root }) })
    }
}

impl Server for RcloneRemote {
    fn files(&self) -> &Path {
        &self.root
    }
}

/// A process that is ended with the test.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A port that is free now.
fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// Starts a server on a port of its own: again on another one when somebody else took it.
fn start_on_port(command: impl Fn(u16) -> Command) -> (Running, u16) {
    for _ in 0..5 {
        let port = free_port();
        let mut server = Running(command(port).stdin(Stdio::null()).stdout(Stdio::null()).spawn().unwrap());
        for _ in 0..500 {
            if TcpStream::connect(("127.0.0.1", port)).is_ok() {
                return (server, port);
            }
            if server.0.try_wait().unwrap().is_some() {
                break;
            }
            thread::sleep(Duration::from_millis(20));
        }
    }
    panic!("the server does not start; its error output is above");
}

/// WebDAV, as rclone serves it.
pub struct WebDavServer {
    _dir: TempDir,
    root: PathBuf,
    _process: Running,
    pub port: u16,
}

impl WebDavServer {
    pub fn start() -> Option<Self> {
        Self::serve(tempfile::tempdir().unwrap(), &[])
    }

    /// The same over TLS, with a certificate that nobody trusts who was not told to; and the certificate.
    pub fn start_tls() -> Option<(Self, PathBuf)> {
        let openssl = find("openssl")?;
        let dir = tempfile::tempdir().unwrap();
        let (certificate, key) = (dir.path().join("certificate"), dir.path().join("key"));
        let made = Command::new(openssl)
            .args(["req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=treering", "-days", "2"])
            .args(["-addext", "subjectAltName=IP:127.0.0.1", "-addext", "basicConstraints=critical,CA:FALSE"])
            .arg("-out")
            .args([&certificate, Path::new("-keyout"), &key])
            .output()
            .unwrap();
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        let tls = ["--cert".as_ref(), certificate.as_os_str(), "--key".as_ref(), key.as_os_str()];
        Some((Self::serve(dir, &tls)?, certificate))
    }

    fn serve(dir: TempDir, more: &[&OsStr]) -> Option<Self> {
        let rclone = find("rclone")?;
        let root = dir.path().join("some/path");
        let (process, port) = start_on_port(|port| {
            let mut command = Command::new(&rclone);
            command.args(["--config", "/dev/null", "--dir-cache-time", "0s", "serve", "webdav", "--addr"]);
            command.arg(format!("127.0.0.1:{port}")).args(["--user", "me", "--pass", "p@ss"]).args(more);
            command.arg(dir.path()).stderr(Stdio::null());
            command
        });
        Some(Self { _dir: dir, root, _process: process, port })
    }

    /// The URL of a store there, for who has `password`.
    pub fn url(&self, password: &str) -> StoreUrl {
        format!("webdav://me:{password}@127.0.0.1:{}/some/path", self.port).parse().unwrap()
    }

    pub fn place() -> Option<Place> {
        let server = Self::start()?;
        Some(Place { url: server.url("p%40ss"), options: options(), server: Box::new(server) })
    }
}

impl Server for WebDavServer {
    fn files(&self) -> &Path {
        &self.root
    }
}

/// A real sshd, with keys of its own, for whoever runs the test.
pub struct SshServer {
    dir: TempDir,
    root: PathBuf,
    _process: Running,
    port: u16,
}

impl SshServer {
    pub fn start() -> Option<Self> {
        Self::start_without(&[])
    }

    /// A server that refuses `requests` of its protocol.
    fn start_without(requests: &[&str]) -> Option<Self> {
        let (sshd, keygen) = (find("sshd")?, find("ssh-keygen")?);
        find("ssh")?;
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name).display().to_string();
        for key in ["host", "user", "other"] {
            let made =
                Command::new(&keygen).args(["-q", "-t", "ed25519", "-N", "", "-f", &path(key)]).status();
            assert!(made.unwrap().success());
        }
        fs::copy(path("user.pub"), path("authorized")).unwrap();
        if is_root() {
            // Where it wants to be without privileges; Debian makes it only when the service starts.
            fs::create_dir_all("/run/sshd").unwrap();
        }
        // Without PAM, an account without a password counts as locked; with PAM, sshd must be root.
        let pam = if is_root() { "yes" } else { "no" };
        let config = format!(
            "ListenAddress 127.0.0.1\nHostKey {}\nAuthorizedKeysFile {}\nPidFile none\nStrictModes no\nUsePAM {pam}\n\
             PermitRootLogin yes\nPasswordAuthentication no\nKbdInteractiveAuthentication no\n\
             Subsystem sftp internal-sftp -d {}{}\n",
            path("host"),
            path("authorized"),
            dir.path().display(),
            if requests.is_empty() { String::new() } else { format!(" -P {}", requests.join(",")) },
        );
        fs::write(path("sshd_config"), config).unwrap();
        let (process, port) = start_on_port(|port| {
            let mut command = Command::new(&sshd);
            command
                .args(["-D", "-e", "-f", &path("sshd_config"), "-p", &port.to_string()])
                .stderr(Stdio::null());
            command
        });
        let host_key = fs::read_to_string(path("host.pub")).unwrap();
        fs::write(path("known_hosts"), format!("[127.0.0.1]:{port} {host_key}")).unwrap();
        fs::write(path("nobody"), "").unwrap();
        let root = dir.path().join("some/a store");
        let server = Self { dir, root, _process: process, port };
        server.lets_us_in().then_some(server)
    }

    /// Whether sshd lets this account in: without root it asks nobody about accounts that are locked.
    fn lets_us_in(&self) -> bool {
        let program = self.program("user", "known_hosts");
        let mut ssh = Command::new(&program[0]);
        ssh.args(&program[1..]).args([
            "-o",
            "BatchMode=yes",
            "-p",
            &self.port.to_string(),
            "-s",
            "127.0.0.1",
            "sftp",
        ]);
        let tried = ssh.stdin(Stdio::null()).output().unwrap();
        let said = String::from_utf8_lossy(&tried.stderr);
        let refused = said.contains("Permission denied");
        assert!(!refused || !is_root(), "{said}");
        if refused {
            eprintln!("SKIPPED: sshd does not let this account in");
        }
        !refused
    }

    pub fn url(&self) -> StoreUrl {
        self.url_of(&self.root.display().to_string().replace(' ', "%20"))
    }

    /// The URL of a path there; one that is not absolute begins in the directory of the server.
    pub fn url_of(&self, path: &str) -> StoreUrl {
        format!("sftp://127.0.0.1:{}/{path}", self.port).parse().unwrap()
    }

    /// The ssh program, with nobody's configuration, that key and those known hosts.
    pub fn program(&self, key: &str, known: &str) -> Vec<OsString> {
        ssh_program(self.dir.path(), key, known)
    }

    /// A place there, on a server that refuses `requests` of its protocol.
    pub fn place(requests: &[&str]) -> Option<Place> {
        let Some(server) = Self::start_without(requests) else {
            return if is_root() { None } else { PipedSftp::place(requests) };
        };
        let options = treering::store::Options { ssh: server.program("user", "known_hosts"), ..options() };
        Some(Place { url: server.url(), options, server: Box::new(server) })
    }
}

impl Server for SshServer {
    fn files(&self) -> &Path {
        &self.root
    }
}

/// The ssh program, with nobody's configuration, and a key and known hosts from `directory`.
fn ssh_program(directory: &Path, key: &str, known: &str) -> Vec<OsString> {
    let path = |name: &str| directory.join(name).display().to_string();
    let option = |option: String| ["-o".into(), option.into()];
    let mut program: Vec<OsString> = vec!["ssh".into(), "-F".into(), "/dev/null".into()];
    program.extend(option(format!("IdentityFile={}", path(key))));
    program.extend(option("IdentitiesOnly=yes".into()));
    program.extend(option("IdentityAgent=none".into()));
    program.extend(option(format!("UserKnownHostsFile={}", path(known))));
    program.extend(option("GlobalKnownHostsFile=/dev/null".into()));
    program
}

/// The SFTP server of OpenSSH at a pipe, for an account that cannot log in.
struct PipedSftp {
    _dir: TempDir,
    root: PathBuf,
}

impl PipedSftp {
    fn place(requests: &[&str]) -> Option<Place> {
        let server = ["/usr/lib/openssh/sftp-server", "/usr/libexec/openssh/sftp-server"];
        let server = server.into_iter().find(|path| Path::new(path).is_file())?;
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("some/a store");
        let refused = if requests.is_empty() { String::new() } else { format!("-P {}", requests.join(",")) };
        let ssh = ["sh", "-c", &format!("exec {server} {refused}")].map(Into::into).to_vec();
        let url = format!("sftp://127.0.0.1/{}", root.display()).replace(' ', "%20").parse().unwrap();
        let options = treering::store::Options { ssh, ..options() };
        Some(Place { url, options, server: Box::new(Self { _dir: dir, root }) })
    }
}

impl Server for PipedSftp {
    fn files(&self) -> &Path {
        &self.root
    }
}

/// SFTP, as rclone serves it: with links and renames that it answers differently from sshd.
pub struct RcloneSftp {
    _dir: TempDir,
    root: PathBuf,
    _process: Running,
}

impl RcloneSftp {
    pub fn place() -> Option<Place> {
        let (rclone, keygen) = (find("rclone")?, find("ssh-keygen")?);
        find("ssh")?;
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        for key in ["host", "user"] {
            let mut keygen = Command::new(&keygen);
            let made = keygen.args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(path(key)).status();
            assert!(made.unwrap().success());
        }
        let served = path("served");
        fs::create_dir(&served).unwrap();
        let (process, port) = start_on_port(|port| {
            let mut command = Command::new(&rclone);
            command.args(["--config", "/dev/null", "--dir-cache-time", "0s", "serve", "sftp", "--addr"]);
            command.arg(format!("127.0.0.1:{port}")).arg("--key").arg(path("host"));
            command.arg("--authorized-keys").arg(path("user.pub")).arg(&served).stderr(Stdio::null());
            command
        });
        let host_key = fs::read_to_string(path("host.pub")).unwrap();
        fs::write(path("known_hosts"), format!("[127.0.0.1]:{port} {host_key}")).unwrap();
        let ssh = ssh_program(dir.path(), "user", "known_hosts");
        let options = treering::store::Options { ssh, ..options() };
        let url = format!("sftp://127.0.0.1:{port}//some/store").parse().unwrap();
        let root = served.join("some/store");
        Some(Place { url, options, server: Box::new(Self { _dir: dir, root, _process: process }) })
    }
}

impl Server for RcloneSftp {
    fn files(&self) -> &Path {
        &self.root
    }
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}
