//! One snapshot of the host, as the agent sees it.

use std::fs;

use serde_json::{Value, json};

use super::status::text_of;
use crate::{api::StatusReport, core::time::Moment, sensor::interfaces};

/// Host, interfaces, memory, load and the agent's own state, as one JSON object.
pub(super) fn snapshot(status: &StatusReport, now: Moment) -> Value {
    json!({
        "@timestamp": text_of(now.wall),
        "host": {
            "hostname": line_of("/proc/sys/kernel/hostname"),
            "kernel": line_of("/proc/sys/kernel/osrelease"),
            "boot_id": line_of("/proc/sys/kernel/random/boot_id"),
            "uptime_seconds": now.boot.0 / 1_000_000_000,
            "cpu_cores": std::thread::available_parallelism().map_or(0, usize::from),
            "load_average": load_average(),
            "memory": memory(),
        },
        "interfaces": interface_rows(),
        "agent": status,
    })
}

fn line_of(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default().trim().to_owned()
}

fn load_average() -> Vec<f64> {
    line_of("/proc/loadavg").split(' ').take(3).filter_map(|number| number.parse().ok()).collect()
}

/// Bytes; `/proc/meminfo` gives kibibytes (proc_meminfo(5)).
fn memory() -> Value {
    let text = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let bytes = |name: &str| {
        let line = text.lines().find(|line| line.starts_with(name))?;
        line.split_whitespace().nth(1)?.parse::<u64>().ok().map(|kibibytes| kibibytes * 1024)
    };
    json!({
        "total_bytes": bytes("MemTotal:"),
        "available_bytes": bytes("MemAvailable:"),
        "swap_total_bytes": bytes("SwapTotal:"),
        "swap_free_bytes": bytes("SwapFree:"),
    })
}

fn interface_rows() -> Vec<Value> {
    let devices = interfaces::list().unwrap_or_default();
    let row = |device: interfaces::Device| {
        json!({
            "name": device.name,
            "index": device.index,
            "mtu": device.mtu,
            "sent_ip_bytes": device.bytes[0],
            "received_ip_bytes": device.bytes[1],
            "is_in_ledger": device.role == interfaces::Role::Wire,
        })
    };
    devices.into_iter().map(row).collect()
}
