//! Lines of a report, and what keeps them to the page.

use super::super::figures::ascii;

/// Columns of a line at most.
pub(in crate::control) const COLUMNS: usize = 100;

/// Lines that keep to the page.
#[derive(Default)]
pub(in crate::control) struct Page(pub String);

impl Page {
    /// Adds a line: ASCII, cut at the last column, without trailing spaces.
    pub fn line(&mut self, line: impl AsRef<str>) {
        let line = ascii(line.as_ref());
        let line = line.trim_end();
        if line.len() > COLUMNS {
            self.0 += line[..COLUMNS - 3].trim_end();
            self.0 += "...";
        } else {
            self.0 += line;
        }
        self.0.push('\n');
    }

    /// Adds a block: a head in the first eight columns and items beside it, on as many lines as they need.
    pub fn block(&mut self, head: &str, items: impl IntoIterator<Item = String>) {
        let mut line = format!("{head:<8}");
        let mut empty = true;
        for item in items.into_iter().filter(|item| !item.is_empty()) {
            if !empty && line.len() + 2 + item.len() > COLUMNS {
                self.line(&line);
                line = " ".repeat(8);
                empty = true;
            }
            if !empty {
                line += "  ";
            }
            line += &item;
            empty = false;
        }
        self.line(&line);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_keep_to_the_page() {
        let mut page = Page::default();
        page.line("a  ");
        page.line("\u{e9}\u{2192}\n".to_string() + &"x".repeat(200));
        page.block("HEAD", (0..30).map(|n| format!("item {n}")));
        for line in page.0.lines() {
            assert!(line.len() <= COLUMNS && line.is_ascii() && line.trim_end() == line, "{line:?}");
        }
        assert!(page.0.starts_with("a\n?->?xxx") && page.0.contains("\n        item 1"));
    }
}
