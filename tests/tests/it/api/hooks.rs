//! Webhooks: made, listed and deleted; and what gets past their door.

use carillon::id::MessageId;
use carillon::message::{MessageRow, Settled};
use carillon::receipt::{AddressKey, Expected, ReceiptKey};
use carillon_tests::guests;
use carillon_tests::hooks::{hmac, meta_signature};
use carillon_tests::wait::eventually;
use serde_json::{Value, json};
use std::time::Duration;

use super::{Answer, Api};

const APP_SECRET: &str = "app secret of Meta's";

impl Api {
    async fn with_secrets() -> Self {
        Self::start_with(|config| {
            config.secrets = vec![format!("APP={APP_SECRET}@graph.facebook.com"), "BOT=b0t@api.telegram.org".into()];
        })
        .await
    }

    /// Makes a webhook; returns its path.
    async fn hook(&self, plugin: &str, spec: Value) -> String {
        let made = self.call("POST", &format!("/plugins/{plugin}/webhooks"), spec).await.expect(201);
        made["path"].as_str().unwrap().to_owned()
    }

    /// A request signed as Meta signs.
    async fn meta(&self, path: &str, body: &Value) -> Answer {
        let body = body.to_string();
        let signature = meta_signature(APP_SECRET, &body);
        self.send("POST", path, &[("x-hub-signature-256", &signature), ("content-type", "application/json")], body)
            .await
    }

    /// A campaign over what [`Api::furnish`] made, all of whose messages WhatsApp took: its id, and theirs. The provider's id of
    /// each is `wamid.` and its address, and it calls the recipient by the number that follows a 9.
    async fn sent_by_whatsapp(&self) -> (String, Vec<MessageId>) {
        let name = "whatsapp-cloud";
        let end = |row: &MessageRow| {
            let provider_id = format!("wamid.{}", row.address);
            let called = format!("9000000{}", row.address.trim_start_matches('+'));
            let receipt =
                Expected { key: ReceiptKey::new(name, &provider_id), address: AddressKey::new(name, &called) };
            (Settled::Sent { provider_id: Some(provider_id), delivered: false }, Some(receipt))
        };
        self.ended(name, |_| {}, end).await
    }

    async fn suppressed(&self) -> Vec<(String, Value, String)> {
        let listed = self.get("/suppressions").await;
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        let items = listed["items"].as_array().unwrap().iter();
        items.map(|s| (text(&s["address"]), s["channel"].clone(), text(&s["reason"]))).collect()
    }
}

fn signed() -> Value {
    json!({"channel": "whatsapp", "signature": {"scheme": "whatsapp", "secret": "APP"}, "config": {"verify_token": "mine"}})
}

fn statuses(statuses: &[(&str, &str)]) -> Value {
    let statuses: Vec<Value> = statuses
        .iter()
        .map(|(id, status)| {
            json!({"id": id, "status": status, "timestamp": "1756115500", "recipient_id": "9",
                "errors": [{"code": 131_026, "title": "Message undeliverable"}]})
        })
        .collect();
    json!({"entry": [{"changes": [{"field": "messages", "value": {"statuses": statuses}}]}]})
}

fn says(from: &str, text: &str) -> Value {
    let message =
        json!({"from": from, "id": "wamid.x", "timestamp": "1756115500", "type": "text", "text": {"body": text}});
    json!({"entry": [{"changes": [{"field": "messages", "value": {"messages": [message]}}]}]})
}

