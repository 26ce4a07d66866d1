//! What a shown program may do to the terminal of those who only look.
//!
//! Whoever types in a session gets its bytes as they are. Whoever watches or replays must not have the clipboard read
//! or written, the title changed, the printer started, or the terminal asked for something, since the answer would be
//! typed into their shell. And the lines of a log may be coloured, no more.
//!
//! What passes does so unchanged, wherever it was split, but that a control string which was broken off, or ends with a
//! C1 control, gets an end that every terminal knows. It is UTF-8 and stays it. What is kept between two pieces is bounded.

use super::modes::Modes;

/// What passes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Policy {
    /// Everything: the program of whoever types.
    All,
    /// A program that is looked at: no clipboard, titles, queries.
    Shown,
    /// A line of a log: text and colours.
    Colours,
    /// Text alone.
    Text,
}

/// The longest sequence that is kept until it is whole, in bytes.
const LONGEST: usize = 1024;

const ESC: char = '\u{1b}';
const BEL: char = '\u{7}';
const ENQ: char = '\u{5}';
const CAN: char = '\u{18}';
const SUB: char = '\u{1a}';
/// String terminator, the end of a control string.
const ST: char = '\u{9c}';

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Text {
    Osc,
    Dcs,
    Other,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Open,
    Pass,
    Drop,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Ground,
    Escape,
    Csi,
    /// A control string, and whether its last character is an ESC.
    String(Text, Verdict, bool),
}

/// Lets a program's output through as its policy says, and follows the modes that pass.
#[derive(Debug)]
pub struct Filter {
    policy: Policy,
    state: State,
    /// The sequence that is open: its introducer, which has two bytes, and what followed.
    held: Vec<u8>,
    /// The first bytes of a character that is not whole yet, at most three.
    partial: Vec<u8>,
    modes: Modes,
}

impl Filter {
    /// A filter at the start of an output.
    #[must_use]
    pub fn new(policy: Policy) -> Self {
        Self { policy, state: State::Ground, held: Vec::new(), partial: Vec::new(), modes: Modes::default() }
    }

    /// Another policy from here on; what is open is finished under the new one.
    pub fn set_policy(&mut self, policy: Policy) {
        self.policy = policy;
    }

    /// The modes that the output has set.
    pub fn modes(&mut self) -> &mut Modes {
        &mut self.modes
    }

    /// Whether the output is between two characters and no sequence is open.
    #[must_use]
    pub fn is_ground(&self) -> bool {
        self.state == State::Ground && self.partial.is_empty()
    }

    /// Forgets an open sequence: what follows does not continue it.
    pub fn interrupt(&mut self) {
        self.partial.clear();
        self.close();
    }

    /// Appends to `out` what passes of `input`.
    pub fn feed(&mut self, input: &[u8], out: &mut Vec<u8>) {
        if self.policy == Policy::All {
            out.extend_from_slice(input);
            return self.observe(input);
        }
        self.run(input, out);
    }

    /// Follows what passes unfiltered.
    pub fn observe(&mut self, input: &[u8]) {
        let mut ignored = Vec::new();
        self.run(input, &mut ignored);
    }

    /// Takes characters out of the bytes. Those that are not UTF-8 become U+FFFD as the WHATWG's decoder has it: a
    /// terminal that reads bytes may take the end of half a character, such as E2 9B, for a control.
    fn run(&mut self, input: &[u8], out: &mut Vec<u8>) {
        let joined;
        let mut rest = input;
        if !self.partial.is_empty() {
            self.partial.extend_from_slice(input);
            joined = std::mem::take(&mut self.partial);
            rest = &joined;
        }
        for chunk in rest.utf8_chunks() {
            self.text(chunk.valid(), out);
            rest = &rest[chunk.valid().len() + chunk.invalid().len()..];
            if rest.is_empty() && is_begun(chunk.invalid()) {
                self.partial.extend_from_slice(chunk.invalid());
            } else if !chunk.invalid().is_empty() {
                self.character(char::REPLACEMENT_CHARACTER, out);
            }
        }
    }

