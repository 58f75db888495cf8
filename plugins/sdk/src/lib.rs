//! Plugins of Carillon in Rust.
//!
//! A plugin is a type: **its configuration**, read from the JSON that a campaign gives. What it can do is a trait that the type
//! implements: [`Delay`], [`Template`] or [`Sender`], a sender also [`Lookup`], [`Receipts`] and [`Health`]. [`export!`] makes a component's
//! exports of it; name, version and summary are those of its package in `Cargo.toml` (`name`, `version`, `description`).
//!
//! A whole delay strategy:
//!
//! ```
//! use carillon_plugin::{Call, Delay, Pace, Plugin, Result};
//!
//! #[derive(serde::Deserialize)]
//! struct Uniform {
//!     min_ms: f64,
//!     max_ms: f64,
//! }
//!
//! impl Plugin for Uniform {}
//!
//! impl Delay for Uniform {
//!     type State = ();
//!
//!     fn next_delay(&self, call: &Call, _: &Pace, _: &mut ()) -> Result<f64> {
//!         Ok(call.dice().between(self.min_ms, self.max_ms))
//!     }
//! }
//!
//! carillon_plugin::export!(Uniform: Delay);
//! # fn main() {}
//! ```
//!
//! It is built as a `cdylib`, for `wasm32-wasip2` (a component) or for `wasm32-unknown-unknown` (a core module with its types, which
//! imports nothing at all; an upload makes the component of it). Compiled for any other machine it exports nothing, so that its
//! tests run there.

#[doc(hidden)]
pub mod bindings;
mod cache;
mod error;
mod glue;
pub mod health;
#[cfg(all(target_family = "wasm", feature = "heap"))]
mod heap;
mod random;
pub mod sending;

use serde::Serialize;
use serde::de::DeserializeOwned;

pub use self::bindings::contract::carillon::plugin::types;
pub use self::bindings::delay::exports::carillon::plugin::delay::{LastOutcome, Pace};
pub use self::bindings::receipts::exports::carillon::plugin::receipts::{Event, EventKind, HttpArrival, Parsed};
pub use self::bindings::template::exports::carillon::plugin::template::Job;
pub use self::cache::Cache;
pub use self::error::{Error, Result};
#[doc(hidden)]
pub use self::glue::{Exported, is_name};
use self::health::{CheckProgress, Subject};
pub use self::random::Random;
use self::sending::{Answer, Outbound, Progress};
pub use self::types::{Content, Device, Media, MessageRef, Recipient};

/// What every plugin is: a configuration, and what it says of itself beside its package's name, version and description.
///
/// The type is made of a configuration by `serde`. What has to be made ready first (a template compiled, say) is made of what is
/// written by `#[serde(try_from = "Written")]`. Either way it is kept for the calls that follow.
pub trait Plugin: DeserializeOwned + 'static {
    /// The name when it is not the package's: 1 to 64 of a-z, 0-9 and -.
    const NAME: Option<&'static str> = None;

    /// The configuration's JSON Schema (2020-12), best in a file: `include_str!("config.schema.json")`. A campaign's form is drawn
    /// from it, and a configuration that does not fit is refused before the plugin sees it.
    const CONFIG_SCHEMA: &'static str = r#"{"type":"object"}"#;

    /// Senders: the JSON Schema of a device's own settings; empty when any will do.
    const ADAPTER_SCHEMA: &'static str = "";

    /// Senders: hosts wanted, `host[:port]` or `*.domain`; none when the configuration decides.
    const HOSTS: &'static [&'static str] = &[];

    /// Senders: names of secrets wanted.
    const SECRETS: &'static [&'static str] = &[];

    /// What it can, beside what follows from its traits: `("provider-deduplicates", "true")`, say.
    const CAPABILITIES: &'static [(&'static str, &'static str)] = &[];

    /// The configuration when its parts fit each other, which no schema can say.
    ///
    /// # Errors
    /// [`Error::config`] with what does not fit.
    fn checked(self) -> Result<Self> {
        Ok(self)
    }
}

/// What every call knows besides its subject.
#[derive(Debug, Clone, Copy)]
pub struct Call {
    /// The time of the call: milliseconds since 1970-01-01T00:00:00Z.
    pub now_ms: f64,
    /// Uniform over all u32, new for each call.
    pub random: u32,
}

impl Call {
    /// The call's own random numbers, from the first one on.
    pub const fn dice(&self) -> Random {
        Random::new(self.random)
    }
}

/// A delay strategy: how long a device waits before its next message.
pub trait Delay: Plugin {
    /// What is kept for each device in each campaign, at most 4 KiB as JSON; `()` for nothing. It begins as `Default`, and so it
    /// does when it cannot be read, as after a change of the type.
    type State: Default + Serialize + DeserializeOwned;

    /// Called after each send: the milliseconds to wait. The campaign's and the device's limits bound them.
    ///
    /// # Errors
    /// As [`Error`] says.
    fn next_delay(&self, call: &Call, pace: &Pace, state: &mut Self::State) -> Result<f64>;
}

/// A message template: what each message says.
pub trait Template: Plugin {
    /// Makes one message. Others do not mind when it fails.
    ///
    /// # Errors
    /// As [`Error`] says.
    fn render(&self, call: &Call, job: Job) -> Result<Content>;

    /// The recipients' variables that the configuration uses, for the report before a launch.
    fn variables(&self) -> Vec<String>;
}

