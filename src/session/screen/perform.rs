//! Which control does what.

use super::cell::{Color, Pen, flag};
use super::modes::KEYPAD;
use super::parser::{Event, Params};
use super::term::Term;

impl Term {
    /// Does what came out of the text.
    pub(super) fn perform(&mut self, event: Event<'_>) {
        match event {
            Event::Print(c) => return self.print(c),
            Event::Execute(c) => self.execute(c),
            Event::Esc(collected, last) => self.escape(collected, last),
            Event::Csi(params, collected, last) => self.control(params, collected, last),
            Event::Osc(string) => self.command(string),
        }
        self.joinable = 0;
    }

    fn execute(&mut self, c: char) {
        let erased = self.pen.erased();
        let grid = self.grid_mut();
        match c {
            '\x08' => self.backspace(),
            '\t' => grid.tab(1),
            '\n' | '\x0b' | '\x0c' => self.line_feed(),
            '\r' => grid.x = 0,
            '\x0e' => self.charsets.shift(1),
            '\x0f' => self.charsets.shift(0),
            '\u{84}' => grid.index(erased),
            '\u{85}' => {
                grid.x = 0;
                grid.index(erased);
            }
            '\u{88}' => grid.set_tab(true),
            _ => {}
        }
    }

    fn escape(&mut self, collected: u32, last: u8) {
        let erased = self.pen.erased();
        let intermediate = u8::try_from(collected).unwrap_or(0xff);
        match (intermediate, last) {
            (0, b'7') => self.save_cursor(),
            (0, b'8') => self.restore_cursor(),
            (0, b'D') => self.grid_mut().index(erased),
            (0, b'E') => self.execute('\u{85}'),
            (0, b'H') => self.grid_mut().set_tab(true),
            (0, b'M') => self.grid_mut().reverse_index(erased),
            (0, b'=') => self.modes.set(u32::from(KEYPAD), true),
            (0, b'>') => self.modes.set(u32::from(KEYPAD), false),
            (0, b'c') => self.reset(),
            (0, b'~') => self.charsets.shift(1),
            (0, b'n' | b'}') => self.charsets.shift(2),
            (0, b'o' | b'|') => self.charsets.shift(3),
            (b'#', b'8') => self.align(),
            (b'(', name) => self.designate(0, name),
            (b')' | b'-', name) => self.designate(1, name),
            (b'*' | b'.', name) => self.designate(2, name),
            (b'+', name) => self.designate(3, name),
            (b'%', b'@' | b'G') => {
                self.charsets.shift(0);
                self.designate(0, b'B');
            }
            _ => {}
        }
    }

    fn control(&mut self, params: &Params, collected: u32, last: u8) {
        match u8::try_from(collected) {
            Ok(0) => self.plain_control(params, last),
            Ok(prefix) => self.prefixed_control(params, prefix, last),
            Err(_) => {}
        }
    }

    fn plain_control(&mut self, params: &Params, last: u8) {
        let (values, n) = (params.values(), params.count());
        let second = values.get(1).map_or(1, |&value| value.max(1) as usize);
        let erased = self.pen.erased();
        let grid = self.grid_mut();
        match last {
            b'A' => grid.cursor_up(n),
            b'B' => grid.cursor_down(n),
            b'C' | b'a' => grid.cursor_to(grid.x.min(grid.cols - 1).saturating_add(n)),
            b'D' => grid.cursor_to(grid.x.min(grid.cols - 1).saturating_sub(n)),
            b'E' | b'F' => {
                if last == b'E' {
                    grid.cursor_down(n)
                } else {
                    grid.cursor_up(n)
                }
                grid.x = 0;
            }
            b'G' | b'`' => grid.cursor_to(n - 1),
            b'H' | b'f' => self.cursor_to(second - 1, n - 1),
            b'd' => {
                let x = grid.x;
                self.cursor_to(x, n - 1);
            }
            b'e' => self.row_down(n),
            b'I' => grid.tab(n),
            b'Z' => grid.back_tab(n),
            b'J' => grid.erase_screen(values[0], erased),
            b'K' => grid.erase_line(values[0], erased),
            b'g' if values[0] == 0 => grid.set_tab(false),
            b'g' if values[0] == 3 => grid.tabs.fill(false),
            b'h' | b'l' => self.set_modes(values, last == b'h'),
            b'm' => self.select_graphics(params),
            b'r' => self.set_region(n, values.get(1).map_or(0, |&bottom| bottom as usize)),
            b's' => self.save_cursor(),
            b'u' => self.restore_cursor(),
            b'b' => self.repeat(n),
            _ => self.shift_cells(n, last),
        }
    }

