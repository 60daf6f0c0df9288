//! Real kernels: Debian's cloud kernels, booted under emulation with the agent and its end-to-end tests inside.
//!
//! Nothing of the machine's own apt is changed; nothing in a guest is timed, since emulation is several times slower.

mod archive;
mod catalog;
mod emulator;
mod guest;
mod image;
mod initramfs;
mod run;
mod step;
mod userland;

pub use catalog::Kernel;
pub use run::{KernelArguments, run};
pub use step::{Selection, steps};
