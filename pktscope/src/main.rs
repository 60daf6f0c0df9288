//! pktscope: arguments, run, exit code.

fn main() {
    let args: Vec<String> = std::env::args().collect();
    let mut config = pktscope::config::Config::default();
    let mut duration = None;
    let mut i = 2;
    while i < args.len() {
        let v = || args[i + 1].clone();
        match args[i].as_str() {
            "--state-dir" => config.agent.state_dir = v().into(),
            "--runtime-dir" => config.agent.runtime_dir = v().into(),
            "--cgroup" => config.agent.cgroup = Some(v().into()),
            "--events" => config.agent.events = Some(v().into()),
            "--ready-file" => config.agent.ready_file = Some(v().into()),
            "--duration" => duration = pktscope::config::parse_duration(&v()).ok(),
            "--learning-window" => {
                config.baseline.learning_window = pktscope::config::parse_duration(&v()).unwrap_or_default()
            }
            _ => {}
        }
        i += 2;
    }
    tracing_subscriber::fmt().with_writer(std::io::stderr).init();
    let r = pktscope::agent::run(pktscope::agent::RunOptions {
        config,
        reload: Box::new(|| Ok(Default::default())),
        duration,
        moves_damaged_store_aside: false,
    });
    if let Err(e) = r {
        eprintln!("{e} {e:?}");
        std::process::exit(1);
    }
}
