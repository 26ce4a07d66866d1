//! A store's own life: opened, reopened, upgraded, full, away.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::{Duration, Instant};

use foghorn::record::Cause;
use foghorn::store::{StoreError, open};

use crate::bed::{Bed, line, records, screen, session, ticket, whole};
use crate::support::postgres::Database;

pub(crate) async fn the_installation_keeps_its_id(bed: &Bed) {
    let id = bed.store.installation().await.unwrap();
    let other = bed.open().await.unwrap();
    assert_eq!(other.installation().await.unwrap(), id);
    other.ping().await.unwrap();
    other.close().await;
}

pub(crate) async fn reopening_keeps_everything(bed: &Bed) {
    let id = bed.any().await;
    let chunks = [records(0, 0, 10), records(1, 10, 30)];
    bed.store.append(id, &chunks).await.unwrap();
    bed.store.append(id, &[screen(20)]).await.unwrap();
    bed.store.create_ticket(&ticket(id)).await.unwrap();
    bed.store.add_audit(&line(1, "ada", Some(id))).await.unwrap();
    bed.store.end_session(id, &Cause::TimeLimit.into(), 9).await.unwrap();
    let (row, extent) = (bed.store.session(id).await.unwrap(), bed.store.extent(id).await.unwrap());
    let tickets = bed.store.tickets(id).await.unwrap();
    bed.store.close().await;
    assert!(bed.store.ping().await.is_err(), "closed");

    let store = bed.open().await.unwrap();
    assert_eq!(store.session(id).await.unwrap(), row);
    assert_eq!(store.extent(id).await.unwrap(), extent);
    assert_eq!(store.chunks(id, 0, 1000).await.unwrap(), chunks);
    assert_eq!(store.screen(id, 30).await.unwrap(), Some(screen(20)));
    assert_eq!(store.tickets(id).await.unwrap(), tickets);
    assert_eq!(store.audit(&whole()).await.unwrap().rows.len(), 1);
    match store.create_session(session()).await.unwrap() {
        foghorn::store::Created::New(row) => assert_eq!(row.name, "run.2"),
        other => panic!("{other:?}"),
    }
    store.close().await;
}

pub(crate) async fn opening_twice_at_once_works(bed: &Bed) {
    let (one, two, three) = tokio::join!(bed.open(), bed.open(), bed.open());
    for store in [one, two, three] {
        store.unwrap().close().await;
    }
}

pub(crate) async fn tables_of_a_later_version_are_refused(bed: &Bed) {
    bed.execute(
        "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time)
         VALUES (4001, 'of a release after the next', TRUE, '', 0)",
    )
    .await;
    let opened = bed.open().await;
    assert!(matches!(opened, Err(StoreError::Newer(4001))), "{:?}", opened.err());
}

pub(crate) async fn tables_of_the_next_minor_version_are_not(bed: &Bed) {
    bed.execute(
        "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time)
         VALUES (3001, 'of the next release', TRUE, '', 0);
         ALTER TABLE sessions ADD COLUMN later BIGINT",
    )
    .await;
    let store = bed.open().await.unwrap();
    store.create_session(session()).await.unwrap();
    store.close().await;
}

pub(crate) async fn a_full_database_has_its_own_error(bed: &Bed) {
    let id = bed.any().await;
    if !bed.is_postgres() {
        // Needs the store's own connection: beside the implementation.
        return;
    }
    bed.execute(
        "CREATE FUNCTION full_disk() RETURNS TRIGGER LANGUAGE plpgsql AS
         $$ BEGIN RAISE EXCEPTION 'could not extend file: No space left on device' USING ERRCODE = '53100'; END $$;
         CREATE TRIGGER full_disk BEFORE INSERT ON chunks FOR EACH ROW EXECUTE FUNCTION full_disk()",
    )
    .await;
    let appended = bed.store.append(id, &[records(0, 0, 10)]).await;
    assert!(matches!(appended, Err(StoreError::Full(_))), "{appended:?}");
    bed.execute("DROP TRIGGER full_disk ON chunks").await;
    bed.store.append(id, &[records(0, 0, 10)]).await.unwrap();
}

pub(crate) async fn what_is_no_database_url_is_refused(bed: &Bed) {
    for url in ["mysql://ada:hunter2@db/x", "", "/var/lib/foghorn.db", "sqlite://x"] {
        let opened = open(Some(url), &bed.path()).await;
        assert!(matches!(opened, Err(StoreError::Url(_))), "{url}");
    }
}

fn mode(path: &Path) -> u32 {
    std::fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[tokio::test]
async fn sqlites_files_are_for_their_user_alone() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state").join("foghorn.db");
    let store = open(None, &path).await.unwrap();
    store.create_session(session()).await.unwrap();

    assert_eq!(mode(path.parent().unwrap()), 0o700);
    for name in ["foghorn.db", "foghorn.db-wal", "foghorn.db-shm"] {
        assert_eq!(mode(&path.with_file_name(name)), 0o600, "{name}");
    }
    store.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_postgresql_that_is_away_costs_seconds_and_is_used_again_when_it_is_back() {
    let Some(database) = Database::alone().await else { return };
    let store = open(Some(&database.url()), Path::new("unused")).await.unwrap();
    let Ok(foghorn::store::Created::New(row)) = store.create_session(session()).await else { panic!() };
    database.stop();

    let began = Instant::now();
    let appended = store.append(row.id, &[records(0, 0, 10)]).await;
    assert!(matches!(appended, Err(StoreError::Database(_))), "{appended:?}");
    assert!(store.ping().await.is_err());
    assert!(open(Some(&database.url()), Path::new("unused")).await.is_err());
    assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());

    database.start().await;
    store.ping().await.unwrap();
    store.append(row.id, &[records(0, 0, 10)]).await.unwrap();
    assert_eq!(store.extent(row.id).await.unwrap().to, 10);
    store.close().await;
}

#[tokio::test]
async fn a_server_that_accepts_and_says_nothing_costs_seconds() {
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("postgres://ada:hunter2@{}/foghorn", silent.local_addr().unwrap());

    let began = Instant::now();
    let error = open(Some(&url), Path::new("unused")).await.err().unwrap();

    assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
    assert!(matches!(error, StoreError::Database(_)), "{error:?}");
    assert!(!format!("{error} {error:?}").contains("hunter2"), "{error:?}");
}

#[tokio::test]
async fn a_postgresql_server_leaves_nothing_behind() {
    let Some(database) = Database::alone().await else { return };
    let folder = database.folder().to_owned();
    assert!(folder.join("data").exists());
    drop(database);
    assert!(!folder.exists());
}
