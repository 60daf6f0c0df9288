//! The harness of pktscope's end-to-end tests: network namespaces, the agent's process, waiting for facts.
