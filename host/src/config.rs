//! Every setting: flag, environment variable, default, unit, and the checks that refuse a nonsensical set at start.

use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use ipnet::IpNet;

use crate::campaign::BadField;
use crate::receipt::OPT_OUT_WORDS;
use crate::rollout::{LONGEST_MS, RolloutSpec};
use crate::vault::Vault;

/// A part of the program that a server can run or leave to others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, clap::ValueEnum)]
pub enum Role {
    /// HTTP API and dashboard.
    Api,
    /// Due campaigns and sequence steps become messages.
    Trigger,
    /// Messages move to the devices' queues.
    Processor,
    /// Messages are sent.
    Workers,
    /// Leases, stuck messages and drift are repaired.
    Recovery,
}

impl Role {
    /// The word for it on the command line.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Api => "api",
            Self::Trigger => "trigger",
            Self::Processor => "processor",
            Self::Workers => "workers",
            Self::Recovery => "recovery",
        }
    }
}

/// What of recipients is kept in the cases of plugin calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum CaseData {
    /// No case is kept.
    None,
    /// Letters and digits of what is a recipient's are replaced by others.
    Masked,
    /// Everything, as it was.
    Full,
}

/// A network, or an address as the network of itself.
fn network(text: &str) -> Result<IpNet, String> {
    let text = text.trim();
    let address = || text.parse::<IpAddr>().map(IpNet::from);
    text.parse().or_else(|_| address()).map_err(|_| "give an address or a network such as 10.0.0.0/8".to_owned())
}

