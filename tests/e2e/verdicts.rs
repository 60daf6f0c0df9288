//! What people say of alerts, and what follows: verdicts, suppressions, imports.

use std::{
    io::Write as _,
    net::IpAddr,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use pktscope_tests::{
    agent::{Agent, AgentOptions},
    event::Event,
    flow::{DEADLINE, end_of},
    machine::{copy_program, missing_privilege, output_of},
    namespace::Pair,
    server::UdpServer,
    skip_if,
    traffic::{Traffic, built},
    wait::wait_until,
};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::watch::{id_of, is_of};

const CONFIG: &str = "[detect]\nprogram_learning_window = \"0s\"\n[disposition]\nmin_sample = 2\n";

/// A program, and where it sends a datagram to.
struct Sender {
    pair: Pair,
    program: PathBuf,
    _folder: TempDir,
}

impl Sender {
    fn new() -> Self {
        let (pair, folder) = (Pair::new().unwrap(), TempDir::new().unwrap());
        let program = folder.path().join("sender");
        copy_program(&built("traffic"), &program);
        Self { pair, program, _folder: folder }
    }

    /// Sends to the far end's address with this last byte, and waits until that is told.
    fn send(&self, agent: &Agent, last: u8) {
        let [a, b, c, _] = self.pair.far.v4.octets();
        let addr = IpAddr::from([a, b, c, last]);
        // It may have it already.
        self.pair.far.add_address(addr).unwrap_or_default();
        let server = UdpServer::start(&self.pair.far.namespace, addr, false).unwrap();
        let run = format!("udp --to {}", server.addr);
        end_of(agent, &Traffic::of(&self.program, &self.pair.near.namespace, &run).run().unwrap());
    }

    fn alerts(&self, agent: &Agent) -> Vec<Event> {
        agent.events(|event| event.is("alert") && is_of(event, &self.program))
    }

    /// Waits until so many alerts about it are in the store; the newest.
    fn expect(&self, agent: &Agent, count: usize) -> Event {
        let found = wait_until(DEADLINE, || {
            let listed = output_of(&mut agent.command(["alerts", "--json", "--limit", "100000"]));
            let alerts: Vec<_> =
                listed.lines().map(|line| Event::parse(line).unwrap()).filter(|it| is_of(it, &self.program)).collect();
            let newest = alerts.iter().max_by_key(|it| it.number("pktscope.alert.id"))?.clone();
            (alerts.len() == count).then_some(newest)
        });
        found.unwrap_or_else(|| panic!("not {count} alerts in the store: {:?}", self.alerts(agent)))
    }
}

fn agent() -> Agent {
    let options = AgentOptions::new().unwrap().config(CONFIG).unwrap();
    options.flag("--learning-window", "0s").start().unwrap()
}

fn lines(command: &mut Command) -> Vec<Value> {
    output_of(command).lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn export(agent: &Agent) -> Vec<Value> {
    lines(&mut agent.command(["baseline", "export"]))
}

/// Runs an importing command on a text.
fn import(agent: &Agent, command: &[&str], text: &str) {
    let arguments = command.iter().copied().chain(["import", "-"]);
    let mut child = agent.command(arguments).stdin(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    assert!(child.wait().unwrap().success());
}

/// The program's row in the baseline, by what its export calls it.
fn row_of(rows: &[Value], kind: &str, program: &Path) -> Option<Value> {
    let is_it = |row: &&Value| row["kind"] == kind && row.to_string().contains(program.to_str().unwrap());
    rows.iter().find(is_it).cloned()
}

#[test]
fn a_false_positive_is_generalised_after_it_was_shown_and_can_be_taken_back() {
    skip_if!(missing_privilege());
    let (agent, sender) = (agent(), Sender::new());
    sender.send(&agent, 2);
    sender.expect(&agent, 1);
    sender.send(&agent, 3);
    let alert = id_of(&sender.expect(&agent, 2));
    let wanted = ["alerts", "suppress", &alert, "--destination", "private", "--for", "1h", "--note", "our own net"];
    let shown = output_of(&mut agent.command(wanted));
    assert!(shown.contains("Proposed") && shown.contains("1 of the last 30 days'"), "{shown}");
    let list = || lines(&mut agent.command(["alerts", "suppressions", "--json"]));
    assert!(list().is_empty(), "nothing is changed by showing it");
    output_of(&mut agent.command(wanted.into_iter().chain(["--apply"])));
    sender.send(&agent, 4);
    let hidden = wait_until(DEADLINE, || list().into_iter().find(|one| one["hidden"] == 1));
    let hidden = hidden.unwrap_or_else(|| panic!("{:?}", list()));
    assert_eq!((&hidden["state"], &hidden["note"]), (&json!("active"), &json!("our own net")), "{hidden}");
    output_of(&mut agent.command(["alerts", "revoke", &hidden["id"].to_string()]));
    sender.send(&agent, 5);
    let alert = sender.expect(&agent, 3);
    assert!(alert.to_string().contains(".5\""), "the one after the revocation: {alert}");
    let revoked = list().remove(0);
    assert_eq!(revoked["state"], "revoked", "it stays as audit: {revoked}");
    assert!(revoked["revoked_by"].as_str().is_some_and(|who| !who.is_empty()), "{revoked}");
}

#[test]
fn an_imported_verdict_closes_its_alert_and_a_noisy_rule_proposes_and_takes_nothing() {
    skip_if!(missing_privilege());
    let (agent, sender) = (agent(), Sender::new());
    sender.send(&agent, 2);
    let alert = sender.expect(&agent, 1);
    let open = |agent: &Agent| row_of(&export(agent), "program", &sender.program).unwrap()["alert_open_until"].clone();
    assert!(!open(&agent).is_null(), "its alert is open");
    let verdict = |about: Value, verdict: &str| json!({"verdict": verdict, "incident_id": about, "analyst": "ada"});
    let incident = alert.get("pktscope.alert.dedup_key").unwrap().clone();
    let other = json!({"verdict": "false_positive", "rule_id": "new_process_egress", "fingerprint": "ticket 7"});
    let text = format!("{}\n{other}\n", verdict(incident.clone(), "false_positive"));
    for _ in 0..2 {
        import(&agent, &["alerts", "verdicts"], &text);
    }
    assert!(open(&agent).is_null(), "closed like by a mark");
    let rule = || {
        let file = agent.config_file();
        let rules = lines(&mut agent.command(["rules", "--json", "--config", file.to_str().unwrap()]));
        rules.into_iter().find(|row| row["rule"]["id"] == "new_process_egress").unwrap()["pktscope"]["rule"].clone()
    };
    assert_eq!((&rule()["false_positives"], &rule()["false_positive_ratio"]), (&json!(2), &json!(1.0)));
    assert!(rule()["proposal"].is_object(), "{}", rule());
    let status = lines(&mut agent.command(["status", "--json"])).remove(0);
    assert_eq!(status["proposals"][0]["rule"], "new_process_egress", "{status}");
    assert!(lines(&mut agent.command(["alerts", "suppressions", "--json"])).is_empty(), "nothing is taken");
    let changed = format!("{}\n", verdict(incident, "true_positive"));
    import(&agent, &["alerts", "verdicts"], &changed);
    assert_eq!((&rule()["true_positives"], &rule()["false_positives"]), (&json!(1), &json!(1)), "it takes its place");
}

#[test]
fn what_one_host_learned_another_starts_with() {
    skip_if!(missing_privilege());
    let sender = Sender::new();
    let learned = {
        let teacher = AgentOptions::new().unwrap().flag("--learning-window", "1h").start().unwrap();
        sender.send(&teacher, 2);
        wait_until(DEADLINE, || row_of(&export(&teacher), "pair", &sender.program)).expect("it is learned");
        output_of(&mut teacher.command(["baseline", "export"]))
    };
    let state = TempDir::new().unwrap();
    let start = |window: &str| {
        let options = AgentOptions::new().unwrap().config(CONFIG).unwrap().state_dir(&state.path().join("state"));
        options.flag("--learning-window", window).start().unwrap()
    };
    let agent = start("0s");
    import(&agent, &["baseline"], &learned);
    agent.kill();
    let agent = start("0s");
    sender.send(&agent, 2);
    sender.send(&agent, 3);
    let alert = sender.expect(&agent, 1);
    assert_eq!(alert.text("rule.id"), "new_process_dest", "only the other destination is new: {alert}");
    assert!(alert.to_string().contains(".3\""), "{alert}");
}

#[test]
fn learning_goes_on_after_a_kill() {
    skip_if!(missing_privilege());
    let (sender, state) = (Sender::new(), TempDir::new().unwrap());
    let start = || {
        let options = AgentOptions::new().unwrap();
        options.state_dir(&state.path().join("state")).flag("--learning-window", "1h").start().unwrap()
    };
    let agent = start();
    sender.send(&agent, 2);
    let pair = |agent: &Agent| row_of(&export(agent), "pair", &sender.program);
    let before = wait_until(DEADLINE, || pair(&agent)).expect("it is learned");
    // An import of what is known changes nothing, and is answered once everything up to it is stored.
    let known = output_of(&mut agent.command(["baseline", "export"]));
    import(&agent, &["baseline"], &known);
    agent.kill();
    let agent = start();
    let after = pair(&agent).expect("the baseline survived");
    assert_eq!(after["first_seen"], before["first_seen"], "{after}");
    let status: Value = serde_json::from_str(&output_of(&mut agent.command(["status", "--json"]))).unwrap();
    assert_eq!(status["baseline"]["state"], "learning", "{status}");
}
