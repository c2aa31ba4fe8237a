//! Text that says where something is, and may hold a secret.
//!
//! A [`Url`] is whatever a person or a configuration gives as the address of a remote or a store: a path, a URL, or
//! `host:path` as ssh and git have it. Any text can be one; who uses it finds out whether it leads anywhere.
//!
//! What is promised: `Display` and `Debug` show no user information that could be a password or a token, no query,
//! and nothing of a connection string of rclone or of a helper of git, also where the text is mistyped. In doubt too
//! much is hidden. The only way to the text itself is [`Url::reveal`], for whoever makes the connection or stores
//! the text in a file that is for nobody else to read. [`redact`] does the same for URLs that a text quotes.
//!
//! Not hidden: a secret that is part of a path.

use std::fmt;
use std::ops::Range;

use percent_encoding::percent_decode_str;

/// What stands for something that is not shown.
const HIDDEN: &str = "***";

/// How the URL of a store over SFTP is written.
pub const SFTP_FORM: &str = "sftp://[USER@]HOST[:PORT]/PATH";

/// How the URL of a store in S3 is written.
pub const S3_FORM: &str =
    "s3:[PROFILE@|KEY:SECRET@][http(s)://HOST[:PORT]]/BUCKET/PATH[?region=R&style=path|virtual]";

/// How the URL of a store over WebDAV is written.
pub const WEBDAV_FORM: &str = "webdav(s)://[USER:PASSWORD@]HOST[:PORT]/PATH";

/// How the URL of a store over rclone is written.
pub const RCLONE_FORM: &str = "rclone:REMOTE:PATH";

/// How messages write addresses: they look as if they held a secret.
const FORMS: [&str; 5] = [SFTP_FORM, S3_FORM, WEBDAV_FORM, RCLONE_FORM, "https://USER:TOKEN@HOST/PATH"];

/// The schemes that stores have and git does not.
const STORES: [&str; 6] = ["sftp", "s3", "b2", "webdav", "webdavs", "rclone"];

/// The schemes in which a user name is no secret: ssh takes it on its command line.
const SSH: [&str; 4] = ["ssh", "git+ssh", "ssh+git", "sftp"];

/// The schemes that git hands to curl.
const CURL: [&str; 4] = ["http", "https", "ftp", "ftps"];

/// The address of a remote or a store.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Url(String);

/// An address that git can be given: no secret is in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GitAddress {
    /// What git gets on its command line.
    pub address: String,
    /// Who to be there, for what is reached by HTTP.
    pub login: Option<Login>,
    /// Whether git starts a program that is called in the address, or that it finds by its scheme.
    pub starts_program: bool,
}

/// A user name, and perhaps a password.
#[derive(Clone, PartialEq, Eq)]
pub struct Login {
    /// The user name; it may itself be a token.
    pub user: String,
    /// The password, where one is given.
    pub password: Option<String>,
}

impl Login {
    /// `user[:password]`, as a URL has it.
    fn parse(text: &str) -> Self {
        let decode = |text: &str| percent_decode_str(text).decode_utf8_lossy().into_owned();
        match text.split_once(':') {
            Some((user, password)) => Self { user: decode(user), password: Some(decode(password)) },
            None => Self { user: decode(text), password: None },
        }
    }
}

/// Shows nothing.
impl fmt::Debug for Login {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(HIDDEN)
    }
}

/// Why an address cannot be given to git. The text of the address is not in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    /// It begins as the URL of a store does.
    #[error("it begins as the URL of a store, which git does not reach")]
    Store,
    /// A password where there can be none.
    #[error(
        "it seems to hold a password, which ssh takes from nobody and every user of this host could read while git runs: use a key or an \
         agent; an @ in a path is written as %40 in https://, and as it is in ssh://HOST/PATH"
    )]
    Password,
    /// A query.
    #[error(
        "what follows its `?` could be read by every user of this host while git runs: give a token as https://USER:TOKEN@HOST/PATH, or by a \
         credential helper"
    )]
    Query,
    /// A host or a user name that is not valid.
    #[error("its host or user name is not valid")]
    Host,
    /// Nothing, or a character that no address has.
    #[error("it is empty, or holds a character that no address has")]
    Character,
}