#[tokio::test]
async fn a_webhooks_key_is_shown_once_and_works_until_it_is_deleted() {
    let api = Api::with_secrets().await;
    let made = api.call("POST", "/plugins/whatsapp-cloud/webhooks", signed()).await.expect(201);
    let path = made["path"].as_str().unwrap().to_owned();
    let key = path.strip_prefix("/hooks/whatsapp-cloud/").unwrap();
    assert!(key.strip_prefix("hook_").is_some_and(|rest| rest.len() == 43), "{key}");
    let listed = api.get("/plugins/whatsapp-cloud/webhooks").await;
    assert_eq!(listed["items"][0]["id"], made["id"]);
    assert_eq!(listed["items"][0]["signature"], json!({"scheme": "whatsapp", "secret": "APP"}));
    assert!(!listed.to_string().contains(key) && !listed.to_string().contains(APP_SECRET));
    assert_eq!(api.get("/plugins/telegram/webhooks").await["items"], json!([]));

    api.meta(&path, &json!({})).await.expect(200);
    api.meta(&format!("{path}/and/more"), &json!({})).await.expect(200);
    // As if it were not there: another plugin, another key, none.
    for wrong in [
        path.replace("whatsapp-cloud", "telegram"),
        path.replace("whatsapp-cloud", "nothing"),
        format!("{path}x"),
        format!("/hooks/whatsapp-cloud/hook_{}", "a".repeat(43)),
        "/hooks/whatsapp-cloud/%ff".to_owned(),
        path.to_uppercase(),
    ] {
        let problem = api.meta(&wrong, &json!({})).await.expect(404);
        assert!(!problem["detail"].as_str().unwrap().contains("hook"), "{problem}");
    }
    let id = made["id"].as_str().unwrap();
    api.call("DELETE", &format!("/plugins/telegram/webhooks/{id}"), Value::Null).await.expect(404);
    api.call("DELETE", &format!("/plugins/whatsapp-cloud/webhooks/{id}"), Value::Null).await.expect(204);
    api.call("DELETE", &format!("/plugins/whatsapp-cloud/webhooks/{id}"), Value::Null).await.expect(404);
    eventually("its address is unknown", Duration::from_secs(5), || async {
        api.meta(&path, &json!({})).await.status == 404
    })
    .await;
    // Repeated with its key, the call does not show it again.
    let headers = [("authorization", format!("Bearer {}", super::ADMIN)), ("idempotency-key", "k1".into())];
    let headers: Vec<(&str, &str)> =
        headers.iter().map(|(n, v)| (*n, v.as_str())).chain([("content-type", "application/json")]).collect();
    let once = api.send("POST", "/api/v1/plugins/telegram/webhooks", &headers, "{}").await.expect(201);
    let again = api.send("POST", "/api/v1/plugins/telegram/webhooks", &headers, "{}").await.expect(201);
    assert_eq!((&again["id"], &again["path"]), (&once["id"], &Value::Null));
}

#[tokio::test]
async fn what_cannot_be_a_webhook_is_named() {
    let api = Api::with_secrets().await;
    let refused = async |plugin: &str, spec: Value| {
        let problem = api.call("POST", &format!("/plugins/{plugin}/webhooks"), spec).await;
        (problem.status, problem.body.to_string())
    };
    for (plugin, spec, status, says) in [
        ("nothing", json!({}), 404, "nothing"),
        ("webhook", json!({}), 409, "receipts"),
        ("jinja", json!({}), 409, "receipts"),
        ("telegram", json!({"config": []}), 422, "JSON object"),
        ("telegram", json!({"config": {"nonsense": 1}}), 422, "nonsense"),
        ("telegram", json!({"channel": "a b"}), 422, "channel"),
        ("telegram", json!({"signature": {"scheme": "telegram", "secret": "NONE"}}), 422, "carillon secret set NONE"),
        ("telegram", json!({"signature": {"scheme": "md5", "secret": "BOT"}}), 422, "md5"),
        (
            "telegram",
            json!({"signature": {"scheme": "token", "secret": "BOT", "header": "a b"}}),
            422,
            "signature.header",
        ),
        ("telegram", json!({"name": "x".repeat(201)}), 422, "200 bytes"),
        ("telegram", json!({"colour": "red"}), 422, "colour"),
    ] {
        let (found, body) = refused(plugin, spec.clone()).await;
        assert!(found == status && body.contains(says), "{plugin} {spec}: {found} {body}");
    }
}

