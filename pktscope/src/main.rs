//! pktscope: arguments, run, exit code.

fn main() {
    println!("pktscope {}", env!("CARGO_PKG_VERSION"));
}
