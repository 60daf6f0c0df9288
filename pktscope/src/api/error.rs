//! What can go wrong between a command and the agent.

use std::{io, path::PathBuf};

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum ApiError {
    /// Nobody listens.
    #[error("no agent is running on {socket}; start it with `pktscope run`, or name its folder with --runtime-dir")]
    NotRunning {
        /// The socket.
        socket: PathBuf,
    },
    /// The socket may not be used by this user.
    #[error("the agent's socket {socket} is closed to this user; use sudo")]
    Denied {
        /// The socket.
        socket: PathBuf,
    },
    /// The agent said no.
    #[error("{0}")]
    Refused(String),
    /// The talk broke off.
    #[error("failed to talk to the agent on {socket}")]
    Broken {
        /// The socket.
        socket: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Another agent listens there.
    #[error("another agent listens on {socket}; stop it, or name another folder with --runtime-dir")]
    Taken {
        /// The socket.
        socket: PathBuf,
    },
    /// The socket cannot be made.
    #[error("failed to make the control socket {socket}; name a folder that can be written with --runtime-dir")]
    Bind {
        /// The socket.
        socket: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}
