//! The store in PostgreSQL.
//!
//! Statements are constant texts over arrays, so that a batch is one round trip and every statement stays prepared.
//! Isolation is `READ COMMITTED`: each write carries its own condition, and rows are locked where two statements must see
//! the same state.

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
mod tokens;
mod turn;
mod unknown;

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
use std::future::Future;
use std::str::FromStr as _;
use std::sync::atomic::{AtomicU16, AtomicU64, Ordering};
use std::time::Duration;

use sqlx::postgres::{PgArguments, PgConnectOptions, PgConnection, PgPoolOptions, PgRow};
use sqlx::query::{Query, QueryAs, QueryScalar};
use sqlx::{Connection as _, Executor as _, FromRow, PgPool, Transaction};

use self::turn::{not_in_flight, still_runs, still_sequences};
use super::dispatch::store_by_subject;
use super::rows;
use super::*;

/// How long to wait for a connection, new or from the pool.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a connection may be idle before it is asked whether it still lives.
const IDLE_CHECK: Duration = Duration::from_secs(2);
/// How often a transaction that lost against another one is run again.
const MAX_REPEATS: u32 = 10;

/// Rows of `run_counts` that a run has at most.
const SHARDS: u16 = 16;

/// A store in PostgreSQL 14 or newer.
#[derive(Debug)]
pub struct Postgres {
    pool: PgPool,
    statements: AtomicU64,
    errors: AtomicU64,
    /// Where [`Self::shard`] is.
    turn: AtomicU16,
}

type Tx = Transaction<'static, sqlx::Postgres>;
/// This one, for the modules of both.
type Backend = Postgres;

const LOCKED_PLUGIN: &str = "SELECT active_no FROM plugins WHERE name = $1 FOR UPDATE";
const COUNTS_OF_ROLLOUTS: &str = "SELECT rollout_no, counts FROM rollout_counts WHERE rollout_no = ANY($1)";

impl Postgres {
    const KIND: &'static str = "postgres";

    /// While one group waits for the disk the next is with the server, and a third's messages are being sent. Larger groups
    /// would have the 500 workers in one or two of them, and the processor idle in between.
    const GROUPING: Grouping = Grouping { groups: 3, turns: 170 };

    /// Connects, brings the tables up to date, and opens a pool of at most `connections`.
    ///
    /// # Errors
    /// `Unavailable` when the server cannot be reached now.
    pub async fn open(url: &str, connections: u32) -> Result<Self> {
        let options = PgConnectOptions::from_str(url)
            .map_err(|_| StoreError::Internal(anyhow::anyhow!("the URL of the PostgreSQL server does not read")))?
            .application_name("carillon")
            .statement_cache_capacity(256);
        migrate(&options).await?;
        let pool = PgPoolOptions::new()
            .max_connections(connections.max(2))
            .acquire_timeout(CONNECT_TIMEOUT)
            // Asking a connection before each use would double the round trips of a busy store: only one that has been
            // idle is asked whether it still lives.
            .test_before_acquire(false)
            .before_acquire(|connection, meta| {
                Box::pin(async move {
                    if meta.idle_for >= IDLE_CHECK {
                        connection.ping().await?;
                    }
                    Ok(true)
                })
            })
            .after_connect(|connection, _| {
                Box::pin(async move {
                    // A server that stalls in a transaction must not keep its locks. The statements are small:
                    // compiling them (jit) costs more than it saves. They are planned once, for arrays of any length:
                    // planned for the arrays at hand, with the statistics of a table that was just filled, a group would
                    // now and then read the whole table.
                    connection
                        .execute(
                            "SET idle_in_transaction_session_timeout = '30s'; SET statement_timeout = '60s'; \
                             SET jit = off; SET plan_cache_mode = force_generic_plan",
                        )
                        .await?;
                    Ok(())
                })
            })
            .connect_with(options)
            .await?;
        Ok(Self {
            pool,
            statements: AtomicU64::new(0),
            errors: AtomicU64::new(0),
            turn: AtomicU16::new(rand::random()),
        })
    }

    /// Which of a run's rows of `run_counts` a transaction adds to: with one for all, each would wait until the one before
    /// it has reached the disk.
    fn shard(&self) -> i16 {
        i16::try_from(self.turn.fetch_add(1, Ordering::Relaxed) % SHARDS).unwrap_or_default()
    }

    async fn database_time(&self) -> Result<Time> {
        let ms = self.scalar("SELECT (extract(epoch FROM clock_timestamp()) * 1000)::bigint");
        Ok(Time::from_ms(ms.fetch_one(&self.pool).await?))
    }

    fn statement_count(&self) -> u64 {
        self.statements.load(Ordering::Relaxed)
    }

    async fn close_pool(&self) {
        self.pool.close().await;
    }

    /// Where a statement goes that only reads.
    const fn reading(&self) -> &PgPool {
        &self.pool
    }

    /// Where a statement goes that writes.
    const fn writing(&self) -> &PgPool {
        &self.pool
    }

    fn count_statement(&self) {
        self.statements.fetch_add(1, Ordering::Relaxed);
    }

    /// A statement.
    fn sql(&self, sql: &'static str) -> Query<'static, sqlx::Postgres, PgArguments> {
        self.count_statement();
        sqlx::query(sql)
    }

    /// A query for rows.
    fn rows<T>(&self, sql: &'static str) -> QueryAs<'static, sqlx::Postgres, T, PgArguments>
    where
        T: for<'r> FromRow<'r, PgRow>,
    {
        self.count_statement();
        sqlx::query_as(sql)
    }

    /// A query for a single column.
    fn scalar<T>(&self, sql: &'static str) -> QueryScalar<'static, sqlx::Postgres, T, PgArguments>
    where
        (T,): for<'r> FromRow<'r, PgRow>,
    {
        self.count_statement();
        sqlx::query_scalar(sql)
    }

    async fn begin(&self) -> Result<Tx> {
        self.count_statement();
        Ok(self.pool.begin().await?)
    }

    async fn commit(&self, tx: Tx) -> Result<()> {
        self.count_statement();
        Ok(tx.commit().await?)
    }
}

/// A list as a parameter.
#[allow(clippy::unnecessary_wraps)] // The other backend's can fail.
fn list<T>(items: impl IntoIterator<Item = T>) -> Result<Vec<T>> {
    Ok(items.into_iter().collect())
}

/// Runs a transaction again while it loses against others (deadlock, serialization).
async fn repeating<T, F>(transaction: impl Fn() -> F) -> Result<T>
where
    F: Future<Output = Result<T>>,
{
    let mut repeats = 0;
    loop {
        match transaction().await {
            Err(error) if repeats < MAX_REPEATS && rows::lost_to_another(&error) => repeats += 1,
            result => return result,
        }
    }
}

/// Brings the tables up to date on a connection of its own, without the pool's time limits. An advisory lock makes servers
/// that start together wait for the first.
async fn migrate(options: &PgConnectOptions) -> Result<()> {
    let connect = tokio::time::timeout(CONNECT_TIMEOUT, PgConnection::connect_with(options));
    let mut connection = connect
        .await
        .map_err(|_| StoreError::Unavailable(anyhow::anyhow!("no answer to the attempt to connect")))??;
    // `run` would take any kind of connection, at the price of a future that cannot be spawned.
    migrations::postgres().run_direct(None, &mut connection, false).await?;
    connection.close().await?;
    Ok(())
}

store_by_subject!(Postgres);