/// The settings of a server. Every flag has an environment variable; the flag wins.
#[derive(Clone, PartialEq, Args)]
pub struct Config {
    /// Address and port that the API and the dashboard listen on.
    #[arg(long, env = "CARILLON_LISTEN", default_value = "127.0.0.1:8080", value_name = "ADDR")]
    pub listen: SocketAddr,
    /// Certificate for TLS on that port, with those that lead to its root, in PEM; plain HTTP when absent. Read again when it
    /// changes, or on SIGHUP.
    #[arg(long, env = "CARILLON_TLS_CERT", value_name = "FILE")]
    pub tls_cert: Option<PathBuf>,
    /// The certificate's private key, in PEM.
    #[arg(long, env = "CARILLON_TLS_KEY", value_name = "FILE")]
    pub tls_key: Option<PathBuf>,
    /// Folder for the embedded database, the admin token and compiled plugins; made when missing.
    #[arg(long, env = "CARILLON_DATA", default_value = "data", value_name = "DIR")]
    pub data: PathBuf,
    /// `sqlite:PATH` or `postgres://…`; the embedded SQLite in the data folder when absent.
    #[arg(long, env = "CARILLON_STORE", value_name = "URL", hide_env_values = true)]
    pub store: Option<String>,
    /// `memory:`, `redis://…`, `rediss://…` or `redis-cluster://a:1,b:2,c:3`.
    #[arg(long, env = "CARILLON_QUEUE", default_value = "memory:", value_name = "URL", hide_env_values = true)]
    pub queue: String,
    /// Parts to run in this process.
    #[arg(
        long,
        env = "CARILLON_ROLES",
        value_delimiter = ',',
        default_value = "api,trigger,processor,workers,recovery",
        value_name = "LIST"
    )]
    pub roles: Vec<Role>,
    /// Private or loopback destinations that senders may reach, as `HOST:PORT`; everything private is refused
    /// otherwise.
    #[arg(long, env = "CARILLON_ALLOW_EGRESS", value_delimiter = ',', value_name = "HOST:PORT,…")]
    pub allow_egress: Vec<String>,
    /// The first admin token, at least 16 characters; one is made and kept in the data folder when absent.
    #[arg(long, env = "CARILLON_ADMIN_TOKEN", hide_env_values = true, value_name = "TOKEN")]
    pub admin_token: Option<String>,
    /// Secrets that senders may use in headers and in the paths of URLs, as `NAME=VALUE@HOST`: put into requests to that host in
    /// place of `{{secret:NAME}}`.
    #[arg(
        long,
        env = "CARILLON_SECRETS",
        value_delimiter = ',',
        hide_env_values = true,
        value_name = "NAME=VALUE@HOST,…"
    )]
    pub secrets: Vec<String>,
    /// Keys for the secrets in the store, comma-separated: 32 bytes each, in base64 or hex. The first one encrypts, all decrypt.
    /// `carillon secret key` prints one.
    #[arg(long, env = "CARILLON_SECRETS_KEY", hide_env_values = true, value_name = "KEY,…")]
    pub secrets_key: Option<String>,

    /// How often the trigger looks for due campaigns and steps, in milliseconds.
    #[arg(long, env = "CARILLON_TRIGGER_INTERVAL_MS", default_value_t = 60_000, value_name = "MS")]
    pub trigger_interval_ms: u64,
    /// How often the processor fills the devices' queues, in milliseconds.
    #[arg(long, env = "CARILLON_PROCESSOR_INTERVAL_MS", default_value_t = 5_000, value_name = "MS")]
    pub processor_interval_ms: u64,
    /// How often recovery looks for what got stuck, in milliseconds.
    #[arg(long, env = "CARILLON_RECOVERY_INTERVAL_MS", default_value_t = 60_000, value_name = "MS")]
    pub recovery_interval_ms: u64,
    /// How often a server writes its heartbeat and looks for changes, in milliseconds.
    #[arg(long, env = "CARILLON_HEARTBEAT_MS", default_value_t = 500, value_name = "MS")]
    pub heartbeat_ms: u64,
    /// Most sends in flight, whole cluster.
    #[arg(long, env = "CARILLON_MAX_WORKERS", default_value_t = 500, value_name = "N")]
    pub max_workers: u32,
    /// How long a device stays leased to a server that no longer renews it, in milliseconds.
    #[arg(long, env = "CARILLON_LEASE_MS", default_value_t = 10_000, value_name = "MS")]
    pub lease_ms: u64,
    /// How long one attempt may take in all (every request of it), in milliseconds.
    #[arg(long, env = "CARILLON_SEND_TIMEOUT_MS", default_value_t = 30_000, value_name = "MS")]
    pub send_timeout_ms: u64,
    /// How long a shutdown waits for sends in flight, in milliseconds.
    #[arg(long, env = "CARILLON_DRAIN_TIMEOUT_MS", default_value_t = 35_000, value_name = "MS")]
    pub drain_timeout_ms: u64,
    /// How long a server that was told to stop goes on answering, with 503 on `/readyz`, before it takes no more requests, in
    /// milliseconds: the time in which load balancers find out. Sends in flight end meanwhile.
    #[arg(long, env = "CARILLON_DRAIN_NOTICE_MS", default_value_t = 3_000, value_name = "MS")]
    pub drain_notice_ms: u64,
    /// Messages that wait in one device's queue at most.
    #[arg(long, env = "CARILLON_WINDOW", default_value_t = 100, value_name = "N")]
    pub window: u32,
    /// Devices whose queues are filled by one statement.
    #[arg(long, env = "CARILLON_BATCH", default_value_t = 100, value_name = "N")]
    pub batch: u32,
    /// Contacts that become messages in one transaction.
    #[arg(long, env = "CARILLON_EXPAND_PAGE", default_value_t = 5_000, value_name = "N")]
    pub expand_page: u32,
    /// How long the messages of a finished campaign are kept, in days; for ever when absent. Its counts always stay.
    #[arg(long, env = "CARILLON_KEEP_FINISHED_DAYS", value_name = "DAYS")]
    pub keep_finished_days: Option<u32>,
    /// Connections to PostgreSQL.
    #[arg(long, env = "CARILLON_STORE_CONNECTIONS", default_value_t = 12, value_name = "N")]
    pub store_connections: u32,

    /// Largest plugin that can be uploaded, in bytes.
    #[arg(long, env = "CARILLON_PLUGIN_MAX_BYTES", default_value_t = 64 << 20, value_name = "BYTES")]
    pub plugin_max_bytes: u64,
    /// Memory of one plugin instance, in bytes.
    #[arg(long, env = "CARILLON_PLUGIN_MEMORY_BYTES", default_value_t = 64 << 20, value_name = "BYTES")]
    pub plugin_memory_bytes: u64,
    /// How long one call of a plugin may take, in milliseconds.
    #[arg(long, env = "CARILLON_PLUGIN_TIMEOUT_MS", default_value_t = 250, value_name = "MS")]
    pub plugin_timeout_ms: u64,
    /// How long an activated version is watched, in seconds: one that crashes, hangs or answers what is not allowed meanwhile is
    /// rolled back by itself. 0: not at all.
    #[arg(long, env = "CARILLON_PLUGIN_WATCH_S", default_value_t = 600, value_name = "S")]
    pub plugin_watch_s: u64,
    /// Processor time that compiling one plugin may take, in seconds.
    #[arg(long, env = "CARILLON_PLUGIN_COMPILE_S", default_value_t = 300, value_name = "S")]
    pub plugin_compile_s: u64,
    /// What of recipients is kept in the cases of plugin calls that failed: `none` (no case is kept), `masked`, `full`.
    #[arg(long, env = "CARILLON_PLUGIN_CASE_DATA", value_enum, default_value = "masked", value_name = "POLICY")]
    pub plugin_case_data: CaseData,
    /// Of so many good calls of plugins, one is kept as a case, too; 0 for none.
    #[arg(long, env = "CARILLON_PLUGIN_CASE_SAMPLE", default_value_t = 0, value_name = "N")]
    pub plugin_case_sample: u32,
    /// Cases kept of a plugin version: so many of failed calls, and as many of good ones.
    #[arg(long, env = "CARILLON_PLUGIN_CASES", default_value_t = 20, value_name = "N")]
    pub plugin_cases: u32,
    /// How long a case is kept, in days.
    #[arg(long, env = "CARILLON_PLUGIN_CASE_DAYS", default_value_t = 30, value_name = "DAYS")]
    pub plugin_case_days: u32,
    /// Largest JSON body of an API call, in bytes (audiences are streamed and not limited by it).
    #[arg(long, env = "CARILLON_BODY_MAX_BYTES", default_value_t = 8 << 20, value_name = "BYTES")]
    pub body_max_bytes: u64,
    /// Largest audience, in contacts.
    #[arg(long, env = "CARILLON_AUDIENCE_MAX", default_value_t = 50_000_000, value_name = "N")]
    pub audience_max: u32,
    /// API calls a token may make in a second, on average; 0 for no limit.
    #[arg(long, env = "CARILLON_RATE_LIMIT", default_value_t = 0, value_name = "N")]
    pub rate_limit: u32,
    /// Tokens that are not valid which one address may try in a minute, at the API and at the dashboard's log-in; 0 for no
    /// limit.
    #[arg(long, env = "CARILLON_AUTH_FAILURES_PER_MINUTE", default_value_t = 30, value_name = "N")]
    pub auth_failures_per_minute: u32,
    /// Requests to one webhook in a second, on average, on each server; 0 for no limit.
    #[arg(long, env = "CARILLON_HOOK_RATE_LIMIT", default_value_t = 100, value_name = "N")]
    pub hook_rate_limit: u32,
    /// Replies that opt out, when they say nothing else: in whatever case, with or without punctuation around them.
    #[arg(
        long,
        env = "CARILLON_OPT_OUT_WORDS",
        value_delimiter = ',',
        default_value = OPT_OUT_WORDS,
        value_name = "WORD,…"
    )]
    pub opt_out_words: Vec<String>,
    /// Proxies whose `X-Forwarded-For` says which address asks, as addresses or networks such as `10.0.0.0/8`; everybody
    /// else's is not looked at.
    #[arg(
        long,
        env = "CARILLON_TRUSTED_PROXIES",
        value_delimiter = ',',
        value_parser = network,
        value_name = "NETWORK,…"
    )]
    pub trusted_proxies: Vec<IpNet>,
}

