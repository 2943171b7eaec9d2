//! The words of a rule, taken one option at a time.

/// One option with its arguments: `! --dport 80`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Opt {
    /// With its dashes.
    pub(super) name: String,
    pub(super) negated: bool,
    pub(super) args: Vec<String>,
}

impl Opt {
    /// The first argument.
    pub(super) fn arg(&self) -> &str {
        self.args.first().map_or("", String::as_str)
    }

    /// As the tool prints it.
    pub(super) fn text(&self) -> String {
        let not = if self.negated { "! " } else { "" };
        format!("{not}{} {}", self.name, self.args.join(" ")).trim_end().to_owned()
    }
}

/// Splits the text of a rule into options. `None` if its quotes do not close.
pub(super) fn split(text: &str) -> Option<Vec<Opt>> {
    let mut options: Vec<Opt> = Vec::new();
    let mut negated = false;
    for word in shlex::split(text)? {
        let is_option =
            word.len() > 1 && word.starts_with('-') && !word[1..].starts_with(|c: char| c.is_ascii_digit());
        // The argument of a comment may look like anything.
        let wants_text = options.last().is_some_and(|opt| takes_text(&opt.name) && opt.args.is_empty());
        if wants_text {
            if let Some(opt) = options.last_mut() {
                opt.args.push(word);
            }
        } else if word == "!" {
            negated = true;
        } else if is_option {
            options.push(Opt { name: word, negated: std::mem::take(&mut negated), args: Vec::new() });
        } else if let Some(opt) = options.last_mut() {
            // The old form `--dport ! 80`.
            opt.negated |= std::mem::take(&mut negated);
            opt.args.push(word);
        }
    }
    Some(options)
}

fn takes_text(option: &str) -> bool {
    matches!(option, "--comment" | "--log-prefix" | "--nflog-prefix" | "--string" | "--hex-string")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_carry_negation_and_quoted_text() {
        let options = split(
            "! -s 10.0.0.0/8 -m comment --comment \"-j DROP it\" -m tcp ! --tcp-flags SYN,ACK SYN -j X",
        )
        .unwrap();
        let texts: Vec<String> = options.iter().map(Opt::text).collect();
        assert_eq!(
            texts,
            [
                "! -s 10.0.0.0/8",
                "-m comment",
                "--comment -j DROP it",
                "-m tcp",
                "! --tcp-flags SYN,ACK SYN",
                "-j X"
            ]
        );
        assert_eq!(split("--comment \"open"), None);
    }
}
