//! Signals that ask a process to stop.
//!
//! A signal that the parent had ignored stays ignored: `nohup` ignores SIGHUP for the programs that it runs, and a shell
//! without job control SIGINT for what it runs in the background. A handler would take that away.

use std::ffi::c_int;
use std::io;

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

/// Calls `act` each time that this process is sent SIGTERM, SIGINT or SIGHUP, apart from those that it ignores.
pub fn on_stop(act: impl FnMut() + Send + 'static) -> io::Result<()> {
    let mut act = act;
    let mut signals = Signals::new(not_ignored(&[SIGTERM, SIGINT, SIGHUP]))?;
    std::thread::Builder::new()
        .name("signals".into())
        .spawn(move || signals.forever().for_each(|_| act()))?;
    Ok(())
}

/// Those of `signals` that this process does not ignore. Where there is no `/proc` to tell, all of them.
pub fn not_ignored(signals: &[c_int]) -> Vec<c_int> {
    let ignored = std::fs::read_to_string("/proc/self/status").ok().and_then(|status| ignored_in(&status));
    let ignored = ignored.unwrap_or(0);
    signals.iter().copied().filter(|signal| ignored >> (signal - 1).clamp(0, 63) & 1 == 0).collect()
}

/// The set of ignored signals in the text of `/proc/self/status`: signal 1 is the lowest bit.
fn ignored_in(status: &str) -> Option<u64> {
    let set = status.lines().find_map(|line| line.strip_prefix("SigIgn:"))?;
    u64::from_str_radix(set.trim(), 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernel_tells_what_is_ignored() {
        let status = "Name:\tcat\nSigBlk:\t0000000000000000\nSigIgn:\t0000000000001003\nSigCgt:\t00\n";
        assert_eq!(ignored_in(status), Some(1 << 12 | 0b11));
        assert_eq!(ignored_in("Name:\tcat\n"), None);
        assert_eq!(ignored_in("SigIgn:\tlots\n"), None);
        // Of the runtime of Rust itself, in every program.
        let sigpipe = signal_hook::consts::SIGPIPE;
        let heeded = not_ignored(&[sigpipe, SIGTERM]);
        assert!(heeded == [SIGTERM] || !std::path::Path::new("/proc/self/status").exists(), "{heeded:?}");
    }
}
