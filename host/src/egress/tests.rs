//! The client against real servers on loopback, which the tests' policy grants where it should be reachable.

use std::convert::Infallible;
use std::net::SocketAddr;

use hyper::body::Incoming;
use hyper::header::HeaderValue;
use hyper::service::service_fn;
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

use super::*;
use crate::grants::Grants;

const SOON: Duration = Duration::from_secs(10);

/// A server that goes away with the test.
struct Server {
    address: SocketAddr,
    connections: Arc<AtomicUsize>,
    task: JoinHandle<()>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Server {
    /// Hands every connection to `serve`, with its number from 0.
    async fn raw<F, Fut>(serve: F) -> Self
    where
        F: Fn(TcpStream, usize) -> Fut + Send + 'static,
        Fut: Future<Output = ()> + Send + 'static,
    {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let connections = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&connections);
        let task = tokio::spawn(async move {
            let mut serving = tokio::task::JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                serving.spawn(serve(stream, counted.fetch_add(1, Ordering::SeqCst)));
            }
        });
        Self { address, connections, task }
    }

    /// An HTTP server: `/echo…` repeats the request's line, headers and body, `/elsewhere` redirects, `/large` is large,
    /// `/endless` has no end, `/silent…` never answers.
    async fn http() -> Self {
        Self::raw(|stream, _| async move {
            let service =
                service_fn(|request: Request<Incoming>| async move { Ok::<_, Infallible>(site(request).await) });
            let _ = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
        })
        .await
    }

    fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    fn grant(&self) -> EgressPolicy {
        EgressPolicy { allow: vec![self.address.to_string().parse().unwrap()], ..EgressPolicy::default() }
    }
}

type Reply = Response<http_body_util::combinators::BoxBody<Bytes, Infallible>>;

async fn site(request: Request<Incoming>) -> Reply {
    let reply = |status: StatusCode, body: Bytes| {
        let mut reply = Response::new(Full::new(body).boxed());
        *reply.status_mut() = status;
        reply
    };
    match request.uri().path() {
        path if path.starts_with("/echo") => {
            let mut said = format!("{} {}\n", request.method(), request.uri());
            for (name, value) in request.headers() {
                said += &format!("{name}: {}\n", String::from_utf8_lossy(value.as_bytes()));
            }
            said += "\n";
            let body = request.into_body().collect().await.unwrap().to_bytes();
            reply(StatusCode::OK, [said.as_bytes(), &body].concat().into())
        }
        "/elsewhere" => {
            let mut reply = reply(StatusCode::FOUND, Bytes::new());
            reply.headers_mut().insert("location", HeaderValue::from_static("/echo"));
            reply
        }
        "/large" => reply(StatusCode::OK, Bytes::from(vec![b'x'; 5000])),
        "/endless" => {
            // Whoever reads all of it before looking at its size never gets there.
            let chunks = futures::stream::repeat_with(|| Ok(hyper::body::Frame::data(Bytes::from(vec![b'x'; 100]))));
            Response::new(http_body_util::StreamBody::new(chunks).boxed())
        }
        path if path.starts_with("/silent") => std::future::pending().await,
        _ => reply(StatusCode::NOT_FOUND, Bytes::new()),
    }
}

/// Of a plugin that may do everything.
fn all() -> Licence {
    Licence::unbounded("all")
}

fn post(url: &str) -> EgressRequest {
    EgressRequest {
        method: "POST".into(),
        url: url.into(),
        headers: vec![("content-type".into(), "application/json".into())],
        body: Body::Text("{}".into()),
        timeout: SOON,
    }
}

fn with_header(url: &str, name: &str, value: &str) -> EgressRequest {
    let mut request = post(url);
    request.headers.push((name.into(), value.into()));
    request
}

fn response(answer: EgressAnswer) -> EgressResponse {
    match answer {
        EgressAnswer::Response(response) => response,
        other => panic!("{other:?}"),
    }
}

fn not_sent(answer: EgressAnswer) -> String {
    match answer {
        EgressAnswer::NotSent(why) => why,
        other => panic!("{other:?}"),
    }
}

