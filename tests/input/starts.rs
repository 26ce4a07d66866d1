//! Hubs that cannot start: each says why and what to do, with a status and a stable code, and leaves nothing behind.

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use rustix::fs::FlockOperation;
use sqlx::{Connection, Executor, PgConnection, SqliteConnection};

use crate::support::postgres::Database;
use crate::support::server::{signal, tokens};

const TOKEN: &str = "user-token-0123456789";

/// Within how long a hub that cannot start has to say so: less than a client waits for one.
const AT_ONCE: Duration = Duration::from_secs(8);

/// A row of a migration that no release before the third has.
const LATER: &str = "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time) \
    VALUES (9001, 'later', TRUE, '', 0)";

/// A place for a hub, and what it is started with.
struct Start {
    dir: tempfile::TempDir,
    home: PathBuf,
    args: Vec<String>,
    env: Vec<(&'static str, String)>,
}

impl Start {
    fn new() -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let home = dir.path().join("home");
        let file = tokens(dir.path(), &[("ann", "user", TOKEN)]);
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).expect("a mode");
        let args = vec!["--listen=127.0.0.1:0".into(), format!("--tokens={}", file.display())];
        Self { dir, home, args, env: Vec::new() }
    }

    fn home(mut self, home: &str) -> Self {
        self.home = self.dir.path().join(home);
        self
    }

    fn arg(mut self, arg: impl Into<String>) -> Self {
        let arg = arg.into();
        let name = arg.split('=').next().expect("a name").to_owned();
        self.args.retain(|known| !known.starts_with(&name));
        self.args.push(arg);
        self
    }

    fn env(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.env.push((name, value.into()));
        self
    }

    /// A file beside the state folder.
    fn file(&self, name: &str, text: impl AsRef<[u8]>) -> String {
        let path = self.dir.path().join(name);
        fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
        fs::write(&path, text).expect("writes");
        path.display().to_string()
    }

    fn command(&self) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_foghorn"));
        command.arg("serve").arg("--home").arg(&self.home).args(&self.args);
        command.env_remove("FOGHORN_DATABASE_URL").envs(self.env.iter().map(|(name, value)| (name, value)));
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        command
    }

    /// It does not start, with this status and code; what it says has these words.
    fn fails(&self, status: i32, code: &str, words: &[&str]) {
        let ended = at_once(&mut self.command());
        let said = String::from_utf8_lossy(&ended.stderr).into_owned();
        assert_eq!(ended.status.code(), Some(status), "{said}");
        assert!(said.contains(&format!("[{code}]")), "{said}");
        words.iter().for_each(|word| assert!(said.contains(word), "no {word:?} in {said}"));
        assert!(
            said.lines().any(|line| line.starts_with("foghorn: "))
                && !said.contains("panicked")
                && !said.contains(TOKEN),
            "{said}"
        );
        self.left_nothing();
    }

    /// Nothing runs here, nothing says that something does, and the next one finds the folder free.
    fn left_nothing(&self) {
        assert!(!self.home.join("hub.json").exists());
        if let Ok(lock) = fs::File::open(self.home.join("lock")) {
            rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive).expect("nobody holds the folder");
        }
        let home = self.home.display().to_string();
        for entry in fs::read_dir("/proc").expect("processes").flatten() {
            let words = fs::read(entry.path().join("cmdline")).unwrap_or_default();
            let here = words.split(|byte| *byte == 0).any(|word| word.starts_with(home.as_bytes()));
            assert!(!here, "left: {}", String::from_utf8_lossy(&words));
        }
    }

    /// It starts, with what it was given; a control for the cases that fail. What its log says.
    fn starts(&self) -> String {
        let mut hub = self.command().spawn().expect("a hub");
        let mut log = BufReader::new(hub.stderr.take().expect("a log"));
        let mut said = String::new();
        while !said.contains("listening") {
            assert!(log.read_line(&mut said).expect("reads") > 0, "{said}");
        }
        signal(hub.id(), "TERM");
        log.read_to_string(&mut said).expect("text");
        let ended = hub.wait().expect("waits");
        assert!(ended.success(), "{said}");
        said
    }
}

/// Runs a program that is to end soon.
fn at_once(command: &mut Command) -> Output {
    let since = Instant::now();
    let output = command.output().expect("runs");
    assert!(since.elapsed() < AT_ONCE, "{:?}: {}", since.elapsed(), String::from_utf8_lossy(&output.stderr));
    output
}

/// A small file system of its own at a path; none where this user may not make one.
struct Mount(PathBuf);

impl Mount {
    fn new(path: &Path, options: &str) -> Option<Self> {
        fs::create_dir_all(path).expect("a folder");
        let made = rustix::process::geteuid().is_root()
            && Command::new("mount")
                .args(["-t", "tmpfs", "-o", options, "none"])
                .arg(path)
                .status()
                .is_ok_and(|s| s.success());
        if !made {
            use std::io::Write;
            // Past the harness's capture, which would swallow it with a test that passes.
            let _ = writeln!(std::io::stderr(), "SKIPPED: no file system can be mounted here");
        }
        made.then(|| Self(path.to_owned()))
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.0).status();
    }
}

