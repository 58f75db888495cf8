//! The campaign file: TOML, every path relative to the file itself.

use std::fmt::Display;
use std::ops::Range;
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::value::RawValue;

use super::super::{bad_input, fleet_csv};
use crate::campaign::{CampaignSpec, DelayUse, Delivery, DevicePool, PluginUse, RetryPolicy, Schedule, SpreadPolicy};
use crate::clock::Time;
use crate::device::DeviceSpec;
use crate::id::Digest;
use crate::resolution::UnknownPolicy;
use crate::window::SendingWindow;

/// A campaign as a file describes it, ready to be made.
pub struct CampaignFile {
    /// Stands for the contents of the file, its audience and its devices: the same contents are the same campaign.
    pub key: String,
    /// The audience's CSV.
    pub csv: PathBuf,
    /// The devices, with a tag that chooses them.
    pub devices: Vec<DeviceSpec>,
    /// The campaign.
    pub spec: CampaignSpec,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Written {
    name: String,
    audience: Audience,
    devices: Devices,
    template: Plugin,
    delay: Delay,
    sender: Option<Plugin>,
    #[serde(default)]
    schedule: Schedule,
    priority: Option<u8>,
    expires_at: Option<Time>,
    #[serde(default)]
    retry: RetryPolicy,
    #[serde(default)]
    delivery: Delivery,
    #[serde(default)]
    unknown: UnknownPolicy,
    window: Option<SendingWindow>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Audience {
    csv: PathBuf,
}

/// Either `csv = "fleet.csv"` or `list = [{ id = "dev-1", channel = "sms" }]`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Devices {
    csv: Option<PathBuf>,
    list: Option<Vec<toml::Table>>,
    #[serde(default)]
    policy: SpreadPolicy,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Plugin {
    plugin: String,
    version: Option<String>,
    #[serde(default)]
    config: toml::Table,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Delay {
    plugin: String,
    version: Option<String>,
    #[serde(default)]
    config: toml::Table,
    min_ms: Option<u64>,
    max_ms: Option<u64>,
}

impl CampaignFile {
    /// Reads a file and what it names. Errors are bad input and name the file with the line or the field.
    pub fn read(path: &Path) -> anyhow::Result<Self> {
        let shown = path.display();
        let text = std::fs::read_to_string(path).map_err(|error| bad_input(format!("{shown}: {error}")))?;
        let written = written(&text, &shown)?;
        let folder = path.parent().unwrap_or(Path::new(""));
        let field = |name: &str, problem: String| bad_input(format!("{shown}: {name}: {problem}"));

        let csv = folder.join(&written.audience.csv);
        let contacts = std::fs::read(&csv).map_err(|e| field("audience.csv", format!("{}: {e}", csv.display())))?;
        let mut devices = match (&written.devices.csv, &written.devices.list) {
            (Some(csv), None) => fleet_csv::read(&folder.join(csv))?,
            (None, Some(list)) => listed(list).map_err(|(n, problem)| field(&format!("devices.list[{n}]"), problem))?,
            _ => return Err(field("devices", "give either csv or list".to_owned())),
        };
        if devices.is_empty() {
            return Err(field("devices", "name at least one device".to_owned()));
        }
        for device in &devices {
            if let Some(problem) = device.problems().first() {
                return Err(field("devices", format!("{}: {problem}", device.id)));
            }
        }

        let mut everything = text.into_bytes();
        everything.extend_from_slice(&contacts);
        everything.extend_from_slice(&serde_json::to_vec(&devices)?);
        let key: String = Digest::of(&everything).to_string().chars().take(16).collect();
        // The campaign uses these devices and no other that the data folder knows.
        let tag = format!("file-{key}");
        for device in &mut devices {
            device.tags.push(tag.clone());
        }
        // Its own audience, too: another file's import under the same name would replace it while this one is interrupted.
        let audience = format!("{}-{key}", stem(&csv));
        let spec = spec(written, audience, tag)?;
        if let Some(problem) = spec.problems().first() {
            return Err(field(&problem.field, problem.problem.clone()));
        }
        Ok(Self { key, csv, devices, spec })
    }
}

fn written(text: &str, shown: &dyn Display) -> anyhow::Result<Written> {
    toml::from_str(text).map_err(|error| {
        let at = error.span().map_or_else(String::new, |span| format!(":{}", line_of(text, &span)));
        bad_input(format!("{shown}{at}: {}", error.message().replace('\n', " ")))
    })
}

/// What a file's text comes to, without the files that it names.
#[cfg(any(test, fuzzing))]
pub(in crate::cli) fn fuzzing(text: &str) -> anyhow::Result<()> {
    let written = written(text, &"campaign.toml")?;
    for device in listed(written.devices.list.as_deref().unwrap_or_default()).unwrap_or_default() {
        device.problems();
    }
    spec(written, "audience".to_owned(), "tag".to_owned())?.problems();
    Ok(())
}

fn spec(written: Written, audience: String, tag: String) -> anyhow::Result<CampaignSpec> {
    let Written { name, template, delay, sender, schedule, expires_at, retry, delivery, unknown, window, .. } = written;
    let devices = written.devices;
    // The defaults are those of the API.
    let mut spec: CampaignSpec = serde_json::from_value(serde_json::json!({
        "name": name, "audience": audience, "devices": {}, "template": {"plugin": ""}, "delay": {"plugin": ""},
    }))?;
    spec.devices = DevicePool { tag: Some(tag), ids: None, policy: devices.policy };
    spec.template = template.into_use()?;
    spec.delay = DelayUse {
        plugin: delay.plugin,
        version: delay.version,
        config: raw(&delay.config)?,
        min_ms: delay.min_ms.unwrap_or(spec.delay.min_ms),
        max_ms: delay.max_ms.unwrap_or(spec.delay.max_ms),
    };
    spec.sender = sender.map(Plugin::into_use).transpose()?;
    spec.priority = written.priority.unwrap_or(spec.priority);
    Ok(CampaignSpec { schedule, expires_at, retry, delivery, unknown, window, ..spec })
}

impl Plugin {
    fn into_use(self) -> anyhow::Result<PluginUse> {
        Ok(PluginUse { config: raw(&self.config)?, plugin: self.plugin, version: self.version })
    }
}

fn raw(table: &toml::Table) -> anyhow::Result<Box<RawValue>> {
    Ok(serde_json::value::to_raw_value(&serde_json::to_value(table)?)?)
}

/// Devices written in the file itself; an error comes with the position of its device.
fn listed(list: &[toml::Table]) -> Result<Vec<DeviceSpec>, (usize, String)> {
    let one = |table: &toml::Table| serde_json::to_value(table).and_then(serde_json::from_value::<DeviceSpec>);
    list.iter().enumerate().map(|(n, table)| one(table).map_err(|e| (n, e.to_string()))).collect()
}

/// A word made of a file's name.
fn stem(path: &Path) -> String {
    let stem = path.file_stem().unwrap_or_default().to_string_lossy();
    stem.chars().map(|c| if c.is_ascii_alphanumeric() || c == '_' { c } else { '-' }).take(40).collect()
}

fn line_of(text: &str, span: &Range<usize>) -> usize {
    text.bytes().take(span.start).filter(|b| *b == b'\n').count() + 1
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = r#"
name = "autumn"
[audience]
csv = "people.csv"
[devices]
list = [{ id = "dev-1", channel = "sms", sender = { plugin = "simulator" } }]
[template]
plugin = "jinja"
config = { text = "Hello {{ name }}" }
[delay]
plugin = "uniform"
config = { min_ms = 5, max_ms = 10 }
max_ms = 1000
"#;

    fn read(text: &str) -> anyhow::Result<CampaignFile> {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("people.csv"), "address,name\n+15005550100,Ada\n").unwrap();
        let path = folder.path().join("c.toml");
        std::fs::write(&path, text).unwrap();
        CampaignFile::read(&path)
    }

    #[test]
    fn a_file_is_a_campaign() {
        let file = read(GOOD).unwrap();
        assert_eq!(file.spec.audience, format!("people-{}", file.key));
        assert_eq!(file.spec.template.config.get(), r#"{"text":"Hello {{ name }}"}"#);
        assert_eq!(file.spec.delay.max_ms, 1000);
        assert_eq!(file.spec.priority, 5);
        assert_eq!(file.devices[0].tags, [format!("file-{}", file.key)]);
        assert_eq!(file.spec.devices.tag, file.devices[0].tags.first().cloned());
        assert_eq!(file.devices[0].sender.as_ref().unwrap().config.get(), "{}");
        assert_eq!(read(GOOD).unwrap().key, file.key);
        assert_ne!(read(&GOOD.replace("autumn", "winter")).unwrap().key, file.key);
    }

    #[test]
    fn the_examples_are_campaigns() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/campaigns");
        let mut senders = Vec::new();
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let file = CampaignFile::read(&path).unwrap();
            assert!(!file.devices.is_empty());
            let spec = &file.spec;
            let sender = spec.sender.as_ref().unwrap();
            for (plugin, config) in [
                (&spec.template.plugin, &spec.template.config),
                (&spec.delay.plugin, &spec.delay.config),
                (&sender.plugin, &sender.config),
            ] {
                fits(plugin, "config", &serde_json::from_str(config.get()).unwrap());
            }
            for device in &file.devices {
                fits(&sender.plugin, "adapter", &device.adapter);
            }
            senders.push(sender.plugin.clone());
        }
        for sender in ["simulator", "webhook", "android-sms-gateway", "whatsapp-cloud", "telegram", "fcm"] {
            assert!(senders.iter().any(|s| s == sender), "{sender} has no example");
        }
    }

    /// A first-party plugin takes what an example gives it.
    fn fits(plugin: &str, what: &str, given: &serde_json::Value) {
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("../plugins").join(plugin).join("src");
        let Ok(schema) = std::fs::read_to_string(source.join(format!("{what}.schema.json"))) else {
            return assert_eq!(what, "adapter", "{plugin} has no schema");
        };
        let validator = jsonschema::validator_for(&serde_json::from_str(&schema).unwrap()).unwrap();
        let problems: Vec<String> = validator.iter_errors(given).map(|e| e.to_string()).collect();
        assert!(problems.is_empty(), "{plugin}: {problems:?}");
    }

    #[test]
    fn what_is_wrong_is_named_with_line_or_field() {
        for (from, to, part) in [
            ("[delay]", "[dleay]", "c.toml:10: unknown field `dleay`"),
            ("max_ms = 1000", "max_ms = \"soon\"", "c.toml:13: "),
            ("name = \"autumn\"", "name = ", "c.toml:2: "),
            ("people.csv", "nobody.csv", "audience.csv: "),
            ("\"sms\"", "\"s m s\"", "devices: dev-1: channel: "),
            ("id = \"dev-1\"", "id = \"dev 1\"", "devices.list[0]: "),
            ("max_ms = 1000", "min_ms = 7\nmax_ms = 6", "delay.min_ms: "),
            ("list = [", "csv = \"x\"\nlist = [", "devices: give either"),
        ] {
            let error = read(&GOOD.replace(from, to)).err().unwrap().to_string();
            assert!(error.contains(part) && !error.contains('\n'), "{to}: {error}");
        }
    }
}
