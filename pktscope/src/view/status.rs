//! Sections of named values, as `status` and `doctor` print them.

use unicode_width::UnicodeWidthStr as _;

use super::{Cell, Style, printable};

/// A heading and what stands below it.
#[derive(Clone, Debug, Default)]
pub struct StatusSection {
    /// The heading.
    pub title: &'static str,
    /// Names and values.
    pub values: Vec<(String, Cell)>,
}

impl StatusSection {
    /// An empty section.
    pub fn new(title: &'static str) -> Self {
        Self { title, values: Vec::new() }
    }

    /// Adds a value.
    pub fn add(&mut self, name: impl Into<String>, value: impl Into<Cell>) -> &mut Self {
        self.values.push((printable(&name.into()), value.into()));
        self
    }
}

/// Prints sections; empty ones are left out.
pub fn status_text(sections: &[StatusSection], has_colour: bool) -> String {
    let mut out = String::new();
    for section in sections.iter().filter(|section| !section.values.is_empty()) {
        if !out.is_empty() {
            out.push('\n');
        }
        let title = if has_colour { Style::Bold.paint(section.title) } else { section.title.to_owned() };
        out.push_str(&format!("{title}\n"));
        let width = section.values.iter().map(|(name, _)| name.width()).max().unwrap_or(0);
        for (name, value) in &section.values {
            let pad = " ".repeat(width - name.width());
            out.push_str(format!("  {name}{pad}  {}", value.painted(has_colour)).trim_end());
            out.push('\n');
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_line_up_below_their_heading() {
        let mut agent = StatusSection::new("Agent");
        agent.add("pid", "7").add("state directory", Cell::new("/var/lib/pktscope").style(Style::Bad));
        let mut asked = StatusSection::new("DNS");
        asked.add("e\u{1b}[31mvil.example", "7");
        let text = status_text(&[agent, StatusSection::new("Empty")], false);
        assert!(
            !status_text(&[asked], false).contains('\u{1b}'),
            "a name that somebody asked for is no escape sequence"
        );
        assert_eq!(text, "Agent\n  pid              7\n  state directory  /var/lib/pktscope\n");
    }
}
