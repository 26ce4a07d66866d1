//! The screen model against another terminal: what our snapshot draws is what that terminal shows that was given
//! everything. Allowed differences are listed, and numbered, in `docs/screen.md`.
#![allow(
    clippy::disallowed_methods,
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test that cannot go on fails"
)]

#[path = "screen/oracle.rs"]
mod oracle;
#[path = "screen/programs.rs"]
mod programs;
#[path = "screen/random.rs"]
mod random;
#[path = "screen/table.rs"]
mod table;

use foghorn::cli::view::View;
use foghorn::record::Size;
use foghorn::session::screen::Screen;
use oracle::{Comparison, Oracle, Step, has};
use programs::Program;
use random::Random;

/// What a terminal may have been left with by what ran in it before.
const IN_USE: &[u8] =
    b"\x1b[44;1mold\x1b[3;5r\x1b[?1h\x1b[?6h\x1b[?7l\x1b[4h\x1b[20h\x1b(0\x1b[?1000;1006h\x1b[?2004;25l\x1b=\
    \x1b[5 q\x1b[?2026h\x1b[3g\x1b7\x1b[?1004;45h\x1b]8;;http://old/\x1b\\\x1b[4:3m";

/// The same in the alternate screen, where the last thing was not finished.
const CUT_OFF: &[u8] = b"\x1b[?1049h\x1b7\x1b[2;4r\x1b[3g\x1b[42;4malt\x1b[?1002h\x1b]2;half a title \xe2\x82";

/// A stream in parts, cut between two of them.
#[derive(Clone)]
struct Case {
    size: Size,
    before: Vec<Vec<u8>>,
    rest: Vec<Vec<u8>>,
}

impl Case {
    /// A stream that is cut anywhere.
    fn cut(size: Size, mut parts: Vec<Vec<u8>>, mut at: usize) -> Self {
        let mut before = Vec::new();
        while at > 0 {
            let mut part = parts.remove(0);
            if at < part.len() {
                parts.insert(0, part.split_off(at));
            }
            at -= part.len();
            before.push(part);
        }
        Self { size, before, rest: parts }
    }

    /// The differences at the cut, from a fresh terminal and from one in use.
    fn differences(&self, oracle: &mut Oracle) -> Vec<String> {
        let (before, rest) = (self.before.concat(), self.rest.concat());
        let mut screen = Screen::new(self.size);
        screen.feed(&before);
        let snapshot = screen.snapshot();
        if Screen::restore(self.size, &snapshot).snapshot() != snapshot {
            return vec!["what is restored has another snapshot".to_owned()];
        }
        let mut out = Vec::new();
        for old in [&b""[..], IN_USE, CUT_OFF] {
            let b = [Step::from(old), Step::from(&snapshot[..])];
            let (a, rest) = (&[before[..].into()], &[rest[..].into()]);
            out.extend(oracle.compare(&Comparison { size: self.size, a, b: &b, rest }));
        }
        out
    }

    /// The same without what does not matter, told to a person.
    fn shrink(mut self, oracle: &mut Oracle) -> String {
        let mut at = 0;
        while at < self.before.len() + self.rest.len() {
            let mut less = self.clone();
            match at.checked_sub(less.before.len()) {
                None => less.before.remove(at),
                Some(at) => less.rest.remove(at),
            };
            if less.differences(oracle).is_empty() { at += 1 } else { (self, at) = (less, 0) }
        }
        let mut screen = Screen::new(self.size);
        screen.feed(&self.before.concat());
        let text = |bytes: &[u8]| format!("{:?}", String::from_utf8_lossy(bytes));
        let all = screen.snapshot();
        let snapshot = all.split(|&byte| byte == b'J').nth(1).unwrap_or(&all);
        let found = self.differences(oracle);
        format!(
            "{}: {}\nthen {}\nsnapshot {}\n{}",
            self.size,
            text(&self.before.concat()),
            text(&self.rest.concat()),
            text(snapshot),
            found[..found.len().min(6)].join("\n")
        )
    }
}

