//! What survives: kills, and a full disk.

use std::{fs, path::Path, process::Command};

use pktscope_tests::{
    agent::{Agent, AgentOptions},
    event::Event,
    flow::{DEADLINE, end_of},
    machine::{copy_program, missing_privilege, missing_program, output_of},
    namespace::Pair,
    server::UdpServer,
    skip_if,
    traffic::{Report, Traffic, built},
    wait::wait_until,
};
use tempfile::TempDir;

fn agent_on(state: &Path) -> Agent {
    AgentOptions::new().unwrap().state_dir(state).flag("--learning-window", "0s").start().unwrap()
}

fn stored_alerts(agent: &Agent) -> Vec<Event> {
    let listed = output_of(&mut agent.command(["alerts", "--json", "--limit", "100000"]));
    listed.lines().map(|line| Event::parse(line).unwrap()).collect()
}

fn id_of(alert: &Event) -> String {
    alert.get("pktscope.alert.id").unwrap().to_string()
}

/// Waits until the store has the first-egress alert of a program.
fn expect_stored_alert(agent: &Agent, program: &str) -> Event {
    let is_wanted =
        |alert: &Event| alert.text("rule.id") == "new_process_egress" && alert.text("process.executable") == program;
    let found = wait_until(DEADLINE, || stored_alerts(agent).into_iter().find(is_wanted));
    found.unwrap_or_else(|| panic!("no alert of {program} in the store: {}", agent.describe()))
}

/// Runs a program that sends to the server.
fn contact(pair: &Pair, server: &UdpServer, program: &Path) -> Report {
    Traffic::of(program, &pair.near.namespace, &format!("udp --to {}", server.addr)).run().unwrap()
}

#[test]
fn a_killed_agent_keeps_alerts_cooldowns_and_dispositions() {
    skip_if!(missing_privilege());
    let (pair, folder) = (Pair::new().unwrap(), TempDir::new().unwrap());
    let server = UdpServer::start(&pair.far.namespace, pair.far.v4.into(), false).unwrap();
    let state = folder.path().join("state");
    let send = |program: &Path| contact(&pair, &server, program);
    let mut programs = Vec::new();
    for round in 0..5 {
        let agent = agent_on(&state);
        let program = folder.path().join(format!("program-{round}"));
        copy_program(&built("traffic"), &program);
        send(&program);
        let alert = expect_stored_alert(&agent, program.to_str().unwrap());
        output_of(&mut agent.command([
            "alerts",
            "mark",
            &id_of(&alert),
            "--verdict",
            "false_positive",
            "--note",
            "test",
        ]));
        programs.push(program);
        // What was alerted before the kills is not alerted again.
        let last = programs.iter().map(|program| send(program)).next_back().unwrap();
        end_of(&agent, &last);
        agent.kill();
        let alerts = stored_alerts(&agent);
        for program in &programs {
            let is_of_it = |alert: &&Event| alert.text("process.executable") == program.to_str().unwrap();
            let of_it: Vec<_> = alerts.iter().filter(is_of_it).collect();
            assert_eq!(of_it.len(), 1, "round {round}: {of_it:?}");
            assert_eq!(of_it[0].text("pktscope.alert.disposition.verdict"), "false_positive", "{}", of_it[0]);
        }
    }
}

/// Killed at any instant, an agent has stored a novelty and its alert together or neither: whatever was alerted is never
/// alerted again, and whatever was not is alerted at the next contact.
#[test]
fn a_kill_at_any_instant_neither_loses_nor_repeats_an_alert() {
    skip_if!(missing_privilege());
    let (pair, folder) = (Pair::new().unwrap(), TempDir::new().unwrap());
    let server = UdpServer::start(&pair.far.namespace, pair.far.v4.into(), false).unwrap();
    let state = folder.path().join("state");
    let send = |program: &Path| contact(&pair, &server, program);
    let programs: Vec<_> = (0..8).map(|round| folder.path().join(format!("program-{round}"))).collect();
    for (program, pause) in programs.iter().zip([0, 40, 150, 400, 700, 1_000, 1_300, 2_000]) {
        let agent = agent_on(&state);
        copy_program(&built("traffic"), program);
        send(program);
        // waits: the instant of the kill is what is tried
        std::thread::sleep(std::time::Duration::from_millis(pause));
        agent.kill();
    }
    let agent = agent_on(&state);
    for program in &programs {
        end_of(&agent, &send(program));
        expect_stored_alert(&agent, program.to_str().unwrap());
    }
    let alerts = stored_alerts(&agent);
    for program in &programs {
        let of_it = alerts.iter().filter(|alert| alert.text("process.executable") == program.to_str().unwrap());
        assert_eq!(of_it.count(), 1, "{}: {alerts:?}", program.display());
    }
    let ids: std::collections::BTreeSet<_> = alerts.iter().map(id_of).collect();
    assert_eq!(ids.len(), alerts.len(), "no id is given twice");
}

#[test]
fn a_full_disk_is_reported_and_recovered_from() {
    skip_if!(missing_privilege());
    skip_if!(missing_program("mount"));
    let (pair, folder) = (Pair::new().unwrap(), TempDir::new().unwrap());
    let server = UdpServer::start(&pair.far.namespace, pair.far.v4.into(), false).unwrap();
    let disk = Disk::new(folder.path());
    let agent = agent_on(&disk.path.join("state"));
    let send = || {
        let report = Traffic::new(&pair.near.namespace, &format!("udp --to {}", server.addr)).run().unwrap();
        end_of(&agent, &report);
        report
    };
    let before = send();
    assert!(wait_until(DEADLINE, || is_stored(&agent, &before).then_some(())).is_some(), "stored before");
    let filler = disk.path.join("filler");
    // Fails where the disk is full, as it should.
    let filled = Command::new("dd").args(["if=/dev/zero", "bs=4096"]).arg(format!("of={}", filler.display())).output();
    assert!(!filled.unwrap().status.success());
    let said = wait_until(DEADLINE, || {
        send();
        let (log, status) = (agent.log(), output_of(&mut agent.command(["status"])));
        [log, status].iter().any(|text| text.contains("full") || text.contains("No space")).then_some(())
    });
    assert!(said.is_some(), "the full disk is reported: {}", agent.log());
    fs::remove_file(&filler).unwrap();
    let after = send();
    assert!(
        wait_until(DEADLINE, || is_stored(&agent, &after).then_some(())).is_some(),
        "stored after: {}",
        agent.log()
    );
    assert!(is_stored(&agent, &before), "nothing stored is lost");
    assert_eq!(agent.stop().code(), Some(0));
}

fn is_stored(agent: &Agent, report: &Report) -> bool {
    let listed = output_of(&mut agent.command(["flows", "--json", "--limit", "100000"]));
    let port = u64::from(report.local.unwrap().port());
    listed.lines().any(|line| Event::parse(line).unwrap().number("source.port") == port)
}

/// A small disk of its own.
struct Disk {
    path: std::path::PathBuf,
}

impl Disk {
    fn new(folder: &Path) -> Self {
        let path = folder.join("disk");
        fs::create_dir(&path).unwrap();
        output_of(Command::new("mount").args(["-t", "tmpfs", "-o", "size=8m", "none"]).arg(&path));
        Self { path }
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // The agent may still hold it; a lazy unmount waits for that.
        Command::new("umount").arg("--lazy").arg(&self.path).status().map(drop).unwrap_or_default();
    }
}
