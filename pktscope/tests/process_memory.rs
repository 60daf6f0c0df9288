//! What the process table holds when it is full, counted at the allocator.

#[path = "support/counting.rs"]
mod counting;

use std::sync::Arc;

use pktscope::core::{
    effect::{Effect, Lookup},
    event::{Exec, Exit, Fork, ProcessFacts, Stamp},
    process::{FileId, ImageHash, ProcessKey, ProcessLimits, ProcessTable},
    time::BootTime,
};

use counting::{MIB, held_bytes};

const PROCESSES: u32 = 100_000;
/// Different programs; a build host runs a few hundred.
const PROGRAMS: u32 = 500;

fn key(number: u32) -> ProcessKey {
    ProcessKey { pid: 1000 + number, started_at: BootTime(1_000_000_000 + u64::from(number) * 20_000_000) }
}

fn fork(number: u32) -> Fork {
    let key = key(number);
    Fork { key, at: key.started_at, parent: self::key(number / 10), uid: 1000, cgroup_id: 7, comm: "make".into() }
}

/// A process with a command line of its own, of about 90 bytes.
fn exec(number: u32) -> Exec {
    let program = number % PROGRAMS;
    let argument = |text: String| Arc::from(text);
    Exec {
        key: key(number),
        at: BootTime(key(number).started_at.0 + 1_000_000),
        parent: key(number / 10),
        uid: 1000,
        cgroup_id: 7,
        comm: format!("tool-{program}").into(),
        filename: format!("/usr/local/bin/tool-{program}").into(),
        raw_filename: None,
        file: FileId { device: 1, inode: u64::from(program) },
        folder: None,
        arguments: vec![
            argument(format!("tool-{program}")),
            argument("--output".to_owned()),
            argument(format!("/build/project/target/object-{number}.o")),
            argument(format!("/build/project/source/file-{number}.c")),
        ],
        image_name: "program".into(),
        has_all_arguments: true,
    }
}

/// Answers every question as user space would.
fn answer(table: &mut ProcessTable, effects: &mut Vec<Effect>, now: BootTime) {
    for effect in std::mem::take(effects) {
        if let Effect::Lookup(Lookup::Process(question)) = effect {
            let facts = ProcessFacts {
                key: question.key,
                image: question.image,
                executable: Some(question.filename.clone()),
                file: question.file,
                hash: Some(ImageHash::Sha256("0123456789abcdef".repeat(4).into())),
                user: Some("builder".into()),
                cgroup_path: Some("/user.slice".into()),
                ..ProcessFacts::default()
            };
            table.on_facts(&facts, now, effects);
            effects.clear();
        }
    }
}

fn fill(table: &mut ProcessTable) -> usize {
    let before = held_bytes();
    let mut effects = Vec::new();
    for number in 0..PROCESSES {
        let exec = exec(number);
        table.on_fork(&fork(number), &mut effects);
        table.on_exec(&exec, &mut effects);
        answer(table, &mut effects, exec.at);
        if number % 1000 == 0 {
            table.tick(exec.at, &mut effects);
        }
    }
    drop(effects);
    held_bytes() - before
}

/// One test: the allocator counts for the whole process.
#[test]
fn a_hundred_thousand_processes_stay_within_their_stated_memory() {
    let before = held_bytes();
    let mut table = ProcessTable::new("boot", ProcessLimits::default());
    let started = pktscope::clock::now().boot;
    let held = fill(&mut table);
    let took = pktscope::clock::now().boot.since(started);
    println!(
        "{} processes hold {:.1} MiB, {} bytes each; fork and exec take {} ns together",
        table.len(),
        held as f64 / MIB as f64,
        held / table.len(),
        took.as_nanos() / u128::from(PROCESSES)
    );
    assert_eq!(table.len(), PROCESSES as usize);
    assert!(held < 72 * MIB, "{held} bytes");

    let mut effects = Vec::new();
    for number in 0..PROCESSES {
        let stamp = Stamp { key: key(number), uid: 1000, cgroup_id: 7 };
        table.lookup_or_request(&stamp, BootTime(u64::MAX / 2), &mut effects);
        answer(&mut table, &mut effects, BootTime(u64::MAX / 2));
    }
    drop(effects);
    let held_by_owners = held_bytes() - before;
    println!("all of them owning sockets: {:.1} MiB", held_by_owners as f64 / MIB as f64);
    assert!(held_by_owners < 140 * MIB, "{held_by_owners} bytes");

    for number in 0..PROCESSES {
        let exit = Exit { key: key(number), at: BootTime(u64::MAX / 2), status: 0 };
        table.on_exit(&exit, &mut Vec::new());
    }
    assert_eq!(table.len(), ProcessLimits::default().ended);
    let evicted = table.counters().evicted_ended;
    assert_eq!(evicted as usize, PROCESSES as usize - ProcessLimits::default().ended, "every one is counted");
}
