//! Kernel record bytes to [`super::event::Event`]; a torn, short or unknown record is a counted error.
