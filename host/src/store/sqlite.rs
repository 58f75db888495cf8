//! The store in SQLite, for one machine: several processes may share the file.
//!
//! One connection writes, in transactions that take the write lock at once (`BEGIN IMMEDIATE`): within one, whatever was
//! read is still true when it is written, and no two writers can lock each other out. Reads have connections of their own,
//! which never wait for the writer (WAL). A batch is one transaction, so that one `fsync` serves all of it; lists are
//! passed as JSON arrays, so that statements are constant texts that stay prepared.

mod audiences;
mod campaigns;
mod closing;
mod consent;
mod devices;
mod health;
mod hosts;
mod messages;
mod paces;
mod plugins;
mod reading;
mod receipts;
mod retention;
mod runs;
mod sequences;
mod steps;
mod tokens;
mod turn;
mod unknown;
mod waiting;

// What both backends say in the same words: the same files, compiled against each one's driver.
#[allow(clippy::duplicate_mod)]
#[path = "both/cases.rs"]
mod cases;
#[allow(clippy::duplicate_mod)]
#[path = "both/changes.rs"]
mod changes;
#[allow(clippy::duplicate_mod)]
#[path = "both/deletion.rs"]
mod deletion;
#[allow(clippy::duplicate_mod)]
#[path = "both/grants.rs"]
mod grants;
#[allow(clippy::duplicate_mod)]
#[path = "both/rollouts.rs"]
mod rollouts;
#[allow(clippy::duplicate_mod)]
#[path = "both/secrets.rs"]
mod secrets;
#[allow(clippy::duplicate_mod)]
#[path = "both/webhooks.rs"]
mod webhooks;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use serde::Serialize;
use sqlx::query::{Query, QueryAs, QueryScalar};
use sqlx::sqlite::{
    SqliteArguments, SqliteConnectOptions, SqliteConnection, SqliteJournalMode, SqlitePoolOptions, SqliteRow,
    SqliteSynchronous,
};
use sqlx::{Connection as _, FromRow, SqlitePool, Transaction};

use super::dispatch::store_by_subject;
use super::rows;
use super::*;
use crate::clock::{Clock as _, SystemClock};
use crate::message::code;

/// How long a statement waits for the lock of another process.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a caller waits for the writer's connection.
const WRITER_TIMEOUT: Duration = Duration::from_secs(30);
/// Connections that only read.
const READERS: u32 = 4;
/// Page caches: KiB, negative. What a reader does not find in its own it finds in the system's.
const WRITER_CACHE: &str = "-65536";
const READER_CACHE: &str = "-8192";
/// How often opening a file is tried again that another process is opening too, and how long it waits in between.
const OPEN_REPEATS: u32 = 100;
const OPEN_PAUSE: Duration = Duration::from_millis(50);

/// A store in an SQLite file.
#[derive(Debug)]
pub struct Sqlite {
    writer: SqlitePool,
    readers: SqlitePool,
    statements: AtomicU64,
    errors: AtomicU64,
    clock: SystemClock,
}

type Tx = Transaction<'static, sqlx::Sqlite>;
/// This one, for the modules of both.
type Backend = Sqlite;

/// There is one writer: what it has read stays so.
const LOCKED_PLUGIN: &str = "SELECT active_no FROM plugins WHERE name = $1";
const COUNTS_OF_ROLLOUTS: &str =
    "SELECT rollout_no, counts FROM rollout_counts WHERE rollout_no IN (SELECT value FROM json_each($1))";

impl Sqlite {
    const KIND: &'static str = "sqlite";

    /// There is one writer: a second group is put together while the first is written, and the larger they are the fewer
    /// times the disk is waited for.
    const GROUPING: Grouping = Grouping { groups: 2, turns: 512 };

