//! An answer over plain HTTP/1.1 that is read line by line as it comes.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;

use serde_json::Value;

use super::server::{DEADLINE, Server};

/// An answer whose body is read as it comes.
pub(crate) struct Answer {
    pub(crate) status: u16,
    body: Box<dyn BufRead + Send>,
}

impl Answer {
    fn read(stream: TcpStream) -> Self {
        let mut reader = BufReader::new(stream);
        let mut line = String::new();
        reader.read_line(&mut line).unwrap();
        let status = line.split(' ').nth(1).and_then(|status| status.parse().ok()).unwrap_or_default();
        let mut chunked = false;
        loop {
            line.clear();
            reader.read_line(&mut line).unwrap();
            chunked |= line.to_ascii_lowercase().starts_with("transfer-encoding: chunked");
            if line.trim().is_empty() {
                break;
            }
        }
        let body: Box<dyn BufRead + Send> = match chunked {
            true => Box::new(BufReader::new(Chunks { reader, left: 0 })),
            false => Box::new(reader),
        };
        Self { status, body }
    }

    /// Asks a hub, and reads the head of the answer.
    pub(crate) fn get(server: &Server, path: &str, headers: &[(&str, &str)]) -> Self {
        Self::get_as(server, &server.token(), path, headers)
    }

    /// The same, as the holder of a token.
    pub(crate) fn get_as(server: &Server, token: &str, path: &str, headers: &[(&str, &str)]) -> Self {
        let address = server.url().trim_start_matches("http://").to_owned();
        let mut stream = TcpStream::connect(&address).unwrap();
        // A log may be silent for longer than anything else takes.
        stream.set_read_timeout(Some(DEADLINE * 3)).unwrap();
        let mut head =
            format!("GET {path} HTTP/1.1\r\nhost: {address}\r\nauthorization: Bearer {token}\r\nconnection: close\r\n");
        headers.iter().for_each(|(name, value)| head.push_str(&format!("{name}: {value}\r\n")));
        stream.write_all(format!("{head}\r\n").as_bytes()).unwrap();
        Self::read(stream)
    }

    /// All of the body.
    pub(crate) fn text(mut self) -> String {
        let mut text = String::new();
        self.body.read_to_string(&mut text).unwrap();
        text
    }

    /// The next line, without its end; `None` where the body ends.
    pub(crate) fn line(&mut self) -> Option<String> {
        let mut line = String::new();
        let read = self.body.read_line(&mut line).unwrap_or_default();
        (read > 0 && line.ends_with('\n')).then(|| line.trim_end_matches('\n').to_owned())
    }

    /// The next line as JSON.
    pub(crate) fn object(&mut self) -> Option<Value> {
        self.line().map(|line| serde_json::from_str(&line).unwrap())
    }
}

/// A body in chunks, as HTTP/1.1 has it.
struct Chunks {
    reader: BufReader<TcpStream>,
    left: usize,
}

impl Read for Chunks {
    fn read(&mut self, out: &mut [u8]) -> std::io::Result<usize> {
        while self.left == 0 {
            let mut line = String::new();
            if self.reader.read_line(&mut line)? == 0 {
                return Ok(0);
            }
            if line.trim().is_empty() {
                continue;
            }
            self.left = usize::from_str_radix(line.trim(), 16).map_err(std::io::Error::other)?;
            if self.left == 0 {
                return Ok(0);
            }
        }
        let len = self.left.min(out.len());
        let read = self.reader.read(&mut out[..len])?;
        self.left -= read;
        Ok(read)
    }
}
