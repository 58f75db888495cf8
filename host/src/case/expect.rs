//! What a case's result must hold.

use serde_json::Value;

/// Every place where `found` is not what was expected, as `/path: …`. An object holds more than is expected of it; a list has the
/// same length.
pub fn differences(expected: &Value, found: &Value) -> Vec<String> {
    let mut out = Vec::new();
    compare("", expected, found, &mut out);
    out
}

fn compare(path: &str, expected: &Value, found: &Value, out: &mut Vec<String>) {
    match (expected, found) {
        (Value::Object(expected), Value::Object(found)) => {
            for (name, expected) in expected {
                compare(&format!("{path}/{name}"), expected, found.get(name).unwrap_or(&Value::Null), out);
            }
        }
        (Value::Array(expected), Value::Array(found)) if expected.len() == found.len() => {
            for (n, (expected, found)) in expected.iter().zip(found).enumerate() {
                compare(&format!("{path}/{n}"), expected, found, out);
            }
        }
        // 1 and 1.0 are the same number.
        (Value::Number(expected), Value::Number(found)) if expected.as_f64() == found.as_f64() => {}
        _ if expected == found => {}
        _ => out.push(format!("{}: expected {expected}, found {found}", if path.is_empty() { "/" } else { path })),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn only_what_is_named_must_be_there() {
        let found = json!({"result": {"text": "Hi", "media": []}, "fault": null, "calls": [{"us": 5}]});
        assert!(differences(&json!({}), &found).is_empty());
        assert!(differences(&json!({"result": {"text": "Hi"}, "fault": null}), &found).is_empty());
        assert!(differences(&json!({"calls": [{"us": 5.0}]}), &found).is_empty());
        let expected = json!({"result": {"text": "Ho", "subject": "x"}, "calls": []});
        assert_eq!(
            differences(&expected, &found),
            [
                r#"/calls: expected [], found [{"us":5}]"#,
                r#"/result/subject: expected "x", found null"#,
                r#"/result/text: expected "Ho", found "Hi""#,
            ]
        );
    }
}