impl From<&str> for Url {
    fn from(text: &str) -> Self {
        Self(text.to_owned())
    }
}

impl From<String> for Url {
    fn from(text: String) -> Self {
        Self(text)
    }
}

impl From<&String> for Url {
    fn from(text: &String) -> Self {
        Self(text.clone())
    }
}

impl From<&Url> for Url {
    fn from(url: &Url) -> Self {
        url.clone()
    }
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&shown(&self.0))
    }
}

impl fmt::Debug for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&shown(&self.0), f)
    }
}

impl Url {
    /// The text, with all that is secret in it.
    pub fn reveal(&self) -> &str {
        &self.0
    }

    /// Whether something of it is not shown.
    pub fn holds_secret(&self) -> bool {
        shown(&self.0) != self.0
    }

    /// Whether it begins as the URL of a store does, and as none of git. It need not be one.
    pub fn looks_like_store(&self) -> bool {
        scheme(&self.0).is_some_and(|(scheme, _)| is_one_of(scheme, &STORES))
    }

    /// The path that it is: as git has it, whatever has no colon before the first slash.
    pub fn path(&self) -> Option<&str> {
        is_path(&self.0).then_some(self.0.as_str())
    }

    /// `text` without what is secret in this address, however it is quoted there, and in other ones.
    pub fn redact(&self, text: &str) -> String {
        let mut text = text.replace(&self.0, &self.to_string());
        if let Some(login) = self.login() {
            let raw = self.0.split_once("://").and_then(|(_, rest)| Some(rest.rsplit_once('@')?.0));
            let words = [raw, login.password.as_deref(), Some(&login.user)];
            // A short word would be found in others.
            for word in words.into_iter().flatten().filter(|word| word.len() > 3) {
                text = text.replace(word, HIDDEN);
            }
        }
        redact(&text)
    }

    /// The login in an address that git hands to curl.
    fn login(&self) -> Option<Login> {
        let (_, rest) = self.0.split_once("://").filter(|(scheme, _)| is_one_of(scheme, &CURL))?;
        let (login, _) = authority(rest).rsplit_once('@')?;
        Some(Login::parse(login))
    }

    /// The address as git can be given it.
    pub fn for_git(&self) -> Result<GitAddress, AddressError> {
        let text = self.0.as_str();
        if text.is_empty() || text.contains(|c: char| c.is_control()) {
            return Err(AddressError::Character);
        }
        let plain = |starts_program| {
            let address = text.to_owned();
            Ok(GitAddress { address, login: None, starts_program })
        };
        if self.path().is_some() {
            return plain(false);
        }
        if self.looks_like_store() {
            return Err(AddressError::Store);
        }
        let Some((scheme, rest)) = scheme(text) else { return scp(text).and_then(|()| plain(false)) };
        // `helper::address`, where the address may be that of `sh`.
        if let Some(address) = rest.strip_prefix(':') {
            let is_plain = !address.contains(['@', '?']);
            return if is_plain { plain(true) } else { Err(AddressError::Password) };
        }
        let Some(rest) = rest.strip_prefix("//") else { return scp(text).and_then(|()| plain(false)) };
        let authority = authority(rest);
        match scheme.to_ascii_lowercase().as_str() {
            "file" => plain(false),
            curl if CURL.contains(&curl) => {
                let (login, host) = match authority.rsplit_once('@') {
                    Some((login, host)) => (Some(login), host),
                    None => (None, authority),
                };
                expect_host(host)?;
                if rest[authority.len()..].contains(['?', '#']) {
                    return Err(AddressError::Query);
                }
                // A password with a slash in it: what was taken for a host is a user name, or part of it.
                if rest[authority.len()..].contains('@') {
                    return Err(AddressError::Password);
                }
                let Some(hidden) = login else { return plain(false) };
                let login = Login::parse(hidden);
                // It goes on a line of its own.
                let has_control = |text: &str| text.chars().any(char::is_control);
                if has_control(&login.user) || login.password.as_deref().is_some_and(has_control) {
                    return Err(AddressError::Character);
                }
                let address = format!("{scheme}://{}", &rest[hidden.len() + 1..]);
                Ok(GitAddress { address, login: Some(login), starts_program: false })
            }
            ssh if SSH.contains(&ssh) => {
                expect_ssh(authority)?;
                if authority.contains(':') && rest[authority.len()..].contains('@') {
                    return Err(AddressError::Password);
                }
                plain(false)
            }
            "git" => {
                if rest.contains('@') {
                    return Err(AddressError::Password);
                }
                expect_host(authority)?;
                plain(false)
            }
            // The program `git-remote-SCHEME`.
            _ if rest.contains(['@', '?']) => Err(AddressError::Password),
            _ => plain(true),
        }
    }
}

