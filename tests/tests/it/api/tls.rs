//! TLS of the listener: what comes over it, what a handshake may take, and a certificate that is renewed.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use carillon::http::{self, ConnectionLimits, Tls};
use carillon_tests::server::Setup;
use carillon_tests::wait::eventually;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore, crypto};
use tokio_util::sync::CancellationToken;

use super::Api;

const PATIENCE: Duration = Duration::from_secs(10);

/// Writes a new certificate for `localhost` with its key; returns it.
fn certify(folder: &Path) -> CertificateDer<'static> {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    std::fs::write(folder.join("key.pem"), made.signing_key.serialize_pem()).unwrap();
    std::fs::write(folder.join("cert.pem"), made.cert.pem()).unwrap();
    made.cert.der().clone()
}

/// A connection to `at` that trusts this certificate only.
async fn connect(at: SocketAddr, trusted: &CertificateDer<'static>) -> std::io::Result<TlsStream<TcpStream>> {
    let mut roots = RootCertStore::empty();
    roots.add(trusted.clone()).unwrap();
    let config = ClientConfig::builder_with_provider(Arc::new(crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let stream = TcpStream::connect(at).await?;
    TlsConnector::from(Arc::new(config)).connect(ServerName::try_from("localhost").unwrap(), stream).await
}

/// The answer to a GET, and then the connection is closed.
async fn get(mut stream: TlsStream<TcpStream>, path: &str) -> String {
    let request =
        format!("GET {path} HTTP/1.1\r\nhost: localhost\r\nx-forwarded-proto: http\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    // An end without a farewell is an end.
    let _ = stream.read_to_end(&mut answer).await;
    String::from_utf8(answer).unwrap()
}

#[tokio::test]
async fn over_tls_answers_are_those_of_https_and_a_handshake_has_its_time() {
    let api = Api::start().await;
    let folder = tempfile::tempdir().unwrap();
    let cert = certify(folder.path());
    let tls = Tls::load(&folder.path().join("cert.pem"), &folder.path().join("key.pem")).unwrap();
    let limits =
        ConnectionLimits { handshake: Duration::from_millis(300), connections: 2, ..ConnectionLimits::default() };
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let at = listener.local_addr().unwrap();
    let router = http::router(api.core.clone(), axum::Router::new());
    let stop = CancellationToken::new();
    let serving = tokio::spawn(http::serve(listener, Some(tls), router, limits, stop.clone()));

    let answer = get(connect(at, &cert).await.unwrap(), "/healthz").await;
    assert!(answer.starts_with("HTTP/1.1 200 OK"), "{answer}");
    // Whatever the request says about itself, it came over TLS.
    assert!(answer.contains("strict-transport-security: max-age=31536000"), "{answer}");

    // As many as there are places say nothing, half a hello, or speak plain HTTP: they are closed, and the next one is served.
    for beginning in ["", "\x16\x03\x01", "GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n"] {
        let mut silent = Vec::new();
        for _ in 0..limits.connections {
            let mut stream = TcpStream::connect(at).await.unwrap();
            stream.write_all(beginning.as_bytes()).await.unwrap();
            silent.push(stream);
        }
        let answer = get(connect(at, &cert).await.unwrap(), "/healthz").await;
        assert!(answer.starts_with("HTTP/1.1 200 OK"), "{beginning:?}: {answer}");
        for mut stream in silent {
            let mut said = Vec::new();
            let _ = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut said)).await.expect("it is closed");
            assert!(!said.starts_with(b"HTTP"), "{beginning:?}");
        }
    }
    // A handshake that is under way does not hold up a stop.
    let _silent = TcpStream::connect(at).await.unwrap();
    stop.cancel();
    tokio::time::timeout(PATIENCE, serving).await.expect("it stops").unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_renewed_certificate_needs_no_restart() {
    let data = tempfile::tempdir().unwrap();
    let first = certify(data.path());
    let setup = Setup::embedded(data.path(), &[])
        .with("CARILLON_TLS_CERT", data.path().join("cert.pem").display().to_string())
        .with("CARILLON_TLS_KEY", data.path().join("key.pem").display().to_string());
    let server = setup.spawn();
    let at = SocketAddr::from(([127, 0, 0, 1], setup.port));
    eventually("it is ready", Duration::from_secs(60), || async {
        match connect(at, &first).await {
            Ok(stream) => get(stream, "/readyz").await.starts_with("HTTP/1.1 200"),
            Err(_) => false,
        }
    })
    .await;
    let hang_up = || {
        let sent = std::process::Command::new("kill").args(["-HUP", &server.pid().to_string()]).status();
        assert!(sent.unwrap().success());
    };
    // Half of a renewal: the key is another's. What is in use stays.
    let key = std::fs::read(data.path().join("key.pem")).unwrap();
    let second = certify(data.path());
    let new_key = std::fs::read(data.path().join("key.pem")).unwrap();
    std::fs::write(data.path().join("key.pem"), key).unwrap();
    hang_up();
    eventually("it says that it cannot use it", PATIENCE, || async {
        server.log().contains("the new certificate cannot be used")
    })
    .await;
    connect(at, &first).await.expect("the first one is in use");
    std::fs::write(data.path().join("key.pem"), new_key).unwrap();
    hang_up();
    eventually("the new certificate is in use", PATIENCE, || async { connect(at, &second).await.is_ok() }).await;
    assert!(connect(at, &first).await.is_err());
    assert!(get(connect(at, &second).await.unwrap(), "/readyz").await.starts_with("HTTP/1.1 200"));
}
