//! The keys that leave a session running.

use std::collections::VecDeque;
use std::str::FromStr;

/// What people know from containers.
pub const DEFAULT: &str = "ctrl-p,ctrl-q";

/// A sequence of keys; empty: there is none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Keys(Vec<u8>);

impl FromStr for Keys {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "none" || text.is_empty() {
            return Ok(Self(Vec::new()));
        }
        text.split(',').map(key).collect::<Result<_, _>>().map(Self)
    }
}

fn key(text: &str) -> Result<u8, String> {
    let unknown = || format!("`{text}` is no key; give keys such as ctrl-p,ctrl-q or ctrl-],d, or none");
    let control = text.strip_prefix("ctrl-").or_else(|| text.strip_prefix('^'));
    match control.unwrap_or(text).as_bytes() {
        [key] if control.is_none() && key.is_ascii_graphic() => Ok(*key),
        [key @ (b'a'..=b'z' | b'A'..=b'Z' | b'@' | b'[' | b'\\' | b']' | b'^' | b'_')] => {
            Ok(key.to_ascii_uppercase() & 0x1f)
        }
        _ => Err(unknown()),
    }
}

/// Looks for the keys in what is typed.
///
/// All but the last key of the sequence pass at once, since nobody knows what follows; the last one is kept back.
#[derive(Debug)]
pub struct Watch {
    keys: Vec<u8>,
    typed: VecDeque<u8>,
}

/// What is typed, looked at.
#[derive(Debug, PartialEq, Eq)]
pub enum Typed {
    /// All of it passes.
    Passes,
    /// So many bytes pass, then the sequence is complete.
    Leaves(usize),
}

impl Watch {
    /// Looks for these keys.
    #[must_use]
    pub fn new(keys: &Keys) -> Self {
        Self { keys: keys.0.clone(), typed: VecDeque::new() }
    }

    /// Looks at what is typed next.
    pub fn look(&mut self, bytes: &[u8]) -> Typed {
        if self.keys.is_empty() {
            return Typed::Passes;
        }
        for (index, byte) in bytes.iter().enumerate() {
            if self.typed.len() == self.keys.len() {
                self.typed.pop_front();
            }
            self.typed.push_back(*byte);
            if self.typed.iter().eq(&self.keys) {
                self.typed.clear();
                return Typed::Leaves(index);
            }
        }
        Typed::Passes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn watch(keys: &str) -> Watch {
        Watch::new(&keys.parse().expect("keys"))
    }

    #[test]
    fn the_first_key_passes_and_the_last_does_not() {
        let mut watch = watch(DEFAULT);
        assert_eq!(watch.look(b"ls\x10"), Typed::Passes);
        assert_eq!(watch.look(b"\x11x"), Typed::Leaves(0));
    }

    #[test]
    fn other_keys_in_between_break_the_sequence() {
        let mut watch = watch(DEFAULT);
        assert_eq!(watch.look(b"\x10a\x11"), Typed::Passes);
        assert_eq!(watch.look(b"\x11"), Typed::Passes);
        assert_eq!(watch.look(b"ab\x10\x10\x11"), Typed::Leaves(4));
    }

    #[test]
    fn a_sequence_that_overlaps_itself_is_found() {
        assert_eq!(watch("a,a,b").look(b"aaab"), Typed::Leaves(3));
        assert_eq!(watch("ctrl-]").look(b"x\x1d"), Typed::Leaves(1));
    }

    #[test]
    fn none_is_never_found() {
        assert_eq!(watch("none").look(b"\x10\x11"), Typed::Passes);
    }

    #[test]
    fn keys_are_read() {
        assert_eq!("ctrl-p,ctrl-q".parse(), Ok(Keys(vec![0x10, 0x11])));
        assert_eq!("^A,d".parse(), Ok(Keys(vec![1, b'd'])));
        assert!("ctrl-".parse::<Keys>().is_err());
        assert!("ctrl-1".parse::<Keys>().is_err());
        assert!("F1".parse::<Keys>().is_err());
    }
}
