//! What a hub does with the state that it finds: in a folder that several write to, by a clock that is wrong, and without
//! the file that counts the hubs.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use crate::support::clock::Clock;
use crate::support::server::{Server, until};

const DAY: i64 = 24 * 3600;

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("sets its mode");
}

#[tokio::test]
async fn state_in_a_folder_for_several_is_moved_into_one_of_the_hubs_own() {
    let mut server = Server::start("").await;
    let ended = server.run_detached("echo before; exit 3").await;
    server.stored(&ended).await;
    let live = server.run_detached("echo up; sleep 600").await;
    until("it is up", async || (server.output(&live, false).await == "up\n").then_some(())).await;
    server.terminate().await;
    // As a volume is that everybody may write to.
    set_mode(server.home(), 0o1777);
    let own = server.home().join(foghorn::folder::own_name());
    server.again().await;
    let left = fs::symlink_metadata(server.home().join("foghorn.db")).expect("a link for a hub of 0.1");
    assert!(left.is_symlink() && own.join("foghorn.db").is_file());
    assert_eq!(fs::metadata(&own).expect("is there").permissions().mode() & 0o7777, 0o700);
    assert_eq!(fs::metadata(server.home()).expect("is there").permissions().mode() & 0o7777, 0o1777);
    assert_eq!(server.output(&ended, true).await, "before\n");
    let (_, session) = server.ask("GET", &format!("/v1/sessions/{live}"), None).await;
    assert_eq!(session["state"], "running", "{session}");
    assert_eq!(server.ask("DELETE", &format!("/v1/sessions/{live}"), None).await.0, 202);
    assert_eq!(server.ended(&live).await["exit_status"], 143);
    assert_eq!(server.output(&live, true).await, "up\n");
    server.stored(&live).await;
}

#[tokio::test]
async fn sessions_are_reached_however_the_count_of_hubs_is_lost() {
    let mut server = Server::start("").await;
    let id = server.run_detached("echo up; sleep 600").await;
    let epoch = server.home().join("epoch");
    let first = fs::read_to_string(&epoch).expect("reads");
    for damage in [Some(""), None, Some("1"), Some("not a number"), Some(&first)] {
        server.kill();
        match damage {
            Some(text) => fs::write(&epoch, text).expect("writes"),
            None => fs::remove_file(&epoch).expect("removes"),
        }
        server.again().await;
        let (_, session) = server.ask("GET", &format!("/v1/sessions/{id}"), None).await;
        assert_eq!(session["state"], "running");
        assert!(!server.log().contains("another hub has this session"), "{damage:?}");
    }
    assert_eq!(server.ask("DELETE", &format!("/v1/sessions/{id}"), None).await.0, 202);
    assert_eq!(server.ended(&id).await["exit_status"], 143);
    assert!(server.processes(&id).is_empty());
    server.stored(&id).await;
}

#[tokio::test]
async fn a_session_whose_agent_refuses_the_hub_is_stopped_by_its_mark() {
    let Some(clock) = Clock::new() else { return };
    let env = clock.env();
    let env: Vec<_> = env.iter().map(|(name, value)| (*name, value.as_str())).collect();
    clock.set(DAY);
    let home = tempfile::tempdir().expect("a folder");
    let mut server = Server::start_at(home, "", &env).await;
    let id = server.run_detached("echo up; sleep 600").await;
    until("it is up", async || (server.output(&id, false).await == "up\n").then_some(())).await;
    let agent = server.agent(&id).expect("an agent");
    server.kill();
    // The clock goes right again, and nobody knows any more how high the count was.
    clock.set(0);
    fs::remove_file(server.home().join("epoch")).expect("removes");
    server.again().await;
    until("the agent refuses", async || server.log().contains("another hub has this session").then_some(())).await;
    assert_eq!(server.ask("DELETE", &format!("/v1/sessions/{id}"), None).await.0, 202);
    assert_eq!(server.ended(&id).await["exit_status"], 143);
    assert!(server.processes(&id).is_empty(), "what is said to be stopped is");
    crate::support::server::signal(agent, "KILL");
}

#[tokio::test]
async fn a_clock_that_is_years_ahead_removes_nothing() {
    let Some(clock) = Clock::new() else { return };
    let env = clock.env();
    let env: Vec<_> = env.iter().map(|(name, value)| (*name, value.as_str())).collect();
    let home = tempfile::tempdir().expect("a folder");
    let mut server = Server::start_at(home, "reap = \"200ms\"\n", &env).await;
    let id = server.run_detached("echo kept").await;
    server.stored(&id).await;
    // Each hub looks at once, and the last one is a day on by that clock.
    for (days, there) in [(2 * 365, true), (0, true), (3 * 365, true), (3 * 365 + 2, false)] {
        server.kill();
        clock.set(days * DAY);
        let doubts = |server: &Server| server.log().matches("nothing is removed for its age").count();
        let before = doubts(&server);
        server.again().await;
        if there && days > 0 {
            until("the hub doubts its clock", async || (doubts(&server) > before).then_some(())).await;
        }
        if !there {
            until("it is removed by a clock that went on", async || {
                (server.ask("GET", &format!("/v1/sessions/{id}"), None).await.0 == 404).then_some(())
            })
            .await;
        }
        let (status, _) = server.ask("GET", &format!("/v1/sessions/{id}"), None).await;
        assert_eq!(status == 200, there, "{days} days ahead");
    }
}
