//! The kernels to boot and where Debian has them.

/// A kernel series, as one of Debian's suites carries it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Kernel {
    /// The series; `newest` takes what the suite has.
    pub series: &'static str,
    /// The suite whose current cloud kernel is of this series.
    pub suite: &'static str,
}

/// Oldest first. 5.10 is the floor, 6.1 the last without process helpers in packet programs, 6.12 the current stable.
const ALL: [Kernel; 4] = [
    Kernel { series: "5.10", suite: "bullseye-security" },
    Kernel { series: "6.1", suite: "bookworm-security" },
    Kernel { series: "6.12", suite: "trixie-security" },
    Kernel { series: "newest", suite: "trixie-backports" },
];

impl Kernel {
    /// Every kernel to boot, oldest first.
    pub fn all() -> [Self; 4] {
        ALL
    }

    /// The oldest and the newest: between them lies every change that matters.
    pub fn extremes() -> [Self; 2] {
        [ALL[0], ALL[3]]
    }

    /// Whether a kernel of this version, as `uname -r` has it, is what is wanted.
    pub fn is_version(self, version: &str) -> bool {
        self.series == "newest" || version.strip_prefix(self.series).is_some_and(|rest| rest.starts_with('.'))
    }

    /// Whether the suite is on the mirror for security updates.
    pub fn is_security(self) -> bool {
        self.suite.ends_with("-security")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_series_is_not_mistaken_for_another() {
        let [oldest, newest] = Kernel::extremes();
        assert!(oldest.is_version("5.10.0-46-cloud-amd64"));
        assert!(!oldest.is_version("6.1.0-56-cloud-amd64"));
        assert!(!ALL[1].is_version("6.12.117+deb13-cloud-amd64"));
        assert!(newest.is_version("7.2.12+deb13-cloud-amd64"));
    }
}
