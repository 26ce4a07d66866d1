use super::*;

/// A user that nobody is.
const NOBODY: u32 = 65_534;

fn mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("sets its mode");
}

/// Gives a file away; `false` where this test may not do that.
fn give_away(path: &Path) -> bool {
    std::os::unix::fs::lchown(path, Some(NOBODY), Some(NOBODY)).is_ok()
}

#[test]
fn a_folder_of_ones_own_is_used_whatever_it_lets_others_read() {
    let dir = tempfile::tempdir().expect("a folder");
    let home = dir.path().join("home");
    assert_eq!(locate(&home).expect("locates"), home, "one that is not there yet");
    assert_eq!(make(&home).expect("makes"), home);
    assert_eq!(fs::metadata(&home).expect("is there").mode() & 0o7777, 0o700);
    for bits in [0o700, 0o755, 0o711] {
        mode(&home, bits);
        assert_eq!(make(&home).expect("makes"), home, "{bits:o}");
        assert_eq!(fs::metadata(&home).expect("is there").mode() & 0o7777, bits, "its mode stays");
    }
    let link = dir.path().join("link");
    std::os::unix::fs::symlink(&home, &link).expect("links");
    assert_eq!(locate(&link).expect("one's own link"), link);
}

#[test]
fn a_folder_that_others_own_or_can_write_to_is_refused() {
    let dir = tempfile::tempdir().expect("a folder");
    let home = dir.path().join("home");
    fs::create_dir(&home).expect("makes");
    for bits in [0o777, 0o757, 0o702] {
        mode(&home, bits);
        let refused = locate(&home).expect_err("refused").to_string();
        assert!(refused.contains("others can write to it"), "{bits:o}: {refused}");
        assert!(make(&home).is_err());
        assert_eq!(fs::metadata(&home).expect("is there").mode() & 0o7777, bits, "its mode stays");
    }
    mode(&home, 0o755);
    fs::write(dir.path().join("file"), "").expect("writes");
    assert!(locate(&dir.path().join("file")).is_err());
    // Who can write to a folder can put another one in the place of those in it.
    let inner = home.join("inner");
    fs::create_dir(&inner).expect("makes");
    mode(&home, 0o777);
    assert!(locate(&inner).expect_err("refused").to_string().contains("everybody can write"));
    assert!(locate(&home.join("not-there-yet")).is_err());
    mode(&home, 0o755);
    assert!(locate(&inner).is_ok());
    if give_away(&home) {
        assert!(locate(&home).expect_err("refused").to_string().contains("another user"));
        assert!(make(&home).is_err());
        let link = dir.path().join("link");
        std::os::unix::fs::symlink(&inner, &link).expect("links");
        assert!(give_away(&link));
        for path in [link.clone(), link.join(""), link.join("."), link.join("below")] {
            let refused = locate(&path).expect_err("refused").to_string();
            assert!(refused.contains("is a link that another user made"), "{}: {refused}", path.display());
        }
        // Its owner can move what is in it.
        let refused = locate(&home.join("not-there-yet")).expect_err("refused").to_string();
        assert!(refused.contains("which it is in, belongs to another user"), "{refused}");
    }
}

#[test]
fn in_a_sticky_folder_the_state_is_in_one_of_this_users_own() {
    let dir = tempfile::tempdir().expect("a folder");
    mode(dir.path(), 0o1777);
    let own = dir.path().join(own_name());
    assert_eq!(make(dir.path()).expect("makes"), own);
    assert_eq!(fs::metadata(&own).expect("is there").mode() & 0o7777, 0o700);
    assert_eq!(fs::metadata(dir.path()).expect("is there").mode() & 0o7777, 0o1777);
    mode(&own, 0o777);
    assert!(locate(dir.path()).is_err(), "others can write to it");
    mode(&own, 0o700);
    if give_away(&own) {
        assert!(locate(dir.path()).is_err(), "another user made it");
    }
}

