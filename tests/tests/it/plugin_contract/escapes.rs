//! Components that try to reach what is not theirs: other machines, secrets, the host's log and handles, another plugin's name.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use carillon::egress::{Body, Egress, EgressAnswer, EgressPolicy, EgressRequest, Secret};
use carillon::plugins::{HttpRequest, PluginBody, PluginFault, Refusal, Step};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use super::hostile::{next, pace};
use super::{ctx, host, licence, load, outbound};
use carillon_tests::guests::{self, RECORD};

#[tokio::test]
async fn a_flood_of_output_leaves_a_hundred_short_lines() {
    let flood = format!(
        "(local $n i32) (local $out i32)
         (local.set $out (call $stdout))
         (loop $l
           (call $write (local.get $out))
           (local.set $n (i32.add (local.get $n) (i32.const 1)))
           (br_if $l (i32.lt_u (local.get $n) (i32.const 2000))))
         {}",
        next("1", 0)
    );
    let plugin = load(&host(), guests::writing("flood", &flood)).await;
    plugin.next_delay(&ctx("{}"), pace(), "").await.unwrap();
    let lines = plugin.log_lines();
    assert_eq!(lines.len(), 100);
    assert!(lines.iter().all(|line| line.len() <= 501 && line.starts_with('x')), "{lines:?}");
}

#[tokio::test]
async fn handles_that_are_never_given_back_end_the_call() {
    let leak = "(loop $l (drop (call $stdout)) (br $l)) unreachable";
    let plugin = load(&host(), guests::writing("leak", leak)).await;
    let fault = plugin.next_delay(&ctx("{}"), pace(), "").await.unwrap_err();
    let PluginFault::Trap(cause) = fault else { panic!("{fault:?}") };
    assert!(cause.contains("resource table has no free keys"), "{cause}");
}

#[tokio::test]
async fn the_network_cannot_be_imported() {
    for import in [
        r#""wasi:http/outgoing-handler@0.2.0" (instance (export "handle" (func)))"#,
        r#""wasi:keyvalue/store@0.2.0" (instance (export "open" (func)))"#,
        r#""carillon:plugin/host@1.0.0" (instance (export "secret" (func (result string))))"#,
    ] {
        let refused = refusal(guests::importing(import)).await;
        let (name, _) = import.trim_start_matches('"').split_once('"').unwrap();
        let interface = name.split_once('/').unwrap().1;
        assert!(refused.code == "unexpected-import" && refused.detail.contains(interface), "{refused:?}");
    }
}

async fn refusal(bytes: bytes::Bytes) -> Refusal {
    host().inspect(bytes).await.unwrap_err()
}

