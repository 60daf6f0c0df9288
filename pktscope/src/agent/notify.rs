//! What systemd is told (`Type=notify`); nothing where it did not start the agent.

use sd_notify::NotifyState;
use tracing::debug;

/// Every hook is attached.
pub(super) fn ready() {
    tell(NotifyState::Ready);
}

/// The agent reports what is open and ends.
pub(super) fn stopping() {
    tell(NotifyState::Stopping);
}

fn tell(state: NotifyState<'_>) {
    if let Err(fault) = sd_notify::notify(&[state]) {
        debug!("systemd was not told: {fault}");
    }
}
