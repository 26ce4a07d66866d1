//! Finding and ending what a session's command started.
//!
//! A process belongs to a session when it descends from the session's agent, which is the subreaper of all it starts,
//! or when it carries the session's mark in its environment, which also finds those whose agent was killed.
//!
//! A hub, or another session's agent, that was started within a session does not belong to it: others need it. It is known
//! by what it holds, a state folder's lock or an agent's socket, and not by what it says of itself.

use std::collections::{HashMap, HashSet};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::process::{Pid, Signal, kill_process};

use super::serve::SOCKET;

/// The environment variable that marks a session's processes; its value is the session's id. Commands may read it.
pub const MARK: &str = "FOGHORN_SESSION";

/// The environment variable with the ids of the sessions around a session, the outermost first.
pub const WITHIN: &str = "FOGHORN_WITHIN";

/// The environment variable by which agents of 0.1 know a hub or an agent that others need. It is set for them, and
/// nothing else looks at it.
pub const EXEMPT: &str = "FOGHORN_KEEP";

/// How often the processes are looked for while they are given time to end.
const LOOK: Duration = Duration::from_millis(20);

/// How long processes are killed that do not die.
const KILL_LIMIT: Duration = Duration::from_secs(10);

/// Which processes are meant.
#[derive(Clone, Debug)]
pub struct Family {
    /// The session's id, as it stands in the mark.
    pub session: String,
    /// The agent whose descendants are meant too; itself never is.
    pub agent: Option<Pid>,
}

impl Family {
    /// The living processes of the family.
    #[must_use]
    pub fn members(&self) -> Vec<Pid> {
        let mark = format!("{MARK}={}", self.session);
        let processes = processes();
        let mut members = Vec::new();
        let mut own: HashSet<i32> = self.agent.iter().map(|pid| pid.as_raw_nonzero().get()).collect();
        let children = children(&processes);
        let mut queue: Vec<i32> = own.iter().copied().collect();
        let marked = processes.iter().filter(|process| !own.contains(&process.pid));
        let marked = marked.filter(|process| has(&environment(process.pid), &mark));
        let marked: Vec<i32> = marked.map(|process| process.pid).collect();
        members.extend(&marked);
        queue.extend(&marked);
        own.extend(&marked);
        while let Some(parent) = queue.pop() {
            for child in children.get(&parent).into_iter().flatten().copied() {
                if !own.contains(&child) && !is_needed(child) {
                    own.insert(child);
                    members.push(child);
                    queue.push(child);
                }
            }
        }
        let alive: HashSet<i32> = processes.iter().filter(|process| process.alive).map(|process| process.pid).collect();
        members.into_iter().filter(|pid| alive.contains(pid)).filter_map(Pid::from_raw).collect()
    }

    /// Sends `signal` to all members, and wakes those that are stopped so that they see it. How many there are that it
    /// may be sent to; one that has taken another user's rights is that user's to end.
    pub fn signal(&self, signal: Signal) -> usize {
        let ours = |pid: &Pid| {
            let sent = kill_process(*pid, signal);
            if signal != Signal::KILL {
                // One that ended since it was listed needs no signal.
                let _ = kill_process(*pid, Signal::CONT);
            }
            sent != Err(Errno::PERM)
        };
        self.members().into_iter().filter(ours).count()
    }

    /// Ends all members: HUP, then after `hup_wait` TERM, then after `term_wait` KILL until none is left, or until
    /// [`KILL_LIMIT`]: a process that waits for a device does not die before the device answers.
    pub async fn end(&self, hup_wait: Duration, term_wait: Duration) {
        for (signal, wait) in [(Signal::HUP, hup_wait), (Signal::TERM, term_wait)] {
            if self.signal(signal) == 0 || self.gone_within(wait).await {
                return;
            }
        }
        let since = Instant::now();
        while self.signal(Signal::KILL) > 0 && since.elapsed() < KILL_LIMIT {
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Waits until no member is left, at most `wait`. Whether none is.
    async fn gone_within(&self, wait: Duration) -> bool {
        let since = Instant::now();
        while since.elapsed() < wait {
            if self.members().is_empty() {
                return true;
            }
            tokio::time::sleep(LOOK).await;
        }
        self.members().is_empty()
    }
}

/// Returns whether a process that does not carry the session's mark is a hub or an agent, which others need.
fn is_needed(pid: i32) -> bool {
    is_foghorn(pid) && (holds_a_state_folder(pid) || listens_as_an_agent(pid))
}

/// Returns whether a process runs this program: this very file, or one of that name, as another version has it. Others
/// hold files called `lock`, too.
fn is_foghorn(pid: i32) -> bool {
    let program = PathBuf::from(format!("/proc/{pid}/exe"));
    let file = |path: &Path| fs::metadata(path).ok().map(|file| (file.dev(), file.ino()));
    let same = file(&program).is_some_and(|program| file(Path::new("/proc/self/exe")) == Some(program));
    let named = |path: PathBuf| path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"foghorn"));
    same || fs::read_link(&program).is_ok_and(named)
}