#[tokio::test]
async fn only_what_is_signed_counts_and_a_challenge_is_answered() {
    let api = Api::with_secrets().await;
    api.furnish().await;
    let path = api.hook("whatsapp-cloud", signed()).await;
    let (id, messages) = api.sent_by_whatsapp().await;
    let body = statuses(&[("wamid.+1", "delivered")]).to_string();
    let wrong = meta_signature("other secret", &body);
    let of_other_body = meta_signature(APP_SECRET, &says("1", "x").to_string());
    for headers in
        [vec![], vec![("x-hub-signature-256", wrong.as_str())], vec![("x-hub-signature-256", of_other_body.as_str())]]
    {
        let problem = api.send("POST", &path, &headers, body.clone()).await.expect(401);
        assert!(!problem.to_string().contains("APP"), "{problem}");
    }
    let query = "?hub.mode=subscribe&hub.challenge=1158201444&hub.verify_token=mine";
    let answer = api.send("GET", &format!("{path}{query}"), &[], "").await;
    assert_eq!((answer.status, answer.header("content-type")), (200, Some("text/plain")));
    assert_eq!(answer.body, json!(1_158_201_444));
    assert!(answer.header("content-security-policy").unwrap().contains("sandbox"));
    assert_eq!(answer.header("cache-control"), Some("no-store"));
    assert_eq!(api.send("GET", &format!("{path}{}", query.replace("mine", "theirs")), &[], "").await.status, 403);
    assert_eq!(api.get(&format!("/messages/{}", messages[0])).await["receipt"]["state"], "awaited");
    assert_eq!(api.get(&format!("/campaigns/{id}")).await["receipts"], json!({"delivered": 0, "read": 0, "failed": 0}));

    // Telegram shows a token; a phone signs what it says and when.
    let bot = api.hook("telegram", json!({"signature": {"scheme": "telegram", "secret": "BOT"}})).await;
    let update = r#"{"update_id":1}"#;
    api.send("POST", &bot, &[("x-telegram-bot-api-secret-token", "b0t")], update).await.expect(200);
    api.send("POST", &bot, &[("x-telegram-bot-api-secret-token", "bot")], update).await.expect(401);
    api.send("GET", &bot, &[], "").await.expect(401);
    let phone = api.hook("android-sms-gateway", json!({"signature": {"scheme": "sms-gateway", "secret": "APP"}})).await;
    let ping = r#"{"event":"system:ping"}"#;
    let at = |seconds: i64| (api.core.clock.now().as_ms() / 1000 + seconds).to_string();
    for (timestamp, status) in [(at(0), 200), (at(-3_600), 401)] {
        let signature = hmac(APP_SECRET, &format!("{ping}{timestamp}"));
        let headers = [("x-signature", signature.as_str()), ("x-timestamp", timestamp.as_str())];
        api.send("POST", &phone, &headers, ping).await.expect(status);
    }
}

#[tokio::test]
async fn a_page_for_a_browser_is_text_in_a_sandbox() {
    let api = Api::start().await;
    let script = "<script>alert(1)</script>";
    for (media, answered) in [("text/html", "text/plain"), ("IMAGE/SVG+XML", "text/plain"), ("text/xml", "text/xml")] {
        let headers = [("content-type", media), ("content-security-policy", "default-src *"), ("set-cookie", "a=b")];
        let name = media.to_ascii_lowercase().replace(['/', '+'], "-");
        let page = guests::receiving(&name, &guests::answering(&headers, script));
        api.upload("POST", "/plugins?activate=true", "application/wasm", page).await.expect(201);
        let path = api.hook(&name, json!({})).await;
        let answer = api.send("GET", &path, &[], "").await;
        assert_eq!((answer.status, answer.header("content-type")), (200, Some(answered)), "{media}");
        let policies: Vec<_> = answer.headers.get_all("content-security-policy").iter().collect();
        assert_eq!(policies, ["default-src 'none'; frame-ancestors 'none'; sandbox"], "{media}");
        assert_eq!((answer.header("x-content-type-options"), answer.header("set-cookie")), (Some("nosniff"), None));
        assert_eq!(answer.body, json!(script), "{media}");
    }
}

