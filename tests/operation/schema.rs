//! Checks JSON against the schemas of an OpenAPI document, and is stricter than JSON Schema: what a schema does not
//! name must not be there, and a keyword that this does not know is an error.

use std::collections::BTreeSet;

use serde_json::Value;

/// Keywords that say something to people only.
const WORDS: [&str; 5] = ["description", "title", "example", "examples", "default"];

/// Whether `value` is as the schema that `name` names says; if not, what is wrong and where.
pub(crate) fn check(document: &Value, name: &str, value: &Value) -> Result<(), String> {
    let schema = &document["components"]["schemas"][name];
    assert!(schema.is_object(), "there is no schema {name}");
    Checker { document }.check(schema, value, name, true)
}

struct Checker<'a> {
    document: &'a Value,
}

impl Checker<'_> {
    fn resolve(&self, reference: &Value) -> &Value {
        let path = reference.as_str().and_then(|text| text.strip_prefix('#')).expect("a reference within");
        self.document.pointer(path).unwrap_or_else(|| panic!("{path} is not there"))
    }

    /// `closed`: what the schema does not name must not be there.
    fn check(&self, schema: &Value, value: &Value, at: &str, closed: bool) -> Result<(), String> {
        let wrong = |what: &str| Err(format!("{at}: {what}: {value} as {schema}"));
        for (keyword, rule) in schema.as_object().expect("a schema") {
            match keyword.as_str() {
                "$ref" => self.check(self.resolve(rule), value, at, closed)?,
                "type" => {
                    let types = if rule.is_array() { rule.as_array().cloned() } else { Some(vec![rule.clone()]) };
                    if !types.iter().flatten().any(|kind| is_a(kind.as_str().expect("a type"), value)) {
                        return wrong("it is of another type");
                    }
                }
                "enum" if !rule.as_array().expect("values").contains(value) => return wrong("it is none of these"),
                "const" if rule != value => return wrong("it is something else"),
                "format" if rule == "uuid" => {
                    if value.as_str().is_some_and(|text| uuid::Uuid::parse_str(text).is_err()) {
                        return wrong("it is no UUID");
                    }
                }
                "minimum" if value.is_number() && value.as_f64() < rule.as_f64() => return wrong("it is too small"),
                "maximum" if value.is_number() && value.as_f64() > rule.as_f64() => return wrong("it is too large"),
                "required" => {
                    for name in rule.as_array().expect("names") {
                        if value.is_object() && value.get(name.as_str().expect("a name")).is_none() {
                            return wrong(&format!("{name} is missing"));
                        }
                    }
                }
                "properties" => {
                    for (name, rule) in rule.as_object().expect("properties") {
                        if let Some(part) = value.get(name) {
                            self.check(rule, part, &format!("{at}.{name}"), true)?;
                        }
                    }
                }
                "items" => {
                    for (index, item) in value.as_array().into_iter().flatten().enumerate() {
                        self.check(rule, item, &format!("{at}[{index}]"), true)?;
                    }
                }
                "additionalProperties" if rule.is_object() => {
                    for (name, part) in value.as_object().into_iter().flatten() {
                        self.check(rule, part, &format!("{at}.{name}"), true)?;
                    }
                }
                "allOf" => {
                    for part in rule.as_array().expect("schemas") {
                        self.check(part, value, at, false)?;
                    }
                }
                "oneOf" | "anyOf" => {
                    let parts = rule.as_array().expect("schemas");
                    let outcomes: Vec<_> = parts.iter().map(|part| self.check(part, value, at, closed)).collect();
                    let fits = outcomes.iter().filter(|outcome| outcome.is_ok()).count();
                    if fits == 0 || (keyword == "oneOf" && fits > 1) {
                        return wrong(&format!("{fits} of these fit: {outcomes:?}"));
                    }
                }
                "enum" | "const" | "format" | "minimum" | "maximum" | "additionalProperties" | "propertyNames" => {}
                other => assert!(WORDS.contains(&other), "{at}: this test does not know the keyword {other}"),
            }
        }
        if let (true, Some(known), Some(object)) = (closed, self.names(schema), value.as_object()) {
            let unknown: Vec<_> = object.keys().filter(|name| !known.contains(*name)).collect();
            if !unknown.is_empty() {
                return wrong(&format!("nothing is said of {unknown:?}"));
            }
        }
        Ok(())
    }

    /// The names of all properties that a schema knows; `None` where any may be there.
    fn names(&self, schema: &Value) -> Option<BTreeSet<String>> {
        if schema.get("additionalProperties").is_some_and(|rule| *rule != Value::Bool(false)) {
            return None;
        }
        let mut names: BTreeSet<String> =
            schema["properties"].as_object().into_iter().flatten().map(|(name, _)| name.clone()).collect();
        let parts = ["allOf", "oneOf", "anyOf"].into_iter().filter_map(|keyword| schema[keyword].as_array()).flatten();
        for part in parts.chain(schema.get("$ref").map(|reference| self.resolve(reference))) {
            names.extend(self.names(part)?);
        }
        Some(names)
    }
}

fn is_a(kind: &str, value: &Value) -> bool {
    match kind {
        "null" => value.is_null(),
        "boolean" => value.is_boolean(),
        "integer" => value.is_i64() || value.is_u64(),
        "number" => value.is_number(),
        "string" => value.is_string(),
        "array" => value.is_array(),
        "object" => value.is_object(),
        _ => panic!("{kind} is no type"),
    }
}

#[test]
fn what_does_not_fit_is_found() {
    let document = serde_json::json!({"components": {"schemas": {
        "Part": {"type": "object", "required": ["a"], "properties": {"a": {"type": "string"}}},
        "Whole": {"allOf": [{"$ref": "#/components/schemas/Part"}, {"type": "object",
            "properties": {"b": {"oneOf": [{"type": "null"}, {"type": "integer", "minimum": 0}]}}}]},
    }}});
    let fits = |text: &str| check(&document, "Whole", &serde_json::from_str(text).expect("JSON"));
    assert_eq!(fits(r#"{"a": "x", "b": 1}"#), Ok(()));
    assert_eq!(fits(r#"{"a": "x", "b": null}"#), Ok(()));
    for wrong in [r#"{"b": 1}"#, r#"{"a": 1}"#, r#"{"a": "x", "b": -1}"#, r#"{"a": "x", "c": 1}"#, "[]"] {
        assert!(fits(wrong).is_err(), "{wrong}");
    }
}
