//! What an SQL error means.

use sqlx::postgres::PgDatabaseError;
use sqlx::sqlite::SqliteError;

use crate::store::StoreError;

impl From<sqlx::Error> for StoreError {
    fn from(error: sqlx::Error) -> Self {
        if is_unavailable(&error) { Self::Unavailable(error.into()) } else { Self::Internal(error.into()) }
    }
}

impl From<sqlx::migrate::MigrateError> for StoreError {
    fn from(error: sqlx::migrate::MigrateError) -> Self {
        match error {
            sqlx::migrate::MigrateError::Execute(error) => error.into(),
            other => Self::Internal(other.into()),
        }
    }
}

/// Whether the same statement may succeed later.
fn is_unavailable(error: &sqlx::Error) -> bool {
    use sqlx::Error as E;
    match error {
        E::Io(_) | E::Tls(_) | E::PoolTimedOut | E::PoolClosed | E::WorkerCrashed => true,
        // What ends in the middle of a conversation, as of a database that is killed while it is called, reads as one that
        // breaks the protocol.
        E::Protocol(_) => true,
        E::Database(db) => {
            let code = db.code().unwrap_or_default();
            if db.try_downcast_ref::<PgDatabaseError>().is_some() {
                // Connection lost, conflicts between transactions, out of resources, shutting down, a lock not
                // granted, a server that has become a standby, a transaction that idled too long, an I/O error.
                ["08", "40", "53", "57", "55P03", "25006", "25P03", "58"].iter().any(|class| code.starts_with(class))
            } else if db.try_downcast_ref::<SqliteError>().is_some() {
                // Busy, locked, I/O error, disk full, cannot open: the low byte of the extended code.
                code.parse::<i32>().is_ok_and(|c| matches!(c & 0xff, 5 | 6 | 10 | 13 | 14))
            } else {
                false
            }
        }
        _ => false,
    }
}

/// The SQL error behind a store's error.
fn database_error(error: &StoreError) -> Option<&dyn sqlx::error::DatabaseError> {
    match error {
        StoreError::Unavailable(source) | StoreError::Internal(source) => {
            source.downcast_ref::<sqlx::Error>()?.as_database_error()
        }
        StoreError::Exists { .. } | StoreError::Conflict(_) => None,
    }
}

/// Whether two transactions of PostgreSQL stood in each other's way: the loser may simply run again.
pub fn lost_to_another(error: &StoreError) -> bool {
    database_error(error).is_some_and(|db| {
        db.try_downcast_ref::<PgDatabaseError>().is_some() && db.code().is_some_and(|c| c.starts_with("40"))
    })
}

/// Whether it was refused because there is no room on the database's disk.
pub fn disk_full(error: &StoreError) -> bool {
    database_error(error).is_some_and(|db| {
        let code = db.code().unwrap_or_default();
        match db.try_downcast_ref::<PgDatabaseError>() {
            Some(_) => code == "53100",
            None => code.parse::<i32>().is_ok_and(|c| c & 0xff == 13),
        }
    })
}

/// A row that breaks the store's own rules.
pub fn broken(what: impl std::fmt::Display) -> StoreError {
    StoreError::Internal(anyhow::anyhow!("the store holds {what} that does not read"))
}

#[cfg(test)]
mod tests {
    use sqlx::Connection as _;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

    use super::*;

    #[tokio::test]
    async fn a_conversation_that_breaks_off_may_go_on_later() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let broken = tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            stream.read_exact(&mut [0; 8]).await.unwrap();
            stream.write_all(&[0]).await.unwrap();
        });
        let url = format!("postgres://carillon@127.0.0.1:{port}/carillon");
        let error = sqlx::PgConnection::connect(&url).await.unwrap_err();
        assert!(matches!(error, sqlx::Error::Protocol(_)), "{error:?}");
        assert!(matches!(StoreError::from(error), StoreError::Unavailable(_)));
        broken.await.unwrap();
    }
}
