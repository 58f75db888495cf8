//! Which campaign a command was working on: a file in the data folder, so that the next start goes on with it.

use std::io::ErrorKind;
use std::path::{Path, PathBuf};

use anyhow::Context;

use crate::id::CampaignId;

/// The place where a command keeps the id of its campaign.
pub struct Bookmark {
    path: PathBuf,
}

impl Bookmark {
    /// The bookmark called `key` in a data folder.
    pub fn new(data: &Path, key: &str) -> Self {
        Self { path: data.join("cli").join(key) }
    }

    /// The campaign, if one was kept. A file that does not read as an id counts as none.
    pub fn read(&self) -> anyhow::Result<Option<CampaignId>> {
        match std::fs::read_to_string(&self.path) {
            Ok(text) => Ok(text.trim().parse().ok()),
            Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error).with_context(|| format!("reading {}", self.path.display())),
        }
    }

    /// Keeps a campaign. Written aside and renamed: a crash leaves the old one or the new one.
    pub fn write(&self, id: CampaignId) -> anyhow::Result<()> {
        let what = || format!("writing {}", self.path.display());
        if let Some(folder) = self.path.parent() {
            std::fs::create_dir_all(folder).with_context(what)?;
        }
        let aside = self.path.with_extension("new");
        std::fs::write(&aside, id.to_string()).with_context(what)?;
        std::fs::rename(&aside, &self.path).with_context(what)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_kept_is_read_again() {
        let data = tempfile::tempdir().unwrap();
        let bookmark = Bookmark::new(data.path(), "demo");
        assert_eq!(bookmark.read().unwrap(), None);
        let id = CampaignId::new();
        bookmark.write(id).unwrap();
        assert_eq!(bookmark.read().unwrap(), Some(id));
        std::fs::write(data.path().join("cli/demo"), "half an i").unwrap();
        assert_eq!(bookmark.read().unwrap(), None);
    }
}
