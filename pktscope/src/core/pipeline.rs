//! The core's one entry: an event and the time go in, effects come out.
