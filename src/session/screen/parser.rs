//! Text into controls: the state machine of a DEC VT500, with the transitions that the web page's terminal has.
//!
//! Owns what is unfinished. Invariant: [`Parser::pending`], fed to a parser at rest, brings it into this one's state;
//! it is bounded, however long a sequence goes on.

/// The longest string of an `OSC` that has an effect, in bytes.
const MAX_STRING: usize = 64 << 10;

/// The longest control sequence, without its string, that has an effect, in bytes.
const MAX_SEQUENCE: usize = 4 << 10;

/// Parameters, and apart from them sub-parameters, that one sequence can have. Further ones are read and dropped.
const MAX_PARAMS: usize = 32;

/// What came out of the text.
pub(super) enum Event<'a> {
    /// A character to draw.
    Print(char),
    /// A control character, or the end of a string that has no effect.
    Execute(char),
    /// `ESC`, intermediates, final.
    Esc(u32, u8),
    /// `CSI`, parameters, prefix and intermediates, final.
    Csi(&'a Params, u32, u8),
    /// `OSC` and its string.
    Osc(&'a str),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Ground,
    Escape,
    EscapeIntermediate,
    CsiEntry,
    CsiParam,
    CsiIntermediate,
    CsiIgnore,
    Osc,
    /// `SOS`, `PM`, `APC`.
    Swallow,
    DcsEntry,
    DcsParam,
    DcsIntermediate,
    DcsIgnore,
    DcsPass,
}

/// The parameters of a sequence.
#[derive(Debug)]
pub(super) struct Params {
    values: [u32; MAX_PARAMS],
    len: usize,
    /// Sub-parameters of all parameters; `None` where the text had none between two colons.
    subs: [Option<u32>; MAX_PARAMS],
    sub_len: usize,
    /// Where a parameter's sub-parameters start and end.
    ranges: [(u8, u8); MAX_PARAMS],
    in_sub: bool,
    full: bool,
    sub_full: bool,
}

impl Params {
    fn new() -> Self {
        let mut params = Self {
            values: [0; MAX_PARAMS],
            len: 0,
            subs: [None; MAX_PARAMS],
            sub_len: 0,
            ranges: [(0, 0); MAX_PARAMS],
            in_sub: false,
            full: false,
            sub_full: false,
        };
        params.clear();
        params
    }

    fn clear(&mut self) {
        (self.len, self.sub_len, self.in_sub, self.full, self.sub_full) = (0, 0, false, false, false);
        self.start();
    }

    fn start(&mut self) {
        self.in_sub = false;
        if self.len == MAX_PARAMS {
            self.full = true;
            return;
        }
        self.values[self.len] = 0;
        self.ranges[self.len] = (self.sub_len as u8, self.sub_len as u8);
        self.len += 1;
    }

    fn start_sub(&mut self) {
        self.in_sub = true;
        if self.full || self.sub_len == MAX_PARAMS {
            self.sub_full = true;
            return;
        }
        self.subs[self.sub_len] = None;
        self.sub_len += 1;
        self.ranges[self.len - 1].1 = self.sub_len as u8;
    }

    fn digit(&mut self, digit: u32) {
        if self.full || (self.in_sub && self.sub_full) {
            return;
        }
        let add = |value: u32| value.saturating_mul(10).saturating_add(digit).min(i32::MAX as u32);
        if self.in_sub {
            let sub = &mut self.subs[self.sub_len - 1];
            *sub = Some(add(sub.unwrap_or(0)));
        } else {
            let value = &mut self.values[self.len - 1];
            *value = add(*value);
        }
    }

    /// The values without their sub-parameters. Never empty.
    pub(super) fn values(&self) -> &[u32] {
        &self.values[..self.len]
    }

    /// The sub-parameters of the parameter at `index`.
    pub(super) fn subs(&self, index: usize) -> &[Option<u32>] {
        let (from, to) = self.ranges[index];
        &self.subs[usize::from(from)..usize::from(to)]
    }

    /// The first value where it is not 0, or 1.
    pub(super) fn count(&self) -> usize {
        self.values[0].max(1) as usize
    }
}

/// The state between two pieces of text.
#[derive(Debug)]
pub(super) struct Parser {
    state: State,
    params: Params,
    /// Prefix and intermediates, the last in the lowest byte.
    collected: u32,
    /// The string of an `OSC`.
    string: String,
    /// Whether the string is longer than [`MAX_STRING`], so that nothing comes of it.
    too_long: bool,
    /// The unfinished sequence up to its string.
    head: Vec<u8>,
}

impl Parser {
    pub(super) fn new() -> Self {
        Self {
            state: State::Ground,
            params: Params::new(),
            collected: 0,
            string: String::new(),
            too_long: false,
            head: Vec::new(),
        }
    }

    /// Whether no sequence is unfinished.
    pub(super) fn is_at_rest(&self) -> bool {
        self.state == State::Ground
    }

    /// Appends what brings a parser at rest into this state.
    pub(super) fn pending(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.head);
        if self.state == State::Osc {
            out.extend_from_slice(self.string.as_bytes());
        }
    }

    /// Takes one character.
    pub(super) fn advance(&mut self, c: char) -> Option<Event<'_>> {
        match c {
            '\x18' | '\x1a' => self.rest(Some(Event::Execute(c))),
            '\x1b' => self.escape(),
            '\u{90}' => self.enter(State::DcsEntry, b"\x1bP"),
            '\u{9b}' => self.enter(State::CsiEntry, b"\x1b["),
            '\u{9d}' => self.enter(State::Osc, b"\x1b]"),
            '\u{98}' | '\u{9e}' | '\u{9f}' => self.enter(State::Swallow, b"\x1bX"),
            '\u{9c}' if self.state == State::Osc => self.end_string(),
            '\u{9c}' if self.state == State::DcsPass => self.rest(Some(Event::Execute(c))),
            '\u{9c}' => self.rest(None),
            '\u{80}'..='\u{9f}' => self.rest(Some(Event::Execute(c))),
            _ => self.step(c),
        }
    }

    fn rest<'a>(&mut self, event: Option<Event<'a>>) -> Option<Event<'a>> {
        self.state = State::Ground;
        self.head.clear();
        event
    }

    fn enter(&mut self, state: State, head: &[u8]) -> Option<Event<'static>> {
        self.state = state;
        self.collected = 0;
        self.params.clear();
        self.string.clear();
        self.too_long = false;
        self.head.clear();
        self.head.extend_from_slice(head);
        None
    }

    /// `ESC`: ends a string, and starts a sequence.
    fn escape(&mut self) -> Option<Event<'_>> {
        let before = self.state;
        let (string, too_long) = (std::mem::take(&mut self.string), self.too_long);
        self.enter(State::Escape, b"\x1b");
        self.string = string;
        match before {
            State::Osc if !too_long => Some(Event::Osc(&self.string)),
            State::Osc | State::DcsPass => Some(Event::Execute('\x1b')),
            _ => None,
        }
    }

    fn end_string(&mut self) -> Option<Event<'_>> {
        self.rest(None);
        if self.too_long {
            return Some(Event::Execute('\x07'));
        }
        Some(Event::Osc(&self.string))
    }

    /// Takes a character that is no control which counts everywhere.
    fn step(&mut self, c: char) -> Option<Event<'_>> {
        use State::*;
        let byte = if c < '\u{80}' { c as u8 } else { 0xff };
        match (self.state, byte) {
            (Ground, 0x7f) => None,
            (Ground, 0..0x20) => Some(Event::Execute(c)),
            (Ground, _) => Some(Event::Print(c)),
            (Osc, 0x07) => self.end_string(),
            (Osc, 0..0x20) => None,
            (Osc, _) => self.put(c),
            (Swallow, 0xff) => self.rest(None),
            (Swallow | DcsIgnore | DcsPass, _) => None,
            (DcsEntry | DcsParam | DcsIntermediate, 0..0x20 | 0x7f) => None,
            (_, 0..0x20) => Some(Event::Execute(c)),
            (Escape | CsiEntry | CsiParam | CsiIntermediate | CsiIgnore, 0x7f) | (CsiIgnore, 0xff) => None,
            (_, 0x7f | 0xff) => self.rest(None),
            (state, byte) => self.sequence(state, byte),
        }
    }

    fn put(&mut self, c: char) -> Option<Event<'_>> {
        if self.too_long {
            return None;
        }
        self.string.push(c);
        if self.string.len() > MAX_STRING {
            // Who comes now is to swallow the rest of it too: the number is nobody's.
            self.string = "9999;".to_owned();
            self.too_long = true;
        }
        None
    }

    /// A character between 0x20 and 0x7e in an escape, a control or the head of a device control sequence.
    fn sequence(&mut self, state: State, byte: u8) -> Option<Event<'_>> {
        use State::*;
        if self.head.len() > MAX_SEQUENCE {
            return self.ignore(state, byte);
        }
        match (state, byte) {
            (Escape, b'[') => self.enter(CsiEntry, b"\x1b["),
            (Escape, b']') => self.enter(Osc, b"\x1b]"),
            (Escape, b'P') => self.enter(DcsEntry, b"\x1bP"),
            (Escape, b'X' | b'^' | b'_') => self.enter(Swallow, b"\x1bX"),
            (Escape | EscapeIntermediate, 0x20..0x30) => self.collect(EscapeIntermediate, byte),
            (Escape | EscapeIntermediate, _) => {
                self.rest(None);
                Some(Event::Esc(self.collected, byte))
            }
            (CsiEntry | CsiParam, b'0'..=b';') => self.parameter(CsiParam, byte),
            (CsiEntry, b'<'..=b'?') => self.collect(CsiParam, byte),
            (CsiEntry | CsiParam | CsiIntermediate, 0x20..0x30) => self.collect(CsiIntermediate, byte),
            (DcsEntry | DcsParam, b'0'..=b';') => self.parameter(DcsParam, byte),
            (DcsEntry, b'<'..=b'?') => self.collect(DcsParam, byte),
            (DcsEntry | DcsParam | DcsIntermediate, 0x20..0x30) => self.collect(DcsIntermediate, byte),
            (CsiEntry | CsiParam | CsiIntermediate, 0x40..) => {
                self.rest(None);
                Some(Event::Csi(&self.params, self.collected, byte))
            }
            _ => self.ignore(state, byte),
        }
    }

    /// A sequence that has no effect: it is read to its end.
    fn ignore(&mut self, state: State, byte: u8) -> Option<Event<'_>> {
        use State::*;
        match (state, byte) {
            (DcsEntry | DcsParam | DcsIntermediate, 0x40..) => self.enter(DcsPass, b"\x1bPz"),
            (DcsEntry | DcsParam | DcsIntermediate, _) => self.enter(DcsIgnore, b"\x1bP??"),
            (Escape | EscapeIntermediate, 0x20..0x30) => None,
            (_, 0x40..) | (Escape | EscapeIntermediate, _) => self.rest(None),
            _ => self.enter(CsiIgnore, b"\x1b[??"),
        }
    }

    fn collect(&mut self, state: State, byte: u8) -> Option<Event<'_>> {
        self.state = state;
        self.head.push(byte);
        self.collected = self.collected << 8 | u32::from(byte);
        None
    }

    fn parameter(&mut self, state: State, byte: u8) -> Option<Event<'_>> {
        self.state = state;
        self.head.push(byte);
        match byte {
            b';' => self.params.start(),
            b':' => self.params.start_sub(),
            _ => self.params.digit(u32::from(byte - b'0')),
        }
        None
    }
}
