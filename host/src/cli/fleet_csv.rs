//! Devices from a CSV file: columns named as in `POST /api/v1/devices`; tags separated by `;`, the adapter as JSON.

use std::fmt::Display;
use std::io::Read;
use std::path::Path;

use crate::device::DeviceSpec;

use super::bad_input;

/// Devices that a file may name.
const MAX: usize = 1_000_000;

/// Reads the devices of a file. Errors name the file and the line.
pub fn read(path: &Path) -> anyhow::Result<Vec<DeviceSpec>> {
    let shown = path.display();
    let file = std::fs::File::open(path).map_err(|error| bad_input(format!("{shown}: {error}")))?;
    parse(file, shown)
}

/// Reads devices; `shown` is what errors call the file.
pub(super) fn parse(file: impl Read, shown: impl Display) -> anyhow::Result<Vec<DeviceSpec>> {
    let mut reader = csv::ReaderBuilder::new().trim(csv::Trim::All).from_reader(file);
    let headers = reader.headers().map_err(|error| bad_input(format!("{shown}: {error}")))?.clone();
    let mut out = Vec::new();
    for record in reader.records() {
        let record = record.map_err(|error| bad_input(format!("{shown}: {error}")))?;
        let line = record.position().map_or(0, csv::Position::line);
        out.push(device(&headers, &record).map_err(|problem| bad_input(format!("{shown}:{line}: {problem}")))?);
        if out.len() > MAX {
            return Err(bad_input(format!("{shown}: more than {MAX} devices")));
        }
    }
    Ok(out)
}

fn device(headers: &csv::StringRecord, record: &csv::StringRecord) -> Result<DeviceSpec, String> {
    let mut object = serde_json::Map::new();
    for (column, value) in headers.iter().zip(record) {
        if value.is_empty() {
            continue;
        }
        let text = serde_json::Value::from(value);
        match column {
            "tags" => {
                object.insert("tags".to_owned(), value.split(';').map(str::trim).collect());
            }
            "adapter" => {
                let adapter = serde_json::from_str(value).map_err(|error| format!("adapter is no JSON: {error}"))?;
                object.insert("adapter".to_owned(), adapter);
            }
            "enabled" => {
                let enabled: bool = value.parse().map_err(|_| "enabled: give true or false".to_owned())?;
                object.insert("enabled".to_owned(), enabled.into());
            }
            "per_minute" | "per_hour" | "per_day" => {
                let cap: u32 = value.parse().map_err(|_| format!("{column}: give a number or nothing"))?;
                let caps = object.entry("caps").or_insert_with(|| serde_json::json!({}));
                if let Some(caps) = caps.as_object_mut() {
                    caps.insert(column.to_owned(), cap.into());
                }
            }
            other => {
                object.insert(other.to_owned(), text);
            }
        }
    }
    serde_json::from_value(object.into()).map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> anyhow::Result<Vec<DeviceSpec>> {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("fleet.csv");
        std::fs::write(&path, text).unwrap();
        read(&path)
    }

    #[test]
    fn a_device_is_a_row() {
        let devices = parse(
            "id,channel,tags,per_minute,adapter\n\
             dev-1,sms,eu;fast,30,\"{\"\"number\"\":\"\"+15005550100\"\"}\"\n\
             dev-2,sms,,,\n",
        )
        .unwrap();
        assert_eq!(devices[0].tags, ["eu", "fast"]);
        assert_eq!(devices[0].caps.per_minute, Some(30));
        assert_eq!(devices[0].adapter["number"], "+15005550100");
        assert!(devices[1].enabled && devices[1].tags.is_empty());
    }

    #[test]
    fn a_broken_row_is_named() {
        for (text, part) in [
            ("id,channel\nd 1,sms\n", ":2: "),
            ("id,channel,colour\nd1,sms,red\n", "colour"),
            ("id,channel,per_day\nd1,sms,few\n", "per_day"),
            ("id,channel\nd1\n", "fleet.csv"),
        ] {
            let error = parse(text).unwrap_err().to_string();
            assert!(error.contains(part), "{error}");
        }
    }
}
