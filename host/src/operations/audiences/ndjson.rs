//! Rows of one JSON object each.

use std::fmt;

use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, Visitor};
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, BufReader};

use crate::store::NewContact;

use super::{BATCH, Broken, MAX_COLUMNS, MAX_ROW, Sink, columns_problem, contact, is_variable};

/// Reads all rows into the sink.
pub(super) async fn read(reader: impl AsyncRead + Send + Unpin, sink: &mut Sink<'_>) -> Result<(), Broken> {
    let mut reader = BufReader::with_capacity(64 * 1024, reader);
    let mut text = Vec::new();
    let mut line = 0;
    loop {
        line += 1;
        text.clear();
        let limit = MAX_ROW as u64 + 1;
        let broke_off =
            |_| Broken::Upload(format!("the upload broke off after line {line}; the audience was not changed"));
        if (&mut reader).take(limit).read_until(b'\n', &mut text).await.map_err(broke_off)? == 0 {
            return Ok(());
        }
        if text.last() != Some(&b'\n') && text.len() > MAX_ROW {
            skip_line(&mut reader).await.map_err(broke_off)?;
            sink.take(line, Err(format!("the row is longer than {MAX_ROW} bytes"))).await?;
            continue;
        }
        let bytes = text.trim_ascii();
        if bytes.is_empty() {
            continue;
        }
        let row = row(bytes, (sink.version.is_none() && sink.batch.len() < BATCH).then_some(&mut sink.columns));
        sink.take(line, row).await?;
    }
}

/// Reads to the end of a line without keeping it.
async fn skip_line(reader: &mut (impl AsyncBufReadExt + Unpin)) -> std::io::Result<()> {
    loop {
        let buffer = reader.fill_buf().await?;
        if buffer.is_empty() {
            return Ok(());
        }
        let (used, ended) = match buffer.iter().position(|b| *b == b'\n') {
            Some(at) => (at + 1, true),
            None => (buffer.len(), false),
        };
        reader.consume(used);
        if ended {
            return Ok(());
        }
    }
}

/// A row's contact; notes names of variables that are new, for as long as they are collected.
fn row(bytes: &[u8], columns: Option<&mut Vec<String>>) -> Result<NewContact, String> {
    let text = std::str::from_utf8(bytes).map_err(|_| "is not UTF-8".to_owned())?;
    // The messages of serde_json hold positions and names of types, never values that it expected to be objects.
    let Row(fields) =
        serde_json::from_str(text).map_err(|error| format!("not a JSON object of plain values: {}", place(&error)))?;
    if let Some(problem) = columns_problem(fields.iter().map(|(name, _)| name.as_str())) {
        return Err(problem);
    }
    let names: Vec<_> = fields.iter().map(|(name, _)| name.clone()).collect();
    let made = contact(fields.into_iter())?;
    if let Some(columns) = columns {
        for name in names.into_iter().filter(|n| is_variable(n)) {
            if columns.len() < MAX_COLUMNS && !columns.contains(&name) {
                columns.push(name);
            }
        }
    }
    Ok(made)
}

fn place(error: &serde_json::Error) -> String {
    let message = error.to_string();
    // A data error may quote a value: only what this module says itself is told.
    let told = if error.is_data() && !message.starts_with(NESTED) { "expected {\"address\": …}" } else { &message };
    let told = told.split(" at line ").next().unwrap_or(told);
    format!("{told} (column {})", error.column())
}

const NESTED: &str = "a value is neither a text nor a number, true, false or null";

/// The values of a flat JSON object, in their order, as text; `null` is left out.
struct Row(Vec<(String, String)>);

impl<'de> Deserialize<'de> for Row {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct Fields;
        impl<'de> Visitor<'de> for Fields {
            type Value = Row;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Row, A::Error> {
                let mut out = Vec::new();
                while let Some((name, value)) = map.next_entry::<String, serde_json::Value>()? {
                    let text = match value {
                        serde_json::Value::Null => continue,
                        serde_json::Value::String(text) => text,
                        serde_json::Value::Number(number) => number.to_string(),
                        serde_json::Value::Bool(flag) => flag.to_string(),
                        _ => return Err(A::Error::custom(NESTED)),
                    };
                    out.push((name, text));
                }
                Ok(Row(out))
            }
        }
        d.deserialize_map(Fields)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_keeps_its_order_and_its_values_become_text() {
        let mut columns = Vec::new();
        let text = br#"{"zeta":1,"address":" +1 ","alpha":true,"none":null,"zone":"Europe/Rome"}"#;
        let made = row(text, Some(&mut columns)).unwrap();
        assert_eq!((made.address.as_str(), made.zone.as_deref()), ("+1", Some("Europe/Rome")));
        assert_eq!(made.variables, r#"[["zeta","1"],["alpha","true"]]"#);
        assert_eq!(columns, ["zeta", "alpha"]);
    }

    #[test]
    fn a_broken_row_says_why_without_its_values() {
        for (text, why) in [
            (r#"{"address":"secret-1""#, "EOF"),
            (r#"["secret-1"]"#, "expected"),
            (r#""secret-1""#, "expected"),
            (r#"{"address":"secret-1","x":{"y":1}}"#, "neither a text"),
            (r#"{"address":"secret-1","x":"1","x":"2"}"#, "twice"),
            (r#"{"x":"secret-1"}"#, "missing"),
            (r#"{"address":"secret-1","zone":"Mars"}"#, "zone"),
        ] {
            let reason = row(text.as_bytes(), None).unwrap_err();
            assert!(reason.contains(why) && !reason.contains("secret-1"), "{reason}");
        }
        assert!(row(b"{\"address\":\"\xff\"}", None).unwrap_err().contains("UTF-8"));
    }
}