#[test]
fn what_is_random_is_the_same() {
    let Some(mut oracle) = Oracle::start() else { return };
    let number = |name: &str, or: u64| std::env::var(name).ok().and_then(|n| n.parse().ok()).unwrap_or(or);
    let first = number("FOGHORN_TEST_SCREEN_SEED", 1);
    let mut wrong = Vec::new();
    for seed in first..first + number("FOGHORN_TEST_SCREEN_CASES", 300) {
        let mut random = Random::new(seed);
        let (cols, rows) = (2 + random.below(20), 2 + random.below(8));
        let len = 1 + random.below(60);
        let parts = random.stream(len, cols, rows);
        let at = random.below(parts.concat().len() + 1);
        let case = Case::cut(Size { cols: cols as u16, rows: rows as u16 }, parts, at);
        if !case.differences(&mut oracle).is_empty() {
            wrong.push(format!("seed {seed}: {}", case.shrink(&mut oracle)));
        }
        if wrong.len() == 5 {
            break;
        }
    }
    assert!(wrong.is_empty(), "drawn otherwise:\n{}", wrong.join("\n\n"));
}

#[test]
fn windows_show_their_part() {
    let Some(mut oracle) = Oracle::start() else { return };
    for seed in 0..150 {
        let mut random = Random::new(seed);
        let mut size = || Size { cols: 2 + random.below(20) as u16, rows: 2 + random.below(8) as u16 };
        let (session, window) = (size(), size());
        let len = 1 + random.below(60);
        let parts = random.stream(len, session.cols.into(), session.rows.into());
        let mut view = View::new(session, window);
        let (mut fed, mut drawn) = (Vec::new(), vec![Step::Write(view.enter())]);
        for part in parts.chunks(8) {
            fed.push(Step::Write(part.concat()));
            view.feed(&part.concat());
            drawn.push(Step::Write(view.render()));
            let found = oracle.view(session, &fed, window, view.offset(), &drawn);
            assert!(found.is_empty(), "seed {seed}, {session} in {window}: {fed:?}\n{}", found.join("\n"));
        }
    }
}

/// The steps up to a cut at `at` bytes, and those after it.
fn cut(steps: &[Step], mut at: usize) -> (Vec<Step>, Vec<Step>) {
    let (mut before, mut after) = (Vec::new(), Vec::new());
    for step in steps {
        match step {
            Step::Write(bytes) => {
                let (left, right) = bytes.split_at(at.min(bytes.len()));
                at -= left.len();
                before.extend((!left.is_empty()).then(|| Step::from(left)));
                after.extend((!right.is_empty()).then(|| Step::from(right)));
            }
            Step::Resize(_) if after.is_empty() => before.push(step.clone()),
            Step::Resize(_) => after.push(step.clone()),
        }
    }
    (before, after)
}

/// Holds what a program wrote against the oracle at many cuts, and in windows of other sizes.
fn hold(oracle: &mut Oracle, size: Size, name: &str, steps: &[Step]) {
    let len: usize = steps.iter().map(|step| if let Step::Write(bytes) = step { bytes.len() } else { 0 }).sum();
    let mut random = Random::new(len as u64);
    let mut cuts: Vec<usize> = (1..=16).map(|part| len * part / 16).collect();
    cuts.extend((0..16).map(|_| random.below(len)));
    cuts.sort_unstable();
    let windows = [(size.cols / 2, size.rows / 2), (size.cols - 1, size.rows + 5), (size.cols + 7, 3)];
    let windows = windows.map(|(cols, rows)| Size { cols, rows });
    let mut views = windows.map(|window| (window, View::new(size, window), Vec::new()));
    for (_, view, drawn) in &mut views {
        drawn.push(Step::Write(view.enter()));
    }
    let mut viewed = 0;
    for at in cuts {
        let (before, rest) = cut(steps, at);
        let mut screen = Screen::new(size);
        for step in &before {
            match step {
                Step::Write(bytes) => screen.feed(bytes),
                Step::Resize(size) => screen.resize(*size),
            }
        }
        let snapshot = screen.snapshot();
        assert_eq!(Screen::restore(screen.size(), &snapshot).snapshot(), snapshot, "{name} at {at}: restored");
        let b = [Step::Resize(screen.size()), Step::from(IN_USE), Step::from(&snapshot[..])];
        let found = oracle.compare(&Comparison { size, a: &before, b: &b, rest: &rest });
        assert!(found.is_empty(), "{name} at {at} of {len}:\n{}", found.join("\n"));
        let news = &cut(&before, viewed).1;
        viewed = at;
        for (window, view, drawn) in &mut views {
            for step in news {
                match step {
                    Step::Write(bytes) => view.feed(bytes),
                    Step::Resize(size) => view.resize_session(*size),
                }
            }
            drawn.push(Step::Write(view.render()));
            let found = oracle.view(size, &before, *window, view.offset(), drawn);
            assert!(found.is_empty(), "{name} at {at} of {len} in {window}:\n{}", found.join("\n"));
        }
    }
}

