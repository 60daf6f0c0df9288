//! Detectors: flows, names and identities in, verdicts out.
