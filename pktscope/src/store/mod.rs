//! SQLite: the state directory.