fn unanswered(answer: EgressAnswer) -> String {
    match answer {
        EgressAnswer::Unanswered(why) => why,
        other => panic!("{other:?}"),
    }
}

/// Reads from a socket until the request's body, `{}`, is there.
async fn read_request(stream: &mut TcpStream) {
    let mut read = Vec::new();
    while !read.ends_with(b"{}") {
        assert_ne!(stream.read_buf(&mut read).await.unwrap(), 0);
    }
}

const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok";

#[tokio::test]
async fn a_request_arrives_as_the_plugin_wrote_it() {
    let server = Server::http().await;
    let egress = Egress::new(server.grant()).unwrap();
    let answer = response(egress.send(&all(), with_header(&server.url("/echo?a=%20b#part"), "X-Key", "é"), SOON).await);
    assert_eq!(answer.status, 200);
    assert!(answer.headers.iter().any(|(name, _)| name == "content-length"));

    let mut empty = post(&server.url("/echo?a"));
    empty.body = Body::Empty;
    let answer = response(egress.send(&all(), empty, SOON).await);
    let said = String::from_utf8(answer.body.to_vec()).unwrap();
    assert!(said.starts_with("POST /echo?a\n"), "{said}");
    assert!(said.contains(&format!("host: {}\n", server.address)), "{said}");
    assert!(said.contains("content-length: 0\n") && said.contains("user-agent: carillon/"), "{said}");
    assert!(said.contains("content-type: application/json\n"), "{said}");
}

#[tokio::test]
async fn connections_are_kept_alive_and_counted() {
    let server = Server::http().await;
    let egress = Egress::new(server.grant()).unwrap();
    for _ in 0..5 {
        assert_eq!(response(egress.clone().send(&all(), post(&server.url("/echo")), SOON).await).status, 200);
    }
    assert_eq!(server.connections.load(Ordering::SeqCst), 1);
    let stats = egress.stats();
    assert_eq!((stats.connections, stats.responses, stats.in_flight), (1, 5, 0));
    assert!(stats.received_bytes > 0);
}

#[tokio::test]
async fn loopback_is_refused_without_a_grant_in_every_spelling() {
    let server = Server::http().await;
    let port = server.address.port();
    let egress = Egress::new(EgressPolicy::default()).unwrap();
    // `localhost` stands for any name whose owner points it at a private address.
    for host in [
        "127.0.0.1",
        "localhost",
        "2130706433",
        "0x7f000001",
        "0177.0.0.1",
        "127.1",
        "[::1]",
        "[::ffff:127.0.0.1]",
        "0",
    ] {
        let why = not_sent(egress.send(&all(), post(&format!("http://{host}:{port}/echo")), SOON).await);
        assert!(why.contains("loopback") || why.contains("unspecified"), "{host}: {why}");
    }
    assert_eq!(server.connections.load(Ordering::SeqCst), 0);
    assert_eq!(egress.stats().not_sent, 9);
}

#[tokio::test]
async fn a_grant_is_for_one_host_and_port_as_they_are_written() {
    let server = Server::http().await;
    let egress = Egress::new(server.grant()).unwrap();
    let port = server.address.port();
    assert!(
        not_sent(egress.send(&all(), post(&format!("http://localhost:{port}/echo")), SOON).await).contains("loopback")
    );
    let other = if port == 1 { 2 } else { 1 };
    assert!(
        not_sent(egress.send(&all(), post(&format!("http://127.0.0.1:{other}/echo")), SOON).await).contains("loopback")
    );

    let by_name = EgressPolicy { allow: vec![format!("localhost:{port}").parse().unwrap()], ..EgressPolicy::default() };
    let egress = Egress::new(by_name).unwrap();
    assert_eq!(response(egress.send(&all(), post(&format!("http://LOCALHOST.:{port}/echo")), SOON).await).status, 200);
}