/// That `text` is `[user@]host:path`.
fn scp(text: &str) -> Result<(), AddressError> {
    // An address of IPv6 stands in brackets, perhaps with a user before it or in it.
    let end = match text.split_once('[') {
        Some((before, rest)) if !before.contains(':') => match rest.split_once(']') {
            Some((inner, after)) if after.starts_with(':') => before.len() + inner.len() + 2,
            _ => return Err(AddressError::Host),
        },
        _ => text.find(':').unwrap_or(text.len()),
    };
    let (authority, path) = text.split_at(end);
    let path = path.strip_prefix(':').unwrap_or(path);
    if let Some((before, after)) = path.split_once('@')
        && (!before.contains('/') || after.contains(':'))
    {
        return Err(AddressError::Password);
    }
    match authority.split_once('[') {
        Some(("", inner)) => expect_ssh(inner.trim_end_matches(']')).or_else(|_| expect_ssh(authority)),
        _ => expect_ssh(authority),
    }
}

/// That `authority` is `[user@]host[:port]`, without a password, and nothing that a shell or ssh could obey.
pub(crate) fn expect_ssh(authority: &str) -> Result<(), AddressError> {
    match authority.rsplit_once('@') {
        Some((user, _)) if user.contains(':') => Err(AddressError::Password),
        Some((user, host)) => expect_user(user).and_then(|()| expect_host(host)),
        None => expect_host(authority),
    }
}

/// That `user` can be handed to ssh as a user name.
pub(crate) fn expect_user(user: &str) -> Result<(), AddressError> {
    let is_plain = |c: char| c.is_alphanumeric() || "._-+\\@=%".contains(c);
    let is_user = !user.is_empty() && !user.starts_with('-') && user.chars().all(is_plain);
    if is_user { Ok(()) } else { Err(AddressError::Host) }
}

/// That `host` is the name or the address of a host, perhaps with a port.
pub(crate) fn expect_host(host: &str) -> Result<(), AddressError> {
    let (name, port) = match host.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, port)) => {
            let is_address = |c: char| c.is_ascii_alphanumeric() || ":.%".contains(c);
            if address.is_empty() || !address.chars().all(is_address) {
                return Err(AddressError::Host);
            }
            ("ip", port.strip_prefix(':').or(port.is_empty().then_some("")))
        }
        None => match host.split_once(':') {
            Some((name, port)) => (name, Some(port)),
            None => (host, Some("")),
        },
    };
    let is_plain = |c: char| c.is_alphanumeric() || "._-".contains(c);
    let is_host = !name.is_empty() && !name.starts_with('-') && name.chars().all(is_plain);
    let is_port = port.is_some_and(|port| port.chars().all(|c| c.is_ascii_digit()));
    if is_host && is_port { Ok(()) } else { Err(AddressError::Host) }
}

/// Whether `text` is a path, as git has it: it has no colon before the first slash.
fn is_path(text: &str) -> bool {
    !text.split('/').next().unwrap_or_default().contains(':')
}

/// Of what follows `scheme://`, the login and the host.
fn authority(rest: &str) -> &str {
    &rest[..rest.find(['/', '?', '#']).unwrap_or(rest.len())]
}

/// The scheme before the first colon, and what follows that.
fn scheme(text: &str) -> Option<(&str, &str)> {
    let (scheme, rest) = text.split_once(':')?;
    let is_plain = |c: char| c.is_ascii_alphanumeric() || "+-".contains(c);
    let is_scheme = scheme.starts_with(|c: char| c.is_ascii_alphabetic()) && scheme.chars().all(is_plain);
    is_scheme.then_some((scheme, rest))
}

