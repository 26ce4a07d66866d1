//! A real PostgreSQL for tests.
//!
//! One server for each test binary, started by the first test that asks, with a database of its own for each test; or,
//! for a test in which the database goes away, a server of its own ([`Database::alone`]).
//!
//! The server is the child of a small shell that holds the read end of a pipe. When the test process ends, in whatever
//! way, the pipe closes, and the shell stops the server and removes its folder. The server listens on a socket in that
//! folder only, so there is no port to choose.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

use sqlx::{Connection, Executor, PgConnection};

/// Names a directory with `initdb` and `postgres`.
const BIN_VARIABLE: &str = "FOGHORN_TEST_POSTGRES_BIN";

/// With `1`, tests that find no PostgreSQL fail instead of being skipped.
const REQUIRE_VARIABLE: &str = "FOGHORN_TEST_REQUIRE_POSTGRES";

const START_LIMIT: Duration = Duration::from_secs(60);

/// Reads verbs from the test process, one a line, and answers each with a line: `ok`, or what went wrong.
/// `$1` is the server's folder, `$2` the directory of its binaries.
const KEEPER: &str = r#"
trap '' INT TERM HUP
server=
stop() { [ -z "$server" ] || { kill -QUIT "$server"; wait "$server"; server=; } 2>/dev/null; }
while read -r verb; do
    case $verb in
        init)
            "$2/initdb" -D "$1/data" -U postgres -A trust -E UTF8 --locale=C --no-sync >"$1/log" 2>&1 </dev/null \
                && echo ok || echo "initdb failed: $(tail -n 5 "$1/log" | tr '\n' ' ')" ;;
        start)
            "$2/postgres" -D "$1/data" -k "$1" -c listen_addresses= -c fsync=off -c full_page_writes=off \
                -c max_connections=300 -c shared_buffers=32MB >>"$1/log" 2>&1 </dev/null &
            server=$!
            echo ok ;;
        stop) stop; echo ok ;;
    esac
done
stop
rm -rf "$1"
"#;

/// A database of a test's own.
pub(crate) struct Database {
    server: Arc<Server>,
    name: String,
    alone: bool,
}

impl Database {
    /// A new, empty database on the server that the tests of this binary share. `None`, with a loud line, where there
    /// is no PostgreSQL.
    pub(crate) async fn shared() -> Option<Self> {
        static SHARED: OnceLock<Option<Arc<Server>>> = OnceLock::new();
        let server = SHARED.get_or_init(|| Server::launch().map(Arc::new)).clone()?;
        Some(Self::make(server, false).await)
    }

    /// A new, empty database on a server of its own, which can be stopped and started.
    pub(crate) async fn alone() -> Option<Self> {
        let server = Arc::new(Server::launch()?);
        Some(Self::make(server, true).await)
    }

    async fn make(server: Arc<Server>, alone: bool) -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let name = format!("test{}", NUMBER.fetch_add(1, Ordering::Relaxed));
        server.ready().await;
        let mut connection = PgConnection::connect(&server.url("postgres")).await.unwrap();
        connection.execute(sqlx::AssertSqlSafe(format!("CREATE DATABASE {name}"))).await.unwrap();
        connection.close().await.unwrap();
        Self { server, name, alone }
    }

    /// Where the database is, as a `postgres://` URL.
    pub(crate) fn url(&self) -> String {
        self.server.url(&self.name)
    }

    /// The folder that is there as long as the server is.
    pub(crate) fn folder(&self) -> &Path {
        &self.server.folder
    }

    /// Ends the server as a crash would: at once, every connection cut. Returns when it is gone.
    pub(crate) fn stop(&self) {
        assert!(self.alone, "other tests use this server: take Database::alone()");
        self.server.say("stop");
    }

    /// Where the server listens.
    pub(crate) fn socket(&self) -> PathBuf {
        self.server.folder.join(".s.PGSQL.5432")
    }

    /// The URL of this database through a proxy at this address.
    pub(crate) fn url_through(&self, address: std::net::SocketAddr) -> String {
        format!("postgres://postgres@{address}/{}?sslmode=disable", self.name)
    }

    /// Freezes the server with all its processes, or lets them go on: it then is there and does not answer.
    pub(crate) fn freeze(&self, frozen: bool) {
        assert!(self.alone, "other tests use this server: take Database::alone()");
        let file = std::fs::read_to_string(self.server.folder.join("data/postmaster.pid")).unwrap();
        let main = file.lines().next().unwrap().to_owned();
        let children = Command::new("pgrep").args(["-P", &main]).output().unwrap();
        let children = String::from_utf8(children.stdout).unwrap();
        // The one that starts others first, so that none is missed.
        for pid in std::iter::once(&main[..]).chain(children.lines()) {
            super::server::signal(pid.parse().unwrap(), if frozen { "STOP" } else { "CONT" });
        }
    }

    /// Lets all tables of this database lie on a disk. Nobody may be connected to it.
    pub(crate) async fn move_to(&self, folder: &Path) {
        let place = folder.join("tables");
        std::fs::create_dir(&place).unwrap();
        if rustix::process::geteuid().is_root() {
            assert!(Command::new("chown").arg("nobody").arg(&place).status().unwrap().success());
        }
        let mut connection = PgConnection::connect(&self.server.url("postgres")).await.unwrap();
        let made = format!("CREATE TABLESPACE small_{} LOCATION '{}'", self.name, place.display());
        connection.execute(sqlx::AssertSqlSafe(made)).await.unwrap();
        let moved = format!("ALTER DATABASE {} SET TABLESPACE small_{0}", self.name);
        connection.execute(sqlx::AssertSqlSafe(moved)).await.unwrap();
        connection.close().await.unwrap();
    }

    /// Copies this database under another name. Nobody may be connected to it.
    pub(crate) async fn keep_copy(&self) {
        self.replace("kept", &self.name).await;
    }

    /// Puts the copy in this database's place, and cuts off who is connected to it.
    pub(crate) async fn put_copy_back(&self) {
        self.replace(&self.name, "kept").await;
    }

    async fn replace(&self, to: &str, from: &str) {
        assert!(self.alone, "other tests use this server: take Database::alone()");
        let mut connection = PgConnection::connect(&self.server.url("postgres")).await.unwrap();
        for statement in
            [format!("DROP DATABASE IF EXISTS {to} WITH (FORCE)"), format!("CREATE DATABASE {to} TEMPLATE {from}")]
        {
            connection.execute(sqlx::AssertSqlSafe(statement)).await.unwrap();
        }
        connection.close().await.unwrap();
    }

    /// A number from this database.
    pub(crate) async fn number(&self, query: &'static str) -> i64 {
        let mut connection = PgConnection::connect(&self.url()).await.unwrap();
        let number = sqlx::query_scalar(query).fetch_one(&mut connection).await.unwrap();
        connection.close().await.unwrap();
        number
    }

    /// Starts the server that was stopped. Returns when it answers.
    pub(crate) async fn start(&self) {
        self.server.say("start");
        self.server.ready().await;
    }
}

