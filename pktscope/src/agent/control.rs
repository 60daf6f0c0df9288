//! The control socket's requests, answered by the core's thread between two turns.

use std::sync::{Mutex, PoisonError, mpsc::Sender};

use serde_json::Value;
use tokio::sync::oneshot;

use super::command::Command;
use crate::api::{Handler, Request};

/// Hands requests to the core's thread.
pub(super) struct Control {
    commands: Mutex<Sender<Command>>,
}

impl Control {
    pub(super) fn new(commands: Sender<Command>) -> Self {
        Self { commands: Mutex::new(commands) }
    }
}

impl Handler for Control {
    fn handle(&self, request: Request) -> Result<Value, String> {
        let (reply, answer) = oneshot::channel();
        let sent = self.commands.lock().unwrap_or_else(PoisonError::into_inner).send(Command::Ask(request, reply));
        sent.map_err(|_| STOPPING.to_owned())?;
        answer.blocking_recv().map_err(|_| STOPPING.to_owned())?
    }
}

const STOPPING: &str = "the agent is stopping; ask again when it runs";
