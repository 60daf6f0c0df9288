//! Pure rows, units and formats for all front ends: values in, text out, at a `now` that is given.

mod flows;
mod status;
mod table;
mod times;
mod units;

pub use flows::{FlowLine, flow_cells, flow_columns, peer};
pub use status::{StatusSection, status_text};
pub use table::{Align, Cell, Column, Paper, Style, Table, printable};
pub use times::{Clock, ago, span};
pub use units::{bytes, count, rate};
