//! Look-ups that need I/O: /proc, files, packages, containers, MaxMind databases.
