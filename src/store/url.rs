//! Where a store is: the URLs.
//!
//! | URL | backend |
//! |---|---|
//! | `file:///path` | local files |
//! | `sftp://[user@]host[:port]/path` | files on an SSH server; `/path` is relative to the home directory, `//path` is absolute |
//! | `s3:[profile@\|key:secret@][http(s)://host[:port]]/bucket/path[?region=R&style=path\|virtual]` | S3: AWS without a host, else MinIO, Garage, Ceph, … |
//! | `webdav://[user:password@]host[:port]/path`, `webdavs://…` | WebDAV over HTTP, HTTPS |
//! | `rclone:remote:path` | whatever the program `rclone` is configured to reach |
//!
//! These are borgstore's forms, with the query of `s3:` and `webdav:` added. User names, passwords,
//! secrets and paths are percent-decoded, except in `rclone:`, which is passed on as it is. Without a
//! key, S3 credentials come from where AWS tools find theirs (environment, profile, instance). Without a
//! region it is that of `AWS_REGION` for AWS, and `us-east-1` for others (Garage wants `region=garage`).
//! `b2:` is another spelling of `s3:`. Printing a [`StoreUrl`] shows what printing a [`Url`] shows: no password and no
//! secret.

use std::ffi::OsStr;
use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use percent_encoding::percent_decode_str;

use crate::url::{self, RCLONE_FORM, S3_FORM, SFTP_FORM, Url, WEBDAV_FORM};

/// The URL of a store.
#[derive(Clone, PartialEq, Eq)]
pub struct StoreUrl {
    url: Url,
    pub(super) place: Place,
}

#[derive(Clone, PartialEq, Eq)]
pub(super) enum Place {
    File(PathBuf),
    Sftp(Sftp),
    S3(S3),
    WebDav(WebDav),
    Rclone(String),
}

#[derive(Clone, PartialEq, Eq)]
pub(super) struct Sftp {
    pub user: Option<String>,
    pub host: String,
    pub port: Option<u16>,
    pub path: String,
}

#[derive(Clone, PartialEq, Eq)]
pub(super) struct S3 {
    pub credentials: Credentials,
    pub endpoint: Option<String>,
    pub region: Option<String>,
    pub virtual_host: bool,
    pub bucket: String,
    pub path: String,
}

#[derive(Clone, PartialEq, Eq)]
pub(super) enum Credentials {
    Environment,
    Profile(String),
    Key { id: String, secret: String },
}

#[derive(Clone, PartialEq, Eq)]
pub(super) struct WebDav {
    pub endpoint: String,
    pub user: Option<String>,
    pub password: Option<String>,
    pub path: String,
}

/// Why text is not the URL of a store.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UrlError {
    /// Not one of the schemes.
    #[error(
        "no backend for such a URL; expected file:///PATH, sftp://, s3:, webdav://, webdavs:// or rclone:REMOTE:PATH"
    )]
    Scheme,
    /// The rest is not as the scheme wants it.
    #[error("expected {0}")]
    Form(&'static str),
    /// A port is not a number from 1 to 65535.
    #[error("the port is not a number from 1 to 65535")]
    Port,
    /// Percent-encoding that is not UTF-8, or holds a NUL.
    #[error("percent-encoding is not text")]
    Encoding,
    /// A setting behind `?` that does not exist, or a value that it does not have.
    #[error("unknown setting behind `?`; an s3: URL takes region=REGION and style=path or style=virtual")]
    Setting,
    /// A password for ssh.
    #[error("ssh takes no password from a URL: use a key or an agent, and write sftp://USER@HOST/PATH")]
    Password,
}

impl StoreUrl {
    /// The URL of local files below `path`, which must be absolute.
    pub fn file(path: impl Into<PathBuf>) -> Result<Self, UrlError> {
        let path = path.into();
        if !path.is_absolute() {
            return Err(UrlError::Form("file:///PATH with an absolute path"));
        }
        Ok(Self { url: Url::from(format!("file://{}", path.display())), place: Place::File(path) })
    }

