//! JSON Schemas that plugins bring.

use serde_json::Value;

/// A compiled schema.
pub(super) struct Schema(jsonschema::Validator);

/// Problems that are told at once.
const MAX_PROBLEMS: usize = 20;

impl Schema {
    /// Compiles a schema given as text. The error says what is wrong with it.
    pub(super) fn new(text: &str) -> Result<Self, String> {
        let schema: Value = serde_json::from_str(text).map_err(|e| format!("it is not JSON: {e}"))?;
        if !schema.is_object() {
            return Err("it is not a JSON object".to_owned());
        }
        jsonschema::draft202012::options()
            .with_pattern_options(jsonschema::PatternOptions::regex())
            .build(&schema)
            .map(Self)
            .map_err(|e| format!("{e} (at {})", path(e.instance_path().as_str())))
    }

    /// Checks a value; problems as `/path: message`.
    pub(super) fn check(&self, value: &Value) -> Result<(), Vec<String>> {
        let problems: Vec<String> = self
            .0
            .iter_errors(value)
            .take(MAX_PROBLEMS)
            .map(|e| {
                let mut message = e.to_string();
                crate::message::truncate(&mut message, 300);
                format!("{}: {message}", path(e.instance_path().as_str()))
            })
            .collect();
        if problems.is_empty() { Ok(()) } else { Err(problems) }
    }
}

fn path(pointer: &str) -> &str {
    if pointer.is_empty() { "/" } else { pointer }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn problems_say_where_they_are() {
        let schema = Schema::new(
            r#"{"type":"object","additionalProperties":false,"properties":{"a":{"type":"object","properties":{"b":{"minimum":1}}}}}"#,
        )
        .unwrap();
        assert!(schema.check(&json!({"a":{"b":1}})).is_ok());
        let problems = schema.check(&json!({"a":{"b":0},"c":1})).unwrap_err();
        assert!(problems.iter().any(|p| p.starts_with("/a/b: ")), "{problems:?}");
        assert!(problems.iter().any(|p| p.starts_with("/: ") && p.contains("'c'")), "{problems:?}");
    }

    #[test]
    fn a_bad_schema_is_refused() {
        for bad in ["", "[]", "true", r#"{"type":"nonsense"}"#, r#"{"$ref":"https://example.com/other.json"}"#] {
            assert!(Schema::new(bad).is_err(), "{bad}");
        }
    }
}
