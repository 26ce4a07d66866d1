//! What a client does with a state folder in which others had their hands, and with one whose hub is gone.

use std::fs;
use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::thread;

use foghorn::protocol::HubFile;

use crate::home::{Ended, FOGHORN, Home, alive, eventually, finish, processes};

/// A user that nobody is.
const NOBODY: u32 = 65_534;

/// A variable that must not leave the client.
const SECRET: (&str, &str) = ("SECRET_OF_ENV", "s3cr3t-env-value");

/// Somebody else's server, which answers as a healthy hub would and keeps all that it is sent.
struct Catcher(Arc<Mutex<Vec<u8>>>);

impl Catcher {
    fn listen(port: u16) -> (Self, u16) {
        // Not before the last thread of a hub that was killed is gone.
        let listener = eventually("the address", || TcpListener::bind(("127.0.0.1", port)).ok());
        let port = listener.local_addr().expect("an address").port();
        let caught = Arc::new(Mutex::new(Vec::new()));
        let sink = caught.clone();
        thread::spawn(move || {
            for mut stream in listener.incoming().flatten() {
                let sink = sink.clone();
                thread::spawn(move || {
                    let mut buffer = [0; 4096];
                    while let Ok(read @ 1..) = stream.read(&mut buffer) {
                        sink.lock().expect("locks").extend_from_slice(&buffer[..read]);
                        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nok\n");
                    }
                });
            }
        });
        (Self(caught), port)
    }

    /// Fails where anything came that is worth something.
    fn has_nothing(&self) {
        let caught = String::from_utf8_lossy(&self.0.lock().expect("locks")).into_owned();
        assert!(!caught.to_ascii_lowercase().contains("authorization"), "{caught}");
        assert!(!caught.contains(SECRET.1) && !caught.contains("POST"), "{caught}");
    }
}

fn token(home: &Path) -> String {
    fs::read_to_string(home.join("token")).expect("a token")
}

fn port(hub: &HubFile) -> u16 {
    hub.url.rsplit(':').next().expect("a port").parse().expect("a port")
}

/// Runs it in another state folder.
fn run_in(folder: &Path, args: &[&str]) -> Ended {
    let mut command = std::process::Command::new(FOGHORN);
    command.args(args).env("FOGHORN_HOME", folder).env("FOGHORN_APP", "blog").env(SECRET.0, SECRET.1).current_dir("/");
    command
        .stdin(std::process::Stdio::null())
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped());
    finish(command.spawn().expect("starts"))
}

fn mode(path: &Path) -> u32 {
    fs::metadata(path).expect("is there").permissions().mode() & 0o7777
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("sets its mode");
}

#[test]
fn who_takes_the_address_of_a_dead_hub_is_told_nothing() {
    let home = Home::new();
    assert_eq!(home.run(&["run", "--", "true"]).status, 0);
    let hub = home.hub().expect("a hub");
    let before = token(home.path());
    home.kill_hub();
    let (catcher, _) = Catcher::listen(port(&hub));
    // And has its process id, too: a process that lives.
    let file = fs::read_to_string(home.path().join("hub.json")).expect("reads");
    let taken = file.replace(&format!("\"pid\": {}", hub.pid), &format!("\"pid\": {}", std::process::id()));
    assert_ne!(taken, file);
    fs::write(home.path().join("hub.json"), taken).expect("writes");
    let mut command = home.command(&["run", "--", "echo", "hi"]);
    command.env(SECRET.0, SECRET.1).stdin(std::process::Stdio::null());
    command.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
    let ran = finish(command.spawn().expect("starts"));
    assert_eq!((ran.status, ran.text().as_str()), (0, "hi\n"), "{}", ran.stderr);
    catcher.has_nothing();
    assert_ne!(token(home.path()), before, "whoever has seen the old one can do nothing with it");
}

#[test]
fn a_client_that_waits_goes_on_with_the_next_hubs_token_and_a_ticket_stays_good() {
    let home = Home::new();
    let mut child = home.spawn(&["run", "--", "cat"]);
    let mut stdin = child.stdin.take().expect("piped");
    eventually("the session", || (home.run(&["show", "run.1"]).status == 0).then_some(()));
    let ticket = home.run(&["share", "run.1"]).text();
    let before = token(home.path());
    home.kill_hub();
    writeln!(stdin, "one").expect("writes");
    let hub = eventually("the next hub", || home.hub().filter(|hub| alive(hub.pid) && token(home.path()) != before));
    let mut watch = home.command(&["watch", "run.1"]);
    watch.env("FOGHORN_URL", &hub.url).env("FOGHORN_TOKEN", ticket.trim());
    watch.stdin(std::process::Stdio::null()).stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
    let watch = watch.spawn().expect("starts");
    drop(stdin);
    let (ran, watched) = (finish(child), finish(watch));
    assert_eq!((ran.status, ran.text().as_str()), (0, "one\n"), "{}", ran.stderr);
    assert_eq!((watched.status, watched.text().as_str()), (0, "one\n"), "{}", watched.stderr);
}

