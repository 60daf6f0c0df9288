//! `pktscope doctor`: what this machine can do. Everything it attaches is gone when it ends.

use std::path::Path;

use serde_json::json;

use super::{
    output::{Format, paper, print},
    place::Place,
    status::missing,
};
use crate::{
    api::HookReport,
    sensor::{Sensor, SensorSettings, TrafficControl, is_in_initial_pid_namespace, missing_capabilities},
    view::{Cell, StatusSection, Style, bytes, status_text},
};

const BTF_PATH: &str = "/sys/kernel/btf/vmlinux";

/// One thing that was looked at.
struct Fact {
    name: String,
    is_good: bool,
    text: String,
}

impl Fact {
    fn new(name: impl Into<String>, is_good: bool, text: impl Into<String>) -> Self {
        Self { name: name.into(), is_good, text: text.into() }
    }
}

pub(super) fn run(place: &Place, format: Format) -> anyhow::Result<()> {
    let config = place.config()?;
    let settings = SensorSettings {
        cgroup: config.agent.cgroup.clone(),
        ring_bytes: u32::try_from(config.sensor.ring_bytes.0).unwrap_or(u32::MAX),
        peer_entries: config.sensor.peers_max,
        kept_entries: config.sensor.kept_max,
        slot_entries: config.sensor.slots_max,
        traffic_control: if config.sensor.traffic_control { TrafficControl::Trial } else { TrafficControl::Off },
        ..SensorSettings::default()
    };
    let mut facts = machine();
    let attached = Sensor::attach(&settings);
    let mut hooks = Vec::new();
    if let Ok(sensor) = &attached {
        hooks = sensor.hooks().iter().map(report).collect();
        facts.push(Fact::new("cgroup2", true, sensor.cgroup().display().to_string()));
        facts.push(Fact::new("kernel memory", true, bytes(sensor.kernel_memory())));
    }
    let text = if format.json { json_lines(&facts, &hooks) } else { table(&facts, &hooks) };
    print(text.as_bytes())?;
    attached.map(drop).map_err(Into::into)
}

fn report(status: &crate::sensor::HookStatus) -> HookReport {
    HookReport {
        program: status.program.to_owned(),
        attach_point: status.attach_point.to_owned(),
        is_attached: status.is_attached,
        reason: status.reason.clone(),
        lost_without: status.lost_without.to_owned(),
    }
}

/// What can be known without loading anything.
fn machine() -> Vec<Fact> {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let has_btf = Path::new(BTF_PATH).exists();
    let btf = if has_btf { BTF_PATH } else { "missing: the kernel needs CONFIG_DEBUG_INFO_BTF=y" };
    let mut facts = vec![Fact::new("kernel", true, release.trim()), Fact::new("type information", has_btf, btf)];
    facts.push(privileges(&missing_capabilities()));
    facts.push(pid_namespace(is_in_initial_pid_namespace()));
    facts
}

fn pid_namespace(is_initial: bool) -> Fact {
    let text =
        if is_initial { "the host's" } else { "not the host's; start it there, with --pid=host or hostPID: true" };
    Fact::new("pid namespace", is_initial, text)
}

fn privileges(missing: &[&str]) -> Fact {
    match missing.is_empty() {
        true => Fact::new("privileges", true, "sufficient"),
        false => Fact::new("privileges", false, format!("missing {}; run as root", missing.join(", "))),
    }
}

fn table(facts: &[Fact], hooks: &[HookReport]) -> String {
    let mut machine = StatusSection::new("Machine");
    for fact in facts {
        let style = if fact.is_good { Style::Good } else { Style::Bad };
        machine.add(&fact.name, Cell::new(&fact.text).style(style));
    }
    let mut section = StatusSection::new("Hooks");
    for hook in hooks {
        let cell = match hook.is_attached {
            true => Cell::new(format!("attached to {}", hook.attach_point)).style(Style::Good),
            false => Cell::new(missing(hook)).style(Style::Warning),
        };
        section.add(&hook.program, cell);
    }
    status_text(&[machine, section], paper().has_colour)
}

fn json_lines(facts: &[Fact], hooks: &[HookReport]) -> String {
    let facts = facts.iter().map(|fact| json!({"fact": fact.name, "is_good": fact.is_good, "text": fact.text}));
    let hooks = hooks.iter().map(|hook| json!({"hook": hook}));
    facts.chain(hooks).map(|line| format!("{line}\n")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn privileges_name_what_is_missing() {
        assert!(privileges(&[]).is_good);
        let some = privileges(&["CAP_PERFMON", "CAP_NET_ADMIN"]);
        assert_eq!((some.is_good, some.text.as_str()), (false, "missing CAP_PERFMON, CAP_NET_ADMIN; run as root"));
    }
}
