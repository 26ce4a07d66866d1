//! A network that fails on demand: a proxy between two ends, over TCP towards the client and TCP or a Unix socket
//! towards the server. Threads, not tasks, so that it goes on whatever the test waits for.

use std::io::{ErrorKind, Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Duration;

/// Where the proxy leads.
#[derive(Clone, Debug)]
pub(crate) enum Target {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

/// How connections are cut.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Cut {
    /// In order: both ends see the end of what was sent.
    Fin,
    /// At once: both ends see a reset, and what was under way is lost.
    Reset,
    /// In order, but in the middle of what is sent next towards the client, after so many bytes of it.
    Within(usize),
}

/// A direction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    ToClient,
    ToServer,
}

const WAYS: [Way; 2] = [Way::ToClient, Way::ToServer];

/// What the threads of all connections look at.
#[derive(Default)]
struct Weather {
    delay: Duration,
    stalled: bool,
    closed: bool,
    lines: Vec<Arc<Line>>,
}

/// One connection's state.
#[derive(Default)]
struct Line {
    ends: Mutex<Option<(Wire, Wire)>>,
    /// What comes is taken and thrown away.
    mute: Mutex<Vec<Way>>,
    cut_within: Mutex<Option<usize>>,
}

/// See the module's documentation.
pub(crate) struct Proxy {
    address: SocketAddr,
    weather: Arc<Mutex<Weather>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Proxy {
    /// Listens, and leads each connection to where `target` says then; without one it is refused.
    pub(crate) fn start(target: impl Fn() -> Option<Target> + Send + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = listener.local_addr().expect("an address");
        let weather = Arc::new(Mutex::new(Weather::default()));
        let shared = weather.clone();
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let open = target().filter(|_| !lock(&shared).closed);
                let server = open.and_then(|target| Wire::connect(&target).ok());
                let client = Wire::Tcp(client);
                match server {
                    Some(server) => lead(&shared, client, server),
                    None => client.reset(),
                }
            }
        });
        Self { address, weather }
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its address as a URL.
    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Each answer from the server comes so much later, from now on.
    pub(crate) fn delay(&self, delay: Duration) {
        lock(&self.weather).delay = delay;
    }

    /// Refuses new connections, or takes them again.
    pub(crate) fn close(&self, closed: bool) {
        lock(&self.weather).closed = closed;
    }

    /// Nothing passes until it heals; nothing is lost.
    pub(crate) fn stall(&self, stalled: bool) {
        lock(&self.weather).stalled = stalled;
    }

    /// Cuts all connections. How many there were.
    pub(crate) fn cut(&self, how: Cut) -> usize {
        let lines = self.lines();
        for line in &lines {
            match how {
                Cut::Within(bytes) => *lock(&line.cut_within) = Some(bytes),
                Cut::Fin | Cut::Reset => line.end(how == Cut::Reset),
            }
        }
        lines.len()
    }

    /// The present connections lose all that is sent in these directions, silently, for ever. New ones are well.
    pub(crate) fn mute(&self, ways: &[Way]) {
        self.lines().iter().for_each(|line| *lock(&line.mute) = ways.to_vec());
    }

    fn lines(&self) -> Vec<Arc<Line>> {
        lock(&self.weather).lines.iter().filter(|line| lock(&line.ends).is_some()).cloned().collect()
    }
}

impl Line {
    fn end(&self, reset: bool) {
        let Some((client, server)) = lock(&self.ends).take() else { return };
        for wire in [client, server] {
            if reset { wire.reset() } else { wire.shut() }
        }
    }
}

fn lead(weather: &Arc<Mutex<Weather>>, client: Wire, server: Wire) {
    let line = Arc::new(Line::default());
    let pairs = (client.again(), server.again(), server.again(), client.again());
    *lock(&line.ends) = Some((client, server));
    let mut shared = lock(weather);
    shared.lines.retain(|line| lock(&line.ends).is_some());
    shared.lines.push(line.clone());
    drop(shared);
    let (from_client, to_server, from_server, to_client) = pairs;
    for (way, from, to) in [(WAYS[1], from_client, to_server), (WAYS[0], from_server, to_client)] {
        let (weather, line) = (weather.clone(), line.clone());
        thread::spawn(move || pass(&weather, &line, way, from, to));
    }
}

fn pass(weather: &Mutex<Weather>, line: &Line, way: Way, mut from: Wire, mut to: Wire) {
    let mut buffer = vec![0; 1 << 20];
    while let Ok(mut len @ 1..) = from.read(&mut buffer) {
        let delay = lock(weather).delay;
        if way == Way::ToClient && !delay.is_zero() {
            thread::sleep(delay);
            // What has come meanwhile belongs to the same answer.
            len += from.read_ready(&mut buffer[len..]);
        }
        while lock(weather).stalled && lock(&line.ends).is_some() {
            thread::sleep(Duration::from_millis(5));
        }
        if lock(&line.mute).contains(&way) {
            continue;
        }
        if way == Way::ToClient
            && let Some(bytes) = lock(&line.cut_within).take()
        {
            let _ = to.write_all(&buffer[..bytes.min(len)]);
            line.end(false);
            break;
        }
        if to.write_all(&buffer[..len]).is_err() {
            break;
        }
    }
    line.end(false);
}

enum Wire {
    Tcp(TcpStream),
    Unix(UnixStream),
}

impl Wire {
    fn connect(target: &Target) -> std::io::Result<Self> {
        Ok(match target {
            Target::Tcp(address) => Self::Tcp(TcpStream::connect(address)?),
            Target::Unix(path) => Self::Unix(UnixStream::connect(path)?),
        })
    }

    fn again(&self) -> Self {
        match self {
            Self::Tcp(stream) => {
                let _ = stream.set_nodelay(true);
                Self::Tcp(stream.try_clone().expect("a descriptor"))
            }
            Self::Unix(stream) => Self::Unix(stream.try_clone().expect("a descriptor")),
        }
    }

    fn shut(&self) {
        // It may be shut already.
        let _ = match self {
            Self::Tcp(stream) => stream.shutdown(Shutdown::Both),
            Self::Unix(stream) => stream.shutdown(Shutdown::Both),
        };
    }

    fn reset(self) {
        if let Self::Tcp(stream) = &self {
            // Closing then resets; the other threads' handles of it must go first, which the shutdown sees to.
            let _ = rustix::net::sockopt::set_socket_linger(stream, Some(Duration::ZERO));
            let _ = stream.shutdown(Shutdown::Read);
        }
        if matches!(self, Self::Unix(_)) {
            self.shut();
        }
    }

    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        loop {
            let read = match self {
                Self::Tcp(stream) => stream.read(buffer),
                Self::Unix(stream) => stream.read(buffer),
            };
            match read {
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                read => return read,
            }
        }
    }

    /// Reads what is there without waiting.
    fn read_ready(&mut self, buffer: &mut [u8]) -> usize {
        let set = |wire: &Self, on| match wire {
            Self::Tcp(stream) => stream.set_nonblocking(on),
            Self::Unix(stream) => stream.set_nonblocking(on),
        };
        // The direction back shares the flag, but its writes wait for nobody here.
        let _ = set(self, true);
        let mut len = 0;
        while len < buffer.len()
            && let Ok(more @ 1..) = self.read(&mut buffer[len..])
        {
            len += more;
        }
        let _ = set(self, false);
        len
    }

    fn write_all(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        match self {
            Self::Tcp(stream) => stream.write_all(bytes),
            Self::Unix(stream) => stream.write_all(bytes),
        }
    }
}