const SIZE: Size = Size { cols: 80, rows: 24 };
const SMALL: Size = Size { cols: 47, rows: 13 };

/// A text to look at, in a file of its own.
fn sample() -> tempfile::NamedTempFile {
    let mut text = String::new();
    for n in 1..200 {
        let line = match n % 5 {
            0 => "漢字かな交じり文 and ｆｕｌｌ width, 한국어",
            1 => "fn main() { println!(\"{}\", 1 + 2); } // a comment",
            2 => "combining: e\u{301} a\u{308}\u{304} नि 👩\u{200d}👧 ❤\u{fe0f}",
            3 => {
                "a line that is longer than the window is wide, so that it is wrapped or cut, as the program likes it best"
            }
            _ => "\ttabs\tand\tmore",
        };
        text += &format!("{n} {line}\n");
    }
    let file = tempfile::Builder::new().suffix(".rs").tempfile().expect("a file");
    std::fs::write(file.path(), text).expect("written");
    file
}

#[test]
fn vim_is_the_same() {
    let Some(mut oracle) = Oracle::start() else { return };
    if !has("vim") {
        return;
    }
    let file = sample();
    for (size, other) in [(SIZE, SMALL), (SMALL, SIZE)] {
        let mut vim = Program::start(size, "vim", &["--clean", "-n", &file.path().to_string_lossy()]);
        vim.shows("1 fn main").types(":syntax on | set number termguicolors list mouse=a\r").shows("  1 1 fn");
        vim.types("/漢字\r").types("Oinserted 漢字 e\u{301}\x1b").shows("inserted");
        vim.types(":split\r").types("\x04\x04dd\x05\x05").types(":vsplit\rG").shows("199");
        vim.types("v10kd").types(":set nowrap\r50|").resize(other).types(":set statusline=resized\r").shows("resized");
        let steps = vim.types(":qa!\r").ends();
        hold(&mut oracle, size, "vim", &steps);
    }
}

#[test]
fn less_is_the_same() {
    let Some(mut oracle) = Oracle::start() else { return };
    if !has("less") {
        return;
    }
    let file = sample();
    let mut less = Program::start(SIZE, "less", &["-R", "-N", &file.path().to_string_lossy()]);
    less.shows("1 fn main").types(" ").types("/wrapped\r").types("jjjkk").types("G").shows("199");
    let steps = less.types("bbg").shows("1 fn main").types("q").ends();
    hold(&mut oracle, SIZE, "less", &steps);
}

#[test]
fn tmux_is_the_same() {
    let Some(mut oracle) = Oracle::start() else { return };
    if !has("tmux") {
        return;
    }
    let socket = format!("foghorn-test-{}", std::process::id());
    // Keys that come at once are keys here, not a paste.
    let keys = ["start-server", ";", "set", "-g", "assume-paste-time", "0", ";"];
    let args = [&["-u", "-L", &socket, "-f", "/dev/null"][..], &keys, &["new", "PS1='$ ' sh"]].concat();
    let mut tmux = Program::start(SIZE, "tmux", &args);
    tmux.shows("$").types("seq 100; echo 漢字 do''ne\r").shows("done");
    tmux.types("\x02%")
        .types("echo ri''ght\r")
        .shows("right")
        .types("\x02\"")
        .types("seq 30; echo lo''wer\r")
        .shows("lower");
    tmux.resize(SMALL).types("\x02o").types("seq 200; echo e''nd\r").shows("end");
    let steps = tmux.types("tmux kill-server\r").ends();
    hold(&mut oracle, SIZE, "tmux", &steps);
}

