use super::*;
use crate::store::{ChunkKind, Kind, State};

fn session() -> SessionRow {
    SessionRow {
        id: Uuid::now_v7(),
        name: String::new(),
        kind: Kind::Run,
        state: State::Starting,
        app: "blog".into(),
        owner: "ada".into(),
        command: vec!["true".into()],
        command_cut: false,
        tty: false,
        record: true,
        detached: false,
        backend: "local".into(),
        place: serde_json::Value::Null,
        idempotency_key: None,
        request_hash: None,
        created_at: 1,
        started_at: None,
        ended_at: None,
        exit: None,
    }
}

fn chunk(seq: i64, bytes: usize) -> Chunk {
    Chunk { kind: ChunkKind::Records, seq, from: 0, to: 0, first_time: 0, last_time: 0, data: vec![7; bytes].into() }
}

#[tokio::test]
async fn a_full_disk_has_its_own_error_and_leaves_no_half_of_an_append() {
    let folder = tempfile::tempdir().unwrap();
    let store = Sqlite::open(&folder.path().join("foghorn.db")).await.unwrap();
    let id = match store.create_session(session()).await.unwrap() {
        Created::New(row) | Created::Existing(row) => row.id,
    };
    sqlx::query("PRAGMA max_page_count = 100").execute(&store.writer).await.unwrap();

    let appended = store.append(id, &[chunk(0, 1000), chunk(1, 1 << 20)]).await;

    assert!(matches!(appended, Err(StoreError::Full(_))), "{appended:?}");
    assert_eq!(store.extent(id).await.unwrap(), Extent::default());
    store.append(id, &[chunk(0, 1000)]).await.unwrap();
    store.close().await;
}

#[tokio::test]
async fn acknowledged_data_is_synced_and_deleted_data_gives_its_pages_back() {
    let folder = tempfile::tempdir().unwrap();
    let store = Sqlite::open(&folder.path().join("foghorn.db")).await.unwrap();
    let pragma = async |text: &'static str| -> i64 { sqlx::query_scalar(text).fetch_one(&store.writer).await.unwrap() };

    assert_eq!(pragma("PRAGMA synchronous").await, 2, "FULL");
    assert_eq!(pragma("PRAGMA auto_vacuum").await, 2, "INCREMENTAL");
    assert_eq!(pragma("PRAGMA foreign_keys").await, 1);
}