    fn text(&mut self, mut text: &str, out: &mut Vec<u8>) {
        loop {
            if self.state == State::Ground {
                let plain = text.find(char::is_control).unwrap_or(text.len());
                out.extend_from_slice(&text.as_bytes()[..plain]);
                text = &text[plain..];
            }
            let mut characters = text.chars();
            let Some(c) = characters.next() else { return };
            self.character(c, out);
            text = characters.as_str();
        }
    }

    fn character(&mut self, c: char, out: &mut Vec<u8>) {
        match self.state {
            State::Ground => self.ground(c, out),
            State::Escape => self.escape(c, out),
            State::Csi => self.csi(c, out),
            State::String(text, verdict, escaped) => self.string(text, verdict, escaped, c, out),
        }
    }

    fn ground(&mut self, c: char, out: &mut Vec<u8>) {
        match c {
            ESC => self.open(),
            '\u{80}'..='\u{9f}' => self.c1(c, out),
            c if c.is_control() => self.control(c, out),
            c => push(c, out),
        }
    }

    /// An ESC begins a sequence.
    fn open(&mut self) {
        self.held.clear();
        self.held.push(0x1b);
        self.state = State::Escape;
    }

    /// No sequence is open any more.
    fn close(&mut self) {
        self.held.clear();
        self.state = State::Ground;
    }

    fn end(&mut self, passes: bool, out: &mut Vec<u8>) {
        if passes {
            out.append(&mut self.held);
        }
        self.close();
    }

    /// A C0 control or DEL that is no part of a sequence.
    fn control(&self, c: char, out: &mut Vec<u8>) {
        let passes = match self.policy {
            Policy::All => true,
            Policy::Shown => c != ENQ,
            Policy::Colours | Policy::Text => matches!(c, '\t' | '\n'),
        };
        if passes {
            push(c, out);
        }
    }

    fn c1(&mut self, c: char, out: &mut Vec<u8>) {
        self.held.clear();
        push(c, &mut self.held);
        match c {
            '\u{9b}' => self.state = State::Csi,
            '\u{9d}' => self.state = State::String(Text::Osc, Verdict::Open, false),
            '\u{90}' => self.state = State::String(Text::Dcs, Verdict::Open, false),
            '\u{98}' | '\u{9e}' | '\u{9f}' => self.state = self.other(),
            _ => self.end(self.policy == Policy::All || self.policy == Policy::Shown && c != '\u{9a}', out),
        }
    }

    /// A string of which nothing passes: SOS, PM, APC, and a title of screen's.
    fn other(&self) -> State {
        let verdict = if self.policy == Policy::All { Verdict::Pass } else { Verdict::Drop };
        State::String(Text::Other, verdict, false)
    }

    fn escape(&mut self, c: char, out: &mut Vec<u8>) {
        let first = self.held.len() == 1;
        match c {
            ESC => self.open(),
            CAN | SUB => self.close(),
            '\0'..' ' => self.control(c, out),
            ' '..'0' if self.held.len() < LONGEST => push(c, &mut self.held),
            '[' | ']' | 'P' | 'X' | '^' | '_' | 'k' if first => {
                push(c, &mut self.held);
                self.state = match c {
                    '[' => State::Csi,
                    ']' => State::String(Text::Osc, Verdict::Open, false),
                    'P' => State::String(Text::Dcs, Verdict::Open, false),
                    _ => self.other(),
                };
            }
            '0'..='~' => {
                let intermediate = if first { 0 } else { self.held[1] };
                push(c, &mut self.held);
                let last = self.held[self.held.len() - 1];
                let passes = match self.policy {
                    Policy::All => true,
                    Policy::Shown => !escape_asks(intermediate, last),
                    Policy::Colours | Policy::Text => false,
                };
                if passes {
                    self.modes.escape(intermediate, last);
                }
                self.end(passes, out);
            }
            _ => {
                self.close();
                self.ground(c, out);
            }
        }
    }