#[tokio::test]
async fn metadata_services_are_refused_in_every_spelling() {
    let egress = Egress::new(EgressPolicy::default()).unwrap();
    for host in [
        "169.254.169.254",
        "2852039166",
        "0xa9fea9fe",
        "0xa9.0xfe.0xa9.0xfe",
        "0251.0376.0251.0376",
        "[::ffff:169.254.169.254]",
        "[::ffff:a9fe:a9fe]",
        "[64:ff9b::a9fe:a9fe]",
        "[2002:a9fe:a9fe::]",
        "[fd00:ec2::254]",
        "168.63.129.16",
    ] {
        let why = not_sent(egress.send(&all(), post(&format!("http://{host}/latest/meta-data/")), SOON).await);
        assert!(why.contains("a cloud metadata address"), "{host}: {why}");
    }
}

#[tokio::test]
async fn a_redirect_is_an_answer() {
    let server = Server::http().await;
    let egress = Egress::new(server.grant()).unwrap();
    let answer = response(egress.send(&all(), post(&server.url("/elsewhere")), SOON).await);
    assert_eq!(answer.status, 302);
    assert!(answer.headers.contains(&("location".into(), "/echo".into())));
}

#[tokio::test]
async fn a_refused_connection_is_not_sent() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    drop(listener);
    let allow = vec![address.to_string().parse().unwrap()];
    let egress = Egress::new(EgressPolicy { allow, ..EgressPolicy::default() }).unwrap();
    let why = not_sent(egress.send(&all(), post(&format!("http://{address}/")), SOON).await);
    assert!(why.contains("connection refused"), "{why}");
}

#[tokio::test]
async fn a_name_without_address_is_not_sent() {
    let egress = Egress::new(EgressPolicy::default()).unwrap();
    let why = not_sent(egress.send(&all(), post("http://nobody.invalid/"), SOON).await);
    assert!(why.contains("no connection to nobody.invalid"), "{why}");
}

#[tokio::test]
async fn a_failed_or_silent_handshake_is_not_sent() {
    let server = Server::http().await;
    let egress = Egress::new(server.grant()).unwrap();
    let why = not_sent(egress.send(&all(), post(&server.url("/").replace("http:", "https:")), SOON).await);
    assert!(why.contains("TLS failed"), "{why}");

    let silent = Server::raw(|stream, _| async move {
        let _open = stream;
        std::future::pending().await
    })
    .await;
    let policy = EgressPolicy { connect_timeout: Duration::from_millis(50), ..silent.grant() };
    let url = silent.url("/").replace("http:", "https:");
    let why = not_sent(Egress::new(policy).unwrap().send(&all(), post(&url), SOON).await);
    assert!(why.contains("no connection within 50 ms"), "{why}");
    // The same when the request's own time is up first.
    let why = not_sent(Egress::new(silent.grant()).unwrap().send(&all(), post(&url), Duration::from_millis(50)).await);
    assert!(why.contains("within 50 ms"), "{why}");
}