#[test]
fn a_folder_that_another_user_made_is_refused_and_left_as_it_is() {
    let dir = tempfile::tempdir().expect("a folder");
    let (catcher, port) = Catcher::listen(0);
    let private = dir.path().join("private.txt");
    fs::write(&private, "a-private-line").expect("writes");
    let folder = dir.path().join("planted");
    fs::create_dir(&folder).expect("makes");
    let hub = HubFile {
        url: format!("http://127.0.0.1:{port}"),
        pid: std::process::id(),
        home: folder.display().to_string(),
        token_file: private.display().to_string(),
        socket: None,
        version: "x".into(),
        backend: "local".into(),
        context: None,
        protocol: "foghorn.v1".into(),
    };
    fs::write(folder.join("hub.json"), serde_json::to_string(&hub).expect("JSON")).expect("writes");
    let link = dir.path().join("link");
    symlink(&folder, &link).expect("links");
    let mut cases = vec![(folder.clone(), 0o777), (folder.clone(), 0o757)];
    if std::os::unix::fs::chown(&folder, Some(NOBODY), None).is_ok() {
        cases.extend([(folder.clone(), 0o755), (folder.clone(), 0o700), (link, 0o755)]);
    }
    for (home, bits) in cases {
        set_mode(&folder, bits);
        for verb in [&["run", "--", "true"][..], &["sessions"], &["server", "status"], &["server", "stop"], &["serve"]]
        {
            let ran = run_in(&home, verb);
            assert!(matches!(ran.status, 1 | 2), "{bits:o} {verb:?}: {ran:?}");
            assert!(ran.stderr.contains("[state_folder_unusable]"), "{bits:o} {verb:?}: {}", ran.stderr);
            assert!(ran.stderr.contains("FOGHORN_HOME"), "{}", ran.stderr);
        }
        assert_eq!(mode(&folder), bits, "its mode stays");
        catcher.has_nothing();
        let left: Vec<_> = fs::read_dir(&folder).expect("reads").flatten().map(|entry| entry.file_name()).collect();
        assert_eq!(left, ["hub.json"]);
    }
}

#[test]
fn in_a_folder_for_all_a_hub_has_its_own_and_follows_no_link() {
    let dir = tempfile::tempdir().expect("a folder");
    let folder = dir.path().join("shared");
    fs::create_dir(&folder).expect("makes");
    set_mode(&folder, 0o1777);
    let precious = dir.path().join("precious");
    fs::write(&precious, "precious").expect("writes");
    for name in ["lock", "epoch.new", "foghorn.db", "hub.log", "token.new"] {
        symlink(if name == "foghorn.db" { dir.path().join("stolen") } else { precious.clone() }, folder.join(name))
            .expect("links");
    }
    let ran = run_in(&folder, &["run", "--", "echo", "hi"]);
    assert_eq!((ran.status, ran.text().as_str()), (0, "hi\n"), "{}", ran.stderr);
    assert_eq!(mode(&folder), 0o1777);
    let own = folder.join(foghorn::folder::own_name());
    assert_eq!(mode(&own), 0o700);
    assert!(own.join("foghorn.db").exists() && own.join("hub.json").exists());
    assert_eq!(fs::read_to_string(&precious).expect("reads"), "precious");
    assert!(!dir.path().join("stolen").exists());
    assert_eq!(run_in(&folder, &["server", "stop"]).status, 0);
    eventually("the hub's end", || processes(&folder.display().to_string()).is_empty().then_some(()));
}

#[test]
fn a_hub_whose_file_is_damaged_can_be_stopped() {
    let home = Home::new();
    assert_eq!(home.run(&["run", "--", "true"]).status, 0);
    let hub = home.hub().expect("a hub");
    for damage in ["", "{\"url\": 7}", "\u{0}\u{0}"] {
        fs::write(home.path().join("hub.json"), damage).expect("writes");
        let status = home.run(&["server", "status"]);
        assert_eq!(status.status, 1, "{status:?}");
        assert!(status.stderr.contains(&format!("process {}", hub.pid)), "{}", status.stderr);
        assert!(status.stderr.contains("`foghorn server stop` stops it"), "{}", status.stderr);
    }
    let sessions = home.run(&["sessions"]);
    assert!(sessions.stderr.contains("`foghorn server stop` stops it"), "{sessions:?}");
    assert!(alive(hub.pid), "no second hub is started beside it");
    let stopped = home.run(&["server", "stop"]);
    assert_eq!(stopped.status, 0, "{stopped:?}");
    eventually("the hub's end", || (!alive(hub.pid)).then_some(()));
    assert_eq!(home.run(&["run", "--", "echo", "again"]).text(), "again\n");
}

