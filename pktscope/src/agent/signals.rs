//! Signals: heard from before the first program is attached, so that one which comes while the agent starts, or the moment
//! it says that it is ready, neither ends it nor leaves filters behind.

use std::{io, time::Duration};

use tokio::{
    runtime::Runtime,
    signal::unix::{Signal, SignalKind, signal},
    sync::oneshot,
};

/// What signals ask for. Until one is waited for, they are kept.
pub(super) struct Signals {
    runtime: Runtime,
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
}

impl Signals {
    /// Takes the signals from their default, which is to end the process.
    ///
    /// # Errors
    /// Of the system, where it has no more descriptors.
    pub(super) fn listen() -> io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let context = runtime.enter();
        let terminate = signal(SignalKind::terminate())?;
        let interrupt = signal(SignalKind::interrupt())?;
        let hangup = signal(SignalKind::hangup())?;
        drop(context);
        Ok(Self { runtime, terminate, interrupt, hangup })
    }

    /// Waits until the agent is to end: by a signal, after its `duration`, or because its core is `gone`. Calls `reload` at
    /// every `SIGHUP`.
    pub(super) fn wait(mut self, duration: Option<Duration>, mut gone: oneshot::Receiver<()>, reload: impl Fn()) {
        self.runtime.block_on(async {
            let over = end_of(duration);
            tokio::pin!(over);
            loop {
                tokio::select! {
                    _ = self.terminate.recv() => return,
                    _ = self.interrupt.recv() => return,
                    () = &mut over => return,
                    _ = &mut gone => return,
                    _ = self.hangup.recv() => reload(),
                }
            }
        });
    }
}

async fn end_of(duration: Option<Duration>) {
    match duration {
        Some(duration) => tokio::time::sleep(duration).await,
        None => std::future::pending().await,
    }
}