    /// The controls that move cells.
    fn shift_cells(&mut self, n: usize, last: u8) {
        let erased = self.pen.erased();
        let grid = self.grid_mut();
        let x = grid.x.min(grid.cols - 1);
        match last {
            b'L' | b'M' => {
                if grid.in_region() {
                    let (y, bottom) = (grid.y, grid.bottom);
                    if last == b'L' {
                        grid.scroll_down(y, bottom, n, erased);
                    } else {
                        grid.scroll_up(y, bottom, n, erased);
                    }
                    grid.x = 0;
                    return;
                }
            }
            b'@' => grid.row().insert(x, n, erased),
            b'P' => grid.row().delete(x, n, erased),
            b'X' => grid.row().erase(x, x.saturating_add(n), erased),
            b'S' => return grid.scroll_up(grid.top, grid.bottom, n, erased),
            // Without the ground's colour, as xterm.js has it.
            b'T' => return grid.scroll_down(grid.top, grid.bottom, n, Pen::default()),
            _ => return,
        }
        grid.x = x;
    }

    fn prefixed_control(&mut self, params: &Params, prefix: u8, last: u8) {
        let (values, n) = (params.values(), params.count());
        let second = values.get(1).copied();
        match (prefix, last) {
            (b'?', b'h' | b'l') => values.iter().for_each(|&mode| self.set_private(mode, last == b'h')),
            (b'?', b'J' | b'K') => self.plain_control(params, last),
            (b'!', b'p') => self.soft_reset(),
            (b' ', b'q') if values[0] <= 6 => self.modes.cursor_style = values[0] as u8,
            (b' ', b'@' | b'A') | (b'\'', b'}' | b'~') => self.shift_columns(n, prefix, last),
            (b'>', b'm') if values[0] == 4 => {
                self.modes.other_keys = second.filter(|&level| level <= 3).map(|level| level as u8);
            }
            (b'>', b'm') if values == [0] => self.modes.other_keys = None,
            (b'>', b'u') => self.keyboard().push(values[0]),
            (b'<', b'u') => self.keyboard().pop(n),
            (b'=', b'u') => self.keyboard().set(values[0], second.unwrap_or(1)),
            _ => {}
        }
    }

    /// The controls that move columns within the scroll region.
    fn shift_columns(&mut self, n: usize, prefix: u8, last: u8) {
        let erased = self.pen.erased();
        let grid = self.grid_mut();
        if !grid.in_region() {
            return;
        }
        let at = if prefix == b' ' { 0 } else { grid.x % grid.cols };
        for row in &mut grid.rows[grid.top..=grid.bottom] {
            if matches!(last, b'A' | b'}') {
                row.insert(at, n, erased)
            } else {
                row.delete(at, n, erased)
            }
            row.wrapped = false;
        }
    }

    fn set_modes(&mut self, modes: &[u32], on: bool) {
        for mode in modes {
            match mode {
                4 => self.modes.insert = on,
                20 => self.modes.newline = on,
                _ => {}
            }
        }
    }

