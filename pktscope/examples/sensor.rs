//! Prints events for N seconds.
use pktscope::sensor::{Sensor, SensorSettings, SweepKind};
fn main() {
    let secs: u64 = std::env::args().nth(1).and_then(|s| s.parse().ok()).unwrap_or(5);
    let t = pktscope::clock::now().boot;
    let mut s = match Sensor::attach(&SensorSettings::default()) {
        Ok(s) => s,
        Err(e) => {
            let mut e: &dyn std::error::Error = &e;
            loop {
                eprintln!("ERR {e}");
                match e.source() {
                    Some(n) => e = n,
                    None => break,
                }
            }
            std::process::exit(3)
        }
    };
    eprintln!("attached in {:?}; cgroup {:?}", pktscope::clock::now().boot.since(t), s.cgroup());
    for h in s.hooks() {
        eprintln!("{:20} {:30} {} {}", h.program, h.attach_point, h.is_attached, h.reason.clone().unwrap_or_default());
    }
    eprintln!("kernel memory {}", s.kernel_memory());
    eprintln!("READY");
    let mut ev = Vec::new();
    let start = pktscope::clock::now().boot;
    let mut n = 0;
    let mut sweep_at = start;
    while pktscope::clock::now().boot.since(start).as_secs() < secs {
        s.poll(&mut ev);
        let now = pktscope::clock::now().boot;
        if now.since(sweep_at).as_millis() >= 1000 {
            sweep_at = now;
            let r = s.sweep(SweepKind::Changed, now, &mut ev);
            if let Err(e) = r {
                eprintln!("{e} {:?}", std::error::Error::source(&e));
            }
            eprintln!("sweep took {:?}", pktscope::clock::now().boot.since(now));
        }
        for e in ev.drain(..) {
            n += 1;
            println!("{e:?}");
        }
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
    let now = pktscope::clock::now().boot;
    println!("FULL");
    s.sweep(SweepKind::Full, now, &mut ev).unwrap();
    for e in ev.drain(..) {
        n += 1;
        println!("{e:?}");
    }
    eprintln!("{n} events, losses {:?}", s.losses());
}
