//! pktscope's automation: `cargo xtask run`, `test`, `bench`, `tidy`.

fn main() -> anyhow::Result<()> {
    anyhow::bail!("no command yet")
}