    fn set_private(&mut self, mode: u32, on: bool) {
        match (mode, on) {
            (2, true) => (0..4).for_each(|level| self.designate(level, b'B')),
            (6, _) => {
                self.modes.origin = on;
                self.cursor_to(0, 0);
            }
            (47 | 1047, _) => self.show_alternate(on),
            (1048 | 1049, true) => {
                self.save_cursor();
                if mode == 1049 {
                    self.show_alternate(true);
                }
            }
            (1048 | 1049, false) => {
                if mode == 1049 {
                    self.show_alternate(false);
                }
                self.restore_cursor();
            }
            _ => self.modes.set(mode, on),
        }
    }

    /// `OSC`: titles and links. Colours of the palette, the clipboard and all else belong to the program's own terminal.
    fn command(&mut self, string: &str) {
        let Some((number, text)) = string.split_once(';') else { return };
        match number.parse::<u32>() {
            Ok(0 | 2) => self.set_title(text),
            Ok(8) => {
                if let Some((parameters, uri)) = text.split_once(';') {
                    self.set_link(parameters, uri);
                }
            }
            _ => {}
        }
    }

    /// `CSI m`.
    fn select_graphics(&mut self, params: &Params) {
        let values = params.values();
        let mut at = 0;
        while at < values.len() {
            let (value, subs) = (values[at], params.subs(at));
            let pen = &mut self.pen;
            match value {
                0 => *pen = Pen { link: pen.link, ..Pen::default() },
                4 => pen.underline = underline(subs.first().map_or(Some(1), |&style| style)),
                21 => pen.underline = 2,
                22 => pen.flags &= !(flag::BOLD | flag::DIM),
                24 => pen.underline = 0,
                23 => pen.flags &= !flag::ITALIC,
                25 => pen.flags &= !flag::BLINK,
                27 => pen.flags &= !flag::INVERSE,
                28 => pen.flags &= !flag::INVISIBLE,
                29 => pen.flags &= !flag::STRUCK,
                55 => pen.flags &= !flag::OVERLINE,
                30..=37 => pen.fg = Color::Named((value - 30) as u8),
                40..=47 => pen.bg = Color::Named((value - 40) as u8),
                90..=97 => pen.fg = Color::Named((value - 90 + 8) as u8),
                100..=107 => pen.bg = Color::Named((value - 100 + 8) as u8),
                39 => pen.fg = Color::Default,
                49 => pen.bg = Color::Default,
                59 => pen.line = Color::Default,
                38 | 48 | 58 => {
                    let (color, used) = extended_color(&values[at + 1..], subs);
                    let place = match value {
                        38 => &mut pen.fg,
                        48 => &mut pen.bg,
                        _ => &mut pen.line,
                    };
                    *place = color.unwrap_or(*place);
                    at += used;
                }
                _ => {
                    if let Some((flag, _)) = flag::SGR.iter().find(|(_, sgr)| u32::from(*sgr) == value) {
                        pen.flags |= flag;
                    }
                }
            }
            at += 1;
        }
    }
}

fn underline(style: Option<u32>) -> u8 {
    style.filter(|&style| style <= 5).map_or(1, |style| style as u8)
}

/// The colour behind 38, 48 or 58, from the sub-parameters where there are any, and how many of the parameters that
/// follow belong to it.
fn extended_color(rest: &[u32], subs: &[Option<u32>]) -> (Option<Color>, usize) {
    let byte = |value: Option<u32>| (value.unwrap_or(0) & 0xff) as u8;
    if let Some(&form) = subs.first() {
        let at = |index: usize| byte(subs.get(index).copied().flatten());
        let color = match form {
            Some(5) => Some(Color::Indexed(at(1))),
            // The number of the colour space stands before the colours.
            Some(2) => Some(Color::Rgb(at(2), at(3), at(4))),
            _ => None,
        };
        return (color, 0);
    }
    let at = |index: usize| byte(rest.get(index).copied());
    match rest.first() {
        Some(5) => (Some(Color::Indexed(at(1))), rest.len().min(2)),
        Some(2) => (Some(Color::Rgb(at(1), at(2), at(3))), rest.len().min(4)),
        Some(_) => (None, 1),
        None => (None, 0),
    }
}