fn is_one_of(scheme: &str, known: &[&str]) -> bool {
    known.iter().any(|known| known.eq_ignore_ascii_case(scheme))
}

/// An address as it may be shown.
fn shown(text: &str) -> String {
    if is_path(text) {
        return text.to_owned();
    }
    let Some((scheme, rest)) = scheme(text) else { return shown_scp(text) };
    if is_one_of(scheme, &["file"]) && rest.starts_with("//") {
        return text.to_owned();
    }
    if is_one_of(scheme, &["rclone"]) {
        let is_plain = |c: char| c.is_alphanumeric() || "_-.+ ".contains(c);
        let is_named = |(remote, _): (&str, &str)| !remote.is_empty() && remote.chars().all(is_plain);
        let is_named = rest.split_once(':').is_some_and(is_named) && !rest.contains(['@', '?']);
        return if is_named { text.to_owned() } else { format!("{scheme}:{HIDDEN}") };
    }
    if let Some(rest) = rest.strip_prefix("//") {
        return format!("{scheme}://{}", shown_rest(rest, is_one_of(scheme, &SSH)));
    }
    if is_one_of(scheme, &["s3", "b2"]) {
        return format!("{scheme}:{}", shown_s3(rest));
    }
    if rest.starts_with(':') || is_one_of(scheme, &STORES) {
        return format!("{scheme}:{}{HIDDEN}", if rest.starts_with(':') { ":" } else { "" });
    }
    shown_scp(text)
}

/// What follows `scheme://`.
fn shown_rest(rest: &str, is_ssh: bool) -> String {
    let visible = |rest: &str| match rest.find(['?', '#']) {
        Some(at) => format!("{}{HIDDEN}", &rest[..=at]),
        None => rest.to_owned(),
    };
    match rest.rsplit_once('@') {
        // A query with an @ in it, or a password with a question mark: nobody knows.
        Some((before, _)) if before.contains(['?', '#']) => HIDDEN.to_owned(),
        Some((before, _)) if is_ssh && !before.contains(':') => visible(rest),
        Some((_, after)) => format!("{HIDDEN}@{}", visible(after)),
        // A port that is none is what stands before a password that was cut off.
        None => {
            let authority = authority(rest);
            match expect_host(authority) {
                Err(_) if authority.contains(':') => HIDDEN.to_owned(),
                _ => visible(rest),
            }
        }
    }
}

/// What follows `s3:`.
fn shown_s3(rest: &str) -> String {
    let (login, place) = match rest.rsplit_once('@') {
        Some((before, _)) if before.contains('?') => return HIDDEN.to_owned(),
        Some((_, place)) => (true, place),
        None => (false, rest),
    };
    let (protocol, host) = match place.split_once("://") {
        Some((protocol @ ("http" | "https"), host)) => (protocol, host),
        _ if place.starts_with('/') => ("", place),
        // Neither a host nor a bucket: it may be a key, cut off or mistyped.
        _ => return HIDDEN.to_owned(),
    };
    let login = if login { format!("{HIDDEN}@") } else { String::new() };
    let slashes = if protocol.is_empty() { "" } else { "://" };
    // A bucket has no colon in its name.
    let shown = match host.strip_prefix('/') {
        Some(bucket) if bucket.split('/').next().is_some_and(|bucket| bucket.contains(':')) => {
            format!("/{HIDDEN}")
        }
        Some(bucket) => format!("/{}", shown_rest(bucket, false)),
        None => shown_rest(host, false),
    };
    format!("{login}{protocol}{slashes}{shown}")
}

/// `[user@]host:path`.
fn shown_scp(text: &str) -> String {
    let colon = text.find(':').unwrap_or(text.len());
    let cut = |text: &str| match text.find('?') {
        Some(at) => format!("{}{HIDDEN}", &text[..=at]),
        None => text.to_owned(),
    };
    match text.rfind('@') {
        Some(at) if text[..at].contains('?') => HIDDEN.to_owned(),
        Some(at) if at > colon => format!("{HIDDEN}@{}", cut(&text[at + 1..])),
        _ => cut(text),
    }
}

