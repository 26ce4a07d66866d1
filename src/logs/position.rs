//! How far each source of a log was read, and the token that says so to a client.
//!
//! A token holds what is needed to go on, on this hub or on a later one: the position in every session that has not
//! ended, in every file that is followed and in every container whose pod is there, and the number of the newest session
//! that was seen. A session that is not in it was read to its end if its number is not above that one, and is new
//! otherwise; a container that is not in it is new.
//!
//! The form is private to the hub: a version, a check of the app's name, then numbers of variable length, all in
//! unpadded base64url. About 10 characters a session, 20 a file and 20 a container.

use std::collections::BTreeMap;

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;

/// The longest token that is looked at, in characters.
pub const MAX_TOKEN: usize = 32 << 10;

/// The form of the tokens that this version makes, and the only one it reads.
const VERSION: u8 = 2;

/// How far a session was read: offsets in its output.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SessionAt {
    /// Bytes of stdout before this offset were told.
    pub out: u64,
    /// Bytes of stderr before this offset were told.
    pub err: u64,
    /// Whether its start was told.
    pub begun: bool,
}

impl SessionAt {
    /// Both streams at one offset.
    #[must_use]
    pub fn both(offset: u64) -> Self {
        Self { out: offset, err: offset, begun: offset > 0 }
    }

    /// The offset to read from.
    #[must_use]
    pub fn low(self) -> u64 {
        self.out.min(self.err)
    }

    /// The offset up to which something was told.
    #[must_use]
    pub fn high(self) -> u64 {
        self.out.max(self.err)
    }
}

/// Which file: its name may change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FileId {
    /// The device it is on.
    pub dev: u64,
    /// Its inode.
    pub ino: u64,
}

/// How far a file was read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FileAt {
    /// In bytes from its start; always behind the end of a line, or of a piece of a long one.
    pub offset: u64,
    /// What the file starts with, hashed: an inode is used again, and a file can be emptied and filled anew.
    pub head: u32,
}

/// Which container of which pod, whatever becomes of its runs: a check of the pod's UID and the container's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ContainerId(u64);

impl ContainerId {
    /// The container with this name in the pod with this UID.
    #[must_use]
    pub fn new(pod: &str, container: &str) -> Self {
        let bytes = pod.bytes().chain([b'/']).chain(container.bytes());
        let hash = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3);
        Self(bytes.fold(0xcbf2_9ce4_8422_2325, hash) >> 16)
    }
}

/// How far the log of a container was read. A log is read from a whole second on, so what was told is known by its time
/// and by how many lines have just this time. The order is that of the log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct ContainerAt {
    /// Which of its runs: how often the container was restarted before.
    pub restart: u64,
    /// The latest time of a line that was told, in nanoseconds; 0: none was.
    pub time: u64,
    /// How many lines with this time were told; 0: from this time on, all is new.
    pub count: u64,
    /// How many lines from before this time were told behind them: two outputs share a log.
    pub late: u64,
}

impl ContainerAt {
    /// Behind all that a run will ever say, with the number of that run.
    pub const OPEN: Self = Self { restart: 0, time: u64::MAX, count: 0, late: 0 };

    /// The start of a run.
    #[must_use]
    pub fn start(restart: u64) -> Self {
        Self { restart, ..Self::default() }
    }
}

/// Where one source stands from now on.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Move {
    /// Nothing moved.
    None,
    /// The session with this number was read so far.
    Session(u64, SessionAt),
    /// The session with this number was read to its end.
    SessionEnd(u64),
    /// The file was read so far.
    File(FileId, FileAt),
    /// The file is not followed any more, and was read to its end.
    FileEnd(FileId),
    /// The log of the container was read so far.
    Container(ContainerId, ContainerAt),
    /// The container is gone with its pod.
    ContainerEnd(ContainerId),
}

/// How far each source was read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Positions {
    /// The number of the newest session that is known.
    pub newest: u64,
    /// The sessions that were not read to their ends, by number.
    pub sessions: BTreeMap<u64, SessionAt>,
    /// The files that are followed.
    pub files: BTreeMap<FileId, FileAt>,
    /// The containers whose pods are there.
    pub containers: BTreeMap<ContainerId, ContainerAt>,
}

