//! The screen model against another terminal: what our snapshot draws is what that terminal shows that was given
//! everything. Allowed differences are listed, and numbered, in `docs/screen.md`.

#[path = "screen/oracle.rs"]
mod oracle;
#[path = "screen/random.rs"]
mod random;

use foghorn::record::Size;
use foghorn::session::screen::Screen;
use oracle::{Comparison, Oracle, Step};
use random::Random;

/// What a terminal may have been left with by what ran in it before.
const IN_USE: &[u8] = b"\x1b[44;1mold\x1b[3;5r\x1b[?1h\x1b[?6h\x1b[?7l\x1b[4h\x1b[20h\x1b(0\x1b[?1000;1006h\x1b[?2004;25l\x1b=\
    \x1b[5 q\x1b[?2026h\x1b[3g\x1b7\x1b[?1004;45h\x1b]8;;http://old/\x1b\\\x1b[4:3m";

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
        for old in [&b""[..], IN_USE] {
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
