//! Standard output: lines of a table or of JSON, in colour where a person looks.

use std::io::{self, IsTerminal as _, Write as _};

use clap::Args;
use jiff::tz::TimeZone;

use crate::{
    clock,
    view::{Clock, Paper},
};

/// How to print.
#[derive(Args, Clone, Copy, Debug, Default)]
pub struct Format {
    /// Print a line of JSON a row, in the names of the exported events
    #[arg(long)]
    pub json: bool,
}

/// For what is JSON anyway, so that scripts can ask every command alike.
#[derive(Args, Clone, Copy, Debug, Default)]
pub struct Json {
    /// Print JSON, which this does anyway
    #[arg(long)]
    _json: bool,
}

/// Colour and width of standard output.
pub(super) fn paper() -> Paper {
    let stdout = io::stdout();
    if !stdout.is_terminal() {
        return Paper::default();
    }
    // https://no-color.org: present and not empty.
    let has_colour = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
        && std::env::var_os("TERM").is_none_or(|term| term != "dumb");
    let width = rustix::termios::tcgetwinsize(&stdout).ok().map(|size| usize::from(size.ws_col));
    Paper { width: width.filter(|width| *width != 0), has_colour }
}

/// Now, in the user's time zone.
pub(super) fn local_clock() -> Clock {
    Clock { now: clock::now().wall, zone: TimeZone::system() }
}

/// Prints and hands over to whoever reads.
pub(super) fn print(text: &[u8]) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    stdout.write_all(text)?;
    stdout.flush()
}
