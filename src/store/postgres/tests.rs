use super::*;

#[test]
fn a_url_is_refused_without_telling_its_password() {
    for url in [
        "mysql://ada:hunter2@db/foghorn",
        "hunter2",
        "postgres://ada:hunter2@db:99999999/foghorn",
        "postgres://ada:hunter2@[db/foghorn",
        "postgres://ada:hunter2@db/foghorn?sslmode=hunter2",
        "postgres://ada:hunter2@db/foghorn?port=hunter2",
        "postgres://ada:hunter2%ff@db/foghorn",
        "POSTGRES:/hunter2",
    ] {
        let error = parse(url).unwrap_err();
        assert!(matches!(error, StoreError::Url(_)), "{url}: {error:?}");
        assert!(!format!("{error} {error:?}").contains("hunter2"), "{error:?}");
    }
}

#[test]
fn both_schemes_of_postgresql_are_known() {
    for url in ["postgres://ada:hunter2@db/foghorn", "postgresql:///foghorn?host=/run/postgresql"] {
        assert!(parse(url).is_ok(), "{url}");
    }
}