impl Positions {
    /// Notes where a source stands.
    pub fn apply(&mut self, moved: Move) {
        match moved {
            Move::None => {}
            Move::Session(number, at) => {
                self.newest = self.newest.max(number);
                self.sessions.insert(number, at);
            }
            Move::SessionEnd(number) => {
                self.newest = self.newest.max(number);
                self.sessions.remove(&number);
            }
            Move::File(id, at) => drop(self.files.insert(id, at)),
            Move::FileEnd(id) => drop(self.files.remove(&id)),
            Move::Container(id, at) => drop(self.containers.insert(id, at)),
            Move::ContainerEnd(id) => drop(self.containers.remove(&id)),
        }
    }

    /// The token that resumes here.
    #[must_use]
    pub fn token(&self, app: &str) -> String {
        let room = 12 * self.sessions.len() + 24 * self.files.len() + 20 * self.containers.len();
        let mut out = Vec::with_capacity(24 + room);
        out.push(VERSION);
        out.extend_from_slice(&hash(app.as_bytes()).to_be_bytes()[..2]);
        put(&mut out, self.newest);
        put(&mut out, self.sessions.len() as u64);
        for (number, at) in &self.sessions {
            put(&mut out, *number);
            put(&mut out, at.low() << 1 | u64::from(at.begun));
            put(&mut out, (at.high() - at.low()) << 1 | u64::from(at.err > at.out));
        }
        put(&mut out, self.files.len() as u64);
        for (id, at) in &self.files {
            put(&mut out, id.dev);
            put(&mut out, id.ino);
            put(&mut out, at.offset);
            out.extend_from_slice(&at.head.to_be_bytes());
        }
        self.put_containers(&mut out);
        BASE64_URL_SAFE_NO_PAD.encode(out)
    }

    /// Times are counted back from the latest one: most are near it.
    fn put_containers(&self, out: &mut Vec<u8>) {
        let latest = self.containers.values().map(|at| at.time).max().unwrap_or(0);
        put(out, self.containers.len() as u64);
        put(out, latest);
        for (id, at) in &self.containers {
            out.extend_from_slice(&id.0.to_be_bytes()[2..]);
            put(out, at.restart);
            put(out, latest - at.time);
            put(out, at.count << 1 | u64::from(at.late > 0));
            if at.late > 0 {
                put(out, at.late);
            }
        }
    }

    fn take_containers(&mut self, rest: &mut &[u8]) -> Option<()> {
        let (number, latest) = (take(rest)?, take(rest)?);
        for _ in 0..number {
            let (id, after) = rest.split_at_checked(6)?;
            *rest = after;
            let id = ContainerId(id.iter().fold(0, |id, byte| id << 8 | u64::from(*byte)));
            let (restart, back, count) = (take(rest)?, take(rest)?, take(rest)?);
            let late = if count & 1 == 1 { take(rest)? } else { 0 };
            let at = ContainerAt { restart, time: latest.checked_sub(back)?, count: count >> 1, late };
            self.containers.insert(id, at);
        }
        Some(())
    }

    /// What a token says; `None` where it is not one of this app's.
    #[must_use]
    pub fn parse(app: &str, token: &str) -> Option<Self> {
        let bytes = (token.len() <= MAX_TOKEN).then(|| BASE64_URL_SAFE_NO_PAD.decode(token).ok()).flatten()?;
        let (head, mut rest) = bytes.split_at_checked(3)?;
        if head[0] != VERSION || head[1..] != hash(app.as_bytes()).to_be_bytes()[..2] {
            return None;
        }
        let mut positions = Self { newest: take(&mut rest)?, ..Self::default() };
        for _ in 0..take(&mut rest)? {
            let number = take(&mut rest)?;
            let (low, apart) = (take(&mut rest)?, take(&mut rest)?);
            let high = (low >> 1).checked_add(apart >> 1)?;
            let (out, err) = if apart & 1 == 1 { (low >> 1, high) } else { (high, low >> 1) };
            positions.sessions.insert(number, SessionAt { out, err, begun: low & 1 == 1 });
        }
        for _ in 0..take(&mut rest)? {
            let id = FileId { dev: take(&mut rest)?, ino: take(&mut rest)? };
            let offset = take(&mut rest)?;
            let (head, after) = rest.split_at_checked(4)?;
            rest = after;
            let head = head.iter().fold(0, |head, byte| head << 8 | u32::from(*byte));
            positions.files.insert(id, FileAt { offset, head });
        }
        positions.take_containers(&mut rest)?;
        rest.is_empty().then_some(positions)
    }
}

