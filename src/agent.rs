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
//! | [`pod`] | what it takes to be the agent of a pod: its installation, and the bridge to its socket |

pub mod command;
pub mod connection;
pub mod descendants;
pub mod input;
pub mod pod;
pub mod protocol;
pub mod serve;
pub mod spool;
pub mod wire;

use std::process::ExitCode;

const USAGE: &str = "\
usage: foghorn-agent serve --dir DIR --session ID [--nofile N] [--pod LAUNCHER:LAUNCHER…]
       foghorn-agent install DIR
       foghorn-agent connect DIR";

/// Runs the agent with the arguments of its command line.
///
/// * `serve --dir DIR --session ID [--nofile N] [--pod LAUNCHERS]` is the agent of one session; in a pod the command's
///   environment and directory are the container's, and the first of the launchers that is there starts it.
/// * `install DIR` copies this program into a directory, for a container whose image does not have it.
/// * `connect DIR` carries bytes between its own stdin and stdout and the agent in that directory.
///
/// It is made by a hub, not by people, so it parses few words and needs no library for them.
pub fn main(mut args: impl Iterator<Item = String>) -> ExitCode {
    let verb = args.next().unwrap_or_default();
    let outcome = match (verb.as_str(), args.next(), args) {
        ("serve", Some(first), rest) => parse(std::iter::once(first).chain(rest)).map(|options| serve::run(&options)),
        ("install", Some(dir), _) => Some(pod::install(dir.as_ref())),
        ("connect", Some(dir), _) => Some(pod::connect(dir.as_ref())),
        _ => None,
    };
    match outcome {
        Some(Ok(())) => ExitCode::SUCCESS,
        Some(Err(error)) => {
            eprintln!("foghorn-agent: {error}");
            ExitCode::FAILURE
        }
        None => {
            eprintln!("{USAGE}");
            ExitCode::from(2)
        }
    }
}

fn parse(mut args: impl Iterator<Item = String>) -> Option<serve::Options> {
    let (mut dir, mut session, mut nofile, mut pod) = (None, None, None, None);
    while let Some(flag) = args.next() {
        let value = args.next()?;
        match flag.as_str() {
            "--dir" => dir = Some(value.into()),
            "--session" => session = Some(value),
            "--nofile" => nofile = Some(value.parse().ok()?),
            "--pod" => pod = Some(value.split(':').filter(|path| !path.is_empty()).map(Into::into).collect()),
            _ => return None,
        }
    }
    Some(serve::Options { dir: dir?, session: session?, nofile, pod })
}