/// `foghorn run true` with this user's own hub: it ends at once, and says why.
fn client_fails(home: &Path, env: &[(&str, &str)], status: i32, words: &[&str]) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_foghorn"));
    command.args(["run", "-T", "-a", "a", "true"]).env("FOGHORN_HOME", home).stdin(Stdio::null());
    command.env_remove("FOGHORN_URL").env_remove("FOGHORN_TOKEN").envs(env.iter().copied());
    let ended = at_once(&mut command);
    let said = String::from_utf8_lossy(&ended.stderr).into_owned();
    assert_eq!(ended.status.code(), Some(status), "{said}");
    words.iter().for_each(|word| assert!(said.contains(word), "no {word:?} in {said}"));
    assert!(!home.join("hub.json").exists());
}

#[test]
fn a_hub_with_good_settings_starts() {
    let start = Start::new();
    start.starts();
    start.left_nothing();
    // Tokens that everyone can read are told of.
    let start = Start::new();
    let open = start.file("open.toml", format!("[[token]]\nname = \"a\"\nrole = \"admin\"\ntoken = \"{TOKEN}\"\n"));
    fs::set_permissions(&open, fs::Permissions::from_mode(0o644)).expect("a mode");
    let log = start.arg(format!("--tokens={open}")).starts();
    assert!(log.contains("can read the tokens") && !log.contains(TOKEN), "{log}");
}

#[test]
fn a_state_folder_that_cannot_be_used_is_told_of() {
    let words: &[&str] = &["the state folder", "set FOGHORN_HOME to another one"];
    let start = Start::new().home("file");
    start.file("file", "text");
    start.fails(1, "state_folder_unusable", words);
    let start = start.home("file/below");
    start.fails(1, "state_folder_unusable", words);
    let start = Start::new();
    fs::create_dir_all(start.home.join("lock")).expect("a folder");
    start.fails(1, "state_folder_unusable", words);
    let start = Start::new();
    fs::create_dir_all(start.home.join("foghorn.db")).expect("a folder");
    start.fails(1, "database_unusable", &["foghorn.db in the state folder"]);
    let start = Start::new();
    start.file("home/foghorn.db", vec![7; 100_000]);
    start.fails(1, "database_unusable", &["foghorn.db in the state folder"]);
    // Held by another hub: the one that came second goes.
    let start = Start::new();
    fs::create_dir_all(&start.home).expect("a folder");
    let lock = fs::File::create(start.home.join("lock")).expect("a file");
    rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive).expect("free");
    let ended = at_once(&mut start.command());
    assert_eq!(ended.status.code(), Some(75));
    assert!(String::from_utf8_lossy(&ended.stderr).contains("[state_folder_in_use]"));
}

#[test]
fn a_disk_that_is_full_or_read_only_is_told_of() {
    let start = Start::new();
    let Some(read_only) = Mount::new(&start.home, "ro,size=64k,mode=0755") else { return };
    start.fails(1, "state_folder_unusable", &["Read-only", "set FOGHORN_HOME to another one"]);
    client_fails(&start.home, &[], 125, &["no hub could be started", "Read-only"]);
    let below = start.home("home/below");
    below.fails(1, "state_folder_unusable", &["Read-only"]);
    drop(read_only);
    // Full from the start, and full once the database is to be made.
    let start = Start::new();
    let _full = Mount::new(&start.home, "size=16k,mode=0755").expect("mounts");
    fs::write(start.home.join("fill"), [0; 16 << 10]).expect("fills");
    start.fails(1, "state_folder_unusable", &["No space left"]);
    client_fails(&start.home, &[], 125, &["no hub could be started"]);
    let start = Start::new();
    let _small = Mount::new(&start.home, "size=64k,mode=0755").expect("mounts");
    start.fails(1, "database_full", &["no space left", "make room"]);
    client_fails(&start.home, &[], 125, &["no hub could be started"]);
}

#[test]
fn an_address_that_is_taken_is_told_of() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = taken.local_addr().expect("an address");
    let start = Start::new().arg(format!("--listen={address}"));
    start.fails(1, "address_unusable", &[&address.to_string(), "choose another address with --listen"]);
    Start::new().arg("--listen=192.0.2.1:1").arg("--allow-remote").fails(1, "address_unusable", &["192.0.2.1"]);
    Start::new().arg("--listen=0.0.0.0:0").fails(2, "settings_invalid", &["--allow-remote"]);
}

