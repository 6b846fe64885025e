//! JSON with fields in the order they are given, escaped as Go's encoder escapes.

use std::fmt::Write;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

/// A value.
#[derive(Debug, Clone)]
pub(crate) enum Json {
    Null,
    Bool(bool),
    Number(String),
    Text(String),
    Array(Vec<Json>),
    Object(Vec<(&'static str, Json)>),
}

impl Json {
    pub fn number(value: impl ToString) -> Json {
        Json::Number(value.to_string())
    }

    pub fn text(value: impl Into<String>) -> Json {
        Json::Text(value.into())
    }

    pub fn bytes(value: &[u8]) -> Json {
        Json::Text(STANDARD.encode(value))
    }

    fn write(&self, out: &mut String) {
        match self {
            Json::Null => out.push_str("null"),
            Json::Bool(value) => out.push_str(if *value { "true" } else { "false" }),
            Json::Number(value) => out.push_str(value),
            Json::Text(value) => write_text(out, value),
            Json::Array(values) => {
                out.push('[');
                for (i, value) in values.iter().enumerate() {
                    if i > 0 {
                        out.push(',');
                    }
                    value.write(out);
                }
                out.push(']');
            }
            Json::Object(fields) => {
                out.push('{');
                for (i, (name, value)) in fields.iter().enumerate() {
                    if i > 0 {
                        out.push(',');
                    }
                    write_text(out, name);
                    out.push(':');
                    value.write(out);
                }
                out.push('}');
            }
        }
    }
}

impl std::fmt::Display for Json {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let mut out = String::new();
        self.write(&mut out);
        f.write_str(&out)
    }
}

fn write_text(out: &mut String, text: &str) {
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\x08' => out.push_str("\\b"),
            '\x0c' => out.push_str("\\f"),
            c if (c as u32) < 0x20 || matches!(c, '<' | '>' | '&' | '\u{2028}' | '\u{2029}') => {
                // A String takes everything.
                let _infallible = write!(out, "\\u{:04x}", c as u32);
            }
            c => out.push(c),
        }
    }
    out.push('"');
}

/// Builds an object; fields that are empty are left out, as Go's `omitempty` has it.
#[derive(Debug, Default)]
pub(crate) struct Object(Vec<(&'static str, Json)>);

impl Object {
    pub fn new() -> Object {
        Object::default()
    }

    /// A field that is always there.
    pub fn always(mut self, name: &'static str, value: Json) -> Object {
        self.0.push((name, value));
        self
    }

    pub fn some(self, name: &'static str, value: Option<Json>) -> Object {
        match value {
            Some(value) => self.always(name, value),
            None => self,
        }
    }

    pub fn number<N: ToString + Default + PartialEq>(self, name: &'static str, value: N) -> Object {
        let empty = value == N::default();
        self.some(name, (!empty).then(|| Json::number(value)))
    }

    pub fn bool(self, name: &'static str, value: bool) -> Object {
        self.some(name, value.then_some(Json::Bool(true)))
    }

    pub fn text(self, name: &'static str, value: &str) -> Object {
        self.some(name, (!value.is_empty()).then(|| Json::text(value)))
    }

    pub fn bytes(self, name: &'static str, value: &[u8]) -> Object {
        self.some(name, (!value.is_empty()).then(|| Json::bytes(value)))
    }

    pub fn array(self, name: &'static str, values: Vec<Json>) -> Object {
        self.some(name, (!values.is_empty()).then_some(Json::Array(values)))
    }

    pub fn done(self) -> Json {
        Json::Object(self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_escaped_as_in_go() {
        let value = Object::new()
            .always("a", Json::text("<\"\\\n\u{1}é\u{2028}>"))
            .text("empty", "")
            .number("n", 0u64)
            .array("list", vec![Json::Null, Json::Bool(true), Json::bytes(b"ab")])
            .done();
        let expected = "{\"a\":\"\\u003c\\\"\\\\\\n\\u0001é\\u2028\\u003e\",\"list\":[null,true,\"YWI=\"]}";
        assert_eq!(value.to_string(), expected);
    }
}
