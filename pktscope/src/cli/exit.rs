//! Exit codes: what a script can tell apart.

use std::{error::Error, io, process::ExitCode};

use crate::{agent::RunError, config::ConfigError, sensor::SensorError, store::StoreError};

/// How `pktscope` ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Exit {
    /// Done.
    Done = 0,
    /// Failed; the message says at what.
    Failed = 1,
    /// Bad arguments or configuration.
    Usage = 2,
    /// Missing privilege or kernel feature; the message names it and what to do.
    Unsupported = 3,
    /// Another agent is running on this state directory.
    Running = 4,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

impl Exit {
    /// The code for an error, by the first cause that has one of its own.
    pub fn of(error: &anyhow::Error) -> Self {
        error.chain().find_map(of_cause).unwrap_or(Self::Failed)
    }
}

/// Arguments that clap cannot check.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(super) struct UsageError(pub(super) String);

fn of_cause(cause: &(dyn Error + 'static)) -> Option<Exit> {
    if cause.is::<ConfigError>() || cause.is::<UsageError>() {
        return Some(Exit::Usage);
    }
    if let Some(error) = cause.downcast_ref::<io::Error>() {
        return (error.kind() == io::ErrorKind::BrokenPipe).then_some(Exit::Done);
    }
    match cause.downcast_ref::<RunError>() {
        Some(RunError::Sensor(error)) => return of_sensor(error),
        Some(RunError::Store(error)) => return of_store(error),
        _ => {}
    }
    cause.downcast_ref().and_then(of_sensor).or_else(|| cause.downcast_ref().and_then(of_store))
}

fn of_store(error: &StoreError) -> Option<Exit> {
    matches!(error, StoreError::Locked { .. }).then_some(Exit::Running)
}

/// Whatever the sensor cannot do, the machine or its user does not let it; a folder that is none is the user's mistake.
fn of_sensor(error: &SensorError) -> Option<Exit> {
    Some(if matches!(error, SensorError::Cgroup { .. }) { Exit::Usage } else { Exit::Unsupported })
}
