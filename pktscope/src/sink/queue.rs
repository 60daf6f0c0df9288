//! A bounded queue between the pipeline and a sink's thread: pushing never waits, the oldest gives way.

use std::{
    collections::VecDeque,
    sync::{Condvar, Mutex, MutexGuard, PoisonError},
    thread::JoinHandle,
    time::Duration,
};

#[derive(Debug)]
struct State<T> {
    messages: VecDeque<T>,
    is_closing: bool,
}

/// Messages in order.
#[derive(Debug)]
pub(super) struct Queue<T> {
    state: Mutex<State<T>>,
    wake: Condvar,
    bound: usize,
}

/// What a waiting thread is woken for.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Woken<T> {
    /// The oldest message.
    Message(T),
    /// No message before the time was over.
    Timeout,
    /// The sink is being closed, and nothing waits.
    Closed,
}

impl<T> Queue<T> {
    pub(super) fn new(bound: usize) -> Self {
        let state = State { messages: VecDeque::new(), is_closing: false };
        Self { state: Mutex::new(state), wake: Condvar::new(), bound: bound.max(1) }
    }

    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a message. Returns whether the oldest had to give way.
    pub(super) fn push(&self, message: T) -> bool {
        let mut state = self.lock();
        let is_full = self.bound <= state.messages.len();
        if is_full {
            state.messages.pop_front();
        }
        state.messages.push_back(message);
        self.wake.notify_one();
        is_full
    }

    /// Puts a message back where it was taken from, as long as there is room. Returns whether it was dropped.
    pub(super) fn put_back(&self, message: T) -> bool {
        let mut state = self.lock();
        let is_full = self.bound <= state.messages.len();
        if !is_full {
            state.messages.push_front(message);
        }
        is_full
    }

    pub(super) fn len(&self) -> usize {
        self.lock().messages.len()
    }

    /// Waits for a message.
    pub(super) fn pop(&self, timeout: Duration) -> Woken<T> {
        let is_idle = |state: &mut State<T>| state.messages.is_empty() && !state.is_closing;
        let waited = self.wake.wait_timeout_while(self.lock(), timeout, is_idle);
        let (mut state, _) = waited.unwrap_or_else(PoisonError::into_inner);
        match state.messages.pop_front() {
            Some(message) => Woken::Message(message),
            None if state.is_closing => Woken::Closed,
            None => Woken::Timeout,
        }
    }

    /// Waits, unless the sink is being closed. Returns whether it is.
    pub(super) fn pause(&self, pause: Duration) -> bool {
        let waited = self.wake.wait_timeout_while(self.lock(), pause, |state| !state.is_closing);
        waited.unwrap_or_else(PoisonError::into_inner).0.is_closing
    }

    /// Whether the sink is being closed.
    pub(super) fn is_closing(&self) -> bool {
        self.lock().is_closing
    }

    /// Tells the thread to send what it can and end.
    pub(super) fn close(&self) {
        self.lock().is_closing = true;
        self.wake.notify_all();
    }
}

/// Waits for a thread for a limited time: an agent that stops does not wait for a dead server.
pub(super) fn join_within(thread: JoinHandle<()>, limit: Duration) {
    const STEP: Duration = Duration::from_millis(5);
    let mut waited = Duration::ZERO;
    while !thread.is_finished() && waited < limit {
        std::thread::park_timeout(STEP);
        waited += STEP;
    }
    if thread.is_finished()
        && let Err(panic) = thread.join()
    {
        std::panic::resume_unwind(panic);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_gives_way() {
        let queue = Queue::new(2);
        assert_eq!([1, 2, 3].map(|number| queue.push(number)), [false, false, true]);
        assert_eq!(queue.pop(Duration::ZERO), Woken::Message(2));
        assert!(!queue.put_back(2));
        assert!(queue.put_back(1));
        queue.close();
        assert_eq!(queue.pop(Duration::MAX), Woken::Message(2));
        assert_eq!(queue.pop(Duration::MAX), Woken::Message(3));
        assert_eq!(queue.pop(Duration::MAX), Woken::Closed);
    }
}
