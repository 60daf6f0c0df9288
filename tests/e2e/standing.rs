//! The agent that tests share which only look at their own flows.

use std::sync::LazyLock;

use pktscope_tests::{
    agent::{Agent, AgentOptions},
    namespace::Pair,
};

/// Started before the first traffic of any test that uses it.
pub static AGENT: LazyLock<Agent> =
    LazyLock::new(|| Agent::start_shared(AgentOptions::new().expect("a temporary folder can be made")));

/// A fresh pair of namespaces, made when the agent is ready.
pub fn pair() -> Pair {
    LazyLock::force(&AGENT);
    Pair::new().expect("root can make namespaces")
}
