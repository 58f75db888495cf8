//! Audiences: streamed, in constant memory, with broken rows told one by one.

use std::fmt::Write as _;
use std::io::Write as _;
use std::net::TcpStream;
use std::time::Duration;

use carillon_tests::wait::eventually;
use serde_json::{Value, json};

use super::{ADMIN, Api};

#[tokio::test]
async fn broken_rows_are_rejected_and_the_rest_is_taken() {
    let api = Api::start().await;
    let mut csv =
        b"\xef\xbb\xbfaddress,name,zone\n+1,\"Ann, \"\"A\"\"\",Europe/Rome\n+2,Bob\n,Nobody,\n+1,Again,\n".to_vec();
    csv.extend(b"+3,B\xffd,\n+4,Cleo,Mars/Base\n+5,\"two\nlines\",\n+6,Dan,\n");
    csv.extend(format!("{},Long,\n", "9".repeat(1025)).bytes());
    let report = api.upload("PUT", "/audiences/people", "text/csv; charset=utf-8", csv).await.expect(200);
    assert_eq!(report["accepted"], 3, "{report}");
    let lines: Vec<_> = report["rejected"].as_array().unwrap().iter().map(|r| r["line"].as_u64().unwrap()).collect();
    assert_eq!(lines, [3, 4, 5, 6, 7, 11], "{report}");
    assert_eq!(report["rejected_count"], 6);
    assert_eq!(report["rejected"][2]["reason"], "duplicate of an earlier line");
    let audience = api.get("/audiences/people").await;
    assert_eq!((&audience["contacts"], &audience["columns"]), (&json!(3), &json!(["name"])));
}

#[tokio::test]
async fn ndjson_is_taken_line_by_line() {
    let api = Api::start().await;
    let text = "{\"address\":\"+1\",\"n\":1}\n\n{\"address\":\"+2\",\"deep\":{}}\n{\"name\":\"x\"}\nnonsense\n{\"address\":\"+3\",\"m\":true}";
    let report = api.upload("PUT", "/audiences/people", "application/x-ndjson", text).await.expect(200);
    let lines: Vec<_> = report["rejected"].as_array().unwrap().iter().map(|r| r["line"].as_u64().unwrap()).collect();
    assert_eq!((report["accepted"].as_u64(), lines), (Some(2), vec![3, 4, 5]), "{report}");
    assert_eq!(api.get("/audiences/people").await["columns"], json!(["n", "m"]));
}

#[tokio::test]
async fn a_header_that_cannot_be_used_is_refused() {
    let api = Api::start().await;
    for (csv, word) in
        [("name,city\nx,y\n", "address"), ("address,a,a\n", "twice"), ("address,,b\n", "no name"), ("", "empty")]
    {
        let problem = api.upload("PUT", "/audiences/x", "text/csv", csv).await.expect(422);
        assert!(problem.to_string().contains(word), "{problem}");
    }
    api.upload("PUT", "/audiences/a%20b", "text/csv", "address\n+1\n").await.expect(422);
    let mut unclosed = "address,name\n+1,\"Ann\n".to_owned();
    unclosed.push_str(&"+2,Bob\n".repeat(50_000));
    let problem = api.upload("PUT", "/audiences/x", "text/csv", unclosed).await.expect(422);
    assert!(problem.to_string().contains("quote"), "{problem}");
    api.call("GET", "/audiences/x", Value::Null).await.expect(404);
}

#[tokio::test]
async fn only_so_many_rejected_rows_are_listed_and_all_are_counted() {
    let api = Api::start_with(|config| config.audience_max = 2_500).await;
    let broken = format!("address\n+1\n{}", "+1\n".repeat(3_000));
    let report = api.upload("PUT", "/audiences/x", "text/csv", broken).await.expect(200);
    assert_eq!(
        (report["rejected_count"].as_u64(), report["rejected"].as_array().map(Vec::len)),
        (Some(3_000), Some(1_000))
    );
    let many: String = (0..3_000).fold("address\n".to_owned(), |mut text, n| {
        writeln!(text, "+{n}").unwrap();
        text
    });
    api.upload("PUT", "/audiences/x", "text/csv", many).await.expect(422);
    assert_eq!(api.get("/audiences/x").await["contacts"], 1, "the version before stays");
}

#[tokio::test]
async fn an_upload_that_breaks_off_changes_nothing() {
    let api = Api::start().await;
    api.upload("PUT", "/audiences/x", "text/csv", "address\n+1\n").await.expect(200);
    let address = api.base.trim_start_matches("http://").to_owned();
    tokio::task::spawn_blocking(move || {
        let mut stream = TcpStream::connect(&address).unwrap();
        write!(stream, "PUT /api/v1/audiences/x HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {ADMIN}\r\n").unwrap();
        write!(stream, "content-type: text/csv\r\ncontent-length: 1000000\r\n\r\naddress\n").unwrap();
        for n in 0..10_000 {
            writeln!(stream, "+{n}").unwrap();
        }
    })
    .await
    .unwrap();
    // The next version can be uploaded at once, and is the one that counts.
    api.upload("PUT", "/audiences/x", "text/csv", "address\n+1\n+2\n").await.expect(200);
    eventually("the audience is the complete upload", Duration::from_secs(5), || async {
        api.get("/audiences/x").await["contacts"] == 2
    })
    .await;
}

#[tokio::test]
async fn two_hundred_thousand_rows_stream_in() {
    let api = Api::start().await;
    let mut csv = "address,name,city\n".to_owned();
    for n in 0..200_000 {
        writeln!(csv, "+39{n:09},Name {n},City {}", n % 100).unwrap();
    }
    csv.push_str("+39000000000,Again,\n");
    let report = api.upload("PUT", "/audiences/big", "text/csv", csv).await.expect(200);
    assert_eq!(report["accepted"], 200_000);
    assert_eq!(report["rejected"], json!([{"line": 200_002, "reason": "duplicate of an earlier line"}]));
    assert_eq!(api.get("/audiences/big").await["contacts"], 200_000);
}
