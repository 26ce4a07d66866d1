//! Text that is not this program's own, as a terminal may have it.
//!
//! A name, a reason, a path or a command is somebody's choice, and so is all that a hub says. On a terminal a control in
//! it would be carried out, and a bidi control would let it look like another one.

use std::borrow::Cow;
use std::fmt::Write;

/// Whether a character acts on a terminal instead of being shown there: controls, C0, DEL and C1, those that end a
/// line, and those that change the direction of what stands beside them.
#[must_use]
pub fn acts(c: char) -> bool {
    let turns = matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    c.is_control() || turns
}

/// Returns a text as one line, with each character that acts in the form `\u{202e}`.
#[must_use]
pub fn line(text: &str) -> Cow<'_, str> {
    replaced(text, acts, escape)
}

/// Returns the same of a text whose line breaks are this program's own: they stay.
#[must_use]
pub fn lines(text: &str) -> Cow<'_, str> {
    replaced(text, |c| acts(c) && c != '\n', escape)
}

/// Returns the same JSON without a character that acts, but for line breaks: JSON itself only keeps C0 controls out of
/// its strings.
#[must_use]
pub fn json(text: &str) -> Cow<'_, str> {
    replaced(
        text,
        |c| acts(c) && c != '\n',
        |c, out| match c {
            // Between two values, where any space will do.
            '\0'..=' ' => out.push(' '),
            // All that act are of the first plane.
            c => {
                let _ = write!(out, "\\u{:04x}", u32::from(c));
            }
        },
    )
}

fn escape(c: char, out: &mut String) {
    out.extend(c.escape_unicode());
}

fn replaced(text: &str, is_meant: fn(char) -> bool, with: fn(char, &mut String)) -> Cow<'_, str> {
    if !text.contains(is_meant) {
        return Cow::Borrowed(text);
    }
    let mut out = String::with_capacity(text.len() + 32);
    for c in text.chars() {
        if is_meant(c) { with(c, &mut out) } else { out.push(c) }
    }
    Cow::Owned(out)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_acts_is_shown() {
        assert_eq!(line("a\u{1b}]52;c;x\u{7}b\r\nc\td\u{7f}"), r"a\u{1b}]52;c;x\u{7}b\u{d}\u{a}c\u{9}d\u{7f}");
        assert_eq!(line("\u{9b}6n\u{202e}txt\u{200f}\u{61c}\u{2066}"), r"\u{9b}6n\u{202e}txt\u{200f}\u{61c}\u{2066}");
        assert_eq!(lines("tail:\n  x\u{1b}[m"), "tail:\n  x\\u{1b}[m");
    }

    #[test]
    fn what_only_shows_stays() {
        let text = "Grüße ⬢ 木 👩‍💻 مرحبا \u{a0}\u{fffd}";
        assert!(matches!(line(text), Cow::Borrowed(same) if same == text));
    }

    proptest! {
        #[test]
        fn json_stays_the_same_json(text in "\\PC*|[\u{1}-\u{a0}\u{2000}-\u{2070}\u{61c}\"\\\\]*") {
            let plain = serde_json::json!({ "text": text, &text: 1 });
            let spaced = serde_json::to_string_pretty(&plain).expect("JSON").replace('\n', "\r\t");
            let shown = json(&spaced);
            prop_assert!(!shown.contains(acts), "{:?}", shown);
            prop_assert_eq!(serde_json::from_str::<serde_json::Value>(&shown).expect("JSON"), plain);
        }
    }
}