#[test]
fn top_is_the_same() {
    let Some(mut oracle) = Oracle::start() else { return };
    if !has("top") {
        return;
    }
    let mut top = Program::start(SIZE, "top", &["-d", "0.3"]);
    top.shows("PID").types("h").shows("Help").types("\x1b").shows("PID");
    let steps = top.types("q").ends();
    hold(&mut oracle, SIZE, "top", &steps);
}

#[test]
fn a_shell_is_the_same() {
    let Some(mut oracle) = Oracle::start() else { return };
    let script = r"printf '\033[1;31mred\033[m \033[38;2;1;200;30mtrue\033[48;5;17m colour\033[m\n'
        seq 40; printf '\033(0lqqqk\nx   x\nmqqqj\033(B\n'; printf '%0200d\n' 7; printf '漢字%.0s' $(seq 50); echo
        printf '\033[5;15r\033[15;1H'; seq 60; printf '\033[r\033[24;1H'; printf 'e\314\201 \360\237\221\251\342\200\215\360\237\221\247\n'
        printf '\033[?1049h\033[2J\033[3;4Hother\033[?25l'; seq 9; printf '\033[?25h\033[?1049l'; echo back; printf '\377\303\n'; printf %s last";
    let mut shell = Program::start(SIZE, "sh", &["-c", script]);
    let steps = shell.ends();
    hold(&mut oracle, SIZE, "sh", &steps);
}

#[test]
fn each_thing_is_the_same() {
    let Some(mut oracle) = Oracle::start() else { return };
    let mut wrong = Vec::new();
    for (name, before, rest) in table::TABLE {
        let case =
            Case { size: Size { cols: 20, rows: 6 }, before: vec![(*before).into()], rest: vec![(*rest).into()] };
        let found = case.differences(&mut oracle);
        if !found.is_empty() {
            wrong.push(format!("{name}: {}", case.shrink(&mut oracle)));
        }
    }
    assert!(wrong.is_empty(), "drawn otherwise:\n{}", wrong.join("\n\n"));
}

#[test]
fn widths_are_the_same() {
    let Some(mut oracle) = Oracle::start() else { return };
    let answer = oracle.ask(&serde_json::json!({ "op": "widths" }));
    let ranges = |width: &str| -> Vec<(u32, u32)> { serde_json::from_value(answer[width].clone()).expect("ranges") };
    let (zero, wide) = (ranges("0"), ranges("2"));
    let edges = zero.iter().chain(&wide).flat_map(|&(from, to)| [from - 1, from, to, to + 1]);
    let mut screen = Screen::new(Size { cols: 5, rows: 1 });
    for code in (0xa0..0x2_0000).chain(edges).filter(|&code| code >= 0xa0 && code != 0xfeff) {
        let Some(c) = char::from_u32(code) else { continue };
        let within = |ranges: &[(u32, u32)]| ranges.iter().any(|&(from, to)| (from..=to).contains(&code));
        screen.feed(format!("\x1b[H\x1b[Ka{c}\x1b[1;4Hz").as_bytes());
        let gap = if within(&zero) {
            "  "
        } else if within(&wide) {
            ""
        } else {
            " "
        };
        assert_eq!(screen.lines(), [format!("a{c}{gap}z")], "U+{code:04X}");
    }
}

#[test]
fn lines_flow_alike() {
    let Some(mut oracle) = Oracle::start() else { return };
    let text = "one\r\n0123456789abcdefghijklmnopqrstuvwxyz\r\n漢字かな交じり文です\r\nlast";
    for (cols, rows) in [(10, 12), (30, 12), (50, 12), (15, 9), (20, 15)] {
        let (size, other) = (Size { cols: 20, rows: 12 }, Size { cols, rows });
        let mut screen = Screen::new(size);
        screen.feed(text.as_bytes());
        screen.resize(other);
        let a = [Step::from(text.as_bytes()), Step::Resize(other)];
        let b = [Step::Resize(other), Step::from(&screen.snapshot()[..])];
        let found = oracle.compare(&Comparison { size, a: &a, b: &b, rest: &[Step::from(&b" and on"[..])] });
        assert!(found.is_empty(), "{other}:\n{}", found.join("\n"));
    }
}