/// A device sender: which requests send a message, and what their answers mean.
pub trait Sender: Plugin {
    /// Begins a send: [`sending::ask`] with a request, or [`sending::done`].
    ///
    /// # Errors
    /// As [`Error`] says.
    fn start(&self, call: &Call, message: Outbound) -> Result<Progress>;

    /// Goes on with the answer to the request before, and with what was to be remembered until then.
    ///
    /// # Errors
    /// An error means that the outcome is unknown, unless the answer was that nothing was sent.
    fn resume(&self, call: &Call, state: String, answer: Answer) -> Result<Progress>;
}

/// A sender that can tell whether a message of unknown outcome was sent. [`export!`] adds the capability.
pub trait Lookup: Plugin {
    /// Begins a look-up; the message's content is empty.
    ///
    /// # Errors
    /// An error proves nothing: the outcome stays unknown.
    fn start(&self, call: &Call, message: Outbound) -> Result<Progress>;

    /// Goes on with the answer to the request before.
    ///
    /// # Errors
    /// An error proves nothing: the outcome stays unknown.
    fn resume(&self, call: &Call, state: String, answer: Answer) -> Result<Progress>;
}

/// A sender that reads its provider's webhooks. [`export!`] adds the capability.
pub trait Receipts: Plugin {
    /// What a request of the provider says.
    ///
    /// # Errors
    /// As [`Error`] says.
    fn parse(&self, call: &Call, request: HttpArrival) -> Result<Parsed>;
}

/// A sender that can tell whether a device can send. [`export!`] adds the capability.
pub trait Health: Plugin {
    /// Begins a check: [`health::ask`] with a request, or [`health::done`].
    ///
    /// # Errors
    /// An error proves nothing: the device is given its next message.
    fn start(&self, call: &Call, subject: Subject) -> Result<CheckProgress>;

    /// Goes on with the answer to the request before.
    ///
    /// # Errors
    /// An error proves nothing: the device is given its next message.
    fn resume(&self, call: &Call, state: String, answer: Answer) -> Result<CheckProgress>;
}

impl Recipient {
    /// The recipient's value in the audience's column of this name.
    pub fn variable(&self, name: &str) -> Option<&str> {
        attribute(&self.variables, name)
    }
}

impl From<String> for Content {
    fn from(text: String) -> Self {
        Self { text, subject: None, media: Vec::new(), attributes: Vec::new() }
    }
}

/// The value of an attribute.
pub fn attribute<'a>(attributes: &'a [(String, String)], name: &str) -> Option<&'a str> {
    attributes.iter().find(|(n, _)| n == name).map(|(_, value)| value.as_str())
}

/// Reads JSON; the error says what cannot be read, and where.
///
/// # Errors
/// When it is not JSON, or not that of a `T`.
pub fn parse<T: DeserializeOwned>(what: &str, json: &str) -> Result<T, String> {
    // What a type itself says of its own making has no place in the text.
    serde_json::from_str(json)
        .map_err(|e| if e.line() == 0 { e.to_string() } else { format!("{what} cannot be read: {e}") })
}

/// Exports a type as a plugin: `export!(Uniform: Delay)`, or `export!(Gateway: Sender + Lookup)`. What stands after the colon are
/// the traits that it implements beside [`Plugin`].
#[macro_export]
macro_rules! export {
    ($plugin:ident: $first:ident $(+ $more:ident)*) => {
        const _: () = {
            assert!(
                $crate::is_name(match <$plugin as $crate::Plugin>::NAME {
                    Some(name) => name,
                    None => env!("CARGO_PKG_NAME"),
                }),
                "a plugin's name is 1 to 64 of a-z, 0-9 and -: change the package's name in Cargo.toml, or give NAME",
            );
            assert!(
                !env!("CARGO_PKG_DESCRIPTION").is_empty(),
                "the package's description in Cargo.toml is the plugin's summary: give it one",
            );
        };

        impl $crate::Exported for $plugin {
            const PACKAGE: [&'static str; 3] =
                [env!("CARGO_PKG_NAME"), env!("CARGO_PKG_VERSION"), env!("CARGO_PKG_DESCRIPTION")];
            const TRAITS: &'static [&'static str] = &[stringify!($first) $(, stringify!($more))*];

            fn kept() -> &'static ::std::thread::LocalKey<$crate::Cache<Self>> {
                ::std::thread_local! {
                    static KEPT: $crate::Cache<$plugin> = const { $crate::Cache::new() };
                }
                &KEPT
            }
        }

        #[cfg(target_family = "wasm")]
        const _: () = {
            $crate::bindings::describe::export!($plugin with_types_in $crate::bindings::describe);
            $crate::__export!($first $plugin);
            $($crate::__export!($more $plugin);)*
        };
    };
}

#[doc(hidden)]
#[macro_export]
macro_rules! __export {
    (Delay $plugin:ident) => {
        $crate::bindings::delay::export!($plugin with_types_in $crate::bindings::delay);
    };
    (Template $plugin:ident) => {
        $crate::bindings::template::export!($plugin with_types_in $crate::bindings::template);
    };
    (Sender $plugin:ident) => {
        $crate::bindings::sender::export!($plugin with_types_in $crate::bindings::sender);
    };
    (Lookup $plugin:ident) => {
        $crate::bindings::lookup::export!($plugin with_types_in $crate::bindings::lookup);
    };
    (Receipts $plugin:ident) => {
        $crate::bindings::receipts::export!($plugin with_types_in $crate::bindings::receipts);
    };
    (Health $plugin:ident) => {
        $crate::bindings::health::export!($plugin with_types_in $crate::bindings::health);
    };
}
