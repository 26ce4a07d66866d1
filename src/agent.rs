//! The agent: a small program beside the process, on either backend.
//!
//! It owns the process's terminal or pipes, numbers its output, keeps what no hub has taken yet, and knows its end. It
//! outlives hubs and is built with few crates: nothing below this module may name anything outside [`crate::record`].
//!
//! | module | what it owns |
//! | --- | --- |
//! | [`protocol`] | the messages between a hub and an agent |
//! | [`spool`] | the records that no hub has acknowledged |
//! | [`command`] | the process, its terminal or its pipes |
//! | [`input`] | what is typed, each byte once |
//! | [`descendants`] | finding and ending what the process started |
//! | [`serve`] | the agent's life, from its socket to the acknowledged exit |
//! | [`connection`] | one hub's connection |

pub mod command;
pub mod connection;
pub mod descendants;
pub mod input;
pub mod protocol;
pub mod serve;
pub mod spool;

use std::process::ExitCode;

/// Runs the agent with the arguments of its command line: `serve --dir DIR --session ID [--nofile N]`.
///
/// It is made by a hub, not by people, so it parses few words and needs no library for them.
pub fn main(args: impl Iterator<Item = String>) -> ExitCode {
    let Some(options) = parse(args) else {
        eprintln!("usage: foghorn-agent serve --dir DIR --session ID [--nofile N]");
        return ExitCode::from(2);
    };
    match serve::run(&options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("foghorn-agent: {error}");
            ExitCode::FAILURE
        }
    }
}

fn parse(mut args: impl Iterator<Item = String>) -> Option<serve::Options> {
    args.next().filter(|verb| verb == "serve")?;
    let (mut dir, mut session, mut nofile) = (None, None, None);
    while let Some(flag) = args.next() {
        let value = args.next()?;
        match flag.as_str() {
            "--dir" => dir = Some(value.into()),
            "--session" => session = Some(value),
            "--nofile" => nofile = Some(value.parse().ok()?),
            _ => return None,
        }
    }
    Some(serve::Options { dir: dir?, session: session?, nofile })
}
