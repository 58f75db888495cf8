//! The scripts, and commands to send.

use std::sync::LazyLock;

use redis::{Arg, Cmd, ToRedisArgs};

/// A Lua script: its text and the digest by which a server knows it.
pub(super) struct Script {
    text: &'static str,
    digest: String,
}

macro_rules! scripts {
    ($($name:ident = $file:literal;)*) => {
        $(pub(super) static $name: LazyLock<Script> = LazyLock::new(|| {
            let text = include_str!(concat!("../", $file));
            Script { text, digest: redis::Script::new(text).get_hash().to_owned() }
        });)*
    };
}

scripts! {
    CLAIM = "claim.lua";
    DEPTH = "depth.lua";
    DUE = "due.lua";
    ENQUEUE = "enqueue.lua";
    FINISH = "finish.lua";
    HOLD = "hold.lua";
    INDEX = "index.lua";
    LIMIT = "limit.lua";
    METRICS = "metrics.lua";
    READY = "ready.lua";
    RENEW = "renew.lua";
    UNHOLD = "unhold.lua";
}

/// One command, perhaps a call of a script.
pub(super) struct Order {
    pub(super) cmd: Cmd,
    script: Option<&'static Script>,
}

impl Order {
    /// A plain command.
    pub(super) fn plain(name: &str, key: &str) -> Self {
        let mut cmd = redis::cmd(name);
        cmd.arg(key);
        Self { cmd, script: None }
    }

    /// A call of a script; its arguments follow with [`Order::arg`].
    pub(super) fn call(script: &'static Script, keys: &[String]) -> Self {
        let mut cmd = redis::cmd("EVALSHA");
        cmd.arg(&script.digest).arg(keys.len()).arg(keys);
        Self { cmd, script: Some(script) }
    }

    pub(super) fn arg(mut self, arg: impl ToRedisArgs) -> Self {
        self.cmd.arg(arg);
        self
    }

    /// The same call with the script's text, which a server that does not know it (any more) keeps from then on.
    pub(super) fn in_full(&self) -> Option<Cmd> {
        let mut cmd = redis::cmd("EVAL");
        cmd.arg(self.script?.text);
        for arg in self.cmd.args_iter().skip(2) {
            if let Arg::Simple(bytes) = arg {
                cmd.arg(bytes);
            }
        }
        Some(cmd)
    }
}
