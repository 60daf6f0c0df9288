//! The kernel side of the agent: loads and attaches the programs, reads their records, sweeps what they keep.
//!
//! In: a cgroup to watch. Out: [`crate::core::event::Event`]s. Never decides what an event means, and never lets one
//! program's refusal stop the others.

mod attach;
mod btf;
mod clsact;
mod devices;
mod error;
mod hooks;
pub mod interfaces;
mod kept;
mod linger;
mod load;
mod mtu;
mod netlink;
mod netns;
mod offload;
mod peers;
mod privilege;
mod ring;
mod session;
mod snapshot;
mod statistics;
mod sys;
mod walks;

pub use error::SensorError;
pub use hooks::{Hook, HookStatus};
pub use privilege::{is_in_initial_pid_namespace, missing_capabilities};
pub use session::{Sensor, SensorSettings, SweepKind, TrafficControl};
pub use statistics::ProgramStatistics;