#[tokio::test]
async fn what_is_reported_shows_on_the_message_and_the_campaign_once() {
    let api = Api::with_secrets().await;
    api.furnish().await;
    let path = api.hook("whatsapp-cloud", signed()).await;
    let (id, messages) = api.sent_by_whatsapp().await;
    let told =
        statuses(&[("wamid.+1", "delivered"), ("wamid.+2", "read"), ("wamid.+3", "failed"), ("wamid.?", "read")]);
    for _ in 0..3 {
        api.meta(&path, &told).await.expect(200);
    }
    let campaign = api.get(&format!("/campaigns/{id}")).await;
    assert_eq!(campaign["receipts"], json!({"delivered": 2, "read": 1, "failed": 1}));
    assert_eq!(campaign["counts"]["sent"], 3, "their state stays");
    let listed = api.get("/campaigns").await;
    assert_eq!(listed["items"][0]["receipts"], campaign["receipts"]);
    let receipt = |n: usize| {
        let (api, path) = (&api, format!("/messages/{}", messages[n]));
        async move { api.get(&path).await["receipt"].clone() }
    };
    assert_eq!(receipt(0).await["delivered_at"], "2025-08-25T09:51:40.000Z");
    assert_eq!(receipt(1).await["state"], "read");
    let failed = receipt(2).await;
    assert_eq!((&failed["state"], &failed["reason"]["code"]), (&json!("failed"), &json!("whatsapp-131026")));
    let metrics = api.send("GET", "/metrics", &[], "").await.body;
    for (kind, count) in [("delivered", 2), ("read", 1), ("failed", 1), ("repeated", 6)] {
        let line = format!("carillon_receipts_total{{plugin=\"whatsapp-cloud\",kind=\"{kind}\"}} {count}\n");
        assert!(metrics.as_str().unwrap().contains(&line), "{line}");
    }
}

#[tokio::test]
async fn who_says_stop_is_suppressed_however_the_audience_writes_the_number() {
    let api = Api::with_secrets().await;
    api.furnish().await;
    let path = api.hook("whatsapp-cloud", signed()).await;
    api.sent_by_whatsapp().await;
    api.meta(&path, &says("15550100", "Where is my parcel? Stop asking.")).await.expect(200);
    assert_eq!(api.suppressed().await, []);
    // The audience has +1; the provider calls it 90000001.
    api.meta(&path, &says("90000001", " stop! ")).await.expect(200);
    let of = |address: &str| (address.to_owned(), json!("whatsapp"), "opt-out-reply".to_owned());
    assert_eq!(api.suppressed().await, [of("+1"), of("+90000001"), of("90000001")]);
    let audit = api.get("/audit").await["items"][0].clone();
    assert_eq!((&audit["action"], &audit["actor"]), (&json!("suppression.add"), &json!("system")));
    assert!(!audit.to_string().contains("9000"), "{audit}");
    let before = api.get("/audit").await;
    api.meta(&path, &says("90000001", "STOP")).await.expect(200);
    assert_eq!(api.get("/audit").await, before, "a repetition adds nothing");
    // Without a channel it is for every one; blocking a bot is saying so.
    let bot = api.hook("telegram", json!({})).await;
    let blocked = json!({"my_chat_member": {"chat": {"id": 42}, "date": 1, "new_chat_member": {"status": "kicked"}}});
    api.send("POST", &bot, &[], blocked.to_string()).await.expect(200);
    assert!(api.suppressed().await.contains(&("42".to_owned(), Value::Null, "opted-out".to_owned())));
    // What people write is kept nowhere.
    let everything =
        format!("{} {}", api.get("/audit?limit=1000").await, api.send("GET", "/metrics", &[], "").await.body);
    assert!(!everything.contains("parcel"));
}

