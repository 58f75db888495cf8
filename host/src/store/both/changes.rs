//! Changes that every server has to hear of.

use super::*;

impl Backend {
    /// Adds one to a change counter. Last in its transaction, because others may wait for the row.
    pub(super) async fn bump(&self, tx: &mut Tx, topic: &'static str) -> Result<()> {
        self.sql("UPDATE revisions SET n = n + 1 WHERE topic = $1").bind(topic).execute(&mut **tx).await?;
        Ok(())
    }

    /// Commits a change that servers learn of by this counter. What changed nothing needs no commit.
    pub(super) async fn commit_change(&self, mut tx: Tx, topic: &'static str) -> Result<()> {
        self.bump(&mut tx, topic).await?;
        self.commit(tx).await
    }
}