/// What can follow a URL and is not part of it, since a sentence goes on with it.
const PUNCTUATION: [char; 4] = [':', ';', ',', '.'];

/// What quotes a URL, before it and after it.
const QUOTES: [(char, char); 7] =
    [('\'', '\''), ('"', '"'), ('`', '`'), ('<', '>'), ('(', ')'), ('“', '”'), ('‘', '’')];

/// `text` without what is secret in the URLs that it quotes.
///
/// A URL ends at white space or at a quote. Known by their beginnings are all with `://`, those of stores, and
/// `user:password@host`. How an address is written, as messages tell it, stays as it is, and so does an address that is
/// shown already.
pub fn redact(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    let mut rest = text;
    while !rest.is_empty() {
        let Range { start, end } = word(rest);
        safe.push_str(&rest[..start]);
        if let Some(form) = form(&rest[start..]) {
            safe.push_str(form);
            rest = &rest[start + form.len()..];
            continue;
        }
        // What ends a part of a sentence is not part of a URL.
        let plain = rest[start..end].trim_end_matches(PUNCTUATION);
        if plain.is_empty() {
            safe.push_str(&rest[start..end]);
            rest = &rest[end..];
            continue;
        }
        let mut end = start + plain.len();
        let word = redact_word(plain);
        // A connection string may hold quotes.
        if word != plain && word.ends_with(&format!(":{HIDDEN}")) {
            end = start + connection_string(rest, start).trim_end_matches(PUNCTUATION).len();
        }
        safe.push_str(&word);
        rest = &rest[end..];
    }
    safe
}

/// The way to write an address that `text` begins with.
fn form(text: &str) -> Option<&'static str> {
    FORMS.into_iter().find(|form| {
        let after = text.strip_prefix(form).map(|after| after.trim_start_matches(PUNCTUATION));
        after.is_some_and(|after| after.chars().next().is_none_or(ends_word))
    })
}

/// The connection string that begins at `start`: up to white space, or to the quote that ends it.
fn connection_string(text: &str, start: usize) -> &str {
    let rest = &text[start..];
    let rest = &rest[..rest.find(char::is_whitespace).unwrap_or(rest.len())];
    let before = text[..start].chars().next_back();
    let closing = QUOTES.iter().find(|(opening, _)| Some(*opening) == before).map(|(_, closing)| *closing);
    let end = closing.and_then(|closing| rest.trim_end_matches(PUNCTUATION).strip_suffix(closing));
    end.unwrap_or(rest)
}

fn ends_word(c: char) -> bool {
    c.is_whitespace() || QUOTES.iter().any(|&(opening, closing)| c == opening || c == closing)
}

/// Where the next word is.
fn word(text: &str) -> Range<usize> {
    let start = text.find(|c: char| !ends_word(c)).unwrap_or(text.len());
    let end = text[start..].find(ends_word).map_or(text.len(), |at| start + at);
    start..end
}