#[tokio::test]
async fn a_description_that_lies_is_refused() {
    let object = r#"{"type":"object"}"#;
    let long = "x".repeat(501);
    let nested = format!("{}1{}", "[".repeat(200), "]".repeat(200));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let fetched = format!(r#"{{"$ref":"http://{}/schema"}}"#, listener.local_addr().unwrap());
    for (texts, what) in [
        (["../../etc", "1.0.0", "", object, ""], "name"),
        (["", "1.0.0", "", object, ""], "name"),
        (["Jinja", "1.0.0", "", object, ""], "name"),
        (["hostile", "latest", "", object, ""], "version"),
        (["hostile", "1.0.0", &long, object, ""], "summary"),
        (["hostile", "1.0.0", "", "", ""], "config-schema"),
        (["hostile", "1.0.0", "", "true", ""], "config-schema"),
        (["hostile", "1.0.0", "", &nested, ""], "config-schema"),
        (["hostile", "1.0.0", "", r#"{"$ref":"http://169.254.169.254/latest"}"#, ""], "config-schema"),
        (["hostile", "1.0.0", "", &fetched, ""], "config-schema"),
        (["hostile", "1.0.0", "", r#"{"$ref":"file:///etc/passwd"}"#, ""], "config-schema"),
        // Only senders have devices.
        (["hostile", "1.0.0", "", object, object], "adapter schema"),
    ] {
        let refused = refusal(guests::described(&texts)).await;
        assert!(refused.code == "invalid-description" && refused.detail.contains(what), "{texts:?}: {refused:?}");
    }
    let none = tokio::time::timeout(Duration::from_millis(50), listener.accept()).await;
    assert!(none.is_err(), "nobody came for the schema");
    // Two billion hosts; a name outside of its memory; none at all; no end.
    for body in [
        format!("(i32.store (i32.const {}) (i32.const 0x7fffffff)) (i32.const {RECORD})", RECORD + 44),
        format!("(i32.store (i32.const {RECORD}) (i32.const -16)) (i32.const {RECORD})"),
        "unreachable".to_owned(),
        "(loop $l (br $l)) unreachable".to_owned(),
    ] {
        let refused = refusal(guests::describing(&body)).await;
        assert_eq!(refused.code, "describe-failed", "{body}: {refused:?}");
    }
}

#[tokio::test]
async fn an_ability_that_is_not_there_is_refused() {
    // `describe` says ("lookup", "true"), ("receipts", "true") or ("health", "true"): a pair of texts in a list of one.
    let capabilities = guests::RECORD + 56;
    let words =
        [("lookup", "0x70756b6f6f6c", 6), ("receipts", "0x7374706965636572", 8), ("health", "0x68746c616568", 6)];
    for (name, word, length) in words {
        let claims = format!(
            "(i64.store (i32.const 64) (i64.const {word})) (i32.store (i32.const 72) (i32.const 0x65757274))
             (i32.store (i32.const 80) (i32.const 64)) (i32.store (i32.const 84) (i32.const {length}))
             (i32.store (i32.const 88) (i32.const 72)) (i32.store (i32.const 92) (i32.const 4))
             (i32.store (i32.const {capabilities}) (i32.const 80)) (i32.store (i32.const {}) (i32.const 1)) {}",
            capabilities + 4,
            guests::DESCRIBED
        );
        let refused = refusal(guests::describing(&claims)).await;
        let says = refused.detail.contains(&format!("carillon:plugin/{name}"));
        assert!(refused.code == "missing-export" && says, "{refused:?}");
    }
}

#[tokio::test]
async fn a_schema_that_refers_to_itself_ends() {
    for schema in [
        r##"{"$ref":"#"}"##,
        r##"{"allOf":[{"$ref":"#"}]}"##,
        r##"{"properties":{"a":{"$ref":"#"}},"type":"object"}"##,
        r##"{"$defs":{"a":{"$ref":"#/$defs/b"},"b":{"$ref":"#/$defs/a"}},"$ref":"#/$defs/a"}"##,
    ] {
        let bytes = guests::described(&["hostile", "1.0.0", "", schema, ""]);
        if let Ok(seen) = host().inspect(bytes.clone()).await {
            let plugin = load(&host(), bytes).await;
            assert_eq!(seen.info.config_schema, schema);
            // With an answer of whatever kind.
            let _ = plugin.check_config(r#"{"a":{"a":{}}}"#);
        }
    }
}

/// What a sender asks for, as the worker would send it.
async fn asked(method: &str, url: &str, headers: &[(&str, &str)], body: &str) -> EgressRequest {
    let plugin = load(&host(), guests::asking(method, url, headers, body)).await;
    match plugin.start(&ctx("{}"), outbound()).await.unwrap().step {
        Step::Request(round) => {
            let HttpRequest { method, url, headers, body, timeout_ms } = round.request;
            let PluginBody::Text(body) = body else { panic!("{body:?}") };
            EgressRequest {
                method,
                url,
                headers,
                body: Body::Text(body),
                timeout: Duration::from_secs_f64(timeout_ms / 1e3),
            }
        }
        Step::Done(outcome) => panic!("{outcome:?}"),
    }
}

async fn not_sent(egress: &Egress, request: EgressRequest) -> String {
    match egress.send(&licence(), request, Duration::from_secs(10)).await {
        EgressAnswer::NotSent(why) => why,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_sender_reaches_no_private_address_by_any_name() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let egress = Egress::new(EgressPolicy::default()).unwrap();
    for (host, what) in [
        ("127.0.0.1", "a loopback address"),
        ("[::1]", "a loopback address"),
        // A name that leads there, as any name may whose owner wants it to.
        ("localhost", "a loopback address"),
        ("2130706433", "a loopback address"),
        ("169.254.10.10", "a link-local address"),
        ("169.254.169.254", "a cloud metadata address"),
        ("[::ffff:169.254.169.254]", "a cloud metadata address"),
        ("10.0.0.7", "a private address"),
        ("172.16.0.1", "a private address"),
        ("192.168.1.1", "a private address"),
        ("[fd00::1]", "a unique-local address"),
        ("[fe80::1]", "a link-local address"),
    ] {
        let request = asked("POST", &format!("http://{host}:{port}/latest/meta-data"), &[], "{}").await;
        let why = not_sent(&egress, request).await;
        assert!(why.contains(what) && why.contains("--allow-egress"), "{host}: {why}");
    }
    let none = tokio::time::timeout(Duration::from_millis(50), listener.accept()).await;
    assert!(none.is_err(), "nobody came");
}

/// A server that counts its connections and answers each request with this, and what it read.
async fn server(answer: String) -> (u16, Arc<AtomicUsize>, Arc<parking_lot::Mutex<String>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let (count, read) = (Arc::new(AtomicUsize::new(0)), Arc::new(parking_lot::Mutex::new(String::new())));
    let (counted, heard) = (count.clone(), read.clone());
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            counted.fetch_add(1, Ordering::SeqCst);
            let mut bytes = Vec::new();
            while !bytes.ends_with(b"END") && stream.read_buf(&mut bytes).await.is_ok_and(|n| n > 0) {}
            heard.lock().push_str(&String::from_utf8_lossy(&bytes));
            let _ = stream.write_all(answer.as_bytes()).await;
        }
    });
    (port, count, read)
}

#[tokio::test]
async fn a_redirect_into_a_private_network_is_not_followed() {
    let (inside, visits, _) = server("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n".into()).await;
    let location = format!("HTTP/1.1 307 x\r\nlocation: http://127.0.0.1:{inside}/\r\ncontent-length: 0\r\n\r\n");
    let (port, ..) = server(location).await;
    let allow = vec![format!("127.0.0.1:{port}").parse().unwrap()];
    let egress = Egress::new(EgressPolicy { allow, ..EgressPolicy::default() }).unwrap();
    let request = asked("POST", &format!("http://127.0.0.1:{port}/"), &[], "END").await;
    let EgressAnswer::Response(answer) = egress.send(&licence(), request, Duration::from_secs(10)).await else {
        panic!()
    };
    assert_eq!(answer.status, 307, "the redirect is the answer");
    assert_eq!(visits.load(Ordering::SeqCst), 0);
}

#[tokio::test]
async fn a_sender_smuggles_no_header_and_no_second_request() {
    let (port, visits, _) = server(String::new()).await;
    let allow = vec![format!("127.0.0.1:{port}").parse().unwrap()];
    let egress = Egress::new(EgressPolicy { allow, ..EgressPolicy::default() }).unwrap();
    let url = format!("http://127.0.0.1:{port}/");
    for (name, value, what) in [
        ("x-a", "b\r\nx-injected: c", "header x-a has characters that are not allowed"),
        ("x-a", "b\r\n\r\nGET /second HTTP/1.1", "header x-a has characters that are not allowed"),
        ("x-a\r\nx-injected", "c", "header number 1 has a name that is not allowed"),
        ("x-a: b", "c", "header number 1 has a name that is not allowed"),
        ("Host", "169.254.169.254", "header host is set by the host"),
        ("Content-Length", "0", "header content-length is set by the host"),
        ("Transfer-Encoding", "chunked", "header transfer-encoding is set by the host"),
        ("Connection", "upgrade", "header connection is set by the host"),
    ] {
        let why = not_sent(&egress, asked("POST", &url, &[(name, value)], "END").await).await;
        assert!(why.contains(what), "{name}: {why}");
    }
    for (method, url, what) in [
        ("GET / HTTP/1.1\r\nx: y", url.clone(), "the method must be"),
        ("CONNECT", url.clone(), "the method must be"),
        ("GET", format!("{url} HTTP/1.1\r\nx: y"), "the URL cannot be read"),
        ("GET", format!("http://user@127.0.0.1:{port}/"), "the URL has a user name"),
        ("GET", "file:///etc/passwd".to_owned(), "the URL"),
    ] {
        let why = not_sent(&egress, asked(method, &url, &[], "END").await).await;
        assert!(why.contains(what), "{method} {url}: {why}");
    }
    assert_eq!(visits.load(Ordering::SeqCst), 0, "nothing left");
}

#[tokio::test]
async fn a_sender_gets_no_secret_of_another_host() {
    let (port, visits, read) = server("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n".into()).await;
    let policy = EgressPolicy {
        allow: vec![format!("127.0.0.1:{port}").parse().unwrap()],
        secrets: vec![Secret::parse("THEIRS=hush@api.example.com").unwrap()],
        ..EgressPolicy::default()
    };
    let egress = Egress::new(policy).unwrap();
    let url = format!("http://127.0.0.1:{port}/");
    for (name, value, url, what) in [
        ("authorization", "Bearer {{secret:THEIRS}}", url.clone(), "secret THEIRS is not granted to host 127.0.0.1"),
        ("x-guess", "{{secret:CARILLON_ADMIN_TOKEN}}", url.clone(), "is not granted to host 127.0.0.1"),
        ("x-a", "b", format!("{url}?q={{{{secret:THEIRS}}}}"), "the URL has a secret outside of its path"),
        ("x-a", "b", format!("{url}/{{{{secret:THEIRS}}}}"), "secret THEIRS is not granted to host 127.0.0.1"),
        // Its own host, in the clear.
        ("x-a", "{{secret:THEIRS}}", "http://api.example.com/".to_owned(), "is not sent to api.example.com over http"),
    ] {
        let why = not_sent(&egress, asked("POST", &url, &[(name, value)], "END").await).await;
        assert!(why.contains(what) && !why.contains("hush"), "{why}");
    }
    assert_eq!(visits.load(Ordering::SeqCst), 0);
    // In a body it is a text like any other.
    let request = asked("POST", &url, &[], "{{secret:THEIRS}} END").await;
    assert!(matches!(egress.send(&licence(), request, Duration::from_secs(10)).await, EgressAnswer::Response(_)));
    assert!(read.lock().ends_with("{{secret:THEIRS}} END"));
}
