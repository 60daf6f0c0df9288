//! Pure rows, units and formats for all front ends.