#[test]
fn only_what_is_this_users_own_is_moved() {
    let dir = tempfile::tempdir().expect("a folder");
    let elsewhere = tempfile::tempdir().expect("a folder");
    let home = dir.path();
    let own = home.join("own");
    fs::create_dir_all(home.join("agents/one")).expect("makes");
    fs::create_dir(&own).expect("makes");
    for (name, text) in [("foghorn.db", "db"), ("token", "new"), ("other", "x"), ("epoch", "7"), ("hub.log", "l")] {
        fs::write(home.join(name), text).expect("writes");
    }
    fs::write(own.join("token"), "kept").expect("writes");
    fs::write(elsewhere.path().join("precious"), "precious").expect("writes");
    std::os::unix::fs::symlink(elsewhere.path().join("precious"), home.join("logins.json")).expect("links");
    fs::hard_link(elsewhere.path().join("precious"), home.join("foghorn.db-wal")).expect("links");
    let given = give_away(&home.join("epoch"));
    move_in(home, &own).expect("moves");
    let mut there: Vec<_> = fs::read_dir(&own).expect("reads").flatten().map(|entry| entry.file_name()).collect();
    there.sort();
    let mut expected = vec!["agents", "epoch", "foghorn.db", "hub.log", "token"];
    expected.retain(|name| !given || *name != "epoch");
    assert_eq!(there, expected);
    assert_eq!(fs::read_to_string(home.join("foghorn.db")).expect("a hub of 0.1 finds it"), "db");
    assert!(home.join("agents/one").is_dir());
    assert_eq!(fs::read_to_string(home.join("foghorn.db-wal")).expect("stays"), "precious");
    assert_eq!(fs::read_to_string(own.join("token")).expect("reads"), "kept");
    move_in(home, &own).expect("a second time changes nothing");
    fs::remove_file(own.join("hub.log")).expect("removes");
    fs::remove_file(home.join("hub.log")).expect("removes");
    fs::write(home.join("hub.log"), "l").expect("writes");
    mode(&home.join("hub.log"), 0o666);
    assert!(move_in(home, &own).expect_err("others can write to it").to_string().contains("hub.log"));
}

#[test]
fn links_and_files_of_others_are_not_opened() {
    let dir = tempfile::tempdir().expect("a folder");
    let path = |name: &str| dir.path().join(name);
    fs::write(path("file"), "text").expect("writes");
    assert_eq!(read(&path("file")).expect("reads"), "text");
    std::os::unix::fs::symlink(path("file"), path("link")).expect("links");
    std::os::unix::fs::symlink(path("made"), path("dangling")).expect("links");
    assert!(read(&path("link")).is_err());
    assert!(open(&path("dangling"), OpenOptions::new().create(true).append(true)).is_err());
    assert!(!path("made").exists());
    assert!(Lock::take(dir.path()).is_ok());
    mode(&path("file"), 0o622);
    assert!(read(&path("file")).is_err(), "others can write to it");
    mode(&path("file"), 0o600);
    // What is written takes the place of a link, and leaves what that leads to.
    write(&path("link"), b"new").expect("writes");
    assert_eq!(
        (read(&path("link")).expect("reads"), read(&path("file")).expect("reads")),
        ("new".into(), "text".into())
    );
    if give_away(&path("file")) {
        assert!(read(&path("file")).is_err(), "another user's");
    }
}

#[test]
fn who_holds_a_folder_is_known_by_the_lock() {
    let dir = tempfile::tempdir().expect("a folder");
    assert_eq!(holder(dir.path()).expect("looks"), Holder::Nobody);
    let lock = Lock::take(dir.path()).expect("takes").expect("it is free");
    assert_eq!(holder(dir.path()).expect("looks"), Holder::Hub(Some(std::process::id())));
    // A hub is not waited for: this would never end.
    assert!(Lock::take_within(dir.path(), Duration::MAX).expect("looks").is_none());
    // What an earlier hub wrote is not believed.
    fs::write(dir.path().join(LOCK), "1").expect("writes");
    assert_eq!(holder(dir.path()).expect("looks"), Holder::Hub(Some(std::process::id())));
    drop(lock);
    assert_eq!(fs::read_to_string(dir.path().join(LOCK)).expect("reads"), "");
    // Those who only look are.
    let looks = open(&dir.path().join(LOCK), OpenOptions::new().read(true)).expect("opens");
    assert!(super::lock(&looks, FlockOperation::NonBlockingLockShared).expect("locks"));
    let leaves = std::thread::spawn(move || {
        std::thread::sleep(LOCK_PAUSE * 3);
        drop(looks);
    });
    assert!(Lock::take_within(dir.path(), Duration::MAX).expect("takes").is_some());
    leaves.join().expect("joins");
    assert_eq!(holder(dir.path()).expect("looks"), Holder::Nobody);
    assert!(Lock::take(dir.path()).expect("takes").is_some());
}

#[tokio::test]
async fn the_hub_is_reached_however_long_the_folders_path_is() {
    let dir = tempfile::tempdir().expect("a folder");
    let deep = dir.path().join("x".repeat(120));
    fs::create_dir(&deep).expect("makes");
    assert!(connect(&deep).await.is_err(), "nobody listens");
    let listener = listen(&deep).expect("listens");
    let (client, accepted) = tokio::join!(connect(&deep), listener.accept());
    assert!(is_own(&accepted.expect("accepts").0));
    drop(client.expect("connects"));
    drop(listener);
    assert!(connect(&deep).await.is_err(), "nobody listens any more");
    listen(&deep).expect("listens in its place");
    assert_eq!(fs::metadata(deep.join(SOCKET)).expect("is there").mode() & 0o777, 0o600);
}
