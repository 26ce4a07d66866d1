//! Parsers of bytes from outside take any bytes: they refuse or understand them, and never fail otherwise. Those of the
//! protocols, of records, of lines and of the screen have their properties beside their code, and as fuzz targets.
#![allow(
    clippy::disallowed_methods,
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test that cannot go on fails"
)]

use std::fs;
use std::path::Path;
use std::str::FromStr;

use bytes::Bytes;
use foghorn::agent::protocol::ToAgent;
use foghorn::cli::filter::{Filter, Policy};
use foghorn::cli::keys::Keys;
use foghorn::cli::lines::Lines;
use foghorn::config::server::{ServeArgs, Server};
use foghorn::http::auth::Tokens;
use foghorn::logs::position::{MAX_TOKEN, Positions};
use foghorn::logs::split::{Held, MAX_LINE, Splitter};
use foghorn::protocol::HubFile;
use foghorn::record::{Payload, Record, Stream};
use foghorn::session::history::{pack, unpack};
use proptest::prelude::*;

fn any_bytes(len: usize) -> impl Strategy<Value = Vec<u8>> {
    proptest::collection::vec(any::<u8>(), 0..len)
}

/// Bytes of which some are the ones that mean something.
fn telling(words: &'static [&'static str], parts: usize) -> impl Strategy<Value = Vec<u8>> {
    let word = (0..words.len()).prop_map(|at| words[at].as_bytes().to_vec());
    proptest::collection::vec(prop_oneof![3 => word, 1 => any_bytes(4)], 0..parts).prop_map(|parts| parts.concat())
}

const TOML: &[&str] = &[
    "[limits]\n",
    "[apps.a]\n",
    "[[token]]\n",
    "listen = ",
    "ring = ",
    "grace = ",
    "connections = ",
    "logs = ",
    "name = ",
    "role = ",
    "token = ",
    "sha256 = ",
    "\"1 MiB\"",
    "\"1h\"",
    "\"admin\"",
    "\"127.0.0.1:1\"",
    "7",
    "-1",
    "true",
    "[",
    "]",
    "\n",
    "\"\"\"",
    "{",
    "}",
    "1e999",
    "99999999999999999999",
    "\"0123456789abcdef\"",
    "\u{0}",
    "'",
];

