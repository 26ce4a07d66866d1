use super::*;
use proptest::prelude::*;

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn start() -> Start {
    Start {
        nonce: "n".into(),
        command: vec!["true".into()],
        env: BTreeMap::from([("A".into(), "b".into())]),
        dir: "/".into(),
        terminal: Some(Size::DEFAULT),
        stdin: true,
        pace: Some(5),
        spool_bytes: 6,
        time_limit: Some(7),
        idle_limit: None,
        orphan_limit: 8,
        hup_wait: 9,
        term_wait: 10,
        copy_output: false,
    }
}

fn card() -> serde_json::Value {
    serde_json::json!({"name": "run.1"})
}

/// What version 2 has besides version 1, towards the agent.
fn added_to_agent() -> Vec<(ToAgent, String)> {
    let hello = HubHello { min: 1, max: 2, epoch: 2, from: 3 };
    vec![
        (ToAgent::Hello(hello), text("01", r#"{"min":1,"max":2,"epoch":2,"from":3}"#)),
        (ToAgent::Card(card()), text("0d", r#"{"name":"run.1"}"#)),
    ]
}

/// The same towards the hub.
fn added_to_hub() -> Vec<(ToHub, String)> {
    let hello =
        AgentHello { version: 2, session: "s".into(), nonce: Some("n".into()), oldest: 2, head: 3, card: Some(card()) };
    let json = r#"{"version":2,"session":"s","nonce":"n","oldest":2,"head":3,"card":{"name":"run.1"}}"#;
    vec![
        (ToHub::Hello(hello), text("41", json)),
        (ToHub::Idle(60_000), "4900000000000008000000000000ea60".into()),
        (ToHub::Idle(NOT_IDLE), "4900000000000008ffffffffffffffff".into()),
    ]
}

/// A message whose rest is this JSON.
fn text(kind: &str, json: &str) -> String {
    format!("{kind}000000{:08x}{}", json.len(), hex(json.as_bytes()))
}

fn all_to_agent() -> Vec<(ToAgent, String)> {
    let w = "000000000000000000000000000000ff";
    let hello = HubHello { min: 1, max: 1, epoch: 2, from: 3 };
    vec![
        (ToAgent::Hello(hello), text("01", r#"{"min":1,"max":1,"epoch":2,"from":3}"#)),
        (
            ToAgent::Start(Box::new(start())),
            text(
                "02",
                r#"{"nonce":"n","command":["true"],"env":{"A":"b"},"dir":"/","terminal":{"cols":80,"rows":24},"stdin":true,"pace":5,"spool_bytes":6,"time_limit":7,"idle_limit":null,"orphan_limit":8,"hup_wait":9,"term_wait":10,"copy_output":false}"#,
            ),
        ),
        (ToAgent::Input(255, 1, Bytes::from_static(b"k")), format!("0300000000000019{w}00000000000000016b")),
        (ToAgent::InputEnd(255, 2), format!("0400000000000018{w}0000000000000002")),
        (ToAgent::Resize(Size::DEFAULT), "050000000000000400500018".into()),
        (ToAgent::Signal(15), "06000000000000010f".into()),
        (ToAgent::Stop("me".into()), "07000000000000026d65".into()),
        (ToAgent::Ack(3, true), "0800000000000009000000000000000301".into()),
        (ToAgent::Read(1, 2, 3), format!("0900000000000018{:016x}{:016x}{:016x}", 1, 2, 3)),
        (ToAgent::Ping, "0a00000000000000".into()),
        (ToAgent::Pace(4), format!("0b00000000000008{:016x}", 4)),
        (ToAgent::OrphanLimit(5), format!("0c00000000000008{:016x}", 5)),
    ]
}

fn all_to_hub() -> Vec<(ToHub, String)> {
    let w = "000000000000000000000000000000ff";
    let hello = AgentHello { version: 1, session: "s".into(), nonce: None, oldest: 2, head: 3, card: None };
    let json = r#"{"version":1,"session":"s","nonce":null,"oldest":2,"head":3}"#;
    let records = Bytes::from_static(b"r");
    vec![
        (ToHub::Hello(hello), format!("41000000{:08x}{}", json.len(), hex(json.as_bytes()))),
        (ToHub::Records(records.clone()), "420000000000000172".into()),
        (ToHub::Read(1, records), "4300000000000009000000000000000172".into()),
        (ToHub::ReadEnd(1), "44000000000000080000000000000001".into()),
        (ToHub::InputAck(255, 1), format!("4500000000000018{w}0000000000000001")),
        (ToHub::Started(2), "460000000000000400000002".into()),
        (ToHub::Pong, "4700000000000000".into()),
        (ToHub::Refused("no".into()), "48000000000000026e6f".into()),
    ]
}

/// The bytes of version 1, written down: a hub must speak them for as long as an agent that does may live.
#[test]
fn golden_bytes_of_version_1() {
    for (message, bytes) in all_to_agent() {
        assert_eq!(hex(&message.encode()), bytes, "{message:?}");
    }
    for (message, bytes) in all_to_hub() {
        assert_eq!(hex(&message.encode()), bytes, "{message:?}");
    }
}

#[test]
fn golden_bytes_of_version_2() {
    for (message, bytes) in added_to_agent() {
        let encoded = message.encode();
        assert_eq!(hex(&encoded), bytes, "{message:?}");
        assert_eq!(ToAgent::decode(encoded[0], encoded.slice(HEADER_LEN..)).expect("decodes"), Some(message));
    }
    for (message, bytes) in added_to_hub() {
        let encoded = message.encode();
        assert_eq!(hex(&encoded), bytes, "{message:?}");
        assert_eq!(ToHub::decode(encoded[0], encoded.slice(HEADER_LEN..)).expect("decodes"), Some(message));
    }
}

#[tokio::test]
async fn messages_survive_a_socket_that_splits_them_anywhere() {
    let messages: Vec<_> = all_to_agent().into_iter().map(|(message, _)| message).collect();
    let bytes: Vec<u8> = messages.iter().flat_map(|message| message.encode()).collect();
    for step in [1, 7, 64] {
        // A pipe that takes at most `step` bytes at a time.
        let (mut ours, theirs) = tokio::io::duplex(step);
        let mut reader = Reader::new(theirs);
        let write = async {
            tokio::io::AsyncWriteExt::write_all(&mut ours, &bytes).await.expect("writes");
            drop(ours);
        };
        let read = async {
            for message in &messages {
                let (kind, rest) = reader.next().await.expect("reads").expect("a message");
                assert_eq!(ToAgent::decode(kind, rest).expect("decodes").as_ref(), Some(message));
            }
            assert!(reader.next().await.expect("ends").is_none());
        };
        tokio::join!(write, read);
    }
}

#[tokio::test]
async fn a_block_is_used_again_once_none_of_its_messages_is_left() {
    // How many messages are held, and how many blocks there are besides the present one.
    for (held, blocks) in [(0, 1), (10, 5), (usize::MAX, MAX_USED)] {
        let messages = (0..200u32).map(|n| ToHub::Records(n.to_be_bytes().repeat(25_000).into()).encode());
        let bytes = messages.collect::<Vec<_>>().concat();
        let mut reader = Reader::new(&bytes[..]);
        let mut ring = VecDeque::new();
        for n in 0..200u32 {
            let (kind, rest) = reader.next().await.expect("reads").expect("a message");
            assert_eq!((kind, &rest[rest.len() - 4..]), (RECORDS, &n.to_be_bytes()[..]));
            ring.push_back((n, rest));
            if ring.len() > held {
                ring.pop_front();
            }
            assert!(ring.iter().all(|(n, rest)| rest.ends_with(&n.to_be_bytes()) && rest[..4] == n.to_be_bytes()));
        }
        assert_eq!(reader.used.len(), blocks, "{held} held");
    }
}

#[tokio::test]
async fn blocks_that_long_messages_needed_are_not_kept() {
    let messages = (0..20u8).map(|n| ToHub::Records(vec![n; MAX_MESSAGE].into()).encode());
    let bytes = messages.collect::<Vec<_>>().concat();
    let mut reader = Reader::new(&bytes[..]);
    for n in 0..20u8 {
        let (_, rest) = reader.next().await.expect("reads").expect("a message");
        assert!(rest.len() == MAX_MESSAGE && rest.iter().all(|byte| *byte == n));
    }
    let large = reader.used.iter_mut().filter_map(|block| block.try_reclaim(BLOCK + 1).then_some(())).count();
    assert_eq!(large, 0, "of {} that are kept", reader.used.len());
}

#[tokio::test]
async fn a_message_cut_short_or_too_long_is_an_error() {
    let mut reader = Reader::new(&[1u8, 0, 0][..]);
    assert!(matches!(reader.next().await, Err(ProtocolError::Io(_))));
    let mut reader = Reader::new(&[1u8, 0, 0, 0, 0xff, 0, 0, 0][..]);
    assert!(matches!(reader.next().await, Err(ProtocolError::TooLong(_))));
}

proptest! {
    #[test]
    fn any_rest_is_read_without_a_panic(kind: u8, rest in proptest::collection::vec(any::<u8>(), 0..80)) {
        let _ = ToAgent::decode(kind, Bytes::from(rest.clone()));
        let _ = ToHub::decode(kind, Bytes::from(rest));
    }
}
