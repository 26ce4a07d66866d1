//! Bytes into text, cut anywhere.

/// The bytes of a character whose rest has not come yet.
#[derive(Debug, Default)]
pub(super) struct Utf8 {
    bytes: [u8; 4],
    len: usize,
}

impl Utf8 {
    /// Hands on the text in `bytes`, with U+FFFD for what is none.
    pub(super) fn decode(&mut self, bytes: &[u8], mut text: impl FnMut(&str)) {
        let mut rest = bytes;
        while self.len > 0 {
            let Some((&byte, after)) = rest.split_first() else { return };
            self.bytes[self.len] = byte;
            match std::str::from_utf8(&self.bytes[..=self.len]) {
                Ok(character) => {
                    text(character);
                    (self.len, rest) = (0, after);
                }
                Err(error) if error.error_len().is_none() => (self.len, rest) = (self.len + 1, after),
                Err(_) => {
                    // The new byte starts something else.
                    text("\u{fffd}");
                    self.len = 0;
                }
            }
        }
        for chunk in rest.utf8_chunks() {
            text(chunk.valid());
            let invalid = chunk.invalid();
            if invalid.is_empty() {
                continue;
            }
            let cut = std::str::from_utf8(invalid).is_err_and(|error| error.error_len().is_none());
            if cut && invalid.as_ptr_range().end == rest.as_ptr_range().end {
                self.bytes[..invalid.len()].copy_from_slice(invalid);
                self.len = invalid.len();
            } else {
                text("\u{fffd}");
            }
        }
    }

    /// Appends what has come of an unfinished character.
    pub(super) fn pending(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.bytes[..self.len]);
    }
}
