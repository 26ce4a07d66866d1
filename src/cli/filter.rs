//! What a shown program may do to the terminal of those who only look.
//!
//! Whoever types in a session gets its bytes as they are. Whoever watches or replays must not have the clipboard read
//! or written, the title changed, the printer started, or the terminal asked for something, since the answer would be
//! typed into their shell. And the lines of a log may be coloured, no more.
//!
//! What passes does so unchanged, wherever it was split. What is kept between two pieces is bounded.

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

const ESC: u8 = 0x1b;
const BEL: u8 = 0x07;
const ENQ: u8 = 0x05;
const CAN: u8 = 0x18;
const SUB: u8 = 0x1a;

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
    /// So many bytes of a character are missing.
    Utf8(u8),
    /// The first byte of a two-byte character that may be a control.
    C2,
    Escape,
    Csi,
    /// A control string, and its last byte.
    String(Text, Verdict, u8),
}

/// Lets a program's output through as its policy says, and follows the modes that pass.
#[derive(Debug)]
pub struct Filter {
    policy: Policy,
    state: State,
    held: Vec<u8>,
    modes: Modes,
}

impl Filter {
    /// A filter at the start of an output.
    #[must_use]
    pub fn new(policy: Policy) -> Self {
        Self { policy, state: State::Ground, held: Vec::new(), modes: Modes::default() }
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
        self.state == State::Ground
    }

