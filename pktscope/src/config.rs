//! The configuration: one struct, every field with a default and a doc line.