impl fmt::Debug for Config {
    /// Shows nothing that may hold a secret: URLs have passwords in them.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { listen, data, roles, .. } = self;
        f.debug_struct("Config")
            .field("listen", listen)
            .field("data", data)
            .field("roles", roles)
            .finish_non_exhaustive()
    }
}

impl Config {
    /// Whether this server runs a role.
    pub fn has(&self, role: Role) -> bool {
        self.roles.contains(&role)
    }

    /// The store's URL.
    pub fn store_url(&self) -> String {
        self.store.clone().unwrap_or_else(|| format!("sqlite:{}", self.data.join("carillon.db").display()))
    }

    /// How long a lease lasts.
    pub fn lease(&self) -> Duration {
        Duration::from_millis(self.lease_ms)
    }

    /// How long an attempt may take.
    pub fn send_timeout(&self) -> Duration {
        Duration::from_millis(self.send_timeout_ms)
    }

    /// How long a server says that it stops before it takes no more requests.
    pub fn drain_notice(&self) -> Duration {
        Duration::from_millis(self.drain_notice_ms)
    }

    /// How old a heartbeat may be before its server counts as dead.
    pub fn alive(&self) -> Duration {
        self.lease()
    }

    /// The watch over an activated version, if there is one.
    pub fn plugin_watch(&self) -> Option<RolloutSpec> {
        (self.plugin_watch_s > 0).then(|| RolloutSpec::watch(self.plugin_watch_s.saturating_mul(1000)))
    }