    /// Whether connecting can start a program that is called in it, or tell its host who the person is: then it counts
    /// only if the person gave it.
    pub fn needs_trust(&self) -> bool {
        match &self.place {
            Place::Rclone(_) => true,
            Place::S3(place) => {
                place.endpoint.is_some() && !matches!(place.credentials, Credentials::Key { .. })
            }
            Place::File(_) | Place::Sftp(_) | Place::WebDav(_) => false,
        }
    }

    /// The text, which may hold a secret.
    pub fn url(&self) -> &Url {
        &self.url
    }

    /// The path, where the store is one of local files.
    pub fn path(&self) -> Option<&Path> {
        match &self.place {
            Place::File(path) => Some(path),
            _ => None,
        }
    }

    /// The last part of the path, or of the host where there is no path: by it a person says that it is this store that
    /// is meant.
    pub fn name(&self) -> String {
        let shown = self.url.to_string();
        let path = match &self.place {
            Place::File(path) => path.to_str().unwrap_or_default(),
            Place::Sftp(place) => &place.path,
            Place::S3(place) => &place.path,
            Place::WebDav(place) => &place.path,
            // What may be part of a connection string is none.
            Place::Rclone(remote) if self.url.holds_secret() => {
                let path = remote.rsplit(':').next().unwrap_or_default();
                if path.contains(['"', '\'', ',', '=']) { "" } else { path }
            }
            Place::Rclone(remote) => remote.trim_end_matches(':').rsplit(':').next().unwrap_or_default(),
        };
        let last = |text| str::rsplit(text, '/').find(|part| !part.is_empty());
        // Of a host, without who one is there.
        let host = || last(&shown)?.rsplit('@').next();
        last(path).or_else(host).unwrap_or_default().to_owned()
    }
}

impl TryFrom<&Url> for StoreUrl {
    type Error = UrlError;

    fn try_from(url: &Url) -> Result<Self, UrlError> {
        url.reveal().parse()
    }
}

impl FromStr for StoreUrl {
    type Err = UrlError;

    fn from_str(text: &str) -> Result<Self, UrlError> {
        let (scheme, rest) = text.split_once(':').ok_or(UrlError::Scheme)?;
        let authority = |form| rest.strip_prefix("//").ok_or(UrlError::Form(form));
        let place = match scheme {
            "file" => return Self::file(decode(authority("file:///PATH")?)?),
            "sftp" => Place::Sftp(parse_sftp(authority(SFTP_FORM)?)?),
            "s3" | "b2" => Place::S3(parse_s3(rest)?),
            "webdav" => Place::WebDav(parse_webdav("http", authority(WEBDAV_FORM)?)?),
            "webdavs" => Place::WebDav(parse_webdav("https", authority(WEBDAV_FORM)?)?),
            "rclone" if rest.contains(':') && !rest.contains(|c: char| c.is_control()) => {
                Place::Rclone(rest.into())
            }
            "rclone" => return Err(UrlError::Form(RCLONE_FORM)),
            _ => return Err(UrlError::Scheme),
        };
        Ok(Self { url: Url::from(text), place })
    }
}

/// Whether `text` looks like a URL, where the path of a directory is wanted: `scheme://…`, `s3:…`, or
/// `host:path` as ssh and git have it. A path that begins with `/` or `./` never does.
pub fn is_url(text: &OsStr) -> bool {
    let Some((before, after)) = text.to_str().and_then(|text| text.split_once(':')) else { return false };
    if before.is_empty() || before.contains('/') {
        return false;
    }
    let is_scheme = before.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"+.-".contains(&byte));
    // An address of IPv6 stands in brackets, and a colon in it is the first one.
    let host = before.strip_prefix('[').unwrap_or(before);
    let is_host = host.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_.-".contains(&byte));
    (is_scheme && after.starts_with("//")) || is_host || before.contains('@')
}

