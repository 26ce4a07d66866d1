//! Writing to stdout and stderr from a thread of its own, so that a reader who takes his time blocks nothing else.

use std::io::{self, Write};
use std::os::fd::BorrowedFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc;
use std::time::Duration;

use bytes::Bytes;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use serde::Serialize;
use tokio::sync::watch;

use crate::record::Stream;
use crate::visible;

/// One of this process's own outputs, blocking even where somebody has made it not to.
pub struct Descriptor(BorrowedFd<'static>);

impl Descriptor {
    /// Standard output.
    #[must_use]
    pub fn stdout() -> Self {
        Self(rustix::stdio::stdout())
    }

    /// Standard error.
    #[must_use]
    pub fn stderr() -> Self {
        Self(rustix::stdio::stderr())
    }
}

impl Write for Descriptor {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        loop {
            match rustix::io::write(self.0, bytes) {
                Ok(written) => return Ok(written),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => {
                    poll(&mut [PollFd::new(&self.0, PollFlags::OUT)], None)?;
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Prints a whole text on stdout, with what others chose in it made visible. Its line breaks are this program's own: a
/// part that may have others is made visible before it comes here.
///
/// # Errors
/// Where it cannot be written.
pub fn print(text: &str) -> io::Result<()> {
    print_as_is(&visible::lines(text))
}

/// Prints a value as a line of JSON on stdout.
///
/// # Errors
/// Where it cannot be written.
pub fn print_json(value: &impl Serialize) -> io::Result<()> {
    let text = serde_json::to_string(value)?;
    print_as_is(&format!("{}\n", visible::json(&text)))
}

/// Prints a whole text on stdout in which nothing is left to be made visible.
///
/// # Errors
/// Where it cannot be written.
pub fn print_as_is(text: &str) -> io::Result<()> {
    Descriptor::stdout().write_all(text.as_bytes())
}

/// How far the writing has come.
#[derive(Clone, Debug, Default)]
pub struct Progress {
    /// The offset of the session's output up to which all is written.
    pub written: u64,
    /// Why stdout takes no more.
    pub error: Option<(io::ErrorKind, String)>,
    /// Everything is written, and nothing more will come.
    done: bool,
}

struct Job {
    stream: Stream,
    data: Bytes,
    offset: Option<u64>,
}

/// Takes what is to be written, in order.
pub struct Sink {
    jobs: mpsc::Sender<Job>,
    queued: Arc<AtomicUsize>,
    progress: watch::Receiver<Progress>,
}

impl Sink {
    /// Writes to this process's own stdout and stderr.
    ///
    /// # Errors
    /// Where no thread can be started.
    pub fn standard() -> io::Result<Self> {
        Self::start(Box::new(Descriptor::stdout()), Box::new(Descriptor::stderr()))
    }

    /// Writes to these.
    ///
    /// # Errors
    /// Where no thread can be started.
    pub fn start(stdout: Box<dyn Write + Send>, stderr: Box<dyn Write + Send>) -> io::Result<Self> {
        let (jobs, queue) = mpsc::channel();
        let (told, progress) = watch::channel(Progress::default());
        let queued = Arc::new(AtomicUsize::new(0));
        let writer = Writer { stdout, stderr, queued: queued.clone(), told };
        std::thread::Builder::new().name("output".to_owned()).spawn(move || writer.run(&queue))?;
        Ok(Self { jobs, queued, progress })
    }

    /// Appends bytes; `offset` is where the session's output stands behind them.
    pub fn write(&self, stream: Stream, data: Bytes, offset: Option<u64>) {
        self.queued.fetch_add(data.len(), Ordering::Relaxed);
        // The thread ends after this sender only.
        let _ = self.jobs.send(Job { stream, data, offset });
    }

    /// Appends a line of Foghorn's own, on stderr, with what others chose in it made visible.
    pub fn note(&self, text: &str) {
        self.write(Stream::Stderr, format!("foghorn: {}\n", visible::line(text)).into(), None);
    }

    /// How many bytes wait.
    #[must_use]
    pub fn queued(&self) -> usize {
        self.queued.load(Ordering::Relaxed)
    }

    /// Waits until the writing has come further. Can be dropped and called again.
    pub async fn changed(&mut self) -> Progress {
        if self.progress.changed().await.is_err() {
            return std::future::pending().await;
        }
        self.progress.borrow_and_update().clone()
    }

    /// Waits until everything is written.
    ///
    /// # Errors
    /// Where stdout took no more.
    pub async fn finish(self) -> io::Result<()> {
        drop(self.jobs);
        let mut progress = self.progress;
        let last = progress.wait_for(|progress| progress.done).await;
        match last.ok().and_then(|last| last.error.clone()) {
            Some((kind, text)) => Err(io::Error::new(kind, text)),
            None => Ok(()),
        }
    }

    /// The same for at most so long: for an output that may be gone.
    pub async fn finish_within(self, limit: Duration) {
        let _ = tokio::time::timeout(limit, self.finish()).await;
    }
}

struct Writer {
    stdout: Box<dyn Write + Send>,
    stderr: Box<dyn Write + Send>,
    queued: Arc<AtomicUsize>,
    told: watch::Sender<Progress>,
}

impl Writer {
    fn run(mut self, queue: &mpsc::Receiver<Job>) {
        let mut broken = false;
        for job in queue {
            let written = match job.stream {
                Stream::Stdout if broken => Ok(()),
                Stream::Stdout => self.stdout.write_all(&job.data).and_then(|()| self.stdout.flush()),
                // Where nobody reads stderr nothing can be said about it.
                Stream::Stderr => {
                    let _ = self.stderr.write_all(&job.data);
                    Ok(())
                }
            };
            broken |= written.is_err();
            self.queued.fetch_sub(job.data.len(), Ordering::Relaxed);
            self.told.send_modify(|progress| {
                progress.written = job.offset.unwrap_or(progress.written);
                if let Err(error) = written {
                    progress.error = Some((error.kind(), error.to_string()));
                }
            });
        }
        self.told.send_modify(|progress| progress.done = true);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn all_is_written_in_order_before_the_end() {
        let (read, write) = io::pipe().expect("a pipe");
        let sink = Sink::start(Box::new(write), Box::new(io::sink())).expect("starts");
        let reader = std::thread::spawn(move || io::read_to_string(read).expect("reads"));
        (0..1000).for_each(|n| sink.write(Stream::Stdout, format!("{n}\n").into(), Some(n)));
        sink.finish().await.expect("writes");
        let expected: String = (0..1000).map(|n| format!("{n}\n")).collect();
        assert_eq!(reader.join().expect("joins"), expected);
    }

    #[tokio::test]
    async fn a_reader_that_left_is_noticed() {
        let (read, write) = io::pipe().expect("a pipe");
        drop(read);
        let mut sink = Sink::start(Box::new(write), Box::new(io::sink())).expect("starts");
        sink.write(Stream::Stdout, "x".into(), Some(1));
        let error = sink.changed().await.error.map(|(kind, _)| kind);
        assert_eq!(error, Some(io::ErrorKind::BrokenPipe));
        assert_eq!(sink.finish().await.map_err(|error| error.kind()), Err(io::ErrorKind::BrokenPipe));
    }
}
