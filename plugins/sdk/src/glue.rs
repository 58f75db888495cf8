//! From the traits of an author to those that `wit-bindgen` makes.

use std::rc::Rc;
use std::thread::LocalKey;

use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::bindings::contract::carillon::plugin::types::{Context, PluginError};
use crate::bindings::delay::exports::carillon::plugin::delay::{self, Next, Pace};
use crate::bindings::describe::exports::carillon::plugin::describe::{self, Info};
use crate::bindings::health::exports::carillon::plugin::health;
use crate::bindings::lookup::exports::carillon::plugin::lookup;
use crate::bindings::receipts::exports::carillon::plugin::receipts::{self, HttpArrival, Parsed};
use crate::bindings::sender::exports::carillon::plugin::sender;
use crate::bindings::template::exports::carillon::plugin::template::{self, Job};
use crate::health::{CheckProgress, Subject};
use crate::sending::{Answer, Outbound, Progress};
use crate::types::Content;
use crate::{Cache, Call, Delay, Error, Health, Lookup, Plugin, Receipts, Result, Sender, Template};

/// What [`crate::export!`] knows of a plugin.
pub trait Exported: Plugin {
    /// Its package's name, version and description.
    const PACKAGE: [&'static str; 3];
    /// The traits that are exported.
    const TRAITS: &'static [&'static str];

    /// What was made of configurations.
    fn kept() -> &'static LocalKey<Cache<Self>>;
}

/// Whether a plugin may have this name.
pub const fn is_name(name: &str) -> bool {
    let mut bytes = name.as_bytes();
    if bytes.is_empty() || bytes.len() > 64 {
        return false;
    }
    while let [first, rest @ ..] = bytes {
        if !(first.is_ascii_lowercase() || first.is_ascii_digit() || *first == b'-') {
            return false;
        }
        bytes = rest;
    }
    true
}

fn read<P: Plugin>(config: &str) -> Result<P> {
    crate::parse::<P>("the configuration", config).map_err(Error::Config)?.checked()
}

fn of<P: Exported>(ctx: &Context) -> Result<(Rc<P>, Call), PluginError> {
    let plugin = P::kept().with(|kept| kept.get(&ctx.config, read)).map_err(Error::told)?;
    Ok((plugin, Call { now_ms: ctx.now, random: ctx.random }))
}

/// What was kept; nothing is read for a type that keeps nothing.
fn kept_state<S: Default + DeserializeOwned>(text: &str) -> S {
    if size_of::<S>() == 0 || text.is_empty() {
        return S::default();
    }
    serde_json::from_str(text).unwrap_or_default()
}

fn to_keep<S: Serialize>(state: &S) -> Result<String> {
    Ok(if size_of::<S>() == 0 { String::new() } else { serde_json::to_string(state)? })
}

impl<P: Exported> describe::Guest for P {
    fn get() -> Info {
        let [package, version, summary] = P::PACKAGE;
        let texts = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect();
        let mut capabilities: Vec<_> =
            P::CAPABILITIES.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        for (of_trait, name) in [("Lookup", "lookup"), ("Receipts", "receipts"), ("Health", "health")] {
            if P::TRAITS.contains(&of_trait) {
                capabilities.push((name.to_owned(), "true".to_owned()));
            }
        }
        Info {
            name: P::NAME.unwrap_or(package).to_owned(),
            version: version.to_owned(),
            summary: summary.to_owned(),
            config_schema: P::CONFIG_SCHEMA.to_owned(),
            adapter_schema: P::ADAPTER_SCHEMA.to_owned(),
            hosts: texts(P::HOSTS),
            secrets: texts(P::SECRETS),
            capabilities,
        }
    }
}

impl<P: Exported + Delay> delay::Guest for P {
    fn next_delay(ctx: Context, pace: Pace, state: String) -> Result<Next, PluginError> {
        let (plugin, call) = of::<P>(&ctx)?;
        let mut kept = kept_state(&state);
        let delay_ms = plugin.next_delay(&call, &pace, &mut kept).map_err(Error::told)?;
        Ok(Next { delay_ms, state: to_keep(&kept).map_err(Error::told)? })
    }
}

impl<P: Exported + Template> template::Guest for P {
    fn render(ctx: Context, jobs: Vec<Job>) -> Result<Vec<Result<Content, PluginError>>, PluginError> {
        let (plugin, call) = of::<P>(&ctx)?;
        Ok(jobs.into_iter().map(|job| plugin.render(&call, job).map_err(Error::told)).collect())
    }

    fn variables(ctx: Context) -> Result<Vec<String>, PluginError> {
        Ok(of::<P>(&ctx)?.0.variables())
    }
}

impl<P: Exported + Sender> sender::Guest for P {
    fn start(ctx: Context, message: Outbound) -> Result<Progress, PluginError> {
        let (plugin, call) = of::<P>(&ctx)?;
        Sender::start(&*plugin, &call, message).map_err(Error::told)
    }

    fn resume(ctx: Context, state: String, answer: Answer) -> Result<Progress, PluginError> {
        let (plugin, call) = of::<P>(&ctx)?;
        Sender::resume(&*plugin, &call, state, answer).map_err(Error::told)
    }
}

impl<P: Exported + Lookup> lookup::Guest for P {
    fn start(ctx: Context, message: Outbound) -> Result<Progress, PluginError> {
        let (plugin, call) = of::<P>(&ctx)?;
        Lookup::start(&*plugin, &call, message).map_err(Error::told)
    }

    fn resume(ctx: Context, state: String, answer: Answer) -> Result<Progress, PluginError> {
        let (plugin, call) = of::<P>(&ctx)?;
        Lookup::resume(&*plugin, &call, state, answer).map_err(Error::told)
    }
}

