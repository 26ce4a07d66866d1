//! The file of tokens, when it changes, is damaged, or is for others too.

use std::fs::{self, File, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use super::*;

const LATER: &str = "token-of-another-9876543210";

/// Gives the file this content, as somebody does who keeps the time of the original.
fn copy(file: &Path, text: &str, anew: bool) {
    let time = fs::metadata(file).expect("is there").modified().expect("a time");
    let target = if anew { file.with_extension("new") } else { file.to_owned() };
    fs::write(&target, text).expect("writes");
    File::options().write(true).open(&target).expect("opens").set_modified(time).expect("sets its time");
    if anew {
        fs::rename(target, file).expect("renames");
    }
    assert_eq!(fs::metadata(file).expect("is there").modified().expect("a time"), time);
}

/// How often the log has a line with these words.
fn said(server: &Server, words: &str) -> usize {
    server.log().lines().filter(|line| line.contains(words)).count()
}

#[tokio::test]
async fn another_file_of_tokens_counts_at_once_whatever_its_time() {
    let (server, dir) = server("", &[]).await;
    let file = dir.path().join("tokens.toml");
    let before = fs::read_to_string(&file).expect("reads");
    let status = async |token: &str| server.ask_as(token, "GET", "/v1/sessions", None).await.0;
    assert_eq!(LATER.len(), OTHER.len(), "the size tells nothing");
    let after = before.replace(OTHER, LATER);
    for anew in [true, false] {
        copy(&file, &after, anew);
        assert_eq!((status(OTHER).await, status(LATER).await), (401, 200), "{anew}");
        copy(&file, &before, anew);
        assert_eq!((status(OTHER).await, status(LATER).await), (200, 401), "{anew}");
    }
}

#[tokio::test]
async fn a_damaged_file_of_tokens_takes_nothing_back_and_is_told() {
    let (server, dir) = server("", &[]).await;
    let file = dir.path().join("tokens.toml");
    let before = fs::read_to_string(&file).expect("reads");
    let status = async |token: &str| server.ask_as(token, "GET", "/v1/sessions", None).await.0;
    let unreadable = async || {
        let (_, text) = server.bytes_as(&server.token(), "GET", "/metrics", None).await;
        let text = String::from_utf8_lossy(&text).into_owned();
        let value = text.lines().find_map(|line| line.strip_prefix("foghorn_tokens_unreadable ")).expect("is counted");
        value.to_owned()
    };
    assert_eq!(unreadable().await, "0");
    let half = &before[..before.len() / 2];
    for (number, damaged) in [Some(""), Some("\n# none\n"), Some("[[token]\n"), Some(half), None].iter().enumerate() {
        match damaged {
            Some(text) => fs::write(&file, text).expect("writes"),
            None => fs::remove_file(&file).expect("removes"),
        }
        for _ in 0..3 {
            assert_eq!((status(OTHER).await, status(LATER).await), (200, 401), "{damaged:?}");
        }
        assert_eq!(unreadable().await, "1", "{damaged:?}");
        assert_eq!(said(&server, "cannot read the tokens"), number + 1, "each is told once: {}", server.log());
    }
    fs::write(&file, before.replace(OTHER, LATER)).expect("writes");
    assert_eq!((status(OTHER).await, status(LATER).await), (401, 200));
    assert_eq!(unreadable().await, "0");
}

#[tokio::test]
async fn a_file_of_tokens_that_others_can_read_is_warned_of_and_so_are_those_who_can_write_it() {
    let (server, dir) = server("", &[]).await;
    let file = dir.path().join("tokens.toml");
    let words = "others on this machine can read the tokens";
    let mut warned = said(&server, words);
    for (mode, warns) in [(0o600, false), (0o640, true), (0o400, false), (0o604, true), (0o620, true), (0o600, false)] {
        fs::set_permissions(&file, Permissions::from_mode(mode)).expect("changes its mode");
        for _ in 0..2 {
            assert_eq!(server.ask_as(OTHER, "GET", "/v1/sessions", None).await.0, 200);
        }
        warned += usize::from(warns);
        assert_eq!(said(&server, words), warned, "{mode:o}: {}", server.log());
    }
    assert_eq!(said(&server, "can become an admin"), 1, "what a user can do on this machine is told");
}

#[tokio::test]
async fn what_is_no_file_of_tokens_holds_up_nobody() {
    let (server, dir) = server("", &[]).await;
    let file = dir.path().join("tokens.toml");
    let before = fs::read_to_string(&file).expect("reads");
    let aside = dir.path().join("aside");
    let status = async |token: &str| server.ask_as(token, "GET", "/v1/sessions", None).await.0;
    for odd in ["a pipe", "a folder", "a device", "too long"] {
        fs::rename(&file, &aside).expect("renames");
        match odd {
            "a pipe" => {
                assert!(std::process::Command::new("mkfifo").arg(&file).status().expect("mkfifo").success());
            }
            "a folder" => fs::create_dir(&file).expect("makes"),
            "a device" => std::os::unix::fs::symlink("/dev/zero", &file).expect("links"),
            _ => fs::write(&file, format!("{before}#{}", "x".repeat(5 << 20))).expect("writes"),
        }
        assert_eq!((status(OTHER).await, status(LATER).await), (200, 401), "{odd}");
        match odd {
            "a folder" => fs::remove_dir(&file).expect("removes"),
            _ => fs::remove_file(&file).expect("removes"),
        }
        fs::rename(&aside, &file).expect("renames");
        assert_eq!(status(OTHER).await, 200);
    }
    assert!(said(&server, "it is not a file") > 0 && said(&server, "it is longer than") > 0, "{}", server.log());
}

#[tokio::test]
async fn who_holds_a_token_is_told_by_one_entry_and_a_name_that_can_be_shown() {
    let (server, dir) = server("", &[]).await;
    let file = dir.path().join("tokens.toml");
    let before = fs::read_to_string(&file).expect("reads");
    let entry = |name: &str, token: &str| {
        format!("{before}[[token]]\nname = \"{name}\"\nrole = \"admin\"\ntoken = \"{token}\"\n")
    };
    let audit = async |token: &str| server.ask_as(token, "GET", "/v1/audit", None).await.0;
    for (name, token) in [("mallory", OTHER), ("", LATER), ("x\\u001b]0;t\\u0007", LATER), ("\\u202etoor", LATER)] {
        fs::write(&file, entry(name, token)).expect("writes");
        assert_eq!((audit(OTHER).await, audit(LATER).await), (403, 401), "{name:?}");
    }
    assert_eq!(said(&server, "have the same token"), 1);
    fs::write(&file, entry("root", LATER)).expect("writes");
    assert_eq!((audit(OTHER).await, audit(LATER).await), (403, 200));
}