fn parse_sftp(rest: &str) -> Result<Sftp, UrlError> {
    let (authority, path) = rest.split_once('/').ok_or(UrlError::Form(SFTP_FORM))?;
    let (user, host) = match authority.rsplit_once('@') {
        Some((user, host)) => (Some(decode(user)?), host),
        None => (None, authority),
    };
    // A password would be seen in the arguments of ssh.
    if user.as_ref().is_some_and(|user| user.contains(':')) || (authority.contains(':') && path.contains('@'))
    {
        return Err(UrlError::Password);
    }
    let (name, port) = split_port(host)?;
    // Nor may ssh, or a shell that it starts, take anything for an option or a command.
    let is_user = user.as_ref().is_none_or(|user| url::expect_user(user).is_ok());
    if !is_user || url::expect_host(host).is_err() || path.is_empty() {
        return Err(UrlError::Form(SFTP_FORM));
    }
    Ok(Sftp { user, host: name, port, path: decode(path)? })
}

fn parse_s3(rest: &str) -> Result<S3, UrlError> {
    let form = UrlError::Form(S3_FORM);
    let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
    // A secret may hold a slash, and so may the path hold an @: the credentials end at the first @ that
    // is followed by what can follow them.
    let at = rest.match_indices('@').map(|(at, _)| at).find(|&at| {
        ["/", "http://", "https://"].iter().any(|start| rest[at + 1..].starts_with(start))
            && !rest.starts_with('/')
    });
    let (credentials, place) = match at {
        None => (Credentials::Environment, rest),
        Some(at) => {
            let credentials = match rest[..at].split_once(':') {
                Some((id, secret)) if !id.is_empty() && !secret.is_empty() => {
                    Credentials::Key { id: decode(id)?, secret: decode(secret)? }
                }
                None if at > 0 => Credentials::Profile(rest[..at].into()),
                _ => return Err(form),
            };
            (credentials, &rest[at + 1..])
        }
    };
    let (endpoint, path) = match place.split_once("://") {
        Some((protocol @ ("http" | "https"), place)) => {
            let (host, path) = place.split_once('/').ok_or(form.clone())?;
            split_port(host)?;
            url::expect_host(host).map_err(|_| form.clone())?;
            (Some(format!("{protocol}://{host}")), path)
        }
        _ => (None, place.strip_prefix('/').ok_or(form.clone())?),
    };
    let (bucket, path) = path.split_once('/').ok_or(form.clone())?;
    let path = decode(path)?;
    // What is mistyped must not go out as the name of a bucket.
    let is_bucket = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    if bucket.is_empty() || !bucket.chars().all(is_bucket) || path.trim_matches('/').is_empty() {
        return Err(form);
    }
    let mut region = endpoint.is_some().then(|| "us-east-1".to_owned());
    let mut virtual_host = endpoint.is_none();
    for setting in query.split('&').filter(|setting| !setting.is_empty()) {
        match setting.split_once('=') {
            Some(("region", value)) if !value.is_empty() => region = Some(decode(value)?),
            Some(("style", "path")) => virtual_host = false,
            Some(("style", "virtual")) => virtual_host = true,
            _ => return Err(UrlError::Setting),
        }
    }
    Ok(S3 { credentials, endpoint, region, virtual_host, bucket: bucket.into(), path })
}

fn parse_webdav(protocol: &str, rest: &str) -> Result<WebDav, UrlError> {
    let (authority, path) = rest.split_once('/').unwrap_or((rest, ""));
    let (login, host) = match authority.rsplit_once('@') {
        Some((login, host)) => (Some(login), host),
        None => (None, authority),
    };
    split_port(host)?;
    // A query is not passed on, and what stands before an @ in the path is a password that was cut off.
    if url::expect_host(host).is_err()
        || path.contains(['?', '#'])
        || (host.contains(':') && login.is_none() && path.contains('@'))
    {
        return Err(UrlError::Form(WEBDAV_FORM));
    }
    let (user, password) = match login.map(|login| login.split_once(':').unwrap_or((login, ""))) {
        Some((user, password)) => (Some(decode(user)?), Some(decode(password)?)),
        None => (None, None),
    };
    Ok(WebDav { endpoint: format!("{protocol}://{host}"), user, password, path: decode(path)? })
}