#[test]
fn a_file_that_names_a_hub_elsewhere_or_another_token_is_not_followed() {
    let home = Home::new();
    assert_eq!(home.run(&["run", "--", "true"]).status, 0);
    let hub = home.hub().expect("a hub");
    let private = home.path().join("private.txt");
    fs::write(&private, "a-private-line").expect("writes");
    let (catcher, port) = Catcher::listen(0);
    let named =
        HubFile { url: format!("http://127.0.0.1:{port}"), token_file: private.display().to_string(), ..hub.clone() };
    fs::write(home.path().join("hub.json"), serde_json::to_string(&named).expect("JSON")).expect("writes");
    let ran = home.run(&["run", "--", "echo", "hi"]);
    assert_eq!((ran.status, ran.text().as_str()), (0, "hi\n"), "the socket leads to the hub: {}", ran.stderr);
    catcher.has_nothing();
    let named = HubFile { url: "http://10.0.0.1:80".into(), ..hub.clone() };
    fs::write(home.path().join("hub.json"), serde_json::to_string(&named).expect("JSON")).expect("writes");
    let refused = home.run(&["sessions"]);
    assert!(refused.status == 2 && refused.stderr.contains("names no hub of this machine"), "{refused:?}");
    fs::write(home.path().join("hub.json"), serde_json::to_string(&hub).expect("JSON")).expect("writes");
}

#[test]
fn a_token_with_a_line_break_locks_nobody_out() {
    let home = Home::new();
    assert_eq!(home.run(&["run", "--", "true"]).status, 0);
    for text in [format!("{}\n", token(home.path())), "\n".into(), String::new(), "short".into()] {
        assert_eq!(home.run(&["server", "stop"]).status, 0);
        fs::write(home.path().join("token"), &text).expect("writes");
        let ran = home.run(&["run", "--", "echo", "hi"]);
        assert_eq!((ran.status, ran.text().as_str()), (0, "hi\n"), "{text:?}: {}", ran.stderr);
    }
}

#[test]
fn a_hub_of_ones_own_is_reached_from_this_machine_alone() {
    let home = Home::new();
    let mut command = home.command(&["run", "--", "true"]);
    command.env("FOGHORN_LISTEN", "0.0.0.0:0").env("FOGHORN_ALLOW_REMOTE", "true");
    let refused = command.output().expect("runs");
    let text = String::from_utf8_lossy(&refused.stderr);
    assert!(!refused.status.success() && text.contains("settings_invalid") && text.contains("listen"), "{text}");
    assert!(home.hub().is_none());
}

#[test]
fn who_only_says_that_it_is_needed_ends_with_its_session() {
    let home = Home::with_settings("[limits]\nhup_wait = \"300ms\"\nterm_wait = \"300ms\"\n");
    let lock = home.path().join("inner/lock");
    fs::create_dir(home.path().join("inner")).expect("makes");
    let script = format!(
        "FOGHORN_KEEP=1 setsid sleep 7611 >/dev/null 2>&1 </dev/null & \
         env -i FOGHORN_KEEP=1 setsid sleep 7612 >/dev/null 2>&1 </dev/null & \
         env -i setsid flock {} sleep 7614 >/dev/null 2>&1 </dev/null & read end",
        lock.display()
    );
    let mut child = home.spawn(&["run", "--", "sh", "-c", &script]);
    eventually("all three", || {
        ["7611", "7612", "7614"].iter().all(|time| !processes(&format!("sleep\0{time}")).is_empty()).then_some(())
    });
    drop(child.stdin.take());
    assert_eq!(finish(child).status, 1, "`read` has met the end of its input");
    eventually("their end", || {
        ["7611", "7612", "7614"].iter().all(|time| processes(&format!("sleep\0{time}")).is_empty()).then_some(())
    });
}

#[test]
fn a_hub_that_was_started_within_a_session_outlives_it_with_its_sessions() {
    let home = Home::with_settings("[limits]\nhup_wait = \"300ms\"\nterm_wait = \"300ms\"\n");
    let inner = Home::new();
    let script = format!("FOGHORN_HOME={} {FOGHORN} run -d -- sleep 7613", inner.path().display());
    let ran = home.run(&["run", "--", "sh", "-c", &script]);
    assert_eq!(ran.status, 0, "{}", ran.stderr);
    // The end of the session is there, and with it that of all that belonged to it.
    assert_eq!(home.session("run.1").exit_status, Some(0));
    assert!(inner.hub().is_some_and(|hub| alive(hub.pid)), "the hub goes on");
    assert!(inner.session("run.1").exit_status.is_none(), "and what it runs");
    // One that is a session's own command is none that others need.
    let script = format!("FOGHORN_HOME={} exec {FOGHORN} serve --embedded", home.path().join("third").display());
    let serving = home.run(&["run", "-d", "--", "sh", "-c", &script]).text();
    let third = eventually("a hub", || {
        let text = fs::read_to_string(home.path().join("third/hub.json")).ok()?;
        serde_json::from_str::<HubFile>(&text).ok()
    });
    assert_eq!(home.run(&["stop", "--wait", serving.trim()]).status, 0);
    eventually("its end", || (!alive(third.pid)).then_some(()));
    assert_eq!(inner.run(&["stop", "--wait", "run.1"]).status, 0);
}