/// Returns whether a process holds the lock of a state folder (`man 5 proc_locks`), under the name that it has there.
fn holds_a_state_folder(pid: i32) -> bool {
    let locks = fs::read_to_string("/proc/locks").unwrap_or_default();
    let held: Vec<u64> = locks.lines().filter_map(|line| locked_by(line, pid)).collect();
    let is_held = |file: &PathBuf| {
        let named = file.file_name().is_some_and(|name| name == LOCK);
        named && fs::metadata(file).is_ok_and(|file| held.contains(&file.ino()))
    };
    !held.is_empty() && open_files(pid).iter().any(is_held)
}

/// Reads a line of `/proc/locks`: the inode on which `pid` has an exclusive lock by `flock`.
fn locked_by(line: &str, pid: i32) -> Option<u64> {
    let fields: Vec<&str> = line.split_ascii_whitespace().collect();
    let [_, "FLOCK", _, "WRITE", of, file, ..] = fields[..] else { return None };
    (of.parse() == Ok(pid)).then(|| file.rsplit(':').next()?.parse().ok())?
}

/// Returns whether a process listens on an agent's socket, which agents bind by its bare name.
fn listens_as_an_agent(pid: i32) -> bool {
    let sockets = fs::read_to_string("/proc/net/unix").unwrap_or_default();
    let agents: Vec<String> = sockets.lines().filter_map(agent_socket).collect();
    open_files(pid).iter().any(|file| file.to_str().is_some_and(|file| agents.iter().any(|socket| socket == file)))
}

/// Reads a line of `/proc/net/unix` (`man 7 unix`): an agent's listening socket, as it stands among a process's files.
fn agent_socket(line: &str) -> Option<String> {
    let fields: Vec<&str> = line.split_ascii_whitespace().collect();
    let [_, _, _, LISTENS, _, _, inode, SOCKET] = fields[..] else { return None };
    Some(format!("socket:[{inode}]"))
}

/// The flags of a listening socket in `/proc/net/unix`: `SO_ACCEPTCON`.
const LISTENS: &str = "00010000";

/// The name of a state folder's lock.
const LOCK: &str = "lock";

/// Returns what the descriptors of a process stand for; nothing where it is not ours to see.
fn open_files(pid: i32) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(format!("/proc/{pid}/fd")) else { return Vec::new() };
    entries.flatten().filter_map(|entry| fs::read_link(entry.path()).ok()).collect()
}

#[derive(Debug)]
struct Process {
    pid: i32,
    parent: i32,
    alive: bool,
}

/// All processes of the machine that can be seen.
fn processes() -> Vec<Process> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    let pids = entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter_map(process).collect()
}

/// Reads `/proc/PID/stat` (`man 5 proc`): the name in parentheses may hold anything, the state and the parent follow it.
fn process(pid: i32) -> Option<Process> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let mut fields = stat.get(stat.rfind(')')? + 1..)?.split_ascii_whitespace();
    let state = fields.next()?;
    Some(Process { pid, parent: fields.next()?.parse().ok()?, alive: !matches!(state, "Z" | "X") })
}

fn children(processes: &[Process]) -> HashMap<i32, Vec<i32>> {
    let mut children: HashMap<i32, Vec<i32>> = HashMap::new();
    for process in processes {
        children.entry(process.parent).or_default().push(process.pid);
    }
    children
}

/// The environment a process was started with; empty where it is not ours to read.
fn environment(pid: i32) -> Vec<u8> {
    fs::read(format!("/proc/{pid}/environ")).unwrap_or_default()
}

fn has(environment: &[u8], variable: &str) -> bool {
    environment.split(|byte| *byte == 0).any(|entry| entry == variable.as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn locks_and_sockets_are_read() {
        let line = "3: FLOCK  ADVISORY  WRITE 4711 fe:00:1318443 0 EOF";
        assert_eq!(locked_by(line, 4711), Some(1_318_443));
        assert_eq!(locked_by(line, 471), None);
        for other in [
            "3: FLOCK  ADVISORY  READ 4711 fe:00:1 0 EOF",
            "3: POSIX  ADVISORY  WRITE 4711 fe:00:1 0 EOF",
            "3: -> FLOCK  ADVISORY  WRITE 4711 fe:00:1 0 EOF",
            "",
        ] {
            assert_eq!(locked_by(other, 4711), None, "{other}");
        }
        let line = "0000000000000000: 00000002 00000000 00010000 0001 01 24911 sock";
        assert_eq!(agent_socket(line).as_deref(), Some("socket:[24911]"));
        for other in [
            "0: 00000003 00000000 00000000 0001 03 24911 sock",
            "0: 00000002 00000000 00010000 0001 01 24911 /run/sock",
            "Num RefCount Protocol Flags Type St Inode Path",
        ] {
            assert_eq!(agent_socket(other), None, "{other}");
        }
    }
}
