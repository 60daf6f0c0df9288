//! Dependencies point one way: common, core, the peers, then api and tui, agent, cli.

use super::{
    paths,
    source::{Source, Violation},
};

const AGENT: &str = "pktscope/src/";
/// Shell modules at the same height: joined by the agent, never by each other.
const PEERS: [&str; 6] = ["sensor", "enrich", "replay", "store", "sink", "view"];
/// Modules above the peers, each of which may name those before it.
const UPPER: [&str; 4] = ["api", "tui", "agent", "cli"];

/// Flags a module that names one beside or above it.
pub fn check(source: &Source) -> Vec<Violation> {
    let Some(own) = module_of(&source.path) else { return Vec::new() };
    let breach = |named: &paths::Named| {
        let other = imported(named)?;
        let why = refusal(own, other)?;
        Some(source.violation(named.line, format!("{own} names crate::{other}: {why}")))
    };
    paths::named(source).iter().filter_map(breach).collect()
}

fn module_of(path: &str) -> Option<&str> {
    let inner = path.strip_prefix(AGENT)?;
    inner.split('/').next().map(|name| name.strip_suffix(".rs").unwrap_or(name))
}

fn imported(named: &paths::Named) -> Option<&str> {
    let [root, module, ..] = named.segments.as_slice() else { return None };
    ["crate", "pktscope"].contains(&root.as_str()).then_some(module)
}

fn refusal(own: &str, other: &str) -> Option<&'static str> {
    let height = |name: &str| match name {
        "core" => 0,
        _ if PEERS.contains(&name) => 1,
        _ => UPPER.iter().position(|upper| *upper == name).map_or(0, |at| at + 2),
    };
    if own == other || own == "main" || own == "lib" {
        return None;
    }
    if own == "core" {
        return Some("core names nothing outside itself");
    }
    if PEERS.contains(&own) && PEERS.contains(&other) {
        return Some("peers never name each other; pass the value through core's types");
    }
    (height(own) < height(other)).then_some("dependencies point down: common, core, peers, api and tui, agent, cli")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check_one(path: &str, text: &str, expected: usize) {
        let found = check(&Source::parse(path, text).unwrap());
        assert_eq!(found.len(), expected, "{path} {text}: {found:?}");
    }

    #[test]
    fn peers_and_upward_names_are_flagged() {
        check_one("pktscope/src/store/flows.rs", "use crate::view::rows;", 1);
        check_one("pktscope/src/sink/ecs.rs", "use crate::{core::time, store::Store};", 1);
        check_one("pktscope/src/core/flow/key.rs", "use crate::config::Config;", 1);
        check_one("pktscope/src/view/rows.rs", "fn a() { crate::cli::b(); }", 1);
        check_one("pktscope/src/agent/tasks.rs", "use crate::cli::Exit;", 1);
        check_one("pktscope/src/clock.rs", "use crate::agent::Agent;", 1);
    }

    #[test]
    fn downward_names_pass() {
        check_one("pktscope/src/store/flows.rs", "use crate::{core::flow::Flow, store::schema, config::Config};", 0);
        check_one("pktscope/src/cli/run.rs", "use crate::{agent, api, store, view};", 0);
        check_one("pktscope/src/main.rs", "use pktscope::cli;", 0);
        check_one("pktscope/src/core/flow/key.rs", "use crate::core::time; use super::b;", 0);
        check_one("xtask/src/a.rs", "use crate::cli;", 0);
    }
}
