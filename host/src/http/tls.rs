//! TLS of the listener, for servers without a proxy in front: a certificate and its key from files, read again when they
//! change, so that a renewed certificate needs no restart.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::Context as _;
use parking_lot::RwLock;
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::signal::unix::{SignalKind, signal};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

/// How often the files are looked at.
const LOOK: Duration = Duration::from_secs(10);

/// The certificate in use.
pub struct Tls {
    cert: PathBuf,
    key: PathBuf,
    config: RwLock<Arc<ServerConfig>>,
}

impl Tls {
    /// Reads a certificate (with those that lead to its root) and its private key, both PEM.
    ///
    /// # Errors
    /// When a file cannot be read, holds nothing of the kind, or the key is another's.
    pub fn load(cert: &Path, key: &Path) -> anyhow::Result<Arc<Self>> {
        let config = RwLock::new(read(cert, key)?);
        Ok(Arc::new(Self { cert: cert.to_owned(), key: key.to_owned(), config }))
    }

    /// What a new connection is accepted with.
    pub(super) fn acceptor(&self) -> TlsAcceptor {
        TlsAcceptor::from(Arc::clone(&self.config.read()))
    }

    /// Reads the files again when they have changed or on SIGHUP, until `stop`. What cannot be read leaves the certificate in
    /// use as it is. Connections that are open keep theirs.
    pub async fn watch(self: Arc<Self>, stop: CancellationToken) {
        let mut hangup = signal(SignalKind::hangup()).ok();
        let mut seen = self.written_at();
        loop {
            let asked = async {
                match &mut hangup {
                    Some(hangup) => hangup.recv().await,
                    None => std::future::pending().await,
                }
            };
            let forced = tokio::select! {
                () = stop.cancelled() => return,
                _ = asked => true,
                () = tokio::time::sleep(LOOK) => false,
            };
            let now = self.written_at();
            if !forced && now == seen {
                continue;
            }
            match read(&self.cert, &self.key) {
                Ok(config) => {
                    *self.config.write() = config;
                    tracing::info!("the certificate was read again");
                    seen = now;
                }
                // Perhaps one of the two files is not there yet: it is tried again.
                Err(error) => tracing::warn!(
                    error = format!("{error:#}"),
                    "the new certificate cannot be used; the one before stays in use"
                ),
            }
        }
    }

    fn written_at(&self) -> [Option<SystemTime>; 2] {
        [&self.cert, &self.key].map(|file| std::fs::metadata(file).and_then(|meta| meta.modified()).ok())
    }
}

fn read(cert: &Path, key: &Path) -> anyhow::Result<Arc<ServerConfig>> {
    let chain = CertificateDer::pem_file_iter(cert)
        .and_then(Iterator::collect::<Result<Vec<_>, _>>)
        .with_context(|| format!("--tls-cert {}", cert.display()))?;
    anyhow::ensure!(!chain.is_empty(), "--tls-cert {}: there is no certificate in PEM in it", cert.display());
    let secret = PrivateKeyDer::from_pem_file(key)
        .with_context(|| format!("--tls-key {}: no private key in PEM can be read from it", key.display()))?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .context("the TLS library has no protocol version")?
        .with_no_client_auth()
        .with_single_cert(chain, secret)
        .with_context(|| format!("--tls-cert {}, --tls-key {}", cert.display(), key.display()))?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_that_are_none_are_named() {
        let folder = tempfile::tempdir().unwrap();
        let (cert, key) = (folder.path().join("cert.pem"), folder.path().join("key.pem"));
        let problem = || format!("{:#}", Tls::load(&cert, &key).err().unwrap());
        assert!(problem().starts_with("--tls-cert"), "{}", problem());
        std::fs::write(&cert, "").unwrap();
        assert!(problem().contains("no certificate"), "{}", problem());
    }
}
