//! What the library is. Its settings are made when the file is opened.

use super::*;

pub(super) async fn health(lite: &Sqlite) -> Result<StoreHealth> {
    let version: String = lite.scalar("SELECT sqlite_version()").fetch_one(&lite.readers).await?;
    Ok(StoreHealth { server: format!("SQLite {version}"), warnings: Vec::new(), log_bytes: None })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_full_disk_is_told_and_takes_writes_again_when_there_is_room() {
        let folder = tempfile::tempdir().unwrap();
        let lite = Sqlite::open(&format!("sqlite:{}", folder.path().join("full.db").display())).await.unwrap();
        // There is one writer, and a limit of its connection: beyond it SQLite does what it does on a full disk.
        let pages: i64 = lite.scalar("PRAGMA page_count").fetch_one(&lite.writer).await.unwrap();
        let limit = |pages: i64| sqlx::query(sqlx::AssertSqlSafe(format!("PRAGMA max_page_count = {pages}")));
        limit(pages).execute(&lite.writer).await.unwrap();
        let insert = || lite.sql("INSERT INTO revisions (topic, n) VALUES ($1, 0)").bind("x".repeat(100_000));
        let mut tx = lite.begin().await.unwrap();
        let refused = StoreError::from(insert().execute(&mut *tx).await.unwrap_err());
        drop(tx);
        assert!(matches!(refused, StoreError::Unavailable(_)), "{refused:?}");
        assert!(refused.told().contains("disk is full"), "{refused:?}");
        limit(pages + 10_000).execute(&lite.writer).await.unwrap();
        let mut tx = lite.begin().await.expect("the transaction that SQLite ended by itself is over");
        insert().execute(&mut *tx).await.unwrap();
        lite.commit(tx).await.unwrap();
        let away = StoreError::from(sqlx::Error::PoolTimedOut);
        assert!(!away.told().contains("full"), "{away:?}");
    }
}