fn redact_word(plain: &str) -> String {
    // What stands before a URL, as in `url=https://…`.
    let starts = |scheme: &str| {
        let is_start = |at: usize| !plain[..at].ends_with(|c: char| c.is_ascii_alphanumeric());
        plain.match_indices(scheme).map(|(at, _)| at).find(|&at| is_start(at))
    };
    let store = STORES.iter().filter_map(|scheme| starts(&format!("{scheme}:"))).min();
    let scheme_start = plain.find("://").map(|at| {
        let is_part = |c: char| c.is_ascii_alphanumeric() || "+-.".contains(c);
        at - plain[..at].chars().rev().take_while(|&c| is_part(c)).count()
    });
    // `user:password@host` and, as git tells of a helper, `name::address`.
    let scp = plain.split_once(':').is_some_and(|(user, rest)| {
        !user.contains('/')
            && rest.split_once('@').is_some_and(|(password, host)| !password.is_empty() && !host.is_empty())
    });
    let helper = plain.split_once("::").is_some_and(|(name, rest)| {
        !name.is_empty()
            && !rest.is_empty()
            && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '-')
            && rest.contains(['@', '?', '=', ','])
    });
    match [store, scheme_start, (scp || helper).then_some(0)].into_iter().flatten().min() {
        Some(start) => format!("{}{}", &plain[..start], shown(&plain[start..])),
        None => plain.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn show(text: &str) -> String {
        Url::from(text).to_string()
    }

    #[test]
    fn nothing_secret_is_shown() {
        for text in [
            "https://me:HUSH@example.org/x.git",
            "https://HUSH@example.org/x.git",
            "https://me:a/HUSH@example.org/x.git",
            "https://me:123/HUSH@example.org/x.git",
            "https://me:a?HUSH@example.org/x.git",
            "https://me:a#HUSH@example.org",
            "https://example.org/x.git?token=HUSH",
            "https://example.org/x.git#HUSH",
            "https://example.org/x.git?a=b@HUSH",
            "s3:/bucket/path?a=b@HUSH",
            "host:x?a@HUSH",
            "https://me:HUSH",
            "https:me:HUSH@example.org",
            "HTTPS://HUSH@example.org/x.git",
            "ftp://me:HUSH@example.org",
            "sftp://me:HUSH@example.org/path",
            "sftp:me:HUSH@example.org/path",
            "ssh://me:HUSH@example.org/x.git",
            "ssh://me:a/HUSH@example.org/x.git",
            "me:HUSH@example.org:x.git",
            "me:HU/HUSH@example.org:x.git",
            "s3:KEY:HUSH@https://example.org/bucket/x",
            "s3:KEY:HU/HUSH@/bucket/x",
            "s3:KEY:HUSH@example.org/bucket/x",
            "s3:KEY:HUSH",
            "s3:KEY:HUSH/bucket/path",
            "s3:/KEY:HUSH@/bucket/path",
            "s3:/KEY:HUSH/bucket",
            "s3://KEY:HUSH@bucket/path",
            "s3:/bucket/path?secret=HUSH",
            "S3:KEY:HUSH@/b/p",
            "s4:KEY:HUSH@https://example.org/bucket/x",
            "b2:KEY:HUSH@/bucket/x",
            "webdav://me:HUSH@example.org/",
            "webdavs:me:HUSH@example.org/",
            "rclone::webdav,url=x,bearer_token=HUSH:path",
            "rclone:there,pass=HUSH:path",
            "rclone::webdav,url='x',bearer_token=\"HUSH\":path",
            "rclone:HUSH",
            "ext::sh -c HUSH",
            "webdav::HUSH",
        ] {
            for shown in [show(text), format!("{:?}", Url::from(text))] {
                assert!(!shown.contains("HUSH"), "{text}: {shown}");
            }
            assert!(Url::from(text).holds_secret(), "{text}");
            // A space ends a URL in a text.
            if !text.contains(' ') && !text.starts_with("webdav::") {
                let quoted = format!("cannot use '{text}': {text}; see {text}.");
                assert!(!redact(&quoted).contains("HUSH"), "{text}: {}", redact(&quoted));
            }
        }
    }

    #[test]
    fn what_is_not_secret_is_shown() {
        for text in [
            "",
            "/srv/rings.git",
            "rings",
            "./a:b",
            "file:///srv/rings?x@y",
            "https://example.org:8443/x.git",
            "git@example.org:rings.git",
            "host:path",
            "ssh://git@example.org:22/x.git",
            "sftp://me@example.org//srv/shed",
            "s3:/bucket/rings",
            "s3:https://example.org:9000/bucket/rings",
            "rclone:drive:rings/of mine",
            "[::1]:x",
        ] {
            assert_eq!(show(text), text);
            assert!(!Url::from(text).holds_secret());
        }
        for text in ["snapshot latest:dir/file is not there", "at 10:30: a::b", "name me@host: x", "k: v"] {
            assert_eq!(redact(text), text);
        }
        assert_eq!(
            redact("to 'ssh://ann@a:22/y' and http://:p@b?q."),
            "to 'ssh://ann@a:22/y' and http://***@b?***."
        );
    }

    #[test]
    fn what_a_message_says_around_an_address_stays() {
        for (text, safe) in [
            ("'s3:host/bucket' for '--repo <DIR>': it is", "'s3:***' for '--repo <DIR>': it is"),
            ("(rclone:a,pass=HUSH). More", "(rclone:***). More"),
            ("to rclone:a,pass='HUSH'; more", "to rclone:***; more"),
            ("'rclone:a,pass=;\"HUSH\"' more", "'rclone:***' more"),
            ("s3:KEY:HUSH, and", "s3:***, and"),
            ("rclone:*** is", "rclone:*** is"),
        ] {
            assert_eq!(redact(text), safe);
            assert_eq!(redact(safe), safe);
        }
        for form in FORMS {
            let text = format!("'x': expected {form}; or ({form}), else {form}.");
            assert_eq!(redact(&text), text);
            let longer = format!("{form}:p/HUSH@x?HUSH");
            assert!(!redact(&longer).contains("HUSH"), "{}", redact(&longer));
        }
    }

    #[test]
    fn git_gets_no_secret() {
        let git = |text: &str| Url::from(text).for_git();
        let given = git("https://me:p%40ss@example.org:8443/x.git").unwrap();
        assert_eq!(given.address, "https://example.org:8443/x.git");
        let login = given.login.unwrap();
        assert_eq!((login.user.as_str(), login.password.as_deref()), ("me", Some("p@ss")));
        assert_eq!(git("https://TOKEN@h/x").unwrap().login.unwrap().password, None);
        for text in [
            "/a/b",
            "a/b:c",
            "--upload-pack=x",
            "file:///a b",
            "https://h/x",
            "ssh://me@h:22/x",
            "git://h/x",
            "me@h:x",
            "h:x",
            "h:dir/me@x",
            "[::1]:x",
            "me@[::1]:x",
            "ssh://[::1]:22/x",
        ] {
            let given = git(text).unwrap();
            assert_eq!((given.address.as_str(), given.starts_program), (text, false));
        }
        for text in ["ext::sh -c x", "fd::7", "odd://x"] {
            assert!(git(text).unwrap().starts_program, "{text}");
        }
        for (text, error) in [
            ("", AddressError::Character),
            ("a\nb", AddressError::Character),
            ("https://me:a%0ahost=evil@h/x", AddressError::Character),
            ("s3:KEY:SECRET@x", AddressError::Store),
            ("SFTP://x/y", AddressError::Store),
            ("ssh://me:pw@h/x", AddressError::Password),
            ("me:pw@h:x", AddressError::Password),
            ("me:p/w@h:x", AddressError::Password),
            ("https:me:pw@h", AddressError::Password),
            ("https://me:1/w@h/x", AddressError::Password),
            ("https://h/x?token=y", AddressError::Query),
            ("https://me:a?b@h/x", AddressError::Host),
            ("git://me:pw@h/x", AddressError::Password),
            ("ssh://-oProxyCommand=x/y", AddressError::Host),
            ("-oProxyCommand=x:y", AddressError::Host),
            ("$(x)@h:y", AddressError::Host),
            ("h`x`:y", AddressError::Host),
            ("odd://me:pw@h", AddressError::Password),
        ] {
            assert_eq!(git(text), Err(error), "{text}");
        }
    }

    #[test]
    fn what_git_says_of_an_address_is_told_without_its_secret() {
        let url = Url::from("https://me:a%20HUSH@example.org/x");
        let said = "fatal: 'a HUSH' for 'https://me:a%20HUSH@example.org/x' and me:a%20HUSH";
        assert!(!url.redact(said).contains("HUSH"), "{}", url.redact(said));
    }

    proptest! {
        #[test]
        fn any_text_is_shown_and_judged(text in "([a-z0-9]{1,6}:)?(//)?[^ ]{0,30}") {
            let url = Url::from(&text);
            let _ = (format!("{url} {url:?}"), url.for_git(), redact(&text), url.holds_secret());
        }

        #[test]
        fn no_password_is_shown(
            scheme in "(https?|ssh|sftp|webdavs?|ftp|git)://",
            user in "[a-z]{1,5}",
            noise in "[!-~]{0,6}",
            path in "[a-z/]{0,9}",
        ) {
            let text = format!("{scheme}{user}:{noise}HUSH@host/{path}");
            prop_assert!(!show(&text).contains("HUSH"), "{} {}", text, show(&text));
        }
    }
}
