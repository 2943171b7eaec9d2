//! Text in lines.

/// A text in lines of at most so many characters; words that are too long are broken. At least one line.
pub(super) fn wrapped(text: &str, width: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split_whitespace() {
        let characters: Vec<char> = word.chars().collect();
        for piece in characters.chunks(width) {
            let piece: String = piece.iter().collect();
            let line = lines.last_mut().expect("there is a first line");
            let used = line.chars().count();
            if used == 0 {
                *line = piece;
            } else if used + 1 + piece.chars().count() <= width {
                line.push(' ');
                line.push_str(&piece);
            } else {
                lines.push(piece);
            }
        }
    }
    lines
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
}
