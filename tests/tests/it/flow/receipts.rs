//! A campaign through WhatsApp's stand-in, which reports what became of its messages while they are being sent.

use carillon_tests::hooks::meta_signature;
use carillon_tests::meta::{Meta, wa_id};

use super::*;

const APP_SECRET: &str = "app-secret";

fn report(value: &Value) -> String {
    json!({"object": "whatsapp_business_account", "entry": [{"id": "1", "changes": [{"field": "messages", "value": value}]}]})
        .to_string()
}

fn status(message: &str, status: &str) -> Value {
    json!({"id": format!("wamid.{message}"), "status": status, "timestamp": "1796115500", "recipient_id": "1",
        "errors": [{"code": 131_026, "title": "Message undeliverable"}]})
}

/// An address that WhatsApp calls by another number than it was given.
fn number(n: usize) -> String {
    format!("+5511 9{n:08}")
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_provider_reports_is_counted_and_a_stop_stops() {
    // It answers so late that reports come before a message's end is written.
    let meta = Meta::start(Duration::from_millis(150)).await;
    let data = tempfile::tempdir().expect("a folder");
    let setup = Setup::embedded(data.path(), &[meta.port])
        .with("CARILLON_RECOVERY_INTERVAL_MS", "200")
        .with("CARILLON_SECRETS", format!("WHATSAPP_TOKEN=token@127.0.0.1,APP={APP_SECRET}@127.0.0.1"));
    let world = World { servers: vec![setup.start().await], redis: None, _database: None, _data: data };
    let client = world.client();
    let hook = json!({"channel": "whatsapp", "signature": {"scheme": "whatsapp", "secret": "APP"}});
    let made = world.api().post("/api/v1/plugins/whatsapp-cloud/webhooks", &hook).await;
    let path = made["path"].as_str().expect("a path").to_owned();
    let tell = async |value: Value, secret: &str| {
        let body = report(&value);
        let signature = meta_signature(secret, &body);
        let headers = [("x-hub-signature-256", signature.as_str())];
        client.knock(Method::POST, &path, &headers, body).await.expect("an answer").0
    };

    let messages = 40;
    let devices =
        json!([{"id": "number-1", "channel": "whatsapp", "tags": ["eu"], "adapter": {"phone_number_id": "1"}}]);
    world.api().post("/api/v1/devices", &devices).await;
    let csv: String = (0..messages).map(|n| format!("{},Name {n},City\n", number(n))).collect();
    let (answered, imported) = client
        .send(Method::PUT, "/api/v1/audiences/customers", "text/csv", format!("address,name,city\n{csv}").into())
        .await
        .expect("an answer");
    assert_eq!((answered, &imported["accepted"]), (200, &json!(messages)), "{imported}");
    let mut spec = spec(&Sink::start().await, 20);
    spec["sender"] = json!({"plugin": "whatsapp-cloud", "config": {"url": meta.url()}});
    let id = world.launch(&spec).await;

    eventually("some are taken", PATIENCE, || async { meta.taken().len() >= 5 }).await;
    // One that is not sent yet says stop.
    let last = messages - 1;
    assert!(meta.taken().iter().all(|taken| taken.to != number(last)));
    let stop = |from: String| json!({"messages": [{"from": from, "id": "wamid.r", "timestamp": "1796115500", "type": "text", "text": {"body": "Stop"}}]});
    assert_eq!(tell(stop(number(last).replace(['+', ' '], "")), "another secret").await, 401);
    assert_eq!(tell(stop(number(last).replace(['+', ' '], "")), APP_SECRET).await, 200);
    // The newest are still being answered.
    for taken in meta.taken() {
        assert_eq!(tell(json!({"statuses": [status(&taken.id, "delivered")]}), APP_SECRET).await, 200);
    }
    let done = world.completed(&id).await;
    let all = meta.taken();
    // The audience writes the number with a space, which no spelling of ours has: only one that was written to is known by it.
    assert_eq!(done["counts"]["sent"], json!(messages), "{done}");
    assert_eq!(tell(stop(wa_id(&number(last))), APP_SECRET).await, 200);

    for (n, taken) in all.iter().enumerate() {
        let told = match n % 4 {
            0 => vec![status(&taken.id, "delivered")],
            1 => vec![status(&taken.id, "read"), status(&taken.id, "delivered")],
            2 => vec![status(&taken.id, "sent"), status(&taken.id, "delivered"), status(&taken.id, "failed")],
            _ => vec![status(&taken.id, "delivered"), status(&taken.id, "read")],
        };
        for _ in 0..2 {
            assert_eq!(tell(json!({"statuses": told}), APP_SECRET).await, 200);
        }
    }
    let path_of = format!("/api/v1/campaigns/{id}");
    let expected = json!({"delivered": messages, "read": messages / 2, "failed": 0});
    eventually("all are counted, once each", PATIENCE, || async {
        matches!(client.get(&path_of).await, Ok((200, c)) if c["receipts"] == expected)
    })
    .await;
    let message = world.api().get(&format!("/api/v1/messages/{}", all[1].id)).await;
    assert_eq!((&message["status"], &message["receipt"]["state"]), (&json!("sent"), &json!("read")));

    // Who said stop gets nothing more, nor does who says so while a campaign runs.
    let again = world.launch(&spec).await;
    eventually("some are taken again", PATIENCE, || async { meta.taken().len() >= messages + 3 }).await;
    let late = number(messages - 2);
    assert_eq!(tell(stop(wa_id(&late)), APP_SECRET).await, 200);
    let done = world.completed(&again).await;
    assert_eq!((&done["counts"]["sent"], &done["counts"]["suppressed"]), (&json!(messages - 2), &json!(2)), "{done}");
    let second: Vec<_> = meta.taken().into_iter().skip(messages).map(|taken| taken.to).collect();
    assert!(!second.contains(&number(last)) && !second.contains(&late), "somebody who said stop was written to");
    let log = world.api().log();
    for personal in ["5511 9", "55110000", "55119000", path.as_str(), APP_SECRET] {
        assert!(!log.contains(personal), "{personal} is in the log");
    }
}
