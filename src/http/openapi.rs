//! `GET /openapi.json`: the doors as OpenAPI 3.1, made from their table and from the types that they take and give.

use std::borrow::Cow;
use std::collections::BTreeMap;

use axum::Json;
use serde::Serialize;
use serde_json::{Map, Value, json};
use utoipa::openapi::path::{Parameter, ParameterIn};
use utoipa::openapi::{RefOr, Schema};
use utoipa::{IntoParams, ToSchema};

use super::routes::{DOORS, Door, Rule};
use crate::protocol::Problem;

/// Named schemas, as `utoipa` collects them.
type Schemas = Vec<(String, RefOr<Schema>)>;

/// The schema of a type, and of all that it is made of.
#[derive(Clone, Copy)]
pub struct Shape {
    name: fn() -> Cow<'static, str>,
    schema: fn() -> RefOr<Schema>,
    parts: fn(&mut Schemas),
}

impl Shape {
    /// The shape of a type.
    #[must_use]
    pub const fn of<T: ToSchema>() -> Self {
        Self { name: T::name, schema: T::schema, parts: T::schemas }
    }

    fn reference(self) -> Value {
        json!({ "$ref": format!("#/components/schemas/{}", (self.name)()) })
    }

    fn collect(self, schemas: &mut BTreeMap<String, Value>) {
        let mut all = vec![((self.name)().into_owned(), (self.schema)())];
        (self.parts)(&mut all);
        schemas.extend(all.into_iter().map(|(name, schema)| (name, value(&schema))));
    }
}

/// What a door answers where nothing went wrong.
#[derive(Clone, Copy)]
pub struct Answer {
    /// Its HTTP status.
    pub status: u16,
    what: &'static str,
    content: &'static [&'static str],
    shape: Option<Shape>,
}

impl Answer {
    /// One with a JSON body. An error's is a problem.
    #[must_use]
    pub const fn json(status: u16, what: &'static str, shape: Shape) -> Self {
        let content: &[&str] = if status < 400 { &["application/json"] } else { &["application/problem+json"] };
        Self { status, what, content, shape: Some(shape) }
    }

    /// One with a body of one of these content types.
    #[must_use]
    pub const fn stream(status: u16, what: &'static str, content: &'static [&'static str]) -> Self {
        Self { status, what, content, shape: None }
    }

    /// One without a body.
    #[must_use]
    pub const fn empty(status: u16, what: &'static str) -> Self {
        Self { status, what, content: &[], shape: None }
    }

    /// The name of the schema of its body, where that is described.
    #[must_use]
    pub fn shape_name(&self) -> Option<Cow<'static, str>> {
        self.shape.map(|shape| (shape.name)())
    }

    fn describe(&self) -> Value {
        let schema = self.shape.map_or_else(|| json!({}), Shape::reference);
        let content: Map<_, _> =
            self.content.iter().map(|kind| ((*kind).to_owned(), json!({ "schema": schema }))).collect();
        let mut answer = json!({ "description": self.what });
        if !content.is_empty() {
            answer["content"] = content.into();
        }
        answer
    }
}

/// The parameters that a type is read from.
#[must_use]
pub fn asked<T: IntoParams>() -> Vec<Parameter> {
    T::into_params(|| Some(ParameterIn::Query))
}

/// No parameters.
#[must_use]
pub fn nothing() -> Vec<Parameter> {
    Vec::new()
}

/// `GET /openapi.json`.
pub async fn openapi() -> Json<Value> {
    Json(document())
}

/// The description of all doors.
#[must_use]
pub fn document() -> Value {
    let mut paths = Map::new();
    let mut schemas = BTreeMap::new();
    let problem = Shape::of::<Problem>();
    problem.collect(&mut schemas);
    for door in DOORS {
        let shapes = door.answers.iter().filter_map(|answer| answer.shape);
        shapes.chain(door.body.map(|(shape, _)| shape)).for_each(|shape| shape.collect(&mut schemas));
        let path = paths.entry(door.path).or_insert_with(|| json!({}));
        path[door.method.to_lowercase()] = operation(door, problem);
    }
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Foghorn",
            "version": env!("CARGO_PKG_VERSION"),
            "license": { "name": "Apache-2.0 OR MIT", "identifier": "Apache-2.0 OR MIT" },
        },
        "paths": paths,
        "components": {
            "schemas": schemas,
            "securitySchemes": { "token": {
                "type": "http", "scheme": "bearer",
                "description": "A token of the hub's, or a ticket's secret for one session.",
            } },
        },
    })
}