/// The host, and the port when one is given; an IPv6 address is in brackets.
fn split_port(host: &str) -> Result<(String, Option<u16>), UrlError> {
    let (name, port) = match host.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, "")) => (address, None),
        Some((address, port)) => (address, Some(port.strip_prefix(':').ok_or(UrlError::Port)?)),
        None => match host.split_once(':') {
            Some((name, port)) => (name, Some(port)),
            None => (host, None),
        },
    };
    let port = match port {
        None => None,
        Some(port) => Some(port.parse().ok().filter(|&port| port != 0).ok_or(UrlError::Port)?),
    };
    Ok((name.into(), port))
}

fn decode(text: &str) -> Result<String, UrlError> {
    let text = percent_decode_str(text).decode_utf8().map_err(|_| UrlError::Encoding)?;
    if text.contains('\0') {
        return Err(UrlError::Encoding);
    }
    Ok(text.into_owned())
}

impl fmt::Display for StoreUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.url, f)
    }
}

impl fmt::Debug for StoreUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.url, f)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn s3(text: &str) -> S3 {
        match text.parse::<StoreUrl>().unwrap().place {
            Place::S3(s3) => s3,
            _ => panic!("{text} is not S3"),
        }
    }

    #[test]
    fn a_store_is_named_by_the_end_of_its_url() {
        for (url, name) in [
            ("file:///srv/a%20store/", "a store"),
            ("sftp://me@host/objects", "objects"),
            ("s3:key:secret@https://host/bucket/some/path?style=path", "path"),
            ("webdav://me:pass@host:80/", "host:80"),
            ("file:///srv/a:b", "a:b"),
            ("webdav://me:pass@host/dav/x", "x"),
            ("rclone:remote:", "remote"),
            ("rclone:remote:some/path", "path"),
            ("rclone::local,case=true:/srv/store", "store"),
            ("rclone::webdav,pass=\"a:secret\":", "rclone:***"),
        ] {
            assert_eq!(url.parse::<StoreUrl>().unwrap().name(), name, "{url}");
        }
    }

    #[test]
    fn takes_the_forms_of_s3() {
        let aws = s3("s3:/bucket/some/path");
        assert!(aws.credentials == Credentials::Environment && aws.endpoint.is_none() && aws.virtual_host);
        assert_eq!((aws.bucket.as_str(), aws.path.as_str(), aws.region), ("bucket", "some/path", None));

        let key = s3("s3:AK:se%2Fc/r@et@https://minio.example:9000/bucket/p@th?region=garage&style=virtual");
        assert!(key.credentials == Credentials::Key { id: "AK".into(), secret: "se/c/r@et".into() });
        assert_eq!(key.endpoint.as_deref(), Some("https://minio.example:9000"));
        assert_eq!(
            (key.path.as_str(), key.region.as_deref(), key.virtual_host),
            ("p@th", Some("garage"), true)
        );

        let profile = s3("b2:work@http://localhost/bucket/p");
        assert!(profile.credentials == Credentials::Profile("work".into()) && !profile.virtual_host);
        assert_eq!(profile.region.as_deref(), Some("us-east-1"));
    }

    #[test]
    fn takes_the_forms_of_the_others() {
        assert!(
            "sftp://me@host:2222//srv/store".parse::<StoreUrl>().unwrap().place
                == Place::Sftp(Sftp {
                    user: Some("me".into()),
                    host: "host".into(),
                    port: Some(2222),
                    path: "/srv/store".into()
                })
        );
        assert!(
            "webdavs://me:p%40ss@[::1]:8443/dav/x".parse::<StoreUrl>().unwrap().place
                == Place::WebDav(WebDav {
                    endpoint: "https://[::1]:8443".into(),
                    user: Some("me".into()),
                    password: Some("p@ss".into()),
                    path: "dav/x".into()
                })
        );
        assert!("file:///a%20b".parse::<StoreUrl>().unwrap().place == Place::File("/a b".into()));
        assert!("rclone:remote:a/b".parse::<StoreUrl>().unwrap().place == Place::Rclone("remote:a/b".into()));
    }

    #[test]
    fn what_looks_like_a_url_is_told_from_a_path() {
        for url in [
            "s3:host/bucket",
            "S3:x",
            "sftp:host:/x",
            "rclone:there:x",
            "https://h/x",
            "https:x",
            "x+y://z",
            "me@host:x",
            "host:path",
            "host:/srv/rings",
            "a.host_b-c:",
            "[::1]:x",
        ] {
            assert!(is_url(OsStr::new(url)), "{url}");
        }
        for path in
            ["", "/s3:x", "./s3:x", "./a:b", "rings", "of 10:30", ":x", "a/b:c", "me@host", "dir/me@host:x"]
        {
            assert!(!is_url(OsStr::new(path)), "{path}");
        }
    }

    #[test]
    fn what_starts_programs_or_uses_credentials_needs_trust() {
        for (url, needs) in [
            ("rclone:drive:x", true),
            ("rclone::webdav,bearer_token_command=x:y", true),
            ("s3:http://h/b/p", true),
            ("s3:work@http://h/b/p", true),
            ("s3:A:B@http://h/b/p", false),
            ("s3:/b/p", false),
            ("file:///x", false),
            ("sftp://me@h/x", false),
            ("webdavs://me:pw@h/x", false),
        ] {
            assert_eq!(url.parse::<StoreUrl>().unwrap().needs_trust(), needs, "{url}");
        }
    }

    #[test]
    fn shows_no_secret() {
        for text in [
            "s3:AK:hush@https://h/b/p",
            "webdav://me:hush@h/p",
            "s3:AK:hush@/b/p?region=x",
            "rclone::webdav,pass=hush:p",
        ] {
            let url: StoreUrl = text.parse().unwrap();
            assert!(!format!("{url} {url:?}").contains("hush"), "{url}");
        }
    }

    #[test]
    fn refuses_what_is_not_a_url_of_a_store() {
        for text in [
            "",
            "/path",
            "file:/path",
            "file://host/path",
            "ftp://host/path",
            "sftp://host",
            "sftp://host/",
            "sftp://host:0/p",
            "sftp://host:99999/p",
            "sftp://-oProxyCommand=x/p",
            "sftp://-x@host/p",
            "sftp://me:hush@host/p",
            "sftp://me:hu/sh@host/p",
            "sftp://$(x)/p",
            "sftp://host;x/p",
            "s3:AK:hush/bucket/path",
            "s3:/AK:hush@/bucket/path",
            "s3:/AK:hush/path",
            "webdav://me:1/hush@host/p",
            "webdav://host/p?token=hush",
            "rclone:a:b\nc",
            "s3:bucket/path",
            "s3:/bucket",
            "s3:/bucket/",
            "s3::x@/b/p",
            "s3:http:///b/p",
            "s3:/b/p?style=odd",
            "webdav:///p",
            "rclone:remote",
            "file:///%ff",
            "file:///%00",
        ] {
            assert!(text.parse::<StoreUrl>().is_err(), "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_a_url_or_an_error(scheme in "(file|sftp|s3|webdav|rclone):(//)?", rest in "[^ ]{0,30}") {
            let _ = format!("{scheme}{rest}").parse::<StoreUrl>();
        }
    }
}
