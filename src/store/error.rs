//! What went wrong: backends give a [`Reason`], the store adds where and at what.

use std::error::Error as StdError;
use std::fmt;
use std::io;
use std::time::Duration;

use super::name::MARKER;
use super::statistics::Operation;

/// A failed operation: which backend, which object, and why.
#[derive(Debug)]
pub struct Error {
    backend: String,
    operation: Operation,
    object: Option<String>,
    attempts: u32,
    reason: Reason,
}

/// Why an operation failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Reason {
    /// No object has this name.
    #[error("there is no such object")]
    NotFound,
    /// The name is taken, and the operation does not replace.
    #[error("an object of that name exists already")]
    Exists,
    /// The place that the URL names holds no store.
    #[error("there is no store; check the URL and that the disk is mounted, or create the store first")]
    NoStore,
    /// The place for a new store holds something.
    #[error("the place is not empty; choose another one, or destroy the store that is there")]
    NotEmpty,
    /// What is to be destroyed holds something that a store does not write.
    #[error(
        "{path:?} lies there, which no store writes: check the URL; if it is a store all the same, remove that first"
    )]
    Foreign {
        /// The path below the root of the store.
        path: String,
    },
    /// What is to be destroyed has no marker, as a store that this crate made has.
    #[error(
        "it has no file {MARKER}, which every store that treering makes has: check the URL; if it is a store all the same, \
         as borgstore makes them, confirm that by its name: --confirm {name}"
    )]
    Unmarked {
        /// The name to confirm.
        name: String,
    },
    /// What is to be destroyed was confirmed by another name.
    #[error("the name of this store is {name:?}; check the URL")]
    Misnamed {
        /// Its name.
        name: String,
    },
    /// The backend refused.
    #[error("permission denied: {0}; check the credentials and what they may do there")]
    Denied(#[source] Box<dyn StdError + Send + Sync>),
    /// The permissions given in the options do not include what the operation needs.
    #[error("the permissions given for namespace {namespace:?} do not include {needed:?}")]
    NotPermitted {
        /// The namespace.
        namespace: String,
        /// The letters of which one is needed.
        needed: &'static str,
    },
    /// The object does not hold the bytes that were asked for.
    #[error(
        "bytes {offset} to {end} wanted, but the object ends before; it is truncated, or not the one that was meant",
        end = offset.saturating_add(*size)
    )]
    OutOfRange {
        /// First byte that was wanted.
        offset: u64,
        /// Number of bytes that were wanted.
        size: u64,
    },
    /// More bytes came than the object may have, or than were asked for.
    #[error("more than {limit} bytes came; the server ignores ranges, or the object must be read in ranges")]
    TooLarge {
        /// The limit in bytes.
        limit: u64,
    },
    /// The object would not fit into the quota.
    #[error(
        "the quota of {limit} bytes would be exceeded ({used} in use, {needed} needed); delete objects or raise it"
    )]
    Quota {
        /// The quota in bytes.
        limit: u64,
        /// Bytes in use.
        used: u64,
        /// Bytes that the object would add.
        needed: u64,
    },
    /// A listing met an object at a nesting level that is not configured.
    #[error("{path} lies at nesting level {level}; add that level to the levels of the namespace")]
    Misplaced {
        /// The path below the root of the store.
        path: String,
        /// The level at which it lies.
        level: u8,
    },
    /// The backend did not answer in time.
    #[error("no answer within {} s; check that it can be reached, or allow more time", .0.as_secs_f32())]
    TimedOut(Duration),
    /// Whatever else the backend says.
    #[error("{source}{}", if *temporary { "; check that it can be reached and works" } else { "" })]
    Failed {
        /// Whether the same request may succeed later.
        temporary: bool,
        /// What the backend says.
        source: Box<dyn StdError + Send + Sync>,
    },
}

impl Error {
    pub(super) fn new(
        backend: impl fmt::Display,
        operation: Operation,
        object: Option<String>,
        reason: Reason,
    ) -> Self {
        Self { backend: backend.to_string(), operation, object, attempts: 1, reason }
    }

    pub(super) fn after(mut self, attempts: u32) -> Self {
        self.attempts = attempts;
        self
    }

    /// Why.
    pub fn reason(&self) -> &Reason {
        &self.reason
    }

    /// Whether the cause is that no object has the name.
    pub fn is_not_found(&self) -> bool {
        matches!(self.reason, Reason::NotFound)
    }

    /// Whether the cause is that the name is taken.
    pub fn is_exists(&self) -> bool {
        matches!(self.reason, Reason::Exists)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: cannot {}", self.backend, self.operation.verb())?;
        if let Some(object) = &self.object {
            write!(f, " {object}")?;
        }
        write!(f, ": {}", self.reason)?;
        match self.attempts {
            0 | 1 => Ok(()),
            attempts => write!(f, " (after {attempts} attempts)"),
        }
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        // The text of the reason includes its source.
        self.reason.source().and_then(StdError::source)
    }
}

impl Reason {
    pub(super) fn permanent(source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        Self::Failed { temporary: false, source: source.into() }
    }

    pub(super) fn temporary(source: impl Into<Box<dyn StdError + Send + Sync>>) -> Self {
        Self::Failed { temporary: true, source: source.into() }
    }

    /// Whether trying again can help.
    pub fn is_temporary(&self) -> bool {
        matches!(self, Self::TimedOut(_) | Self::Failed { temporary: true, .. })
    }
}

impl From<io::Error> for Reason {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::NotFound => Self::NotFound,
            io::ErrorKind::AlreadyExists => Self::Exists,
            io::ErrorKind::PermissionDenied => Self::Denied(error.into()),
            _ => Self::permanent(error),
        }
    }
}
