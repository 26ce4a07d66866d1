//! The hyperlinks that text leads to, named by number in a pen.

use std::collections::HashMap;

use super::cell::Pen;

/// Links that can stand on a screen at once; text of further ones leads nowhere.
const MAX_LINKS: usize = 1024;

/// The longest link with its parameters, in bytes; a longer one leads nowhere.
const MAX_LINK: usize = 2 << 10;

/// The links by number, from 1 on.
#[derive(Debug, Default)]
pub(super) struct Links {
    /// Parameters and address as they stand in `OSC 8`, the semicolon between them.
    texts: Vec<String>,
    numbers: HashMap<String, u16>,
    /// Links that found no place since the last sweep.
    refused: usize,
}

/// So many links are refused before the cells are searched again for ones that went.
const PATIENCE: usize = 256;

impl Links {
    /// Whether a sweep is due before the next link.
    pub(super) fn is_due(&self) -> bool {
        self.texts.len() >= MAX_LINKS && self.refused.is_multiple_of(PATIENCE)
    }

    /// The number of a link, or 0 where it has no place.
    pub(super) fn number(&mut self, parameters: &str, uri: &str) -> u16 {
        self.add(format!("{parameters};{uri}"))
    }

    fn add(&mut self, text: String) -> u16 {
        if let Some(&number) = self.numbers.get(&text) {
            return number;
        }
        if text.len() > MAX_LINK {
            return 0;
        }
        if self.texts.len() >= MAX_LINKS {
            self.refused += 1;
            return 0;
        }
        self.texts.push(text.clone());
        let number = self.texts.len() as u16;
        self.numbers.insert(text, number);
        number
    }

    /// Appends what makes `number` the link of the text that follows; 0 ends one.
    pub(super) fn restore(&self, number: u16, out: &mut Vec<u8>) {
        let text = usize::from(number).checked_sub(1).and_then(|at| self.texts.get(at));
        out.extend_from_slice(b"\x1b]8;");
        out.extend_from_slice(text.map_or(";", String::as_str).as_bytes());
        out.extend_from_slice(b"\x1b\\");
    }

    /// Forgets every link that none of `pens` has, and gives the others new numbers.
    pub(super) fn sweep<'a>(&mut self, pens: impl Iterator<Item = &'a mut Pen>) {
        let old = std::mem::take(self);
        self.refused = 1;
        for pen in pens {
            if let Some(text) = usize::from(pen.link).checked_sub(1).and_then(|at| old.texts.get(at)) {
                pen.link = self.add(text.clone());
            }
        }
    }
}