fn operation(door: &Door, problem: Shape) -> Value {
    let mut parameters: Vec<Value> = path_parameters(door.path).collect();
    parameters.extend((door.query)().iter().map(value));
    let mut operation = json!({
        "summary": door.summary,
        "description": who(door.rule),
        "parameters": parameters,
        "responses": responses(door, problem),
        "security": if door.rule == Rule::Everyone { json!([]) } else { json!([{ "token": [] }]) },
    });
    if let Some((shape, example)) = door.body {
        let example: Value = serde_json::from_str(example).unwrap_or_default();
        operation["requestBody"] = json!({
            "required": true,
            "content": { "application/json": { "schema": shape.reference(), "example": example } },
        });
    }
    operation
}

fn path_parameters(path: &str) -> impl Iterator<Item = Value> {
    let names = path.split('/').filter_map(|part| part.strip_prefix('{')?.strip_suffix('}'));
    names.map(|name| json!({ "name": name, "in": "path", "required": true, "schema": { "type": "string" } }))
}

fn responses(door: &Door, problem: Shape) -> Value {
    let mut responses: BTreeMap<u16, Value> =
        door.answers.iter().map(|answer| (answer.status, answer.describe())).collect();
    let mut codes: BTreeMap<u16, Vec<&str>> = BTreeMap::new();
    for (status, code) in ruled(door.rule).iter().chain(door.errors) {
        codes.entry(*status).or_default().push(code);
    }
    for (status, codes) in codes {
        let content = json!({ "application/problem+json": { "schema": problem.reference() } });
        responses.insert(status, json!({ "description": codes.join(", "), "content": content }));
    }
    value(&responses)
}

/// The errors that a rule makes.
fn ruled(rule: Rule) -> &'static [(u16, &'static str)] {
    const UNKNOWN: (u16, &str) = (401, "unauthorized");
    const USED: (u16, &str) = (401, "ticket_used");
    const FORBIDDEN: (u16, &str) = (403, "forbidden");
    const ORIGIN: (u16, &str) = (403, "origin_not_allowed");
    const NONE: (u16, &str) = (404, "session_not_found");
    const AWAY: (u16, &str) = (503, "store_unavailable");
    const ASKED: (u16, &str) = (503, "authorizer_unavailable");
    const ELSEWHERE: (u16, &str) = (503, "session_elsewhere");
    match rule {
        Rule::Everyone => &[],
        Rule::Known => &[UNKNOWN, USED, ORIGIN, AWAY, ASKED],
        Rule::Start | Rule::Logs | Rule::Admin => &[UNKNOWN, USED, FORBIDDEN, ORIGIN, AWAY, ASKED],
        Rule::See | Rule::Follow | Rule::Session(_) | Rule::Issue => {
            &[UNKNOWN, USED, FORBIDDEN, ORIGIN, NONE, AWAY, ASKED, ELSEWHERE]
        }
    }
}

fn who(rule: Rule) -> String {
    match rule {
        Rule::Everyone => "Needs no token.".into(),
        Rule::Known => "For every token and ticket; shows what it may see.".into(),
        Rule::Start => "For tokens that may start sessions of the app.".into(),
        Rule::See => "For the session's owner, holders of a ticket for it, and admins.".into(),
        Rule::Follow => {
            "For the session's owner, holders of a ticket for it, and admins. Uses a ticket for one use.".into()
        }
        Rule::Session(right) => {
            format!("For the session's owner, holders of a ticket with the right to {}, and admins.", right.name())
        }
        Rule::Issue => "For the session's owner and admins, not for tickets.".into(),
        Rule::Logs => "For admins, users and watchers that may see the app, not for tickets.".into(),
        Rule::Admin => "For admins.".into(),
    }
}

fn value(of: &impl Serialize) -> Value {
    // All that is described here has a form in JSON.
    serde_json::to_value(of).unwrap_or_default()
}
