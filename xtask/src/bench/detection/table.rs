//! Scores of several days pooled, and the table beside the reference figures.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use serde_json::Value;

/// A kind of attack: its name in the suite, the rule that decides it here, and what others reached.
struct Kind {
    name: &'static str,
    rule: &'static str,
    /// The system whose rule it replaces.
    replaces: &'static str,
    /// The rules of the suite that belong to it.
    rules: &'static [&'static str],
    grid: Reference,
    /// F1 of the replaced system as shipped, F1 of the prototype.
    random: [f64; 2],
    /// Lowest F1 on the grid.
    bar: f64,
}

/// Precision, recall and F1 of the system whose rule it replaces (pktscope-core 0.2.0, or netwatch-sdk 0.4.0 for the rules
/// that only that one has); the same of a prototype of the methods used here, and its false alerts a day.
struct Reference {
    replaced: [f64; 3],
    prototype: [f64; 3],
    false_alerts: f64,
}

/// Three days pooled, measured by the authors of the suite with the replaced systems as published.
const KINDS: &[Kind] = &[
    kind(
        ["beacon", "beaconing", "netwatch-sdk"],
        &["beacon"],
        [[0.51, 0.82, 0.63], [0.83, 0.97, 0.90]],
        31.0,
        [0.29, 0.87],
        0.93,
    ),
    kind(
        ["dns_tunnel", "dns_tunnel", "netwatch-sdk"],
        &["dns_tunnel"],
        [[0.42, 0.44, 0.43], [0.84, 1.0, 0.91]],
        35.0,
        [0.68, 0.93],
        0.95,
    ),
    kind(
        ["port_scan", "port_scan", "netwatch-sdk"],
        &["port_scan"],
        [[0.39, 0.39, 0.39], [0.76, 1.0, 0.86]],
        4.0,
        [0.34, 0.84],
        0.90,
    ),
    kind(
        ["exfil", "volume_spike", "pktscope-core"],
        &["volume", "exfil"],
        [[0.56, 0.33, 0.42], [0.63, 1.0, 0.77]],
        40.0,
        [0.56, 0.80],
        0.90,
    ),
    kind(
        ["new_dest", "new_process_dest, new_geo", "pktscope-core"],
        &["new_dest", "new_geo"],
        [[0.50, 1.0, 0.67], [0.94, 1.0, 0.97]],
        1.0,
        [0.71, 0.98],
        0.98,
    ),
    kind(
        ["new_proc", "new_process_egress", "pktscope-core"],
        &["new_proc"],
        [[0.82, 1.0, 0.90], [0.80, 1.0, 0.89]],
        13.0,
        [0.89, 0.87],
        0.92,
    ),
    kind(
        ["exe_swap", "identity_change", "pktscope-core"],
        &["identity"],
        [[1.0, 1.0, 1.0], [1.0, 1.0, 1.0]],
        0.0,
        [1.0, 1.0],
        1.0,
    ),
    kind(
        ["bandwidth", "bandwidth", "netwatch-sdk"],
        &["bandwidth"],
        [[0.5, 1.0, 0.67], [1.0, 1.0, 1.0]],
        0.0,
        [0.67, 1.0],
        1.0,
    ),
];

const fn kind(
    [name, rule, replaces]: [&'static str; 3],
    rules: &'static [&'static str],
    [replaced, prototype]: [[f64; 3]; 2],
    false_alerts: f64,
    random: [f64; 2],
    bar: f64,
) -> Kind {
    Kind { name, rule, replaces, rules, grid: Reference { replaced, prototype, false_alerts }, random, bar }
}

/// What was counted of one kind of attack.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Counts {
    attacks: f64,
    detected: f64,
    true_incidents: f64,
    false_incidents: f64,
    false_alerts: f64,
}

impl Counts {
    fn recall(&self) -> f64 {
        self.detected / self.attacks.max(1.0)
    }

    fn precision(&self) -> f64 {
        self.true_incidents / (self.true_incidents + self.false_incidents).max(1.0)
    }

    fn f1(&self) -> f64 {
        let (precision, recall) = (self.precision(), self.recall());
        2.0 * precision * recall / (precision + recall).max(1e-9)
    }
}

/// Several days together.
#[derive(Debug, Default)]
pub struct Pool {
    counts: BTreeMap<&'static str, Counts>,
    days: f64,
}