    /// Opens the file that `sqlite:PATH` names, makes it where there is none, and brings its tables up to date.
    ///
    /// # Errors
    /// `Unavailable` when the file cannot be opened or is locked for long; `Internal` when a newer version of the program
    /// has been at work on it.
    pub async fn open(url: &str) -> Result<Self> {
        let path = url.strip_prefix("sqlite:").unwrap_or(url);
        let path = path.strip_prefix("//").unwrap_or(path);
        if path.is_empty() || path.starts_with(":memory:") {
            return Err(StoreError::Internal(anyhow::anyhow!("an SQLite store needs the path of a file")));
        }
        let options = SqliteConnectOptions::new()
            .filename(path)
            .create_if_missing(true)
            .busy_timeout(BUSY_TIMEOUT)
            .journal_mode(SqliteJournalMode::Wal)
            // In WAL mode `NORMAL` loses the last commits with the power: a message could be sent twice.
            .synchronous(SqliteSynchronous::Full)
            .foreign_keys(true)
            .pragma("temp_store", "memory")
            .pragma("cache_size", WRITER_CACHE)
            .pragma("journal_size_limit", "67108864")
            .statement_cache_capacity(256);
        migrate(&options).await?;
        let pool = |connections| {
            SqlitePoolOptions::new()
                .max_connections(connections)
                .acquire_timeout(WRITER_TIMEOUT)
                .idle_timeout(None)
                .max_lifetime(None)
                .test_before_acquire(false)
                // On a full disk and on I/O errors SQLite ends the transaction by itself. The library does not hear of that:
                // its ROLLBACK fails, and it would refuse every transaction to come.
                .before_acquire(|connection, _| {
                    let usable = !connection.is_in_transaction();
                    Box::pin(async move { Ok(usable) })
                })
        };
        let writer = pool(1).connect_with(options.clone()).await?;
        let readers =
            pool(READERS).connect_with(options.pragma("query_only", "on").pragma("cache_size", READER_CACHE)).await?;
        Ok(Self {
            writer,
            readers,
            statements: AtomicU64::new(0),
            errors: AtomicU64::new(0),
            clock: SystemClock::new(),
        })
    }

    #[allow(clippy::unused_async)] // The other store asks its server.
    async fn database_time(&self) -> Result<Time> {
        Ok(self.clock.now())
    }

    fn statement_count(&self) -> u64 {
        self.statements.load(Ordering::Relaxed)
    }

    async fn close_pool(&self) {
        self.readers.close().await;
        self.writer.close().await;
    }

    /// Where a statement goes that only reads.
    const fn reading(&self) -> &SqlitePool {
        &self.readers
    }

    /// Where a statement goes that writes.
    const fn writing(&self) -> &SqlitePool {
        &self.writer
    }

    fn count_statement(&self) {
        self.statements.fetch_add(1, Ordering::Relaxed);
    }

