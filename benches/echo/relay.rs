//! The least that can stand between a client and a terminal where a hub may die and a command goes on: two processes, each
//! with one thread that waits in `poll` and hands on what it reads. What they add is the floor of what a hub can add.

use std::fs::File;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::process::{Child, Command, Stdio};

use rustix::event::{PollFd, PollFlags, poll};

use crate::support::{free_address, own_program, wait_for};

/// Both processes, and the client's connection.
pub struct Relays {
    children: [Child; 2],
    pub stream: TcpStream,
    _dir: tempfile::TempDir,
}

impl Relays {
    pub fn start() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let (socket, address) = (dir.path().join("sock"), free_address());
        let relay = |args: &[&str]| {
            let mut command = Command::new(own_program());
            command.arg("relay").args(args).arg(&socket).stdin(Stdio::null()).spawn().expect("a relay")
        };
        let agent = relay(&["agent"]);
        wait_for("the relay's socket", || socket.exists());
        let children = [agent, relay(&["hub", &address.to_string()])];
        let mut stream = None;
        wait_for("the relay listens", || {
            stream = TcpStream::connect(address).ok();
            stream.is_some()
        });
        let stream = stream.expect("a connection");
        stream.set_nodelay(true).expect("a socket");
        Self { children, stream, _dir: dir }
    }
}

impl Drop for Relays {
    fn drop(&mut self) {
        for child in &mut self.children {
            let _gone = child.kill();
            let _gone = child.wait();
        }
    }
}

/// What a relay's process does.
pub fn run(args: &[&str], command: &[&str]) {
    match args {
        ["agent", socket] => {
            let listener = UnixListener::bind(socket).expect("a socket");
            let (stream, _) = listener.accept().expect("a connection");
            let (pty, pts) = pty_process::blocking::open().expect("a terminal");
            let command = pty_process::blocking::Command::new(command[0]).args(&command[1..]);
            let mut child = command.spawn(pts).expect("a command");
            hand_on(stream.into(), pty.into());
            child.wait().expect("ends");
        }
        ["hub", address, socket] => {
            let listener = TcpListener::bind(address).expect("a socket");
            let (stream, _) = listener.accept().expect("a connection");
            stream.set_nodelay(true).expect("a socket");
            hand_on(stream.into(), UnixStream::connect(socket).expect("a socket").into());
        }
        _ => panic!("a relay is an agent or a hub"),
    }
}

/// Hands on what comes from either, until one ends.
fn hand_on(one: OwnedFd, other: OwnedFd) {
    let mut ends = [File::from(one), File::from(other)];
    let mut buffer = [0; 4096];
    loop {
        let mut waits = [PollFd::new(&ends[0], PollFlags::IN), PollFd::new(&ends[1], PollFlags::IN)];
        poll(&mut waits, None).expect("waits");
        let ready = waits.map(|wait| !wait.revents().is_empty());
        for at in 0..2 {
            if ready[at] {
                let read = ends[at].read(&mut buffer).unwrap_or(0);
                if read == 0 || ends[1 - at].write_all(&buffer[..read]).is_err() {
                    return;
                }
            }
        }
    }
}