#[test]
fn tokens_that_cannot_be_used_are_told_of() {
    let mut start = Start::new();
    start.args.retain(|arg| !arg.starts_with("--tokens"));
    start.fails(1, "no_tokens", &["--tokens or FOGHORN_TOKENS"]);
    let start = Start::new();
    let start = start.arg("--tokens=/nowhere/tokens.toml");
    start.fails(1, "tokens_unusable", &["/nowhere/tokens.toml", "No such file"]);
    let entry = |fields: &str| format!("[[token]]\nname = \"ann\"\n{fields}\n");
    let secret = "token = \"a-secret-0123456789\"";
    for (text, word) in [
        (b"[[token]".to_vec(), "expected"),
        (vec![0xff, 0xfe], "UTF-8"),
        (entry("role = \"king\"").into(), "expected one of"),
        (entry("role = \"admin\"").into(), "ann needs a token"),
        (entry("role = \"admin\"\ntoken = \"short\"").into(), "ann needs a token"),
        (entry(&format!("role = \"admin\"\nsha256 = \"{}\"", "g".repeat(64))).into(), "ann needs a token"),
        (entry("role = \"admin\"\nsha256 = \"abcd\"").into(), "ann needs a token"),
        (entry(&format!("role = \"admin\"\n{secret}\nsha256 = \"{}\"", "a".repeat(64))).into(), "ann needs a token"),
        (entry(&format!("role = \"admin\"\n{secret}\napps = \"blog\"")).into(), "sequence"),
        (entry(&format!("role = \"admin\"\n{secret}\nright = \"all\"")).into(), "line 5"),
        (format!("[[token]]\nrole = \"admin\"\n{secret}\n").into(), "name"),
        (b"token = 7".to_vec(), "token"),
    ] {
        let start = Start::new();
        let file = start.file("bad.toml", &text);
        let start = start.arg(format!("--tokens={file}"));
        start.fails(1, "tokens_unusable", &["bad.toml", word]);
        let said = at_once(&mut start.command()).stderr;
        assert!(!String::from_utf8_lossy(&said).contains("a-secret"), "a token is in an error");
    }
}

#[test]
fn settings_that_cannot_be_meant_are_told_of() {
    for (text, word) in [
        ("x = [", "foghorn.toml"),
        ("listen = 7300", "listen"),
        ("listen = \"nowhere\"", "listen"),
        ("lissten = \"127.0.0.1:1\"", "lissten"),
        ("origins = \"https://a\"", "origins"),
        ("[limits]\ngrace = \"soon\"", "limits.grace"),
        ("[limits]\ngrace = 7", "grace"),
        ("[limits]\ngrace = \"99999999999999999999y\"", "limits.grace"),
        ("[limits]\nring = \"1 MB\"", "limits.ring"),
        ("[limits]\nring = \"-1\"", "limits.ring"),
        ("[limits]\nring = \"99999999999999999999\"", "limits.ring"),
        ("[limits]\nring = \"18446744073709551615 GiB\"", "limits.ring"),
        ("[limits]\nconnections = 0", "limits.connections"),
        ("[limits]\nconnections = -1", "connections"),
        ("[apps.blog]\nlogs = 7", "logs"),
        ("backend = \"moon\"", "backend"),
        ("database_url = postgres://ann:a-secret@db/foghorn", "line 1, database_url"),
    ] {
        let start = Start::new();
        start.file("home/foghorn.toml", text);
        start.fails(2, "settings_invalid", &[word]);
        let said = at_once(&mut start.command()).stderr;
        assert!(!String::from_utf8_lossy(&said).contains("a-secret"), "a password is in an error");
        client_fails(&start.home, &[], 2, &["a hub cannot be started here"]);
    }
    Start::new().arg("--config=/nowhere/foghorn.toml").fails(2, "settings_invalid", &["/nowhere/foghorn.toml"]);
}

#[tokio::test]
async fn a_database_that_is_away_or_of_a_later_version_is_told_of() {
    for (url, code) in [
        ("postgres://nobody@127.0.0.1:1/x", "database_unusable"),
        ("postgres://nobody@localhost/x?host=/nowhere", "database_unusable"),
        ("mysql://127.0.0.1/x", "database_url_invalid"),
        ("x", "database_url_invalid"),
    ] {
        Start::new().env("FOGHORN_DATABASE_URL", url).fails(1, code, &["database"]);
    }
    // Tables of a release after the next, which a hub of this one does not know.
    let start = Start::new();
    start.starts();
    let path = start.home.join("foghorn.db");
    let mut tables = SqliteConnection::connect(&format!("sqlite://{}", path.display())).await.expect("opens");
    tables.execute(LATER).await.expect("a later version");
    tables.close().await.expect("closes");
    let before = fs::read(&path).expect("a database");
    start.fails(1, "database_newer", &["later version", "9001", "use that version"]);
    client_fails(&start.home, &[], 125, &["no hub could be started", "later version", "[database_newer]"]);
    assert!(fs::read(&path).expect("a database") == before, "it is left as it was");
    assert!(!start.home.join("foghorn.db-wal").exists(), "nothing that waits to be written to it");
    let Some(database) = Database::alone().await else { return };
    let start = Start::new().env("FOGHORN_DATABASE_URL", database.url());
    start.starts();
    let mut tables = PgConnection::connect(&database.url()).await.expect("connects");
    tables.execute(LATER).await.expect("a later version");
    start.fails(1, "database_newer", &["later version"]);
    tables.close().await.expect("closes");
    database.stop();
    start.fails(1, "database_unusable", &["does it run", "FOGHORN_DATABASE_URL"]);
}
