//! Connects, sends its process id as text, exits: about a millisecond of life.

use std::{
    env,
    io::{Error, Write},
    net::TcpStream,
    process,
};

fn main() -> Result<(), Error> {
    let to = env::args().nth(1).unwrap_or_default();
    let mut stream = TcpStream::connect(to)?;
    stream.write_all(process::id().to_string().as_bytes())
}
