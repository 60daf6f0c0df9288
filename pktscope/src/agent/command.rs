//! What other threads ask of the core's thread.

use serde_json::Value;
use tokio::sync::oneshot;

use crate::{api::Request, config::Config};

/// Where an answer goes.
pub(super) type Reply = oneshot::Sender<Result<Value, String>>;

/// One request.
pub(super) enum Command {
    /// A request of the control socket.
    Ask(Request, Reply),
    /// Take another configuration.
    Configure(Box<Config>),
    /// Open the event file again.
    Reopen,
    /// Report every open flow and end.
    Stop,
}
