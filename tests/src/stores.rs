//! An empty store of each kind, for one test.

use std::future::Future;
use std::sync::Arc;

use carillon::store::{self, Store};
use tempfile::TempDir;

/// Connections of a test's pool: enough for what a test does at once, few enough for many tests at once.
const CONNECTIONS: u32 = 6;

/// An empty store, and where it is.
pub struct Opened {
    /// The store.
    pub store: Arc<dyn Store>,
    /// `postgres` or `sqlite`.
    pub kind: &'static str,
    /// Its URL.
    pub url: String,
    /// A URL of the same kind where nothing is yet.
    fresh_url: String,
    _folder: Option<TempDir>,
}

impl Opened {
    /// Opens the same fresh place at every call: the first one makes its tables.
    pub fn fresh_opener(&self) -> impl Future<Output = store::Result<Arc<dyn Store>>> + Send + 'static {
        let url = self.fresh_url.clone();
        async move { store::open(&url, CONNECTIONS).await }
    }

    /// Opens the store once more, as another server would.
    pub async fn again(&self) -> Arc<dyn Store> {
        store::open(&self.url, CONNECTIONS).await.expect("opens again")
    }
}

/// A store in a new database of the shared PostgreSQL.
pub async fn postgres() -> Opened {
    let (url, fresh_url) = (crate::postgres::fresh_database().await, crate::postgres::fresh_database().await);
    opened("postgres", url, fresh_url, None).await
}

/// A store in a new SQLite file.
pub async fn sqlite() -> Opened {
    let folder = tempfile::tempdir().expect("a folder");
    let url = |name: &str| format!("sqlite:{}", folder.path().join(name).display());
    let (url, fresh_url) = (url("store.db"), url("fresh.db"));
    opened("sqlite", url, fresh_url, Some(folder)).await
}

async fn opened(kind: &'static str, url: String, fresh_url: String, folder: Option<TempDir>) -> Opened {
    let store = store::open(&url, CONNECTIONS).await.expect("an empty store opens");
    Opened { store, kind, url, fresh_url, _folder: folder }
}