impl Pool {
    /// Adds a day as `score.py` writes it.
    pub fn add(&mut self, score: &Value) -> Result<()> {
        self.days += score["eval_days"].as_f64().context("the score has no eval_days")?;
        for kind in KINDS {
            let of_type = &score["types"][kind.name];
            let number = |name: &str| {
                of_type[name].as_f64().with_context(|| format!("the score has no {name} of {}", kind.name))
            };
            let counts = self.counts.entry(kind.name).or_default();
            counts.attacks += number("attacks")?;
            counts.detected += number("detected")?;
            counts.false_incidents += number("fp_entities")?;
            counts.false_alerts += number("fp_alerts")?;
            let hits = |rule: &&str| score["rules"][*rule]["entities_tp"].as_f64();
            counts.true_incidents += kind.rules.iter().filter_map(hits).sum::<f64>();
        }
        Ok(())
    }

    /// Prints the table; the kinds that miss their bar.
    pub fn print(&self, mode: &str) -> Vec<String> {
        println!("\n{mode}: {:.0} day(s); incident precision / recall / F1, and false alerts a day", self.days);
        println!(
            "{:26} {:>22} {:>7}   {:<28} {:>16} {:>7}",
            "rule", "pktscope", "false", "replaced", "prototype", "false"
        );
        KINDS
            .iter()
            .filter_map(|kind| self.print_kind(kind, mode == "grid"))
            .map(|what| format!("{what} ({mode})"))
            .collect()
    }

    fn print_kind(&self, kind: &Kind, is_grid: bool) -> Option<String> {
        let counts = self.counts.get(kind.name).copied().unwrap_or_default();
        let false_alerts = counts.false_alerts / self.days.max(1e-9);
        let own = format!("{:.3} / {:.3} / {:.3}", counts.precision(), counts.recall(), counts.f1());
        let three = |[p, r, f]: [f64; 3]| format!("{p:.2}/{r:.2}/{f:.2}");
        let [replaced_f1, prototype_f1] = kind.random;
        let (replaced, prototype, theirs) = if is_grid {
            (three(kind.grid.replaced), three(kind.grid.prototype), format!("{:.0}", kind.grid.false_alerts))
        } else {
            (format!("F1 {replaced_f1:.2}"), format!("F1 {prototype_f1:.2}"), String::new())
        };
        let replaced = format!("{} {replaced}", kind.replaces);
        println!("{:26} {own:>22} {false_alerts:>7.1}   {replaced:<28} {prototype:>16} {theirs:>7}", kind.rule);
        let bar = if is_grid { kind.bar } else { prototype_f1 };
        let is_noisy = is_grid && false_alerts > kind.grid.false_alerts / 2.0;
        let is_missed = counts.f1() + 5e-4 < bar || is_noisy;
        is_missed
            .then(|| format!("{}: F1 {:.3} of {bar:.2}, {false_alerts:.1} false alerts a day", kind.rule, counts.f1()))
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn score(detected: u32, false_incidents: u32) -> Value {
        let of_type =
            json!({"attacks": 10, "detected": detected, "fp_entities": false_incidents, "fp_alerts": false_incidents});
        let types: serde_json::Map<_, _> = KINDS.iter().map(|kind| (kind.name.to_owned(), of_type.clone())).collect();
        let rules: serde_json::Map<_, _> = KINDS
            .iter()
            .flat_map(|kind| kind.rules.iter().take(1))
            .map(|rule| ((*rule).to_owned(), json!({"entities_tp": detected})))
            .collect();
        json!({"eval_days": 1.0, "types": types, "rules": rules})
    }

    #[test]
    fn days_are_pooled_before_ratios_are_taken() {
        let mut pool = Pool::default();
        pool.add(&score(10, 0)).unwrap();
        pool.add(&score(6, 8)).unwrap();
        let counts = pool.counts["beacon"];
        assert!((counts.precision() - 16.0 / 24.0).abs() < 1e-9 && (counts.recall() - 0.8).abs() < 1e-9);
    }

    #[test]
    fn a_missed_bar_is_named_and_a_perfect_day_misses_none() {
        let mut pool = Pool::default();
        pool.add(&score(10, 0)).unwrap();
        assert!(pool.print("grid").is_empty() && pool.print("random").is_empty());
        pool.add(&score(2, 40)).unwrap();
        assert!(pool.print("grid").iter().any(|missed| missed.starts_with("beaconing")));
    }

    #[test]
    fn a_score_without_a_kind_is_an_error() {
        assert!(Pool::default().add(&json!({"eval_days": 1.0})).is_err());
    }
}