#[tokio::test]
async fn a_server_that_reads_and_closes_leaves_the_request_unanswered_and_unrepeated() {
    let server = Server::raw(|mut stream, _| async move { read_request(&mut stream).await }).await;
    let egress = Egress::new(server.grant()).unwrap();
    let why = unanswered(egress.send(&all(), post(&server.url("/")), SOON).await);
    assert!(why.contains("closed the connection"), "{why}");
    assert_eq!(server.connections.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn a_request_that_left_on_a_kept_connection_is_never_repeated() {
    let server = Server::raw(|mut stream, _| async move {
        read_request(&mut stream).await;
        stream.write_all(ANSWER).await.unwrap();
        read_request(&mut stream).await;
    })
    .await;
    let egress = Egress::new(server.grant()).unwrap();
    response(egress.send(&all(), post(&server.url("/")), SOON).await);
    unanswered(egress.send(&all(), post(&server.url("/")), SOON).await);
    assert_eq!(server.connections.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn a_kept_connection_that_was_closed_meanwhile_costs_nothing() {
    let (closed, mut is_closed) = tokio::sync::mpsc::channel(1);
    let server = Server::raw(move |mut stream, _| {
        let closed = closed.clone();
        async move {
            read_request(&mut stream).await;
            stream.write_all(ANSWER).await.unwrap();
            stream.shutdown().await.unwrap();
            // The client has seen the end when it closes its own side.
            assert_eq!(stream.read(&mut [0]).await.unwrap(), 0);
            closed.send(()).await.unwrap();
        }
    })
    .await;
    let egress = Egress::new(server.grant()).unwrap();
    for _ in 0..3 {
        response(egress.send(&all(), post(&server.url("/")), SOON).await);
        is_closed.recv().await.unwrap();
    }
    assert_eq!(server.connections.load(Ordering::SeqCst), 3);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whatever_the_race_nothing_arrives_twice_and_what_was_not_sent_did_not_arrive() {
    let arrived = Arc::new(parking_lot::Mutex::new(Vec::new()));
    let record = Arc::clone(&arrived);
    // Closes each connection right after its answer, just when the client puts it back for the next request; every
    // third one without an answer.
    let server = Server::raw(move |mut stream, number| {
        let record = Arc::clone(&record);
        async move {
            let mut read = Vec::new();
            while !read.ends_with(b"{}") {
                match stream.read_buf(&mut read).await {
                    Ok(1..) => {}
                    _ => return,
                }
            }
            let text = String::from_utf8(read).unwrap();
            let id = text.lines().find_map(|line| line.strip_prefix("x-id: ")).unwrap().to_owned();
            record.lock().push(id);
            if number % 3 != 0 {
                let _ = stream.write_all(ANSWER).await;
            }
        }
    })
    .await;
    let egress = Egress::new(server.grant()).unwrap();
    let mut sending = tokio::task::JoinSet::new();
    for lane in 0..8 {
        let (egress, url) = (egress.clone(), server.url("/"));
        sending.spawn(async move {
            let mut answers = Vec::new();
            for n in 0..50 {
                let id = format!("{lane}-{n}");
                let answer = egress.send(&all(), with_header(&url, "x-id", &id), SOON).await;
                answers.push((id, answer));
            }
            answers
        });
    }
    let answers = sending.join_all().await.concat();
    let arrived = arrived.lock().clone();
    for (id, answer) in answers {
        let times = arrived.iter().filter(|a| **a == id).count();
        match answer {
            EgressAnswer::Response(_) => assert_eq!(times, 1, "{id}"),
            EgressAnswer::NotSent(why) | EgressAnswer::NotGranted(why) => assert_eq!(times, 0, "{id}: {why}"),
            EgressAnswer::Unanswered(why) => assert!(times <= 1, "{id}: {why}"),
        }
    }
}

#[tokio::test]
async fn silence_and_half_an_answer_are_unanswered() {
    let server = Server::http().await;
    let egress = Egress::new(server.grant()).unwrap();
    // The shorter of the two limits counts.
    let mut hasty = post(&server.url("/silent"));
    hasty.timeout = Duration::from_millis(60);
    assert!(unanswered(egress.send(&all(), hasty, SOON).await).contains("within 60 ms"));
    let why = unanswered(egress.send(&all(), post(&server.url("/silent")), Duration::from_millis(50)).await);
    assert!(why.contains("within 50 ms"), "{why}");
    assert!(not_sent(egress.send(&all(), post(&server.url("/echo")), Duration::ZERO).await).contains("no time"));

    let half = Server::raw(|mut stream, _| async move {
        read_request(&mut stream).await;
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nok").await.unwrap();
    })
    .await;
    let why = unanswered(Egress::new(half.grant()).unwrap().send(&all(), post(&half.url("/")), SOON).await);
    assert!(why.contains("(200) broke off"), "{why}");

    let babble = Server::raw(|mut stream, _| async move {
        read_request(&mut stream).await;
        stream.write_all(b"+OK POP3 ready\r\n\r\n").await.unwrap();
    })
    .await;
    let why = unanswered(Egress::new(babble.grant()).unwrap().send(&all(), post(&babble.url("/")), SOON).await);
    assert!(why.contains("not HTTP"), "{why}");
}

#[tokio::test]
async fn too_much_is_cut_off_on_both_sides() {
    assert_eq!(EgressPolicy::default().max_response_bytes, 1 << 20);
    let server = Server::http().await;
    let policy =
        EgressPolicy { max_response_bytes: 4999, max_request_bytes: 10, max_header_bytes: 200, ..server.grant() };
    let egress = Egress::new(policy).unwrap();
    for path in ["/large", "/endless"] {
        let why = unanswered(egress.send(&all(), post(&server.url(path)), SOON).await);
        assert!(why.contains("answer too large") && why.contains("said 200"), "{why}");
    }
    let mut large = post(&server.url("/echo"));
    large.body = Body::Bytes(Bytes::from_static(b"01234567890"));
    assert!(not_sent(egress.send(&all(), large, SOON).await).contains("more than 10 bytes"));
    let why = not_sent(egress.send(&all(), with_header(&server.url("/echo"), "x", &"y".repeat(200)), SOON).await);
    assert!(why.contains("more than 200 bytes"), "{why}");

    let wide = Server::raw(|mut stream, _| async move {
        read_request(&mut stream).await;
        let head = format!("HTTP/1.1 200 OK\r\nx: {}\r\ncontent-length: 0\r\n\r\n", "y".repeat(40_000));
        let _ = stream.write_all(head.as_bytes()).await;
    })
    .await;
    let why = unanswered(Egress::new(wide.grant()).unwrap().send(&all(), post(&wide.url("/")), SOON).await);
    assert!(why.contains("of headers"), "{why}");
}

#[tokio::test]
async fn headers_cannot_be_smuggled() {
    let server = Server::http().await;
    let egress = Egress::new(server.grant()).unwrap();
    for (name, value) in [
        ("x-a", "b\r\nx-c: d"),
        ("x-a", "b\nx-c: d"),
        ("x-a", "b\0"),
        ("x-a: b\r\nx-c", "d"),
        ("", "b"),
        ("x a", "b"),
        ("Host", "other.example"),
        ("Content-Length", "1"),
        ("Transfer-Encoding", "chunked"),
        ("connection", "close"),
        ("Upgrade", "h2c"),
        ("TE", "trailers"),
        ("Proxy-Authorization", "x"),
        ("Expect", "100-continue"),
    ] {
        let why = not_sent(egress.send(&all(), with_header(&server.url("/echo"), name, value), SOON).await);
        assert!(why.contains("header") && !why.contains('\n'), "{why}");
    }
    assert_eq!(server.connections.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn urls_and_methods_are_checked() {
    let egress = Egress::new(EgressPolicy::default()).unwrap();
    for (url, what) in [
        ("https://user:pw@api.example.com/", "user name"),
        ("http://169.254.169.254@api.example.com/", "user name"),
        ("ftp://api.example.com/", "scheme"),
        ("file:///etc/passwd", "cannot be read"),
        ("api.example.com/x", "cannot be read"),
        ("/x", "scheme"),
        ("https://", "cannot be read"),
        ("https://api.example.com:0/", "cannot be read"),
        ("https://api.example.com:99999/", "cannot be read"),
        ("https://api.exa mple.com/", "cannot be read"),
        ("https://api.example.com/\r\nx: y", "cannot be read"),
        ("https://api.example.com/send?key={{secret:TOKEN}}", "outside of its path"),
        ("https://api.example.com/{{secret:TOKEN}}?key={{secret:TOKEN}}", "outside of its path"),
        ("https://api.example.com/send#{{secret:TOKEN}}", "outside of its path"),
        ("https://{{secret:TOKEN}}.example.com/send", "outside of its path"),
        ("https://{{secret:TOKEN}}@api.example.com/send", "outside of its path"),
        ("simulator:{{secret:TOKEN}}", "outside of its path"),
    ] {
        let why = not_sent(egress.send(&all(), post(url), SOON).await);
        assert!(why.contains(what), "{url:?}: {why}");
    }
    for method in ["CONNECT", "TRACE", "post", "GET / HTTP/1.1\r\nx: y", ""] {
        let mut request = post("https://api.example.com/");
        request.method = method.into();
        assert!(not_sent(egress.send(&all(), request, SOON).await).contains("method"));
    }
}

#[tokio::test]
async fn secrets_go_to_their_host_only() {
    let server = Server::http().await;
    let secrets = ["TOKEN=hush-1@127.0.0.1", "OTHER=hush-2@api.example.com"].map(|s| Secret::parse(s).unwrap());
    let mut policy = EgressPolicy { secrets: secrets.to_vec(), ..server.grant() };
    let egress = Egress::new(policy.clone()).unwrap();
    let url = server.url("/echo");

    let sent = with_header(&url, "authorization", "Bearer {{secret:TOKEN}} and {{secret:TOKEN}}!");
    let said = response(egress.send(&all(), sent, SOON).await).body;
    let said = String::from_utf8_lossy(&said);
    assert!(said.contains("authorization: Bearer hush-1 and hush-1!\n"), "{said}");

    for (value, what) in [
        ("{{secret:OTHER}}", "secret OTHER is not granted to host 127.0.0.1"),
        ("{{secret:TOKEN}} {{secret:OTHER}}", "secret OTHER is not granted to host 127.0.0.1"),
        ("{{secret:NONE}}", "secret NONE is not granted to host 127.0.0.1"),
        ("{{secret:TOKEN", "placeholder"),
        ("{{secret:}}", "placeholder"),
    ] {
        let why = not_sent(egress.send(&all(), with_header(&url, "x-key", value), SOON).await);
        assert!(why.contains(what) && !why.contains("hush"), "{why}");
    }
    let elsewhere = with_header("https://evil.example.com/", "x-key", "{{secret:TOKEN}}");
    assert!(not_sent(egress.send(&all(), elsewhere, SOON).await).contains("not granted to host evil.example.com"));
    assert!(!format!("{egress:?}").contains("hush"));

    policy.allow.clear();
    let why =
        not_sent(Egress::new(policy).unwrap().send(&all(), with_header(&url, "x-key", "{{secret:TOKEN}}"), SOON).await);
    assert!(why.contains("over http"), "{why}");
}

#[tokio::test]
async fn a_secret_in_a_path_is_encoded_and_goes_to_its_host_only() {
    let server = Server::http().await;
    let secrets = ["TOKEN=123:hush-1@127.0.0.1", "ODD=hush/2?a=b#c%20 ..@127.0.0.1", "OTHER=hush-3@api.example.com"]
        .map(|secret| Secret::parse(secret).unwrap());
    let mut policy = EgressPolicy { secrets: secrets.to_vec(), ..server.grant() };
    let egress = Egress::new(policy.clone()).unwrap();
    for (path, arrived) in [
        ("/echo/bot{{secret:TOKEN}}/send", "/echo/bot123:hush-1/send"),
        ("/echo/{{secret:TOKEN}}/{{secret:TOKEN}}?q=%7B{1}", "/echo/123:hush-1/123:hush-1?q=%7B{1}"),
        // Whatever its value, it is a part of one segment.
        ("/echo/{{secret:ODD}}/x?q", "/echo/hush%2F2%3Fa=b%23c%2520%20../x?q"),
        ("/echo/%7B%7Bsecret:TOKEN%7D%7D", "/echo/%7B%7Bsecret:TOKEN%7D%7D"),
    ] {
        let said = response(egress.send(&all(), post(&server.url(path)), SOON).await).body;
        let said = String::from_utf8_lossy(&said);
        assert!(said.starts_with(&format!("POST {arrived}\n")), "{said}");
    }
    let long = format!("/echo{}{}", "/x".repeat(4000), "/{{secret:TOKEN}}".repeat(10));
    let beyond = format!("/echo{}{}", "/x".repeat(4000), "/{{secret:ODD}}".repeat(10));
    for (path, what) in [
        ("/echo/{{secret:OTHER}}", "secret OTHER is not granted to host 127.0.0.1"),
        ("/echo/{{secret:NONE}}", "secret NONE is not granted to host 127.0.0.1"),
        ("/echo/{{secret:TOKEN", "the URL's path has a secret placeholder"),
        ("/echo/{{secret:}}", "the URL's path has a secret placeholder"),
        ("/echo/{{secret:A/B}}", "the URL's path has a secret placeholder"),
        (long.as_str(), "more than 8192 bytes"),
        (beyond.as_str(), "more than 8192 bytes"),
    ] {
        let why = not_sent(egress.send(&all(), post(&server.url(path)), SOON).await);
        assert!(why.contains(what) && !why.contains("hush") && !why.contains("/echo"), "{why}");
    }
    let elsewhere = not_sent(egress.send(&all(), post("https://evil.example.com/{{secret:TOKEN}}"), SOON).await);
    assert!(elsewhere.contains("not granted to host evil.example.com"), "{elsewhere}");
    // What goes wrong on the way shows neither the path nor what is in it.
    let no_tls = server.url("/echo/{{secret:TOKEN}}").replace("http:", "https:");
    let why = not_sent(egress.send(&all(), post(&no_tls), SOON).await);
    assert!(why.contains("TLS failed") && !why.contains("hush") && !why.contains("/echo"), "{why}");
    let mut silent = post(&server.url("/silent/{{secret:TOKEN}}"));
    silent.timeout = Duration::from_millis(50);
    let why = unanswered(egress.send(&all(), silent, SOON).await);
    assert!(!why.contains("hush") && !why.contains("/silent"), "{why}");

    policy.allow.clear();
    let url = server.url("/echo/{{secret:TOKEN}}");
    let why = not_sent(Egress::new(policy).unwrap().send(&all(), post(&url), SOON).await);
    assert!(why.contains("over http"), "{why}");
}

#[tokio::test]
async fn nothing_personal_is_in_debug_output() {
    let body = Body::Text("+491511234567".into());
    assert_eq!(format!("{body:?}"), "13 bytes");
    let response = EgressResponse { status: 200, headers: vec![("to".into(), "+49".into())], body: "+49".into() };
    assert_eq!(format!("{:?}", EgressAnswer::Response(response)), "Response(200 with 3 bytes)");
}

fn simulate(body: &str) -> EgressRequest {
    EgressRequest { body: Body::Text(body.into()), ..post("simulator://send") }
}

#[tokio::test]
async fn the_simulator_does_as_it_is_told() {
    let egress = Egress::new(EgressPolicy::default()).unwrap();
    let start = tokio::time::Instant::now();
    let told = r#"{"wait_ms": 30.5, "answer": {"status": 429, "headers": [["retry-after", "2"]], "body": "slow"}}"#;
    let answer = response(egress.send(&all(), simulate(told), SOON).await);
    assert_eq!((answer.status, &answer.body[..]), (429, &b"slow"[..]));
    assert_eq!(answer.headers, [("retry-after".into(), "2".into())]);
    assert!(start.elapsed() >= Duration::from_millis(30));

    not_sent(egress.send(&all(), simulate(r#"{"answer": "not-sent"}"#), SOON).await);
    unanswered(egress.send(&all(), simulate(r#"{"wait_ms": 5, "answer": "unanswered"}"#), SOON).await);
    let start = tokio::time::Instant::now();
    let late = simulate(r#"{"wait_ms": 1e9, "answer": {"status": 200}}"#);
    unanswered(egress.send(&all(), late, Duration::from_millis(100)).await);
    assert!(start.elapsed() < SOON);

    for bad in
        ["", "{}", r#"{"answer": "maybe"}"#, r#"{"wait_ms": -1, "answer": "not-sent"}"#, r#"{"answer": {"status": 7}}"#]
    {
        not_sent(egress.send(&all(), simulate(bad), SOON).await);
    }
}

#[test]
fn the_simulator_answers_at_once_when_there_is_nothing_to_wait_for() {
    use futures::FutureExt;
    let told = Body::Text(r#"{"wait_ms": 0, "answer": {"status": 202, "body": "{}"}}"#.into());
    // Outside a runtime: a timer would panic here, and a yield would leave the future unfinished.
    let answer = simulator::answer(told, SOON).now_or_never().unwrap();
    assert_eq!(response(answer).status, 202);
}

/// Of a plugin that may post to this host and have this secret.
fn few(host: &str, secret: &str) -> Licence {
    let licence = Licence::new("acme");
    licence.set(&Grants {
        hosts: vec![host.to_owned()],
        methods: vec!["POST".to_owned()],
        secrets: vec![secret.to_owned()],
        ..Grants::default()
    });
    licence
}

fn not_granted(answer: EgressAnswer) -> String {
    match answer {
        EgressAnswer::NotGranted(why) => why,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn what_a_plugin_was_not_granted_does_not_leave_and_is_noted() {
    let server = Server::http().await;
    let secrets = ["MINE=hush@127.0.0.1", "THEIRS=secret-of-another@127.0.0.1", "ELSEWHERE=other@api.example.com"];
    let policy = EgressPolicy { secrets: secrets.map(|s| Secret::parse(s).unwrap()).to_vec(), ..server.grant() };
    let egress = Egress::new(policy).unwrap();
    let licence = few(&server.address.to_string(), "MINE");
    let url = server.url("/echo");
    let mine = response(egress.send(&licence, with_header(&url, "x-key", "{{secret:MINE}}"), SOON).await);
    assert!(String::from_utf8_lossy(&mine.body).contains("hush"));

    let other = Server::http().await;
    for (request, what) in [
        (post(&other.url("/echo")), format!("was not granted host {}", other.address)),
        (post("https://api.example.com/x?y=z"), "was not granted host api.example.com;".to_owned()),
        (EgressRequest { method: "GET".into(), ..post(&url) }, "was not granted method GET;".to_owned()),
        (with_header(&url, "x-key", "{{secret:THEIRS}}"), "was not granted secret THEIRS;".to_owned()),
        (post(&server.url("/{{secret:THEIRS}}")), "was not granted secret THEIRS;".to_owned()),
        // Whether there is such a secret is not told either.
        (with_header(&url, "x-key", "{{secret:NONE}}"), "was not granted secret NONE;".to_owned()),
    ] {
        let why = not_granted(egress.send(&licence, request, SOON).await);
        assert!(why.starts_with("plugin acme ") && why.contains(&what), "{what}: {why}");
        assert!(why.contains("carillon plugin grant acme --"), "{why}");
        assert!(!why.contains("secret-of-another") && !why.contains("y=z"), "{why}");
    }
    assert_eq!(other.connections.load(Ordering::SeqCst), 0);
    assert_eq!(server.connections.load(Ordering::SeqCst), 1, "the one that was granted");

    // Granted, and still not for this host, or still a private address.
    licence.set(&Grants { secrets: vec!["*".into()], ..Grants::everything() });
    let why = not_sent(egress.send(&licence, with_header(&url, "x-key", "{{secret:ELSEWHERE}}"), SOON).await);
    assert_eq!(why, "secret ELSEWHERE is not granted to host 127.0.0.1");
    let why = not_sent(egress.send(&licence, post(&other.url("/echo")), SOON).await);
    assert!(why.contains("a loopback address"), "{why}");
    let noted: Vec<_> = licence.refused().collect();
    assert_eq!(noted, [("host", 2), ("method", 1), ("secret", 3), ("secret-host", 1), ("private-address", 1)]);
    let views = licence.refusals(crate::clock::Time::from_ms(0));
    assert_eq!(views[0].reason, "private-address");
    assert_eq!(views[0].host, Some(other.address.to_string()));
    let theirs = views.iter().find(|view| view.secret.as_deref() == Some("THEIRS")).unwrap();
    assert_eq!((theirs.reason, theirs.count), ("secret", 2));
    assert!(!format!("{views:?}").contains("secret-of-another"));
    assert_eq!(egress.stats().not_sent, 8);
    // The simulator reaches nothing: nobody has to grant it.
    let nothing = Licence::new("nothing");
    response(egress.send(&nothing, simulate(r#"{"answer": {"status": 200}}"#), SOON).await);
}

#[tokio::test]
async fn a_secret_of_the_store_comes_and_goes_while_the_client_lives() {
    let server = Server::http().await;
    let egress = Egress::new(server.grant()).unwrap();
    let (url, licence) = (server.url("/echo"), few("*", "KEY"));
    let clone = egress.clone();
    let ask = async || egress.send(&licence, with_header(&url, "x-key", "{{secret:KEY}}"), SOON).await;
    not_sent(ask().await);
    clone.set_stored(vec![Secret::new("KEY", "stored-hush", "127.0.0.1").unwrap()]);
    assert!(String::from_utf8_lossy(&response(ask().await).body).contains("stored-hush"));
    assert!(!format!("{egress:?}").contains("stored-hush"));
    clone.set_stored(Vec::new());
    not_sent(ask().await);
}
