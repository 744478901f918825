//! Why a request brought no result.
//!
//! Pure values, no thread.

use std::{fmt, io};

use serde::Serialize;
use serde_json::value::RawValue;

/// Why a request brought no result.
#[derive(Debug)]
#[non_exhaustive]
pub enum ClientError {
    /// A step towards the daemon failed.
    Io {
        /// What was tried, as `connect to 127.0.0.1:7643`.
        step: String,
        /// How it failed.
        error: io::Error,
    },
    /// What was said is not the protocol.
    Protocol(String),
    /// The daemon answered with an error.
    Refused(RpcError),
}

impl ClientError {
    /// The daemon's error, where it is one.
    pub fn refused(&self) -> Option<&RpcError> {
        match self {
            ClientError::Refused(error) => Some(error),
            ClientError::Io { .. } | ClientError::Protocol(_) => None,
        }
    }
}

impl fmt::Display for ClientError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            ClientError::Io { step, error } => write!(f, "cannot {step}: {error}"),
            ClientError::Protocol(what) => f.write_str(what),
            ClientError::Refused(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for ClientError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            ClientError::Io { error, .. } => Some(error),
            ClientError::Protocol(_) => None,
            ClientError::Refused(error) => Some(error),
        }
    }
}

/// An error answer of the daemon. Written as JSON it is the error object as it came.
#[derive(Debug, Clone, Serialize)]
pub struct RpcError {
    /// The number, as -32020.
    pub code: i64,
    /// For a human.
    pub message: String,
    /// The name, as `CAPACITY`; empty if there was none.
    #[serde(skip_serializing)]
    pub reason: String,
    /// Whether the same request may succeed later.
    #[serde(skip_serializing)]
    pub retryable: bool,
    /// All of the error's `data`, as JSON.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub data: Option<Box<RawValue>>,
}

impl fmt::Display for RpcError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.reason.as_str() {
            "" => write!(f, "{} ({})", self.message, self.code),
            reason => write!(f, "{} ({reason})", self.message),
        }
    }
}

impl std::error::Error for RpcError {}
