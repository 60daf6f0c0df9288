//! Requests and answers.

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// The socket's name in the runtime directory.
pub const SOCKET_NAME: &str = "pktscope.sock";

/// Longest line either way; a longer one ends the connection.
pub(super) const LINE_BYTES_MAX: u64 = 16 << 20;

/// What a command asks of the agent.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case", deny_unknown_fields)]
pub enum Request {
    /// How the agent is: answered with a [`super::StatusReport`].
    Status,
    /// One host snapshot.
    Snapshot,
    /// A verdict on an alert.
    Mark(Mark),
    /// What is learned, program by program.
    BaselineStatus {
        /// Only this program; all where it is left out.
        program: Option<String>,
    },
    /// Forgets what is learned, so that it is learned anew.
    BaselineReset {
        /// Only this program; all where it is left out.
        program: Option<String>,
    },
    /// Every row of the baseline.
    BaselineExport,
    /// Rows of another host's export.
    BaselineImport {
        /// The rows as they were exported.
        rows: Vec<Value>,
    },
    /// Verdicts by rule, and proposals to tune one.
    Rules,
    /// A suppression, to be shown (`is_dry_run`) or applied.
    Suppress {
        /// The suppression as the agent's answer to a dry run described it, or its parts.
        suppression: Value,
        /// Whether it is only shown with what it would have hidden.
        is_dry_run: bool,
    },
    /// Takes a suppression back.
    Revoke {
        /// Its id.
        id: u64,
    },
}

/// A verdict on an alert.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mark {
    /// The alert.
    pub alert_id: u64,
    /// `true_positive`, `false_positive` or `benign_true_positive`.
    pub verdict: String,
    /// Who decided.
    pub analyst: String,
    /// Why.
    pub note: String,
}

/// What the agent answers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "snake_case")]
pub enum Response {
    /// Done, with what was asked for.
    Ok {
        /// Depends on the request.
        data: Value,
    },
    /// Not done.
    Error {
        /// A sentence for the user.
        message: String,
    },
}

impl From<Result<Value, String>> for Response {
    fn from(result: Result<Value, String>) -> Self {
        match result {
            Ok(data) => Self::Ok { data },
            Err(message) => Self::Error { message },
        }
    }
}
