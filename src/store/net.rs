//! What the backends beyond this machine share: where their waiting is done, their connections, and what
//! they show of the errors that come back.

use std::pin::pin;
use std::time::{Duration, Instant};

use futures_util::future::{Either, select};
use reqwest::redirect::Policy;
use reqwest::{Client, ClientBuilder};
use tokio::runtime::Runtime;

use super::error::Reason;
use crate::child::LOOK;
use crate::signals;

/// The slowest sending that is waited for, in bytes a second.
pub(super) const SLOWEST: u64 = 64 << 10;
/// How long an answer is waited for once this process is to stop: a server that works gives it, so that what is under way is
/// done or undone.
const GRACE: Duration = Duration::from_secs(1);
/// How much of an error's body is shown.
const SHOWN: usize = 300;

/// Runs what a backend waits for; it has threads of its own for the connections.
pub(super) fn runtime() -> Result<Runtime, Reason> {
    Ok(tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?)
}

/// Waits, but not for longer than `limit`, and hardly at all when this process is to stop.
pub(super) async fn within<T>(limit: Duration, future: impl Future<Output = T>) -> Result<T, Reason> {
    let start = Instant::now();
    let over = pin!(async {
        let mut since = None;
        while start.elapsed() < limit {
            if signals::is_stopping() && since.get_or_insert_with(Instant::now).elapsed() >= GRACE {
                break;
            }
            tokio::time::sleep(LOOK.min(limit)).await;
        }
    });
    match select(pin!(future), over).await {
        Either::Left((result, _)) => Ok(result),
        Either::Right(_) => Err(Reason::TimedOut(limit.min(start.elapsed()))),
    }
}

/// Connections of HTTP, with the one implementation of TLS that is built in. Redirects are answers like others.
pub(super) fn client() -> ClientBuilder {
    if rustls::crypto::CryptoProvider::get_default().is_none() {
        // Lost only against another thread that does the same.
        let _ = rustls::crypto::ring::default_provider().install_default();
    }
    // What is sent is for the host of the URL alone.
    Client::builder().redirect(Policy::none())
}

/// Text that comes from elsewhere, cut to what can be shown, on one line and without control characters.
pub(super) fn shorten(text: &str) -> String {
    let plain = text.trim().replace(char::is_control, " ");
    match plain.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{}…", &plain[..end]),
        None => plain,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_of_a_server_is_short_and_has_no_control_characters() {
        assert_eq!(shorten("no\u{1b}[31m\nway"), "no [31m way");
        assert_eq!(shorten("plain"), "plain");
        assert!(shorten(&"é".repeat(10_000)).chars().count() <= SHOWN + 1);
    }
}