    fn csi(&mut self, c: char, out: &mut Vec<u8>) {
        match c {
            ESC => self.open(),
            CAN | SUB => self.close(),
            '\0'..' ' => self.control(c, out),
            // One that is too long is never whole: it is dropped at its end.
            ' '..'@' if self.held.len() > LONGEST => {}
            ' '..'@' => push(c, &mut self.held),
            '@'..='~' => {
                push(c, &mut self.held);
                let passes = self.held.len() <= LONGEST + 1 && self.csi_passes();
                self.end(passes, out);
            }
            '\u{7f}' => {}
            _ => {
                self.close();
                self.ground(c, out);
            }
        }
    }

    fn csi_passes(&mut self) -> bool {
        let Some((last, body)) = self.held.get(2..).and_then(<[u8]>::split_last) else { return false };
        let mark = body.first().copied().filter(|byte| (b'<'..=b'?').contains(byte)).unwrap_or(0);
        let intermediate = body.iter().copied().find(|byte| (0x20..0x30).contains(byte)).unwrap_or(0);
        let params = params(body);
        let passes = match self.policy {
            Policy::All => true,
            Policy::Shown => !asks(mark, intermediate, *last) && !changes_more(mark, &params, intermediate, *last),
            Policy::Colours => (mark, intermediate, *last) == (0, 0, b'm'),
            Policy::Text => false,
        };
        if passes {
            self.modes.csi(mark, &params, intermediate, *last);
        }
        passes
    }

    fn string(&mut self, text: Text, verdict: Verdict, escaped: bool, c: char, out: &mut Vec<u8>) {
        if escaped && c != '\\' || ('\u{80}'..='\u{9f}').contains(&c) && c != ST {
            // The string was broken off by another sequence.
            self.end_string(verdict, out);
            if escaped {
                self.open();
            }
            return self.character(c, out);
        }
        if c == '\n' && self.policy == Policy::Text {
            // The text goes on with the next line, though nothing has ended the string.
            self.end_string(verdict, out);
            return self.character(c, out);
        }
        match c {
            ESC => return self.state = State::String(text, verdict, true),
            CAN | SUB => return self.end_string(verdict, out),
            c if c.is_control() && c != ST && (c != BEL || text == Text::Dcs) => return,
            _ => {}
        }
        let ended = escaped || matches!(c, ST | BEL);
        let verdict = if verdict == Verdict::Open { self.judge(text, c, ended) } else { verdict };
        match verdict {
            Verdict::Open => push(c, &mut self.held),
            Verdict::Drop => self.held.clear(),
            Verdict::Pass => {
                out.append(&mut self.held);
                match c {
                    BEL => push(c, out),
                    // Terminals do not agree that a C1 control ends a string.
                    _ if ended => out.extend_from_slice(b"\x1b\\"),
                    c => push(c, out),
                }
            }
        }
        self.state = State::String(text, verdict, false);
        if ended {
            self.close();
        }
    }

    /// A string ends without its own end; what has passed of it is ended.
    fn end_string(&mut self, verdict: Verdict, out: &mut Vec<u8>) {
        if verdict == Verdict::Pass {
            out.extend_from_slice(b"\x1b\\");
        }
        self.close();
    }

