//! Why a plugin gives no answer.

use std::fmt;

use crate::bindings::contract::carillon::plugin::types::PluginError;

/// What a plugin's functions answer.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why a plugin gives no answer. The text is shown to users and must hold no personal data.
///
/// `?` makes [`Error::Internal`] of any other error; what is the configuration's fault or the message's is said with
/// `.map_err(Error::config)` or `.map_err(Error::input)`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Error {
    /// The campaign's configuration cannot work: the campaign pauses and shows this.
    Config(String),
    /// This one message cannot work: it fails and shows this.
    Input(String),
    /// The plugin has a bug or met a case that it does not know: the message is tried again.
    Internal(String),
}

impl Error {
    /// The configuration is at fault.
    pub fn config(why: impl fmt::Display) -> Self {
        Self::Config(why.to_string())
    }

    /// The message is at fault.
    pub fn input(why: impl fmt::Display) -> Self {
        Self::Input(why.to_string())
    }

    /// The plugin is at fault.
    pub fn internal(why: impl fmt::Display) -> Self {
        Self::Internal(why.to_string())
    }

    /// In the contract's words. (A `From` would leave `?` in doubt where those words are used without this type.)
    pub(crate) fn told(self) -> PluginError {
        match self {
            Self::Config(why) => PluginError::InvalidConfig(why),
            Self::Input(why) => PluginError::InvalidInput(why),
            Self::Internal(why) => PluginError::Internal(why),
        }
    }
}

// `Error` is no `std::error::Error` itself: then this would be one conversion too many, as with other errors that take all.
impl<E: std::error::Error> From<E> for Error {
    fn from(error: E) -> Self {
        Self::internal(error)
    }
}
