//! What a connection may take before anybody has said who they are.

use std::time::Duration;

use carillon::http::ConnectionLimits;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::Api;

const PATIENCE: Duration = Duration::from_secs(10);

async fn connect(api: &Api) -> TcpStream {
    TcpStream::connect(api.base.strip_prefix("http://").unwrap()).await.unwrap()
}

/// Everything that the server sends until it closes the connection.
async fn until_closed(stream: &mut TcpStream) -> String {
    let mut said = Vec::new();
    // A reset is an end, too.
    let _ = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut said)).await.expect("the server closes it");
    String::from_utf8(said).unwrap()
}

#[tokio::test]
async fn one_that_says_nothing_or_half_a_head_is_closed() {
    let limits = ConnectionLimits { head: Duration::from_millis(200), ..ConnectionLimits::default() };
    let api = Api::start_within(limits, |_| {}).await;
    // The last one begins as HTTP/2 does.
    for beginning in ["", "G", "GET /healthz HTTP/1.1\r\nhost: x\r\nx-slow: ", "PRI * HT"] {
        let mut stream = connect(&api).await;
        stream.write_all(beginning.as_bytes()).await.unwrap();
        let said = until_closed(&mut stream).await;
        assert!(!said.contains("200 OK"), "{beginning:?}: {said}");
    }
    let mut idle = connect(&api).await;
    idle.write_all(b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n").await.unwrap();
    assert!(until_closed(&mut idle).await.starts_with("HTTP/1.1 200 OK"), "and then it is closed");
}

#[tokio::test]
async fn there_is_a_limit_to_their_number_and_a_place_comes_free_again() {
    let limits = ConnectionLimits { connections: 2, ..ConnectionLimits::default() };
    let api = Api::start_within(limits, |_| {}).await;
    let ask = b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n";
    let mut open = Vec::new();
    for _ in 0..2 {
        let mut stream = connect(&api).await;
        stream.write_all(ask).await.unwrap();
        assert!(stream.read(&mut [0; 64]).await.unwrap() > 0);
        open.push(stream);
    }
    let mut third = connect(&api).await;
    third.write_all(ask).await.unwrap();
    let mut byte = [0];
    assert!(tokio::time::timeout(Duration::from_millis(300), third.read(&mut byte)).await.is_err(), "it waits");
    drop(open.pop());
    assert_eq!(tokio::time::timeout(PATIENCE, third.read(&mut byte)).await.unwrap().unwrap(), 1);
}
