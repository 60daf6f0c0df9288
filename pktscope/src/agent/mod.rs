//! The agent: tasks, channels, shutdown; wiring only.