    /// Returns whether a string passes, as soon as that can be told; `c` follows what is held.
    fn judge(&mut self, text: Text, c: char, ended: bool) -> Verdict {
        if self.policy == Policy::All {
            return Verdict::Pass;
        }
        let body = self.held.get(2..).unwrap_or_default();
        if self.policy != Policy::Shown || body.len() > LONGEST {
            return Verdict::Drop;
        }
        if text == Text::Dcs {
            let plain = body.iter().all(|byte| byte.is_ascii_digit() || *byte == b';');
            return match c {
                ' '..'@' if !ended => Verdict::Open,
                'q' if plain => Verdict::Pass,
                _ => Verdict::Drop,
            };
        }
        if !body.contains(&b';') && !ended && c != ';' {
            return if c.is_ascii_digit() { Verdict::Open } else { Verdict::Drop };
        }
        let digits = body.iter().take_while(|byte| byte.is_ascii_digit());
        let number =
            digits.fold(0u32, |number, digit| number.saturating_mul(10).saturating_add(u32::from(digit - b'0')));
        match number {
            8 | 133 => Verdict::Pass,
            4 | 5 | 10..=19 | 104..=119 if body.contains(&b'?') || c == '?' => Verdict::Drop,
            4 | 5 | 10..=19 | 104..=119 if ended => {
                self.modes.colour();
                Verdict::Pass
            }
            4 | 5 | 10..=19 | 104..=119 => Verdict::Open,
            _ => Verdict::Drop,
        }
    }
}

fn push(c: char, out: &mut Vec<u8>) {
    out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
}

/// Returns whether these bytes are the beginning of a character.
fn is_begun(bytes: &[u8]) -> bool {
    std::str::from_utf8(bytes).is_err_and(|error| error.error_len().is_none())
}

/// Whether an escape sequence asks the terminal for something, or changes how it reads and sends bytes: DECID, the end
/// of UTF-8 (`ESC %`), controls of eight bits (`ESC SP`), a locked keyboard (DMI).
fn escape_asks(intermediate: u8, last: u8) -> bool {
    matches!((intermediate, last), (0, b'Z' | b'`') | (b'%' | b' ', _))
}

/// Whether a control sequence asks the terminal for something, or does what concerns more than the screen: windows,
/// titles, printers, the coding of keys.
fn asks(mark: u8, intermediate: u8, last: u8) -> bool {
    match (mark, intermediate, last) {
        // Device attributes, status, DECREQTPARM, windows and titles, printers.
        (_, 0, b'c' | b'n' | b'x' | b't' | b'i') => true,
        // XTVERSION; the keyboard's coding, asked for or changed; graphics attributes.
        (b'>', 0, b'q' | b'm' | b'f') | (b'<' | b'=' | b'>' | b'?', 0, b'u') | (b'?', 0, b'S' | b'm') => true,
        // Modes, presentation, checksums, user preferences, macros, locators.
        (_, b'$', b'p' | b'w' | b'u') | (_, b'*', b'y' | b'z') | (_, b'&', b'u' | b'w') | (_, b'+', b'p' | b'x') => {
            true
        }
        (_, b'\'', b'w' | b'z' | b'{' | b'|') => true,
        // Colours and titles that were put aside, the extent that is shown, cursors.
        (_, b'#', b'R' | b'S' | b'|') | (_, b'"', b'v') | (b'>', b' ', b'q') => true,
        _ => false,
    }
}

/// Whether a control sequence changes more than what is shown: a locked keyboard and local echo (all ANSI modes but
/// insert and line feed), VT52 sequences and controls of eight bits, reports that come at once or instead of keys.
fn changes_more(mark: u8, params: &[u16], intermediate: u8, last: u8) -> bool {
    match (mark, intermediate, last) {
        (0, 0, b'h' | b'l') => params.is_empty() || params.iter().any(|mode| ![4, 20].contains(mode)),
        (b'?', 0, b'h' | b'l') => params.iter().any(|mode| [2, 2048, 9001].contains(mode)),
        (_, b'"', b'p') => true,
        _ => false,
    }
}

fn params(body: &[u8]) -> Vec<u16> {
    let text: String = body.iter().map(|byte| char::from(*byte)).collect();
    let text = text.trim_start_matches(['<', '=', '>', '?']).trim_end_matches(|c: char| (' '..='/').contains(&c));
    if text.is_empty() {
        return Vec::new();
    }
    text.split([';', ':']).map(|param| param.parse().unwrap_or(0)).collect()
}

#[cfg(test)]
mod tests;
