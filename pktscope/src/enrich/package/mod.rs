//! Which package a file belongs to, and whether it still is what the package brought.
//!
//! In: a file that was opened. Out: a [`Package`]. The package managers' own databases are read, and never written; none
//! of their programs is run.

mod apk;
mod dpkg;
mod layer;
mod owner;
mod paths;
mod rpm;

pub use layer::{Layer, find_layer};
pub use owner::{Checksum, Owner, Packages};
pub use rpm::OlderDatabase;

#[cfg(doc)]
use crate::core::process::Package;