struct Server {
    folder: PathBuf,
    keeper: Mutex<Keeper>,
}

struct Keeper {
    shell: Child,
    answers: BufReader<ChildStdout>,
}

impl Server {
    fn launch() -> Option<Self> {
        let Some(binaries) = binaries() else {
            assert!(std::env::var(REQUIRE_VARIABLE).as_deref() != Ok("1"), "no PostgreSQL binaries");
            // Past the harness's capture, which would swallow it with a test that passes.
            let _ = writeln!(std::io::stderr(), "SKIPPED: no PostgreSQL binaries");
            return None;
        };
        // Not the user's own temporary folder: another user must be able to reach it, and a socket's path is short.
        let folder = tempfile::Builder::new().prefix("foghorn-pg-").tempdir_in("/tmp").unwrap().keep();
        let root = rustix::process::geteuid().is_root();
        let mut shell = if root { unprivileged(&folder) } else { Command::new("sh") };
        let mut shell = shell
            .args(["-c", KEEPER, "sh"])
            .args([&folder, &binaries])
            .current_dir(&folder)
            .env("LC_ALL", "C")
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let answers = BufReader::new(shell.stdout.take().unwrap());
        let server = Self { folder, keeper: Mutex::new(Keeper { shell, answers }) };
        server.say("init");
        server.say("start");
        Some(server)
    }

    fn say(&self, verb: &str) {
        let mut keeper = self.keeper.lock().unwrap();
        writeln!(keeper.shell.stdin.as_mut().unwrap(), "{verb}").unwrap();
        let mut answer = String::new();
        keeper.answers.read_line(&mut answer).unwrap();
        assert_eq!(answer.trim(), "ok", "{verb}");
    }

    fn url(&self, database: &str) -> String {
        format!("postgres://postgres@localhost/{database}?host={}&sslmode=disable", self.folder.display())
    }

    async fn ready(&self) {
        let deadline = Instant::now() + START_LIMIT;
        loop {
            match PgConnection::connect(&self.url("postgres")).await {
                Ok(connection) => return connection.close().await.unwrap(),
                Err(error) if Instant::now() > deadline => panic!("PostgreSQL does not answer: {error}"),
                Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Ok(keeper) = self.keeper.get_mut() {
            drop(keeper.shell.stdin.take());
            let _ = keeper.shell.wait();
        }
    }
}

/// A shell as a user without rights, since PostgreSQL refuses root; the folder becomes that user's.
fn unprivileged(folder: &Path) -> Command {
    let owned = Command::new("chown").arg("nobody").arg(folder).status().unwrap();
    assert!(owned.success(), "chown {}", folder.display());
    let mut command = Command::new("setpriv");
    command.args(["--reuid=nobody", "--regid=nogroup", "--clear-groups", "--inh-caps=-all", "--", "sh"]);
    command.env("HOME", folder);
    command
}

/// The directory of the server's binaries.
fn binaries() -> Option<PathBuf> {
    if let Some(named) = std::env::var_os(BIN_VARIABLE) {
        let named = PathBuf::from(named);
        assert!(complete(&named), "{BIN_VARIABLE} has no initdb and postgres: {}", named.display());
        return Some(named);
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    from_pg_config().into_iter().chain(packaged()).chain(std::env::split_paths(&path)).find(|place| complete(place))
}

fn complete(directory: &Path) -> bool {
    ["initdb", "postgres"].iter().all(|name| directory.join(name).is_file())
}

fn from_pg_config() -> Option<PathBuf> {
    let output = Command::new("pg_config").arg("--bindir").stderr(Stdio::null()).output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| PathBuf::from(text.trim()))
}

/// Where Debian's packages put them, the highest version first.
fn packaged() -> Vec<PathBuf> {
    let mut found: Vec<(u32, PathBuf)> = std::fs::read_dir("/usr/lib/postgresql")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| Some((entry.file_name().to_str()?.parse().ok()?, entry.path().join("bin"))))
        .collect();
    found.sort_by_key(|(version, _)| std::cmp::Reverse(*version));
    found.into_iter().map(|(_, place)| place).collect()
}
