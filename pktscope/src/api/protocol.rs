//! Requests and answers.

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// The socket's name in the runtime directory.
pub const SOCKET_NAME: &str = "pktscope.sock";

/// Longest request; a longer one ends the connection.
pub(super) const LINE_BYTES_MAX: u64 = 16 << 20;

/// Longest answer that a command reads: a full baseline's export is 20 MB.
pub(super) const ANSWER_BYTES_MAX: u64 = 256 << 20;

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
    /// Verdicts of another source.
    Record {
        /// At most a few thousand at once.
        verdicts: Vec<VerdictRecord>,
    },
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
    /// Hides what is like an alert from now on, or shows what that would have hidden. Answered with a
    /// [`super::SuppressionReport`].
    Suppress(Suppress),
    /// Every suppression: answered with a list of [`super::SuppressionReport`].
    Suppressions,
    /// Ends a suppression.
    Revoke {
        /// Its number.
        id: u64,
        /// Who decided.
        analyst: String,
    },
}

/// A verdict of another source, checked by who sends it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VerdictRecord {
    /// Tells a record that is read again.
    pub key: String,
    /// Wall time in nanoseconds.
    pub at: i64,
    /// The alert, where it is about one.
    pub alert_id: Option<u64>,
    /// The rule.
    pub rule: String,
    /// `true_positive`, `false_positive` or `benign_true_positive`.
    pub verdict: String,
    /// Who decided.
    pub analyst: String,
    /// Why.
    pub note: String,
}

/// A false positive, generalised: the alert's rule and program, and a class of destinations, for a time.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Suppress {
    /// The alert that it is like.
    pub alert_id: u64,
    /// Which destinations.
    pub destination: DestinationWord,
    /// For how long.
    pub for_seconds: u64,
    /// Who decided.
    pub analyst: String,
    /// Why.
    pub note: String,
    /// Whether it is only shown with what it would have hidden.
    pub is_dry_run: bool,
}

/// A class of destinations, by the alert's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DestinationWord {
    /// Its registrable domain with all below it, or its address.
    Same,
    /// Its autonomous system.
    Network,
    /// Private addresses.
    Private,
    /// Every destination.
    Any,
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