#[tokio::test]
async fn the_words_are_the_settings() {
    let api = Api::start_with(|config| config.opt_out_words = vec!["nein danke".into()]).await;
    let bot = api.hook("telegram", json!({})).await;
    for (chat, text) in [(41, "stop"), (42, "Nein, danke"), (43, "NEIN DANKE!")] {
        let update = json!({"message": {"chat": {"id": chat, "type": "private"}, "date": 1, "text": text}});
        api.send("POST", &bot, &[], update.to_string()).await.expect(200);
    }
    let addresses: Vec<String> = api.suppressed().await.into_iter().map(|(address, ..)| address).collect();
    assert_eq!(addresses, ["43"]);
}

#[tokio::test]
async fn a_flood_is_held_off() {
    let api = Api::start_with(|config| (config.hook_rate_limit, config.auth_failures_per_minute) = (3, 5)).await;
    let bot = api.hook("telegram", json!({})).await;
    let huge = vec![b' '; (1 << 20) + 1];
    api.send("POST", &bot, &[], huge).await.expect(413);
    api.send("POST", &bot, &[], "no JSON").await.expect(400);
    let many: Vec<(String, &str)> = (0..101).map(|n| (format!("x-{n}"), "y")).collect();
    let many: Vec<(&str, &str)> = many.iter().map(|(n, v)| (n.as_str(), *v)).collect();
    assert!([400, 431].contains(&api.send("POST", &bot, &many, "{}").await.status));
    let mut answers = Vec::new();
    for _ in 0..20 {
        answers.push(api.send("POST", &bot, &[], "{}").await);
    }
    let limited = answers.iter().find(|answer| answer.status == 429).expect("more than three in a second");
    assert_eq!(limited.header("retry-after"), Some("1"));
    // Who guesses keys is slowed down; who knows one goes on from the same address.
    for _ in 0..5 {
        api.send("POST", &format!("/hooks/telegram/hook_{}", "b".repeat(43)), &[], "{}").await.expect(404);
    }
    api.send("POST", &format!("/hooks/telegram/hook_{}", "c".repeat(43)), &[], "{}").await.expect(429);
    eventually("the known one answers", Duration::from_secs(5), || async {
        api.send("POST", &bot, &[], "{}").await.status == 200
    })
    .await;
}

#[tokio::test]
async fn a_reader_that_means_harm_costs_its_own_webhook_only() {
    let api = Api::start().await;
    let bot = api.hook("telegram", json!({})).await;
    for (name, parse) in [
        ("endless", "(loop $l (br $l)) unreachable".to_owned()),
        ("crashing", "unreachable".to_owned()),
        ("too-many", guests::parsed(10_001, 200, 0)),
        ("liar", guests::parsed(0, 99, 0)),
    ] {
        api.upload("POST", "/plugins?activate=true", "application/wasm", guests::receiving(name, &parse))
            .await
            .expect(201);
        let path = api.hook(name, json!({})).await;
        let answer = api.send("POST", &path, &[], "{}").await;
        assert_eq!(answer.header("retry-after"), Some("10"), "{name}");
        let problem = answer.expect(503);
        assert!(!problem.to_string().contains(name), "{problem}");
        api.send("POST", &bot, &[], "{}").await.expect(200);
        if name == "endless" {
            // More of them at a time than there are places.
            let all = (0..80).map(|_| api.send("POST", &path, &[], "{}"));
            let (hang, served) = futures::join!(futures::future::join_all(all), async {
                tokio::time::sleep(Duration::from_millis(50)).await;
                api.send("POST", &bot, &[], "{}").await.status
            });
            assert_eq!(served, 200, "its neighbour is served while it hangs");
            assert!(hang.iter().all(|answer| answer.status == 503), "each is to be repeated");
        }
    }
    // Ten thousand at once are taken in, and what its answer says of itself is not believed.
    let most = guests::receiving("most", &guests::parsed(10_000, 200, 60_000));
    api.upload("POST", "/plugins?activate=true", "application/wasm", most).await.expect(201);
    let path = api.hook("most", json!({})).await;
    let answer = api.send("POST", &path, &[], "{}").await;
    assert_eq!((answer.status, answer.header("content-type")), (200, Some("text/plain")));
}
