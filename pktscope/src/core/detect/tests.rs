//! Detection on a made-up host: each rule fires, stays quiet, needs more data, and meets its hard benign case; tests
//! named `fault_N` are cases that the systems this one replaces get wrong.
#![expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "small numbers made here")]

mod host;
mod novelty;
mod rhythm;
mod volumes;
