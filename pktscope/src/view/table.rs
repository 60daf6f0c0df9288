//! Tables: columns as wide as they must be, cut to the terminal, safe to print whatever a process calls itself.

use unicode_width::{UnicodeWidthChar as _, UnicodeWidthStr as _};

/// Spaces between columns.
const GAP: &str = "  ";
/// A column that may be cut keeps this width.
const CUT_MIN: usize = 12;

/// Where a column's text stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Align {
    /// Texts.
    #[default]
    Left,
    /// Numbers.
    Right,
}

/// How a cell looks on a terminal.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Style {
    /// As it is.
    #[default]
    Plain,
    /// Less important.
    Dim,
    /// A heading.
    Bold,
    /// All is well.
    Good,
    /// Worth a look.
    Warning,
    /// Wrong.
    Bad,
}

impl Style {
    /// Puts the style around `text` (ECMA-48, SGR).
    pub fn paint(self, text: &str) -> String {
        let code = match self {
            Self::Plain => return text.to_owned(),
            Self::Bold => "1",
            Self::Dim => "2",
            Self::Good => "32",
            Self::Warning => "33",
            Self::Bad => "31;1",
        };
        format!("\x1b[{code}m{text}\x1b[0m")
    }
}

/// A column.
#[derive(Clone, Copy, Debug)]
pub struct Column {
    /// Its heading.
    pub title: &'static str,
    /// Where its text stands.
    pub align: Align,
    /// Whether it may be cut where the terminal is too narrow.
    pub is_cut: bool,
}

impl Column {
    /// A column of texts.
    pub const fn text(title: &'static str) -> Self {
        Self { title, align: Align::Left, is_cut: false }
    }

    /// A column of numbers.
    pub const fn number(title: &'static str) -> Self {
        Self { title, align: Align::Right, is_cut: false }
    }

    /// A column of texts that may be cut.
    pub const fn long(title: &'static str) -> Self {
        Self { title, align: Align::Left, is_cut: true }
    }
}

/// A cell.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cell {
    text: String,
    style: Style,
}

impl Cell {
    /// A cell; control characters, which could steer the terminal, are shown as what they are.
    pub fn new(text: impl AsRef<str>) -> Self {
        Self { text: printable(text.as_ref()), style: Style::Plain }
    }

    /// The text, in its style where there is colour.
    pub fn painted(&self, has_colour: bool) -> String {
        if has_colour { self.style.paint(&self.text) } else { self.text.clone() }
    }

    /// The cell in another style.
    pub fn style(self, style: Style) -> Self {
        Self { style, ..self }
    }
}

impl<T: AsRef<str>> From<T> for Cell {
    fn from(text: T) -> Self {
        Self::new(text)
    }
}

/// Escapes control characters and what reorders text (Unicode TR 36, bidirectional overrides).
pub fn printable(text: &str) -> String {
    let is_safe = |letter: char| {
        !letter.is_control()
            && !matches!(letter, '\u{200e}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    if text.chars().all(is_safe) {
        return text.to_owned();
    }
    text.chars()
        .map(|letter| if is_safe(letter) { letter.to_string() } else { letter.escape_default().to_string() })
        .collect()
}

/// A table; its columns never get narrower, so that rows can be added and printed one after the other.
#[derive(Clone, Debug)]
pub struct Table {
    columns: Vec<Column>,
    widths: Vec<usize>,
    rows: Vec<Vec<Cell>>,
}

/// Where a table is printed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Paper {
    /// Cells in a line, where there is a limit.
    pub width: Option<usize>,
    /// Whether styles are shown.
    pub has_colour: bool,
}

impl Table {
    /// An empty table.
    pub fn new(columns: &[Column]) -> Self {
        let widths = columns.iter().map(|column| column.title.width()).collect();
        Self { columns: columns.to_vec(), widths, rows: Vec::new() }
    }

    /// Adds a row.
    pub fn add(&mut self, row: Vec<Cell>) {
        for (width, cell) in self.widths.iter_mut().zip(&row) {
            *width = (*width).max(cell.text.width());
        }
        self.rows.push(row);
    }

