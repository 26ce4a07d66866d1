//! What a program switched on and off, apart from the cells.

/// Modes that are off at first and mean nothing to the cells, by their number in `CSI ? … h`.
pub(super) const SWITCHES: [u16; 8] = [
    1,    // application cursor keys
    5,    // reverse video
    45,   // wrapping backwards
    1004, // focus reports
    1005, // mouse positions as UTF-8
    1015, // mouse positions as urxvt has them
    2004, // bracketed paste
    66,   // application keypad; also `ESC =`
];

/// Reverse video.
pub(super) const REVERSE: u16 = 5;
/// Wrapping backwards.
pub(super) const WRAP_BACK: u16 = 45;
/// Application keypad.
pub(super) const KEYPAD: u16 = 66;

/// Modes whose default is the person's own: told only where the program said something.
pub(super) const TASTES: [u16; 4] = [
    12,   // blinking cursor
    1007, // wheel as arrow keys
    2031, // reports of the colour scheme
    2048, // reports of the size
];

/// The state of all modes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Modes {
    switches: [bool; SWITCHES.len()],
    tastes: [Option<bool>; TASTES.len()],
    /// Rows are counted from the scroll region's first, and the cursor stays in it.
    pub(super) origin: bool,
    /// Text goes on in the next row.
    pub(super) wrap: bool,
    /// Text pushes what stands there to the right.
    pub(super) insert: bool,
    /// A line feed also returns to the first column.
    pub(super) newline: bool,
    pub(super) hidden: bool,
    /// Which mouse events are reported: 9, 1000, 1002, 1003, or 0 for none.
    pub(super) mouse: u16,
    /// How: 1006, 1016, or 0 for the oldest way.
    pub(super) mouse_form: u16,
    /// The parameter of `CSI SP q`, 0 to 6.
    pub(super) cursor_style: u8,
    /// xterm's `modifyOtherKeys`, where the program set it.
    pub(super) other_keys: Option<u8>,
}

impl Default for Modes {
    fn default() -> Self {
        Self {
            switches: [false; SWITCHES.len()],
            tastes: [None; TASTES.len()],
            origin: false,
            wrap: true,
            insert: false,
            newline: false,
            hidden: false,
            mouse: 0,
            mouse_form: 0,
            cursor_style: 0,
            other_keys: None,
        }
    }
}

impl Modes {
    /// Sets a mode that has an effect neither on cells nor on the cursor's place. Others are ignored.
    pub(super) fn set(&mut self, mode: u32, on: bool) {
        let Ok(mode) = u16::try_from(mode) else { return };
        match mode {
            7 => self.wrap = on,
            25 => self.hidden = !on,
            9 | 1000 | 1002 | 1003 => self.mouse = if on { mode } else { 0 },
            1006 | 1016 => self.mouse_form = if on { mode } else { 0 },
            _ => {}
        }
        if let Some(at) = SWITCHES.iter().position(|&known| known == mode) {
            self.switches[at] = on;
        }
        if let Some(at) = TASTES.iter().position(|&known| known == mode) {
            self.tastes[at] = Some(on);
        }
    }

    /// Whether one of [`SWITCHES`] is on.
    pub(super) fn is_on(&self, mode: u16) -> bool {
        SWITCHES.iter().zip(self.switches).any(|(&known, on)| known == mode && on)
    }

    /// `CSI ! p`: what the program's own text depends on goes back to its default.
    pub(super) fn soften(&mut self) {
        let (mouse, mouse_form, tastes) = (self.mouse, self.mouse_form, self.tastes);
        let (newline, other_keys, reverse) = (self.newline, self.other_keys, self.is_on(REVERSE));
        *self = Self { mouse, mouse_form, tastes, newline, other_keys, ..Self::default() };
        self.set(u32::from(REVERSE), reverse);
    }

    /// Appends what brings a terminal from the defaults to these modes, the ones that bear on drawing left out:
    /// origin and insert.
    pub(super) fn restore(&self, out: &mut Vec<u8>) {
        let mut put = |text: String| out.extend_from_slice(text.as_bytes());
        for (mode, on) in SWITCHES.iter().zip(self.switches) {
            match *mode {
                KEYPAD if on => put("\x1b=".to_owned()),
                mode if on => put(format!("\x1b[?{mode}h")),
                _ => {}
            }
        }
        for (mode, taste) in TASTES.iter().zip(self.tastes) {
            if let Some(on) = taste {
                put(format!("\x1b[?{mode}{}", if on { 'h' } else { 'l' }));
            }
        }
        for mode in [self.mouse, self.mouse_form] {
            if mode != 0 {
                put(format!("\x1b[?{mode}h"));
            }
        }
        if self.newline {
            put("\x1b[20h".to_owned());
        }
        if !self.wrap {
            put("\x1b[?7l".to_owned());
        }
        if self.hidden {
            put("\x1b[?25l".to_owned());
        }
        if self.cursor_style != 0 {
            put(format!("\x1b[{} q", self.cursor_style));
        }
        if let Some(level) = self.other_keys {
            put(format!("\x1b[>4;{level}m"));
        }
    }
}

/// Flags of the kitty keyboard protocol, and those under them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Keyboard {
    flags: u8,
    below: Vec<u8>,
}

/// The deepest stack of keyboard flags; the oldest go.
const MAX_KEYBOARD: usize = 16;

impl Keyboard {
    /// `CSI > flags u`.
    pub(super) fn push(&mut self, flags: u32) {
        if self.below.len() == MAX_KEYBOARD {
            self.below.remove(0);
        }
        self.below.push(self.flags);
        self.flags = (flags & 31) as u8;
    }

    /// `CSI < n u`.
    pub(super) fn pop(&mut self, n: usize) {
        for _ in 0..n.min(MAX_KEYBOARD + 1) {
            self.flags = self.below.pop().unwrap_or(0);
        }
    }

    /// `CSI = flags ; how u`.
    pub(super) fn set(&mut self, flags: u32, how: u32) {
        let flags = (flags & 31) as u8;
        match how {
            0 | 1 => self.flags = flags,
            2 => self.flags |= flags,
            3 => self.flags &= !flags,
            _ => {}
        }
    }

    /// Appends what brings a terminal without flags here.
    pub(super) fn restore(&self, out: &mut Vec<u8>) {
        for (depth, flags) in self.below.iter().chain([&self.flags]).enumerate() {
            let text = match (depth, flags) {
                (0, 0) => continue,
                (0, flags) => format!("\x1b[={flags};1u"),
                (_, flags) => format!("\x1b[>{flags}u"),
            };
            out.extend_from_slice(text.as_bytes());
        }
    }
}
