//! An address: what is secret in it is not shown and not given to git, whatever stands around it.

use treering::store::StoreUrl;
use treering::url::{Url, redact};

const WORD: &str = "HUSHHUSH";

pub fn run(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let url = Url::from(text);
    let shown = url.to_string();
    assert_eq!(Url::from(&shown).to_string(), shown, "what is shown hides nothing more");
    let _ = (redact(text), url.redact(text));
    if let Ok(given) = url.for_git() {
        assert!(!given.address.is_empty() && !given.address.contains(char::is_control));
        assert!(given.login.is_none() || !given.address.contains(&text[..text.find('@').unwrap_or(0) + 1]));
    }
    if let Ok(store) = StoreUrl::try_from(&url) {
        let _ = (store.to_string(), store.name(), store.needs_trust());
    }
    for planted in [
        format!("https://me:{text}{WORD}@host/x.git"),
        format!("https://{text}{WORD}@host/x.git"),
        format!("https://host/x?{text}={WORD}"),
        format!("sftp://me:{text}{WORD}@host/x"),
        format!("ssh://me:{text}{WORD}@host/x"),
        format!("webdavs://me:{text}{WORD}@host/x"),
        format!("s3:KEY:{text}{WORD}@https://host/bucket/x"),
        format!("s3:KEY:{text}{WORD}@/bucket/x"),
        format!("me:{text}{WORD}@host:x"),
        format!("rclone::webdav,pass={text}{WORD}:x"),
    ] {
        let url = Url::from(&planted);
        assert!(!url.to_string().contains(WORD), "{planted:?} is shown as {url}");
        assert!(!format!("{url:?}").contains(WORD), "{planted:?}");
        if let Ok(given) = url.for_git() {
            assert!(!given.address.contains(WORD), "git is given {planted:?} as {}", given.address);
        }
        if let Ok(store) = StoreUrl::try_from(&url) {
            assert!(!store.to_string().contains(WORD), "{planted:?}");
        }
    }
}
