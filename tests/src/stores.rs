//! An empty store of each kind, for one test.

use std::future::Future;
use std::path::Path;
use std::sync::Arc;

use carillon::store::{self, Store};
use tempfile::TempDir;

use crate::postgres::{Database, fresh_database};

/// Connections of a test's pool: enough for what a test does at once, few enough for many tests at once.
const CONNECTIONS: u32 = 6;

/// An empty store, and where it is.
pub struct Opened {
    /// The store.
    pub store: Arc<dyn Store>,
    /// `postgres` or `sqlite`.
    pub kind: &'static str,
    place: Place,
}

/// Where a store is; it goes with this value.
pub enum Place {
    /// A database of the shared server.
    Postgres(Database),
    /// A file in a folder of its own.
    Sqlite(TempDir),
}

impl Place {
    /// What `store::open` takes.
    pub fn url(&self) -> String {
        match self {
            Self::Postgres(database) => database.url.clone(),
            Self::Sqlite(folder) => sqlite_url(folder.path()),
        }
    }

    /// Opens the store that is there, or makes it.
    pub fn open(&self) -> impl Future<Output = store::Result<Arc<dyn Store>>> + Send + 'static {
        let url = self.url();
        async move { store::open(&url, CONNECTIONS).await }
    }
}

fn sqlite_url(folder: &Path) -> String {
    format!("sqlite:{}", folder.join("store.db").display())
}

impl Opened {
    /// The store's URL.
    pub fn url(&self) -> String {
        self.place.url()
    }

    /// Opens the store once more, as another server would.
    pub async fn again(&self) -> Arc<dyn Store> {
        self.place.open().await.expect("opens again")
    }

    /// A place of the same kind where nothing is yet.
    pub async fn fresh_place(&self) -> Place {
        match self.place {
            Place::Postgres(_) => Place::Postgres(fresh_database().await),
            Place::Sqlite(_) => Place::Sqlite(tempfile::tempdir().expect("a folder")),
        }
    }
}

/// A store in a new database of the shared PostgreSQL.
pub async fn postgres() -> Opened {
    opened("postgres", Place::Postgres(fresh_database().await)).await
}

/// A store in a new SQLite file.
pub async fn sqlite() -> Opened {
    opened("sqlite", Place::Sqlite(tempfile::tempdir().expect("a folder"))).await
}

async fn opened(kind: &'static str, place: Place) -> Opened {
    Opened { store: place.open().await.expect("an empty store opens"), kind, place }
}
