//! Compiled code on disk, so that a start does not compile every plugin again.
//!
//! Loading compiled code is as good as running it, so nothing is loaded that this server did not write: the folder is its
//! user's alone, and each file is sealed with a key that never leaves the folder. A file that does not fit is deleted and
//! compiled anew; the cache can be removed at any time.

use std::fs::{self, DirBuilder, OpenOptions};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::io::{self, Read, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;
use wasmtime::Engine;
use wasmtime::component::Component;

use crate::id::Digest;

/// A folder of compiled components.
pub(super) struct CodeCache {
    dir: PathBuf,
    key: [u8; 32],
    /// Stands for the version and settings of the engine: code of another is of no use.
    engine: String,
}

impl CodeCache {
    /// Opens the folder, making it and its key when they are missing, and removes code of other engines.
    pub(super) fn open(dir: &Path, engine: &Engine) -> anyhow::Result<Self> {
        DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(dir)
            .and_then(|()| fs::set_permissions(dir, fs::Permissions::from_mode(0o700)))
            .with_context(|| format!("cannot make the folder {} for compiled plugins", dir.display()))?;
        let key = key(dir).with_context(|| format!("cannot read or make the key in {}", dir.display()))?;
        let mut hasher = DefaultHasher::new();
        engine.precompile_compatibility_hash().hash(&mut hasher);
        let cache = Self { dir: dir.to_owned(), key, engine: format!("{:016x}", hasher.finish()) };
        cache.remove_foreign();
        Ok(cache)
    }

    /// The code compiled from the component with this digest, if it is here and whole.
    pub(super) fn load(&self, engine: &Engine, digest: &Digest) -> Option<Component> {
        let path = self.path(digest);
        if !path.exists() {
            return None;
        }
        match self.open_sealed(engine, digest, &path) {
            Ok(component) => Some(component),
            Err(error) => {
                tracing::warn!(plugin.digest = %digest, error = format!("{error:#}"), "compiled plugin code is damaged; compiling anew");
                self.remove(&path);
                None
            }
        }
    }

    #[allow(unsafe_code)]
    fn open_sealed(&self, engine: &Engine, digest: &Digest, path: &Path) -> anyhow::Result<Component> {
        let seal = fs::read(seal_path(path)).context("its seal cannot be read")?;
        anyhow::ensure!(bool::from(seal.as_slice().ct_eq(&self.seal(digest, path)?)), "its seal does not fit");
        // SAFETY: the seal proves that this server's own engine wrote these bytes for this component; only its user can write
        // to the folder, and files in it are replaced as a whole, never changed.
        Ok(unsafe { Component::deserialize_file(engine, path) }?)
    }

    /// Keeps the code of a component that was compiled here.
    pub(super) fn keep_component(&self, digest: &Digest, component: &Component) {
        match component.serialize() {
            Ok(code) => self.keep(digest, &code),
            Err(error) => {
                tracing::warn!(plugin.digest = %digest, error = format!("{error:#}"), "cannot keep compiled plugin code")
            }
        }
    }

    /// Keeps the code of a component, as the engine made it. Failing is not fatal: it is compiled again next time.
    pub(super) fn keep(&self, digest: &Digest, code: &[u8]) {
        if let Err(error) = self.write(digest, code) {
            tracing::warn!(plugin.digest = %digest, error = format!("{error:#}"), "cannot keep compiled plugin code");
        }
    }

    fn write(&self, digest: &Digest, code: &[u8]) -> anyhow::Result<()> {
        let path = self.path(digest);
        let mut file = tempfile::Builder::new().prefix(".new-").tempfile_in(&self.dir)?;
        file.write_all(code)?;
        let seal = self.seal(digest, file.path())?;
        let mut seal_file = tempfile::Builder::new().prefix(".new-").tempfile_in(&self.dir)?;
        seal_file.write_all(&seal)?;
        // Code without its seal is nothing; a seal without its code is not looked at.
        seal_file.persist(seal_path(&path))?;
        file.persist(&path)?;
        Ok(())
    }

    /// Removes the code of a component, where there is any.
    pub(super) fn forget(&self, digest: &Digest) {
        self.remove(&self.path(digest));
    }

    fn path(&self, digest: &Digest) -> PathBuf {
        self.dir.join(format!("{}-{digest}.cwasm", self.engine))
    }

    /// What only the holder of the key can compute for this component's code. The inner digest has a fixed length, so the
    /// outer one cannot be extended.
    fn seal(&self, digest: &Digest, path: &Path) -> io::Result<[u8; 32]> {
        let mut content = Sha256::new();
        let mut file = fs::File::open(path)?;
        let mut buffer = vec![0; 256 << 10];
        loop {
            let read = file.read(&mut buffer)?;
            let Some(bytes) = buffer.get(..read).filter(|b| !b.is_empty()) else { break };
            content.update(bytes);
        }
        let mut outer = Sha256::new();
        outer.update(self.key);
        outer.update(self.engine.as_bytes());
        outer.update(digest.0);
        outer.update(content.finalize());
        Ok(outer.finalize().into())
    }

    fn remove(&self, path: &Path) {
        for path in [path.to_owned(), seal_path(path)] {
            // Whoever was first has done it.
            let _ = fs::remove_file(path);
        }
    }

    fn remove_foreign(&self) {
        let Ok(entries) = fs::read_dir(&self.dir) else { return };
        for entry in entries.flatten() {
            let name = entry.file_name();
            let Some(name) = name.to_str() else { continue };
            if name.ends_with(".cwasm") && !name.starts_with(&self.engine) {
                self.remove(&entry.path());
            }
        }
    }
}

fn seal_path(path: &Path) -> PathBuf {
    path.with_extension("seal")
}

/// Reads the folder's key; makes it when there is none. Two servers that start at once agree on the first one's.
fn key(dir: &Path) -> anyhow::Result<[u8; 32]> {
    let path = dir.join("key");
    if !path.exists() {
        let new = dir.join(format!(".key-{}", uuid::Uuid::new_v4()));
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new)?;
        file.write_all(&rand::random::<[u8; 32]>())?;
        file.sync_all()?;
        let linked = fs::hard_link(&new, &path);
        fs::remove_file(&new)?;
        if let Err(error) = linked
            && error.kind() != io::ErrorKind::AlreadyExists
        {
            return Err(error.into());
        }
    }
    let bytes = fs::read(&path)?;
    bytes.try_into().map_err(|_| anyhow::anyhow!("the key must have 32 bytes; remove it to have a new one made"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_code_that_this_server_wrote_is_loaded() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().join("plugins");
        let engine = Engine::default();
        let cache = CodeCache::open(&dir, &engine).unwrap();
        let bytes: &[u8] = b"\0asm\x0d\0\x01\0";
        let digest = Digest::of(bytes);
        assert!(cache.load(&engine, &digest).is_none());
        cache.keep_component(&digest, &Component::new(&engine, bytes).unwrap());
        assert!(cache.load(&engine, &digest).is_some());
        assert_eq!(fs::metadata(&dir).unwrap().permissions().mode() & 0o777, 0o700);
        assert_eq!(fs::metadata(dir.join("key")).unwrap().permissions().mode() & 0o777, 0o600);

        // The same code under another component's name is not taken, nor is code that was touched.
        let other = Digest::of(b"other");
        fs::copy(cache.path(&digest), cache.path(&other)).unwrap();
        fs::copy(seal_path(&cache.path(&digest)), seal_path(&cache.path(&other))).unwrap();
        assert!(cache.load(&engine, &other).is_none());
        let mut code = fs::read(cache.path(&digest)).unwrap();
        *code.last_mut().unwrap() ^= 1;
        fs::write(cache.path(&digest), code).unwrap();
        assert!(cache.load(&engine, &digest).is_none());
        assert!(!cache.path(&digest).exists());

        cache.keep_component(&digest, &Component::new(&engine, bytes).unwrap());
        cache.forget(&digest);
        cache.forget(&digest);
        assert!(!cache.path(&digest).exists() && !seal_path(&cache.path(&digest)).exists());
    }

    #[test]
    fn the_key_stays_and_code_of_other_engines_goes() {
        let dir = tempfile::tempdir().unwrap();
        let engine = Engine::default();
        let first = CodeCache::open(dir.path(), &engine).unwrap();
        fs::write(dir.path().join("0000-old.cwasm"), "x").unwrap();
        let second = CodeCache::open(dir.path(), &engine).unwrap();
        assert_eq!(first.key, second.key);
        assert!(!dir.path().join("0000-old.cwasm").exists());
    }
}
