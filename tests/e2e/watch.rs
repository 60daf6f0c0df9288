//! An agent that posts its alerts, and an alert followed to each place where it is told.

use std::{path::Path, time::Duration};

use pktscope_tests::{
    agent::{Agent, AgentOptions},
    event::Event,
    machine::output_of,
    server::Webhook,
    wait::wait_until,
};

/// Detectors that judge windows do so when a minute is over.
pub const ALERT_DEADLINE: Duration = Duration::from_secs(90);

/// An agent and the web server that it posts its alerts to.
pub struct Watch {
    pub agent: Agent,
    pub webhook: Webhook,
}

impl Watch {
    /// Options of an agent that is active from the start, and a program of it from its first egress on.
    pub fn options(webhook: &Webhook, more: &str) -> AgentOptions {
        let config =
            format!("[detect]\nprogram_learning_window = \"0s\"\n[sink.webhook]\nurl = \"{}\"\n{more}", webhook.url);
        AgentOptions::new().unwrap().config(&config).unwrap().flag("--learning-window", "0s")
    }

    /// An agent of a test's own in the host's network namespace.
    pub fn start(more: &str) -> Self {
        let webhook = Webhook::start().unwrap();
        Self { agent: Self::options(&webhook, more).start().unwrap(), webhook }
    }

    /// Waits for an alert: as an event, in the store and at the webhook.
    pub fn expect(&self, rule: &str, is_it: impl Fn(&Event) -> bool) -> Event {
        let what = format!("alert of {rule}");
        let alert = self.agent.expect(ALERT_DEADLINE, &what, |event| event.is_alert(rule) && is_it(event));
        assert!(!alert.text("message").is_empty() && alert.get("pktscope.alert.evidence").is_some(), "{alert}");
        let id = id_of(&alert);
        let is_this = |line: &str| Event::parse(line).is_ok_and(|event| id_of(&event) == id);
        let stored = wait_until(ALERT_DEADLINE, || {
            let listed = output_of(&mut self.agent.command(["alerts", "--json", "--limit", "100000"]));
            listed.lines().any(is_this).then_some(())
        });
        assert!(stored.is_some(), "{what} is in the store");
        let posted =
            wait_until(ALERT_DEADLINE, || self.webhook.bodies().iter().any(|body| is_this(body)).then_some(()));
        assert!(posted.is_some(), "{what} was posted: {:?}", self.webhook.bodies());
        alert
    }

    /// Waits for an alert about a program.
    pub fn expect_of(&self, rule: &str, program: &Path) -> Event {
        self.expect(rule, |event| is_of(event, program))
    }

    /// Every alert about a program so far.
    pub fn alerts_of(&self, program: &Path) -> Vec<Event> {
        self.agent.events(|event| event.is("alert") && is_of(event, program))
    }

    /// How many alerts a rule has raised about a program.
    pub fn count(&self, rule: &str, program: &Path) -> usize {
        self.alerts_of(program).iter().filter(|event| event.is_alert(rule)).count()
    }
}

/// Whether an event names a program.
pub fn is_of(event: &Event, program: &Path) -> bool {
    event.text("process.executable") == program.to_str().unwrap()
}

/// An alert's id, as the commands take it.
pub fn id_of(alert: &Event) -> String {
    alert.get("pktscope.alert.id").map(ToString::to_string).unwrap_or_default()
}
