//! Input as errors repeat it.

use std::borrow::Cow;

/// How much an error repeats of what somebody wrote, in characters.
const REPEATED: usize = 60;

/// What somebody wrote, cut to what an error may repeat of it.
pub fn short(text: &str) -> Cow<'_, str> {
    match text.char_indices().nth(REPEATED) {
        Some((end, _)) => format!("{}…", &text[..end]).into(),
        None => text.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_long_texts_are_cut() {
        let longest = "ä".repeat(REPEATED);
        assert_eq!(short(&longest), longest);
        assert_eq!(short(&format!("{longest}b")), format!("{longest}…"));
    }
}
