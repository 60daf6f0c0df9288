//! What other threads ask of the core's thread.

use tokio::sync::oneshot;

use crate::{
    api::StatusReport,
    config::Config,
    core::{effect::Effect, pipeline::Pipeline, time::Moment},
};

/// A change made by the core's own thread, between two turns.
pub type Edit = Box<dyn FnOnce(&mut Pipeline, Moment, &mut Vec<Effect>) + Send>;

/// One request.
pub enum Command {
    /// How the agent is doing.
    Status(oneshot::Sender<StatusReport>),
    /// Take another configuration.
    Configure(Box<Config>),
    /// Open the event file again.
    Reopen,
    /// Change something in the pipeline.
    Edit(Edit),
    /// Report every open flow and end.
    Stop,
}