    /// Forgets an open sequence: what follows does not continue it.
    pub fn interrupt(&mut self) {
        self.held.clear();
        self.state = State::Ground;
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

    fn run(&mut self, mut input: &[u8], out: &mut Vec<u8>) {
        while let Some(first) = input.first() {
            if self.state == State::Ground {
                let plain = input.iter().position(|byte| !(0x20..0x7f).contains(byte)).unwrap_or(input.len());
                out.extend_from_slice(&input[..plain]);
                input = &input[plain..];
                if plain > 0 {
                    continue;
                }
            }
            self.byte(*first, out);
            input = &input[1..];
        }
    }

    fn byte(&mut self, byte: u8, out: &mut Vec<u8>) {
        match self.state {
            State::Ground => self.ground(byte, out),
            State::Utf8(left) if (0x80..0xc0).contains(&byte) => {
                out.push(byte);
                self.state = if left > 1 { State::Utf8(left - 1) } else { State::Ground };
            }
            State::C2 if (0x80..0xa0).contains(&byte) => {
                self.held.push(byte);
                self.c1(byte, out);
            }
            State::C2 if (0xa0..0xc0).contains(&byte) => {
                self.held.push(byte);
                self.release(out);
            }
            State::C2 => {
                self.release(out);
                self.ground(byte, out);
            }
            State::Utf8(_) => {
                self.state = State::Ground;
                self.ground(byte, out);
            }
            State::Escape => self.escape(byte, out),
            State::Csi => self.csi(byte, out),
            State::String(text, verdict, last) => self.string(text, verdict, last, byte, out),
        }
    }

    fn ground(&mut self, byte: u8, out: &mut Vec<u8>) {
        match byte {
            ESC => self.hold(byte, State::Escape),
            0xc2 => self.hold(byte, State::C2),
            0x00..0x20 | 0x7f => self.control(byte, out),
            0x80..0xa0 => {
                self.held = vec![byte];
                self.c1(byte, out);
            }
            0xc3..0xe0 => self.lead(byte, 1, out),
            0xe0..0xf0 => self.lead(byte, 2, out),
            0xf0..0xf5 => self.lead(byte, 3, out),
            _ => out.push(byte),
        }
    }

    fn lead(&mut self, byte: u8, left: u8, out: &mut Vec<u8>) {
        out.push(byte);
        self.state = State::Utf8(left);
    }

    fn hold(&mut self, byte: u8, state: State) {
        self.held = vec![byte];
        self.state = state;
    }

    /// What was held passes.
    fn release(&mut self, out: &mut Vec<u8>) {
        out.append(&mut self.held);
        self.state = State::Ground;
    }

    fn control(&mut self, byte: u8, out: &mut Vec<u8>) {
        let passes = match self.policy {
            Policy::All => true,
            Policy::Shown => byte != ENQ,
            Policy::Colours | Policy::Text => matches!(byte, b'\t' | b'\n'),
        };
        if passes {
            out.push(byte);
        }
    }

    fn end(&mut self, passes: bool, out: &mut Vec<u8>) {
        if passes {
            self.release(out);
        } else {
            self.interrupt();
        }
    }

    fn c1(&mut self, byte: u8, out: &mut Vec<u8>) {
        match byte {
            0x9b => self.state = State::Csi,
            0x9d => self.state = State::String(Text::Osc, Verdict::Open, 0),
            0x90 => self.state = State::String(Text::Dcs, Verdict::Open, 0),
            0x98 | 0x9e | 0x9f => self.state = State::String(Text::Other, self.verdict(false), 0),
            _ => self.end(self.policy == Policy::All || self.policy == Policy::Shown && byte != 0x9a, out),
        }
    }

    fn verdict(&self, passes_if_shown: bool) -> Verdict {
        match self.policy {
            Policy::All => Verdict::Pass,
            Policy::Shown if passes_if_shown => Verdict::Pass,
            _ => Verdict::Drop,
        }
    }

    fn escape(&mut self, byte: u8, out: &mut Vec<u8>) {
        let first = self.held.len() == 1;
        match byte {
            ESC => self.hold(byte, State::Escape),
            CAN | SUB => self.interrupt(),
            0x00..0x20 => self.control(byte, out),
            0x20..0x30 if self.held.len() < LONGEST => self.held.push(byte),
            b'[' | b']' | b'P' | b'X' | b'^' | b'_' | b'k' if first => {
                self.held.push(byte);
                self.state = match byte {
                    b'[' => State::Csi,
                    b']' => State::String(Text::Osc, Verdict::Open, 0),
                    b'P' => State::String(Text::Dcs, Verdict::Open, 0),
                    _ => State::String(Text::Other, self.verdict(false), 0),
                };
            }
            0x30..0x7f => {
                let intermediate = if first { 0 } else { self.held[1] };
                self.held.push(byte);
                let passes = match self.policy {
                    Policy::All => true,
                    Policy::Shown => !(first && byte == b'Z'),
                    Policy::Colours | Policy::Text => false,
                };
                if passes {
                    self.modes.escape(intermediate, byte);
                }
                self.end(passes, out);
            }
            _ => {
                self.interrupt();
                self.byte(byte, out);
            }
        }
    }

    fn csi(&mut self, byte: u8, out: &mut Vec<u8>) {
        match byte {
            ESC => self.hold(byte, State::Escape),
            CAN | SUB => self.interrupt(),
            0x00..0x20 => self.control(byte, out),
            // One that is too long is never whole: it is dropped at its end.
            0x20..0x40 if self.held.len() > LONGEST => {}
            0x20..0x40 => self.held.push(byte),
            0x40..0x7f => {
                let passes = self.held.len() <= LONGEST && self.csi_passes(byte);
                self.held.push(byte);
                self.end(passes, out);
            }
            0x7f => {}
            _ => {
                self.interrupt();
                self.byte(byte, out);
            }
        }
    }

    fn csi_passes(&mut self, last: u8) -> bool {
        let start = if self.held[0] == ESC || self.held[0] == 0xc2 { 2 } else { 1 };
        let body = &self.held[start..];
        let mark = body.first().copied().filter(|byte| (b'<'..=b'?').contains(byte)).unwrap_or(0);
        let intermediate = body.iter().copied().find(|byte| (0x20..0x30).contains(byte)).unwrap_or(0);
        let passes = match self.policy {
            Policy::All => true,
            Policy::Shown => !asks(mark, intermediate, last),
            Policy::Colours => (mark, intermediate, last) == (0, 0, b'm'),
            Policy::Text => false,
        };
        if passes {
            let params = params(body);
            self.modes.csi(mark, &params, intermediate, last);
        }
        passes
    }

    fn string(&mut self, text: Text, verdict: Verdict, last: u8, byte: u8, out: &mut Vec<u8>) {
        if last == ESC && byte != b'\\' {
            // The string was broken off by another sequence.
            if verdict == Verdict::Pass {
                out.extend_from_slice(b"\x1b\\");
            }
            self.hold(ESC, State::Escape);
            return self.byte(byte, out);
        }
        let ended = match byte {
            b'\\' => last == ESC,
            BEL => text != Text::Dcs,
            0x9c => last == 0xc2,
            CAN | SUB => true,
            _ => false,
        };
        let verdict = if verdict == Verdict::Open { self.judge(text, byte, ended) } else { verdict };
        match verdict {
            Verdict::Open => self.held.push(byte),
            Verdict::Drop => self.held.clear(),
            Verdict::Pass => {
                out.append(&mut self.held);
                if byte != ESC {
                    if last == ESC {
                        out.push(ESC);
                    }
                    out.push(byte);
                }
            }
        }
        if ended {
            self.interrupt();
        } else {
            self.state = State::String(text, verdict, byte);
        }
    }

    /// Whether a string passes, as soon as that can be told; `byte` follows what is held.
    fn judge(&mut self, text: Text, byte: u8, ended: bool) -> Verdict {
        if self.policy == Policy::All {
            return Verdict::Pass;
        }
        let start = if self.held[0] == ESC || self.held[0] == 0xc2 { 2 } else { 1 };
        let body = &self.held[start.min(self.held.len())..];
        if self.policy != Policy::Shown || body.len() > LONGEST {
            return Verdict::Drop;
        }
        if text == Text::Dcs {
            let plain = body.iter().all(|byte| byte.is_ascii_digit() || *byte == b';');
            return match byte {
                0x20..0x40 if !ended => Verdict::Open,
                b'q' if plain => Verdict::Pass,
                _ => Verdict::Drop,
            };
        }
        if !body.contains(&b';') && !ended && byte != b';' {
            return if byte.is_ascii_digit() || byte == ESC || byte == 0xc2 { Verdict::Open } else { Verdict::Drop };
        }
        let digits = body.iter().take_while(|byte| byte.is_ascii_digit());
        let number = digits.fold(0u32, |number, digit| number.saturating_mul(10) + u32::from(digit - b'0'));
        match number {
            8 | 133 => Verdict::Pass,
            4 | 5 | 10..=19 | 104..=119 if body.contains(&b'?') || byte == b'?' => Verdict::Drop,
            4 | 5 | 10..=19 | 104..=119 if ended => {
                self.modes.colour();
                Verdict::Pass
            }
            4 | 5 | 10..=19 | 104..=119 => Verdict::Open,
            _ => Verdict::Drop,
        }
    }
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
        (_, b'$', b'p' | b'w' | b'u') | (_, b'*', b'y' | b'z') | (_, b'&', b'u' | b'w') | (_, b'+', b'x') => true,
        (_, b'\'', b'w' | b'z' | b'{' | b'|') => true,
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
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn through(policy: Policy, bytes: &[u8]) -> Vec<u8> {
        let (mut filter, mut out) = (Filter::new(policy), Vec::new());
        filter.feed(bytes, &mut out);
        out
    }

    fn text(bytes: &[u8]) -> String {
        bytes.escape_ascii().to_string()
    }

    /// Must not reach the terminal of one who watches.
    const DROPPED: [&[u8]; 30] = [
        b"\x1b]52;c;aGk=\x07",
        b"\x1b]52;c;?\x1b\\",
        b"\x1b]0;title\x07",
        b"\x1b]2;t\xc2\x9c",
        b"\x1b[c",
        b"\x1b[>c",
        b"\x1b[=0c",
        b"\x1b[5n",
        b"\x1b[6n",
        b"\x1b[?6n",
        b"\x1b[?996n",
        b"\x1b[>q",
        b"\x1b[>0q",
        b"\x1b[?2026$p",
        b"\x1b[?u",
        b"\x1b[>1u",
        b"\x1b[21t",
        b"\x1b[22;0t",
        b"\x1b[x",
        b"\x1b[5i",
        b"\x1bZ",
        b"\x05",
        b"\x1bP$qm\x1b\\",
        b"\x1bP+q544e\x1b\\",
        b"\x1b]10;?\x07",
        b"\x1b]4;1;?\x1b\\",
        b"\x1b_Ga=q;x\x1b\\",
        b"\x1bktitle\x1b\\",
        b"\xc2\x9b6n",
        b"\x9d52;c;?\x07",
    ];

    /// Must reach it as it is.
    const KEPT: [&[u8]; 20] = [
        b"plain\r\n\ttext\x08\x07",
        "Grüße, 木, \u{1f600}, e\u{301}".as_bytes(),
        b"\x1b[1;31mred\x1b[m",
        b"\x1b[38:2::1:2:3mrgb\x1b[0m",
        b"\x1b[?1049h\x1b[2J\x1b[H\x1b[?1049l",
        b"\x1b[?25l\x1b[?2004h",
        b"\x1b[3 q",
        b"\x1b[1;20r",
        b"\x1b7\x1b8\x1bM\x1b=\x1b>\x1bc",
        b"\x1b(0lqqk\x1b(B\x0e\x0f",
        b"\x1b#8\x1b%G",
        b"\x1b]8;;http://example.com/a?b\x1b\\link\x1b]8;;\x1b\\",
        b"\x1b]8;;http://example.com\x07x\x1b]8;;\x07",
        b"\x1b]133;A\x07$ ",
        b"\x1b]4;1;rgb:ff/00/00\x07",
        b"\x1b]104\x07",
        b"\x1bPq#0;2;0;0;0~~\x1b\\",
        b"\xc2\xa0\xc2\xbf\xc3\x9b",
        b"\xe2\x9c\x93 done \xe2\x80\x9b",
        b"\xff\xfe\xa9 not UTF-8",
    ];

    #[test]
    fn what_asks_is_dropped() {
        for bytes in DROPPED {
            let framed = [b"a", bytes, b"b"].concat();
            assert_eq!(text(&through(Policy::Shown, &framed)), "ab", "{}", text(bytes));
        }
    }

    #[test]
    fn what_shows_passes_unchanged() {
        for bytes in KEPT {
            assert_eq!(text(&through(Policy::Shown, bytes)), text(bytes));
        }
    }

    #[test]
    fn whoever_types_gets_everything() {
        for bytes in DROPPED.iter().chain(&KEPT) {
            assert_eq!(text(&through(Policy::All, bytes)), text(bytes));
        }
    }

    #[test]
    fn a_log_may_be_coloured_and_no_more() {
        assert_eq!(text(&through(Policy::Colours, b"\x1b[31mred\x1b[0m\tx")), r"\x1b[31mred\x1b[0m\tx");
        for bytes in
            [&b"\x1b[2J"[..], b"\x1b]8;;http://x\x07", b"\r", b"\x08", b"\x1bc", b"\x1b[?25l", b"\x1bPq~\x1b\\"]
        {
            assert_eq!(text(&through(Policy::Colours, bytes)), "", "{}", text(bytes));
        }
    }

    #[test]
    fn an_endless_string_costs_no_memory() {
        let mut filter = Filter::new(Policy::Shown);
        let mut out = Vec::new();
        filter.feed(b"\x1b]4;", &mut out);
        for _ in 0..10_000 {
            filter.feed(b"0123456789", &mut out);
        }
        filter.feed(b"\x07\x1b[", &mut out);
        for _ in 0..10_000 {
            filter.feed(b"0123456789", &mut out);
        }
        filter.feed(b"mend", &mut out);
        assert_eq!(text(&out), "end");
        assert!(filter.held.capacity() <= 4 * LONGEST);
    }

    #[test]
    fn a_string_that_is_broken_off_ends() {
        assert_eq!(text(&through(Policy::Shown, b"\x1b]0;ti\x1b[31mred")), r"\x1b[31mred");
        assert_eq!(text(&through(Policy::Shown, b"\x1b]8;;http://x\x1b[6nend")), r"\x1b]8;;http://x\x1b\\end");
    }

    proptest! {
        #[test]
        fn a_split_changes_nothing(
            parts in proptest::collection::vec(0..DROPPED.len() + KEPT.len(), 1..6),
            cuts in proptest::collection::vec(1usize..7, 1..60),
        ) {
            let all: Vec<u8> = parts.iter().flat_map(|part| *DROPPED.iter().chain(&KEPT).nth(*part).expect("in range")).copied().collect();
            for policy in [Policy::All, Policy::Shown, Policy::Colours] {
                let (mut filter, mut out, mut rest) = (Filter::new(policy), Vec::new(), &all[..]);
                for cut in cuts.iter().cycle() {
                    if rest.is_empty() { break }
                    let (piece, after) = rest.split_at((*cut).min(rest.len()));
                    filter.feed(piece, &mut out);
                    rest = after;
                }
                prop_assert_eq!(text(&out), text(&through(policy, &all)));
            }
        }

        #[test]
        fn any_bytes_are_read_without_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            through(Policy::Shown, &bytes);
            through(Policy::Colours, &bytes);
            prop_assert_eq!(through(Policy::All, &bytes), bytes);
        }
    }
}