/// A settings' file or a tokens' file with these bytes.
fn written(dir: &Path, name: &str, text: &[u8]) -> std::path::PathBuf {
    let path = dir.join(name);
    fs::write(&path, text).expect("writes");
    path
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn settings_are_read_or_refused(text in telling(TOML, 12), embedded: bool) {
        let home = tempfile::tempdir().expect("a directory");
        written(home.path(), "foghorn.toml", &text);
        let args = ServeArgs { embedded, home: Some(home.path().to_owned()), ..ServeArgs::default() };
        if let Err(error) = Server::read(args) {
            prop_assert!(error.to_string().len() > 10);
        }
    }

    #[test]
    fn tokens_are_read_or_refused_without_being_told(text in telling(TOML, 12)) {
        let dir = tempfile::tempdir().expect("a directory");
        let file = written(dir.path(), "tokens.toml", &text);
        if let Err(error) = Tokens::new(Some(file), None) {
            prop_assert!(!error.to_string().contains("0123456789abcdef"), "{error}");
        }
    }

    #[test]
    fn tokens_in_the_wrong_place_are_not_told(key in "token|name|role|\\[\\[token\\]\\]\\n(token|apps|role)", value in "0123456789abcdef|\"0123456789abcdef\"|\\[\"0123456789abcdef\"\\]") {
        let dir = tempfile::tempdir().expect("a directory");
        let file = written(dir.path(), "tokens.toml", format!("{key} = {value}\n").as_bytes());
        let error = Tokens::new(Some(file), None).err().map(|error| error.to_string()).unwrap_or_default();
        prop_assert!(error.contains("line ") && !error.contains("0123456789abcdef"), "{error}");
    }

    /// Sizes and durations, as settings have them.
    #[test]
    fn a_size_or_a_duration_is_one_or_refused(text in "[0-9]{0,25} ?([A-Za-z]{1,4})?( [0-9]{1,20}[a-z]{1,3})?") {
        let home = tempfile::tempdir().expect("a directory");
        for key in ["ring", "journal_age", "time"] {
            written(home.path(), "foghorn.toml", format!("[limits]\n{key} = \"{text}\"\n").as_bytes());
            let args = ServeArgs { home: Some(home.path().to_owned()), ..ServeArgs::default() };
            if let Err(error) = Server::read(args) {
                prop_assert!(error.to_string().contains(key), "{error}");
            }
        }
    }

    #[test]
    fn a_hubs_file_is_read_or_refused(text in any_bytes(200), number: u32) {
        let _ = serde_json::from_slice::<HubFile>(&text);
        let file = format!(r#"{{"url":"u","pid":{number},"home":"","token_file":"","version":"","backend":"","protocol":"","later":[]}}"#);
        prop_assert_eq!(serde_json::from_str::<HubFile>(&file).expect("a file of a later version").pid, number);
    }

    #[test]
    fn a_chunk_is_unpacked_or_refused(records in any_bytes(3000), at: prop::sample::Index, bit in 0u8..8, cut: prop::sample::Index) {
        let packed = pack(&records).expect("packs");
        prop_assert_eq!(unpack(&packed).expect("unpacks"), Bytes::from(records.clone()));
        let mut broken = packed.clone();
        let at = at.index(broken.len());
        broken[at] ^= 1 << bit;
        // Without a checksum not every flip is seen, but nothing is made longer than it says.
        let _ = unpack(&broken);
        prop_assert!(records.is_empty() || unpack(&packed[..cut.index(packed.len())]).is_err(), "a part is no chunk");
        let _ = unpack(&records);
    }

    #[test]
    fn a_resume_token_is_one_or_refused(token in ".{0,300}", bytes in any_bytes(100)) {
        use base64::Engine;
        let _ = Positions::parse("a", &token);
        let mut framed = base64::prelude::BASE64_URL_SAFE_NO_PAD.decode(Positions::default().token("a")).expect("ours");
        framed.truncate(3);
        framed.extend(bytes);
        let framed = base64::prelude::BASE64_URL_SAFE_NO_PAD.encode(framed);
        if let Some(positions) = Positions::parse("a", &framed) {
            // What is understood can be said again, and a follower's start is computed from it.
            let again = Positions::parse("a", &positions.token("a")).expect("ours");
            prop_assert_eq!(again.files, positions.files);
            for at in again.sessions.values() {
                prop_assert!(at.low() <= at.high());
            }
        }
        prop_assert!(Positions::parse("a", &"A".repeat(MAX_TOKEN + 1)).is_none());
    }

    #[test]
    fn a_files_bytes_are_lines_wherever_they_are_cut(text in telling(&["\n", "\r\n", "word", "\u{e9}"], 60), cuts in proptest::collection::vec(1usize..9, 1..20), offset in 0u64..1 << 40) {
        let lines = |cuts: &[usize]| {
            let (mut held, mut lines, mut rest, mut at) = (Held::default(), Vec::new(), &text[..], offset);
            for cut in cuts.iter().cycle() {
                if rest.is_empty() { break }
                let (piece, after) = rest.split_at((*cut).min(rest.len()));
                held.feed(piece, at, |line| lines.push((line.bytes.to_vec(), line.cut, line.end)));
                at += piece.len() as u64;
                rest = after;
            }
            let left = held.let_go();
            (lines, left)
        };
        let (whole, left) = lines(&[usize::MAX]);
        prop_assert_eq!(lines(&cuts), (whole.clone(), left.clone()));
        let ends = whole.iter().map(|(line, ..)| line.len() + 1).sum::<usize>() + left.map_or(0, |left| left.len());
        prop_assert_eq!(ends, text.len(), "no byte is lost");
        prop_assert!(whole.iter().all(|(line, ..)| line.len() <= MAX_LINE));
    }

    #[test]
    fn a_sessions_bytes_are_lines_of_text(tty: bool, parts in proptest::collection::vec((any::<bool>(), any_bytes(40)), 0..20)) {
        let mut splitter = Splitter::new(tty, Default::default(), None);
        let (mut lines, mut offset) = (Vec::new(), 0);
        for (err, data) in parts {
            let stream = if err { Stream::Stderr } else { Stream::Stdout };
            let record = Record { offset, time: 0, payload: Payload::Output(stream, data.into()) };
            splitter.feed(&record, &mut lines);
            offset = record.end();
        }
        splitter.let_go(&mut lines);
        for line in &lines {
            prop_assert!(!line.message.contains('\n') && line.at.high() <= offset);
        }
    }

    /// What is kept between two pieces is bounded, and what follows a sequence that is broken off is seen.
    #[test]
    fn a_filter_keeps_little(text in telling(&["\x1b[", "\x1b]52;c;", "\x1bP", "\x1b_", "\x1b\\", "\x07", "\u{9d}", "1;2", "m", "x"], 40)) {
        for policy in [Policy::All, Policy::Shown, Policy::Colours, Policy::Text] {
            let (mut filter, mut out) = (Filter::new(policy), Vec::new());
            filter.feed(&text, &mut out);
            // A byte that is no character's is shown as U+FFFD, which has three.
            prop_assert!(out.len() <= 3 * text.len() + 2, "{} of {}", out.len(), text.len());
            filter.interrupt();
            prop_assert!(filter.is_ground());
            let mut plain = Vec::new();
            filter.feed(b"plain", &mut plain);
            prop_assert_eq!(&plain, b"plain");
        }
    }

    #[test]
    fn lines_of_a_client_lose_no_byte(text in telling(&["\n", "word"], 60), cut in 1usize..9) {
        let (mut lines, mut all) = (Lines::default(), Vec::new());
        text.chunks(cut).for_each(|piece| lines.push(piece, |line| all.extend_from_slice(line)));
        lines.end(|line| all.extend_from_slice(line));
        prop_assert_eq!(all, text);
    }

    #[test]
    fn detach_keys_are_keys_or_refused(text in "(ctrl-|\\^)?.{0,3}(,(ctrl-)?.{0,2}){0,3}") {
        if let Err(error) = Keys::from_str(&text) {
            prop_assert!(error.contains("give keys"), "{error}");
        }
    }

    #[test]
    fn a_start_message_is_understood_or_refused(text in telling(&["{", "}", "\"nonce\":", "\"command\":", "[\"x\"]", ",", "null", "\"pace\":", "1e99"], 20)) {
        let _ = ToAgent::decode(2, text.into());
    }
}