    /// How long the messages of a finished campaign are kept; `None` for ever.
    pub fn keep_finished(&self) -> Option<Duration> {
        self.keep_finished_days.map(|days| Duration::from_secs(u64::from(days) * 24 * 60 * 60))
    }

    /// How long a case of a plugin's call is kept.
    pub fn keep_cases(&self) -> Duration {
        Duration::from_secs(u64::from(self.plugin_case_days) * 24 * 60 * 60)
    }

    /// Every setting, or pair of settings, that cannot work.
    pub fn problems(&self) -> Vec<BadField> {
        let mut out = Vec::new();
        for (field, value) in [
            ("--trigger-interval-ms", self.trigger_interval_ms),
            ("--processor-interval-ms", self.processor_interval_ms),
            ("--recovery-interval-ms", self.recovery_interval_ms),
            ("--heartbeat-ms", self.heartbeat_ms),
            ("--max-workers", u64::from(self.max_workers)),
            ("--batch", u64::from(self.batch)),
            ("--expand-page", u64::from(self.expand_page)),
            ("--send-timeout-ms", self.send_timeout_ms),
            ("--plugin-timeout-ms", self.plugin_timeout_ms),
            ("--plugin-compile-s", self.plugin_compile_s),
            ("--plugin-max-bytes", self.plugin_max_bytes),
            ("--plugin-cases", u64::from(self.plugin_cases)),
            ("--plugin-case-days", u64::from(self.plugin_case_days)),
            ("--body-max-bytes", self.body_max_bytes),
        ] {
            if value == 0 {
                out.push(BadField::new(field, "must be at least 1"));
            }
        }
        if !(2..=10_000).contains(&self.window) {
            out.push(BadField::new("--window", "must be from 2 to 10000"));
        }
        if self.keep_finished_days == Some(0) {
            out.push(BadField::new(
                "--keep-finished-days",
                "must be at least 1; leave it out to keep messages for ever",
            ));
        }
        if self.lease_ms < 4 * self.heartbeat_ms {
            out.push(BadField::new(
                "--lease-ms",
                "must be at least four times --heartbeat-ms, or leases run out while their owners live",
            ));
        }
        for (given, field, missing) in
            [(&self.tls_cert, "--tls-key", &self.tls_key), (&self.tls_key, "--tls-cert", &self.tls_cert)]
        {
            if given.is_some() && missing.is_none() {
                out.push(BadField::new(field, "give both --tls-cert and --tls-key, or neither"));
            }
        }
        if self.opt_out_words.iter().any(|word| word.trim().is_empty() || word.len() > 64) {
            out.push(BadField::new("--opt-out-words", "each has 1 to 64 bytes"));
        }
        if self.plugin_watch_s > LONGEST_MS / 1000 {
            out.push(BadField::new("--plugin-watch-s", format!("must be at most {}", LONGEST_MS / 1000)));
        }
        if self.roles.is_empty() {
            out.push(BadField::new("--roles", "name at least one of api, trigger, processor, workers, recovery"));
        }
        if self.queue.starts_with("memory:") && !self.has(Role::Workers) && self.has(Role::Processor) {
            out.push(BadField::new("--roles", "an in-process queue needs processor and workers in one process"));
        }
        if self.admin_token.as_ref().is_some_and(|t| t.len() < 16) {
            out.push(BadField::new("CARILLON_ADMIN_TOKEN", "must have at least 16 characters"));
        }
        if let Err(problem) = Vault::parse(self.secrets_key.as_deref()) {
            out.push(BadField::new("CARILLON_SECRETS_KEY", problem.to_string()));
        }
        if self.plugin_memory_bytes < 1 << 20 || self.plugin_memory_bytes > 128 << 20 {
            out.push(BadField::new("--plugin-memory-bytes", "must be from 1 MiB to 128 MiB"));
        }
        out
    }
}

