//! The control socket of a running agent.
