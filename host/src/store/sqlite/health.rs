//! What the library is. Its settings are made when the file is opened.

use super::*;

pub(super) async fn health(lite: &Sqlite) -> Result<StoreHealth> {
    let version: String = lite.scalar("SELECT sqlite_version()").fetch_one(&lite.readers).await?;
    Ok(StoreHealth { server: format!("SQLite {version}"), warnings: Vec::new(), log_bytes: None })
}
