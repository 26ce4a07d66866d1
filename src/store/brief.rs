//! Texts that a caller made as long as a request may be, as lists, the audit trail and the log have them: their start.

/// The longest text, or command with a space between two arguments, that is shown whole there, in bytes.
pub const SHOWN_BYTES: usize = 1024;

/// Letters of a command's JSON that are read for a list. One that is shown whole has no more: a byte is six letters at
/// most, as `\u001b` is, and a space between arguments is three.
pub(super) const READ_LETTERS: i32 = 6 * SHOWN_BYTES as i32 + 64;

/// Letters of the longest escape in JSON: two surrogates.
const LONGEST_ESCAPE: usize = 12;

/// What stands behind a text that was cut.
const MARK: char = '…';

/// Cuts a text that is longer than [`SHOWN_BYTES`] between two characters, and marks it.
pub fn cut(text: &mut String) {
    if text.len() > SHOWN_BYTES {
        cut_to(text, SHOWN_BYTES);
    }
}

fn cut_to(text: &mut String, bytes: usize) {
    text.truncate(text.floor_char_boundary(bytes));
    text.push(MARK);
}

/// Cuts a command that is longer than [`SHOWN_BYTES`]: arguments that fit stay whole, the next one is cut and marked.
/// Returns whether it was.
pub fn cut_command(command: &mut Vec<String>) -> bool {
    let mut used = 0;
    for at in 0..command.len() {
        let before = used + usize::from(at > 0);
        used = before + command[at].len();
        if used > SHOWN_BYTES {
            command.truncate(at + 1);
            cut_to(&mut command[at], SHOWN_BYTES.saturating_sub(before));
            return true;
        }
    }
    false
}

/// The command of a JSON text of which the first [`READ_LETTERS`] were read, cut. Whether it was.
pub(super) fn command_of(json: &str) -> Result<(Vec<String>, bool), serde_json::Error> {
    let (mut command, whole): (Vec<String>, _) = match serde_json::from_str(json) {
        Ok(command) => (command, true),
        Err(_) if json.chars().count() >= READ_LETTERS as usize => (closed(json)?, false),
        Err(error) => return Err(error),
    };
    let cut = cut_command(&mut command);
    if let (false, false, Some(last)) = (whole, cut, command.last_mut()) {
        last.push(MARK);
    }
    Ok((command, cut || !whole))
}

/// The texts of a JSON list that breaks off after its start; an escape that broke off too is left out.
fn closed(start: &str) -> Result<Vec<String>, serde_json::Error> {
    let mut tried = serde_json::from_str(start);
    let ends = start.char_indices().rev().map(|(at, letter)| at + letter.len_utf8()).take(LONGEST_ESCAPE + 1);
    for (end, last) in ends.flat_map(|end| [(end, "\"]"), (end, "]")]) {
        tried = tried.or_else(|_| serde_json::from_str(&format!("{}{last}", &start[..end])));
    }
    tried
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn arguments_that_fit_stay_whole_and_the_next_one_is_cut_between_two_characters() {
        let whole: Vec<String> = vec!["echo".into(), "x".repeat(1019)];
        let mut command = whole.clone();
        assert!(!cut_command(&mut command));
        assert_eq!(command, whole);
        command.extend([String::new(), "more".into()]);
        assert!(cut_command(&mut command));
        assert_eq!(command, [&whole[..], &["\u{2026}".into()]].concat());
        let mut command = vec!["echo".into(), "\u{20ac}".repeat(1000)];
        assert!(cut_command(&mut command));
        assert_eq!(command, ["echo".into(), "\u{20ac}".repeat(339) + "\u{2026}"]);
        let mut command = vec![String::new(); 100_000];
        assert!(cut_command(&mut command));
        assert_eq!(command.join(" ").len(), SHOWN_BYTES + 1 + MARK.len_utf8());
    }

    proptest! {
        /// The same is shown of a command whose start alone was read as of one that was read whole.
        #[test]
        fn a_start_is_enough(
            short in prop::collection::vec(".{0,9}", 0..3), long in "([a-z]|\\PC|[\u{0}-\u{1f}]|\"|\\\\){1,30}", times in 1usize..700,
        ) {
            let mut command = short;
            command.push(long.repeat(times));
            command.push("end".into());
            let json = serde_json::to_string(&command).expect("JSON");
            let start: String = json.chars().take(READ_LETTERS as usize).collect();
            let cut = cut_command(&mut command);
            prop_assert_eq!(command_of(&start).expect("a start"), (command, cut));
        }
    }

    #[test]
    fn what_is_no_command_is_none() {
        for text in ["", "[", "7", "[\"ls\"", "[7]", &"7".repeat(9000), &format!("[7, \"{}", "x".repeat(9000))] {
            assert!(command_of(text).is_err(), "{text:.9}");
        }
    }
}