/// FNV-1a, 32 bits: tells files apart, keeps nobody out.
#[must_use]
pub fn hash(bytes: &[u8]) -> u32 {
    bytes.iter().fold(0x811c_9dc5, |hash, byte| (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193))
}

/// Appends a number, seven bits a byte, the lowest first.
fn put(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

fn take(bytes: &mut &[u8]) -> Option<u64> {
    let mut number = 0u64;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = bytes.split_first()?;
        *bytes = rest;
        number |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(number);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn positions() -> impl Strategy<Value = Positions> {
        let session = (0u64..1 << 60, 0u64..1 << 60, any::<bool>());
        let session = session.prop_map(|(out, err, begun)| SessionAt { out, err, begun });
        let file = (any::<u64>(), any::<u64>(), any::<u64>(), any::<u32>());
        let file = file.prop_map(|(dev, ino, offset, head)| (FileId { dev, ino }, FileAt { offset, head }));
        let sessions = proptest::collection::btree_map(any::<u64>(), session, 0..9);
        let container = (0u64..1 << 48, any::<u64>(), any::<u64>(), 0u64..1 << 63, any::<u64>());
        let container = container
            .prop_map(|(id, restart, time, count, late)| (ContainerId(id), ContainerAt { restart, time, count, late }));
        let (files, containers) = (proptest::collection::vec(file, 0..9), proptest::collection::vec(container, 0..9));
        (any::<u64>(), sessions, files, containers).prop_map(|(newest, sessions, files, containers)| {
            let (files, containers) = (files.into_iter().collect(), containers.into_iter().collect());
            Positions { newest, sessions, files, containers }
        })
    }

    proptest! {
        #[test]
        fn a_token_says_what_was_put_into_it(positions in positions()) {
            let token = positions.token("blog");
            prop_assert_eq!(Positions::parse("blog", &token), Some(positions));
            prop_assert_eq!(Positions::parse("shop", &token), None);
        }

        #[test]
        fn any_token_is_read_without_a_panic(token in "[A-Za-z0-9_-]{0,99}", bytes in proptest::collection::vec(any::<u8>(), 0..99)) {
            let _ = Positions::parse("blog", &token);
            let mut with_head = vec![VERSION];
            with_head.extend_from_slice(&hash(b"blog").to_be_bytes()[..2]);
            with_head.extend(bytes);
            let _ = Positions::parse("blog", &BASE64_URL_SAFE_NO_PAD.encode(with_head));
        }
    }

    #[test]
    fn a_token_is_short() {
        let mut positions = Positions::default();
        positions.apply(Move::Session(4821, SessionAt { out: 5_000_000, err: 4_999_000, begun: true }));
        positions.apply(Move::File(FileId { dev: 2049, ino: 5_000_000 }, FileAt { offset: 80_000_000, head: 7 }));
        assert!(positions.token("blog").len() <= 47, "{}", positions.token("blog"));
        let before = positions.token("blog").len();
        let at = ContainerAt { restart: 1, time: 1_795_341_600_123_456_789, count: 1, late: 0 };
        positions.apply(Move::Container(ContainerId::new("a", "web"), at));
        let at = ContainerAt { time: at.time - 20_000_000_000, ..at };
        positions.apply(Move::Container(ContainerId::new("b", "web"), at));
        assert!(positions.token("blog").len() <= before + 46, "{}", positions.token("blog"));
        positions.apply(Move::SessionEnd(4821));
        assert_eq!((positions.newest, positions.sessions.len()), (4821, 0));
    }
}
