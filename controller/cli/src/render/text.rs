//! Text in lines and columns. A character of East Asia takes the room of two.

use unicode_width::{UnicodeWidthChar, UnicodeWidthStr};

/// How many columns a text takes.
pub(crate) fn width(text: &str) -> usize {
    text.width()
}

fn columns(character: char) -> usize {
    character.width().unwrap_or(0)
}

/// A text with spaces behind it, so many columns in all.
pub(crate) fn padded(text: &str, columns: usize) -> String {
    format!("{text}{}", " ".repeat(columns.saturating_sub(width(text))))
}

/// As much of a text as fits into so many columns.
pub(super) fn fitting(text: &str, room: usize) -> &str {
    let mut used = 0;
    let end = text.char_indices().find(|(_, character)| {
        used += columns(*character);
        used > room
    });
    end.map_or(text, |(end, _)| &text[..end])
}

/// A text in lines of at most so many columns, which is two or more; words that are too long are broken. At least one
/// line.
pub(super) fn wrapped(text: &str, room: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split_whitespace() {
        let mut gap = " ";
        for piece in pieces(word) {
            let mut rest = piece;
            while !rest.is_empty() {
                let line = lines.last_mut().expect("there is a first line");
                let gap = std::mem::take(&mut gap);
                if line.is_empty() {
                    let part = fitting(rest, room);
                    line.push_str(part);
                    rest = &rest[part.len()..];
                } else if width(line) + gap.len() + width(rest) <= room {
                    line.push_str(gap);
                    line.push_str(rest);
                    rest = "";
                } else {
                    lines.push(String::new());
                }
            }
        }
    }
    lines
}

/// A word in the pieces between which a line may end: behind any wide character, unless what follows belongs to it.
fn pieces(word: &str) -> Vec<&str> {
    let mut pieces = Vec::new();
    let (mut begin, mut before) = (0, None);
    for (at, character) in word.char_indices() {
        let breaks = before.is_some_and(|before| {
            (columns(before) == 2 || columns(character) == 2) && !opens(before) && !closes(character)
        });
        if breaks {
            pieces.push(&word[begin..at]);
            begin = at;
        }
        before = Some(character);
    }
    pieces.push(&word[begin..]);
    pieces
}

/// Whether no line ends with it.
fn opens(character: char) -> bool {
    matches!(character, '（' | '“')
}

/// Whether no line begins with it.
fn closes(character: char) -> bool {
    matches!(character, '，' | '。' | '；' | '：' | '、' | '）' | '”' | '？')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_broken_into_lines_that_fit() {
        assert_eq!(wrapped("one two three", 10), ["one two", "three"]);
        assert_eq!(wrapped("aaaaaaaaaabbbbbbbbbbcc d", 10), ["aaaaaaaaaa", "bbbbbbbbbb", "cc d"]);
        assert_eq!(wrapped("", 10), [""]);
    }

    #[test]
    fn wide_characters_take_two_columns_and_may_be_parted() {
        assert_eq!(wrapped("没有路由，报文被丢弃", 8), ["没有路", "由，报文", "被丢弃"]);
        assert_eq!(wrapped("在 node1 上丢弃", 8), ["在 node1", "上丢弃"]);
        assert_eq!(wrapped("丢弃（原因）", 6), ["丢弃", "（原", "因）"]);
        assert_eq!(padded("丢包：", 8), "丢包：  ");
        assert_eq!(fitting("丢包", 3), "丢");
    }
}