    /// A statement.
    fn sql(&self, sql: &'static str) -> Query<'static, sqlx::Sqlite, SqliteArguments> {
        self.count_statement();
        sqlx::query(sql)
    }

    /// A query for rows.
    fn rows<T>(&self, sql: &'static str) -> QueryAs<'static, sqlx::Sqlite, T, SqliteArguments>
    where
        T: for<'r> FromRow<'r, SqliteRow>,
    {
        self.count_statement();
        sqlx::query_as(sql)
    }

    /// A query for a single column.
    fn scalar<T>(&self, sql: &'static str) -> QueryScalar<'static, sqlx::Sqlite, T, SqliteArguments>
    where
        (T,): for<'r> FromRow<'r, SqliteRow>,
    {
        self.count_statement();
        sqlx::query_scalar(sql)
    }

    /// A transaction that may write: it holds the write lock from its start.
    async fn begin(&self) -> Result<Tx> {
        self.count_statement();
        Ok(self.writer.begin_with("BEGIN IMMEDIATE").await?)
    }

    async fn commit(&self, tx: Tx) -> Result<()> {
        self.count_statement();
        Ok(tx.commit().await?)
    }
}

/// That a pending message is not being sent.
macro_rules! not_in_flight {
    ($message:literal) => {
        concat!(
            "NOT EXISTS (SELECT 1 FROM in_flight f WHERE f.device_no = ",
            $message,
            ".device_no AND f.message_id = ",
            $message,
            ".id)"
        )
    };
}

use not_in_flight;

/// A list as the JSON array that `json_each` takes apart.
fn list<T: Serialize>(items: impl IntoIterator<Item = T>) -> Result<String> {
    rows::to_json(&items.into_iter().collect::<Vec<_>>())
}

/// Rows of the statements that take theirs as parameters.
const CHUNK: usize = 64;

/// A list of [`CHUNK`] rows of so many columns, as parameters: to be the last ones of their statement, so that those which
/// are not bound are NULL. Taking a JSON array apart costs SQLite half a microsecond per field, a parameter a tenth, so this
/// is for what happens with each message.
fn values(columns: usize) -> String {
    let row = format!("({})", vec!["?"; columns].join(", "));
    format!("VALUES {}", vec![row; CHUNK].join(", "))
}

/// What a transaction adds to the counts of runs.
#[derive(Debug, Default)]
struct Tally(BTreeMap<RunKey, Delta>);

#[derive(Debug, Clone, Copy, Default)]
struct Delta {
    total: i64,
    sent: i64,
    delivered: i64,
    read: i64,
    failed: i64,
    unknown: i64,
    suppressed: i64,
    expired: i64,
    cancelled: i64,
}

impl Delta {
    fn columns(self) -> [i64; 9] {
        [
            self.total,
            self.sent,
            self.delivered,
            self.read,
            self.failed,
            self.unknown,
            self.suppressed,
            self.expired,
            self.cancelled,
        ]
    }
}

impl Tally {
    /// Counts `n` new messages.
    fn made(&mut self, run: RunKey, n: i64) {
        self.0.entry(run).or_default().total += n;
    }

    /// Counts `n` messages that took this status (or, below zero, left it). Only final ones are counted: what is left of
    /// the total is open.
    fn status(&mut self, run: RunKey, status: i16, n: i64) {
        let delta = self.0.entry(run).or_default();
        match status {
            code::SENT => delta.sent += n,
            code::DELIVERED => delta.delivered += n,
            code::READ => delta.read += n,
            code::FAILED => delta.failed += n,
            code::UNKNOWN => delta.unknown += n,
            code::SUPPRESSED => delta.suppressed += n,
            code::EXPIRED => delta.expired += n,
            code::CANCELLED => delta.cancelled += n,
            _ => {}
        }
    }

    /// Writes it.
    async fn write(self, lite: &Sqlite, tx: &mut Tx) -> Result<()> {
        let runs: Vec<_> =
            self.0.into_iter().map(|(run, d)| (run.0, d.columns())).filter(|(_, d)| *d != [0; 9]).collect();
        if runs.is_empty() {
            return Ok(());
        }
        lite.sql(
            "INSERT INTO run_counts AS c (run_key, shard, total, sent, delivered, read, failed, unknown, suppressed,
                                          expired, cancelled)
             SELECT value ->> 0, 0, value ->> '$[1][0]', value ->> '$[1][1]', value ->> '$[1][2]', value ->> '$[1][3]',
                    value ->> '$[1][4]', value ->> '$[1][5]', value ->> '$[1][6]', value ->> '$[1][7]',
                    value ->> '$[1][8]'
             FROM json_each($1) WHERE TRUE
             ON CONFLICT (run_key, shard) DO UPDATE SET
                 total = c.total + excluded.total, sent = c.sent + excluded.sent,
                 delivered = c.delivered + excluded.delivered, read = c.read + excluded.read,
                 failed = c.failed + excluded.failed, unknown = c.unknown + excluded.unknown,
                 suppressed = c.suppressed + excluded.suppressed, expired = c.expired + excluded.expired,
                 cancelled = c.cancelled + excluded.cancelled",
        )
        .bind(rows::to_json(&runs)?)
        .execute(&mut **tx)
        .await?;
        Ok(())
    }
}

/// Brings the tables up to date, within one transaction that holds the write lock: processes that start together take
/// turns. Several that make the file at once may still find it locked while the first one turns it into WAL mode, which
/// SQLite's own wait does not cover.
async fn migrate(options: &SqliteConnectOptions) -> Result<()> {
    let mut repeats = 0;
    loop {
        match migrate_once(options).await {
            Err(StoreError::Unavailable(_)) if repeats < OPEN_REPEATS => repeats += 1,
            result => return result,
        }
        tokio::time::sleep(OPEN_PAUSE).await;
    }
}

async fn migrate_once(options: &SqliteConnectOptions) -> Result<()> {
    let mut connection = SqliteConnection::connect_with(options).await?;
    let mut tx = connection.begin_with("BEGIN IMMEDIATE").await?;
    // `run` would take any kind of connection, at the price of a future that cannot be spawned.
    migrations::sqlite().run_direct(None, &mut *tx, false).await?;
    tx.commit().await?;
    connection.close().await?;
    Ok(())
}

store_by_subject!(Sqlite);