impl Default for Config {
    /// What an empty command line gives; the environment is not read.
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 8080)),
            tls_cert: None,
            tls_key: None,
            data: PathBuf::from("data"),
            store: None,
            queue: "memory:".to_owned(),
            roles: vec![Role::Api, Role::Trigger, Role::Processor, Role::Workers, Role::Recovery],
            allow_egress: Vec::new(),
            admin_token: None,
            secrets: Vec::new(),
            secrets_key: None,
            trigger_interval_ms: 60_000,
            processor_interval_ms: 5_000,
            recovery_interval_ms: 60_000,
            heartbeat_ms: 500,
            max_workers: 500,
            lease_ms: 10_000,
            send_timeout_ms: 30_000,
            drain_timeout_ms: 35_000,
            drain_notice_ms: 3_000,
            window: 100,
            batch: 100,
            expand_page: 5_000,
            keep_finished_days: None,
            store_connections: 12,
            plugin_max_bytes: 64 << 20,
            plugin_memory_bytes: 64 << 20,
            plugin_timeout_ms: 250,
            plugin_watch_s: 600,
            plugin_compile_s: 300,
            plugin_case_data: CaseData::Masked,
            plugin_case_sample: 0,
            plugin_cases: 20,
            plugin_case_days: 30,
            body_max_bytes: 8 << 20,
            audience_max: 50_000_000,
            rate_limit: 0,
            auth_failures_per_minute: 30,
            hook_rate_limit: 100,
            opt_out_words: OPT_OUT_WORDS.split(',').map(ToOwned::to_owned).collect(),
            trusted_proxies: Vec::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        config: Config,
    }

    #[test]
    fn the_default_is_what_an_empty_command_line_gives() {
        let parsed = Cli::parse_from(["carillon"]).config;
        assert_eq!(parsed, Config::default());
        assert_eq!(parsed.problems(), []);
    }

    #[test]
    fn debug_output_has_no_secret() {
        let config = Config {
            store: Some("postgres://me:hush@db/x".to_owned()),
            queue: "redis://:hush@queue".to_owned(),
            admin_token: Some("hush".to_owned()),
            secrets: vec!["KEY=hush@api.example.com".to_owned()],
            secrets_key: Some("hush".to_owned()),
            ..Config::default()
        };
        let shown = format!("{config:?}");
        assert!(shown.contains("127.0.0.1:8080") && !shown.contains("hush"), "{shown}");
        let problems = config.problems();
        assert!(problems.iter().any(|p| p.field == "CARILLON_SECRETS_KEY"), "{problems:?}");
        assert!(!format!("{problems:?}").contains("hush"), "{problems:?}");
    }

    #[test]
    fn nonsense_is_refused_by_name() {
        let config =
            Config { lease_ms: 100, window: 1, roles: vec![], keep_finished_days: Some(0), ..Config::default() };
        let fields: Vec<_> = config.problems().into_iter().map(|p| p.field).collect();
        assert_eq!(fields, ["--window", "--keep-finished-days", "--lease-ms", "--roles"]);
    }
}