impl<P: Exported + Receipts> receipts::Guest for P {
    fn parse(ctx: Context, request: HttpArrival) -> Result<Parsed, PluginError> {
        let (plugin, call) = of::<P>(&ctx)?;
        plugin.parse(&call, request).map_err(Error::told)
    }
}

impl<P: Exported + Health> health::Guest for P {
    fn start(ctx: Context, subject: Subject) -> Result<CheckProgress, PluginError> {
        let (plugin, call) = of::<P>(&ctx)?;
        Health::start(&*plugin, &call, subject).map_err(Error::told)
    }

    fn resume(ctx: Context, state: String, answer: Answer) -> Result<CheckProgress, PluginError> {
        let (plugin, call) = of::<P>(&ctx)?;
        Health::resume(&*plugin, &call, state, answer).map_err(Error::told)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::attribute;

    #[derive(serde::Deserialize)]
    #[serde(try_from = "Written")]
    struct Steady(f64);

    #[derive(serde::Deserialize)]
    struct Written {
        ms: f64,
    }

    impl TryFrom<Written> for Steady {
        type Error = &'static str;

        fn try_from(written: Written) -> Result<Self, &'static str> {
            if written.ms < 0.0 { Err("ms must be 0 or more") } else { Ok(Self(written.ms)) }
        }
    }

    impl Plugin for Steady {
        const NAME: Option<&'static str> = Some("steady");
        const CAPABILITIES: &'static [(&'static str, &'static str)] = &[("patient", "very")];

        fn checked(self) -> Result<Self> {
            if self.0 > 1e6 { Err(Error::config("ms must be at most 1000000")) } else { Ok(self) }
        }
    }

    impl Delay for Steady {
        type State = Option<u32>;

        fn next_delay(&self, call: &Call, pace: &Pace, state: &mut Option<u32>) -> Result<f64> {
            // `?` of any error is the plugin's own fault.
            let factor: f64 = attribute(&pace.attributes, "factor").unwrap_or("1").parse()?;
            *state = Some(state.unwrap_or(0) + call.random);
            Ok(self.0 * factor)
        }
    }

    impl Lookup for Steady {
        fn start(&self, _: &Call, message: Outbound) -> Result<Progress> {
            Err(Error::input(message.message.id))
        }

        fn resume(&self, _: &Call, _: String, _: Answer) -> Result<Progress> {
            Err(Error::internal("nothing was asked"))
        }
    }

    crate::export!(Steady: Delay + Lookup);

    fn call(config: &str, factor: &str, state: &str) -> Result<(f64, String), PluginError> {
        let ctx = Context { config: config.into(), now: 0.0, random: 3 };
        let device = crate::Device { id: "d".into(), channel: "sms".into(), adapter: "{}".into(), attributes: vec![] };
        let pace = Pace {
            device,
            minute_of_day: 0,
            sent_this_minute: 0,
            sent_this_hour: 0,
            sent_today: 0,
            age_days: 0,
            failures_in_a_row: 0,
            last_delay_ms: 0.0,
            last_outcome: crate::LastOutcome::Sent,
            backlog: 0,
            text_length: 0,
            attributes: vec![("factor".into(), factor.into())],
        };
        <Steady as delay::Guest>::next_delay(ctx, pace, state.into()).map(|next| (next.delay_ms, next.state))
    }

    #[test]
    fn a_strategy_has_its_configuration_and_its_state() {
        assert_eq!(call(r#"{"ms":5}"#, "2", "").unwrap(), (10.0, "3".into()));
        assert_eq!(call(r#"{"ms":5}"#, "1", "3").unwrap(), (5.0, "6".into()));
        // Of another version of the type.
        assert_eq!(call(r#"{"ms":5}"#, "1", r#"{"old":true}"#).unwrap().1, "3");
    }

    #[test]
    fn what_keeps_nothing_writes_nothing() {
        assert_eq!(to_keep(&()).unwrap(), "");
        kept_state::<()>("anything");
    }

    #[test]
    fn each_error_says_whose_fault_it_is() {
        let config = |config: &str| match call(config, "1", "") {
            Err(PluginError::InvalidConfig(why)) => why,
            other => panic!("{:?}", other.map(|(delay, _)| delay)),
        };
        assert!(config("{}").starts_with("the configuration cannot be read: missing field `ms`"));
        assert_eq!(config(r#"{"ms":-1}"#), "ms must be 0 or more");
        assert_eq!(config(r#"{"ms":1e9}"#), "ms must be at most 1000000");
        let internal = call(r#"{"ms":5}"#, "two", "");
        assert!(matches!(&internal, Err(PluginError::Internal(why)) if why == "invalid float literal"), "{internal:?}");
    }

    #[test]
    fn it_says_what_its_package_and_its_traits_say() {
        let info = <Steady as describe::Guest>::get();
        assert_eq!((info.name.as_str(), info.version.as_str()), ("steady", env!("CARGO_PKG_VERSION")));
        assert_eq!(info.summary, env!("CARGO_PKG_DESCRIPTION"));
        let capabilities = [("patient", "very"), ("lookup", "true")].map(|(n, v)| (n.to_owned(), v.to_owned()));
        assert_eq!(info.capabilities, capabilities);
    }

    #[test]
    fn a_name_is_small_letters_digits_and_hyphens() {
        assert!(is_name("a") && is_name("my-own-2") && is_name(&"x".repeat(64)));
        assert!(!is_name("") && !is_name("A") && !is_name("my_own") && !is_name("é") && !is_name(&"x".repeat(65)));
    }
}