    /// Whether there are no rows to print.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// The heading, as a line.
    pub fn heading(&self, paper: Paper) -> String {
        let cells: Vec<Cell> = self.columns.iter().map(|column| Cell::new(column.title).style(Style::Bold)).collect();
        self.line(&cells, &self.fitted(paper.width), paper)
    }

    /// Takes the rows out as lines.
    pub fn take_rows(&mut self, paper: Paper) -> String {
        let widths = self.fitted(paper.width);
        let rows = std::mem::take(&mut self.rows);
        rows.iter().map(|row| self.line(row, &widths, paper)).collect()
    }

    /// Widths with which a line fits: columns that may be cut give way, the widest first.
    fn fitted(&self, limit: Option<usize>) -> Vec<usize> {
        let mut widths = self.widths.clone();
        let gaps = GAP.len() * widths.len().saturating_sub(1);
        let Some(limit) = limit else { return widths };
        while limit < widths.iter().sum::<usize>() + gaps {
            let cut = self.columns.iter().zip(&mut widths).filter(|(column, _)| column.is_cut);
            match cut.map(|(_, width)| width).max() {
                Some(width) if CUT_MIN < *width => *width -= 1,
                _ => break,
            }
        }
        widths
    }

    fn line(&self, row: &[Cell], widths: &[usize], paper: Paper) -> String {
        let cells = self.columns.iter().zip(row).zip(widths).map(|((column, cell), width)| {
            let text = cut(&cell.text, *width);
            let pad = " ".repeat(width.saturating_sub(text.width()));
            let text = if paper.has_colour { cell.style.paint(&text) } else { text };
            match column.align {
                Align::Left => format!("{text}{pad}"),
                Align::Right => format!("{pad}{text}"),
            }
        });
        let line = cells.collect::<Vec<_>>().join(GAP);
        format!("{}\n", line.trim_end())
    }
}

/// The text, or its beginning and an ellipsis.
fn cut(text: &str, width: usize) -> String {
    if text.width() <= width {
        return text.to_owned();
    }
    let mut left = width.saturating_sub(1);
    let mut out = String::new();
    for letter in text.chars() {
        let Some(rest) = left.checked_sub(letter.width().unwrap_or(0)) else { break };
        left = rest;
        out.push(letter);
    }
    out.push('…');
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table() -> Table {
        let mut table = Table::new(&[Column::text("NAME"), Column::number("BYTES"), Column::long("DESTINATION")]);
        table.add(vec!["curl".into(), "12 KiB".into(), "www.example.com:443".into()]);
        table.add(vec!["日本".into(), "7 B".into(), Cell::new("a.example").style(Style::Bad)]);
        table
    }

    fn printed(mut table: Table, paper: Paper) -> String {
        table.heading(paper) + &table.take_rows(paper)
    }

    #[test]
    fn columns_line_up_also_below_wide_letters() {
        let expected = "\
NAME   BYTES  DESTINATION
curl  12 KiB  www.example.com:443
日本     7 B  a.example
";
        assert_eq!(printed(table(), Paper::default()), expected);
    }

    #[test]
    fn a_narrow_terminal_cuts_what_may_be_cut() {
        let expected = "\
NAME   BYTES  DESTINATION
curl  12 KiB  www.example…
日本     7 B  a.example
";
        assert_eq!(printed(table(), Paper { width: Some(26), has_colour: false }), expected);
        assert_eq!(printed(table(), Paper { width: Some(1), has_colour: false }), expected);
    }

    #[test]
    fn colour_is_around_the_text_only() {
        let text = printed(table(), Paper { width: None, has_colour: true });
        assert!(text.contains("\x1b[31;1ma.example\x1b[0m\n"), "{text:?}");
    }

    #[test]
    fn a_name_cannot_steer_the_terminal() {
        let cell = Cell::new("evil\x1b[2J\u{202e}\n\u{7f}");
        assert_eq!(cell.text, "evil\\u{1b}[2J\\u{202e}\\n\\u{7f}");
    }
}
