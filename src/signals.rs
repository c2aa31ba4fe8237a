//! Signals that ask a process to stop.
//!
//! What runs other programs says so by a [`Child`], and looks at [`is_stopping`] while it waits for them: it asks them to end, and ends
//! itself in order. So no command leaves one behind, whether or not it has a [`Progress`](crate::progress::Progress). A
//! second signal may still end the process at once.
//!
//! A signal that the parent had ignored stays ignored: `nohup` ignores SIGHUP for the programs that it runs, and a shell
//! without job control SIGINT for what it runs in the background. A handler would take that away.

use std::ffi::c_int;
use std::io;
use std::sync::{Mutex, MutexGuard, PoisonError};

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

/// What this process runs, and whether it was asked to stop.
struct State {
    children: usize,
    is_stopping: bool,
}

static STATE: Mutex<State> = Mutex::new(State { children: 0, is_stopping: false });

fn state() -> MutexGuard<'static, State> {
    STATE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Another program that this process runs, and ends when it is to stop; from before it is started until it has ended.
#[derive(Debug)]
pub struct Child(());

impl Child {
    /// One that is about to be started; `None` when this process is to stop.
    pub fn start() -> Option<Self> {
        let mut state = state();
        if state.is_stopping {
            return None;
        }
        state.children += 1;
        Some(Self(()))
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        state().children -= 1;
    }
}

/// Asks this process to stop. Where none of its threads runs another program, `otherwise` is called, and none can begin to
/// meanwhile.
pub fn stop(otherwise: impl FnOnce()) {
    let mut state = state();
    state.is_stopping = true;
    if state.children == 0 {
        otherwise();
    }
}

/// Whether this process was asked to stop.
pub fn is_stopping() -> bool {
    state().is_stopping
}

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
