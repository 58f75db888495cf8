//! What the senders of real providers make of their webhooks, given what the providers' documents say; and a webhook's reader that
//! means harm.

use carillon::clock::Time;
use carillon::plugins::{Event, EventKind, HttpArrival, Parsed, PluginBody, PluginFault, PluginHost, PluginLimits};
use carillon_tests::guests;
use serde_json::{Value, json};

use super::{ctx, first_party, host, load};

fn arrival(method: &str, query: &str, body: &str) -> HttpArrival {
    let body = if body.is_empty() { PluginBody::Empty } else { PluginBody::Text(body.into()) };
    HttpArrival { method: method.into(), path: String::new(), query: query.into(), headers: Vec::new(), body }
}

async fn parsed(plugin: &str, config: Value, body: &Value) -> Parsed {
    let plugin = first_party(plugin).await;
    plugin.check_config(&config.to_string()).unwrap();
    assert!(plugin.reads_receipts() && plugin.has_receipts());
    let parsed = plugin.parse(&ctx(config.to_string()), arrival("POST", "", &body.to_string())).await.unwrap();
    assert_eq!(parsed.response.status, 200);
    parsed
}

/// An event in a line: what, of which message, whose, when.
fn short(event: &Event) -> String {
    let kind = match &event.kind {
        EventKind::Delivered => "delivered".to_owned(),
        EventKind::Read => "read".to_owned(),
        EventKind::Failed(failure) => format!("failed {}: {}", failure.code, failure.detail),
        EventKind::Reply(text) => format!("reply {text:?}"),
        EventKind::OptedOut => "opted-out".to_owned(),
    };
    format!("{kind} | {} | {} | {}", event.provider_id, event.address, event.at)
}

fn events(parsed: &Parsed) -> Vec<String> {
    parsed.events.iter().map(short).collect()
}

fn whatsapp(field: &str, value: &Value) -> Value {
    let mut value = value.clone();
    value["messaging_product"] = "whatsapp".into();
    value["metadata"] = json!({"display_phone_number": "15550783881", "phone_number_id": "106540352242922"});
    json!({"object": "whatsapp_business_account",
        "entry": [{"id": "102290129340398", "changes": [{"value": value, "field": field}]}]})
}

#[tokio::test]
async fn whatsapp_reports_statuses() {
    let status = |id: &str, status: &str| json!({"id": id, "status": status, "timestamp": "1796115500", "recipient_id": "16505551234"});
    let mut failed = status("wamid.4", "failed");
    failed["errors"] = json!([{"code": 131_026, "title": "Message undeliverable", "message": "Message undeliverable",
        "error_data": {"details": "Message Undeliverable to 16505551234."}, "href": "https://developers.facebook.com"}]);
    let mut unwanted = status("wamid.5", "failed");
    unwanted["errors"] = json!([{"code": 131_050, "title": "User has stopped marketing messages"}]);
    let statuses =
        [status("wamid.1", "sent"), status("wamid.2", "delivered"), status("wamid.3", "read"), failed, unwanted];
    let found = parsed("whatsapp-cloud", json!({}), &whatsapp("messages", &json!({"statuses": statuses}))).await;
    assert_eq!(
        events(&found),
        [
            "delivered | wamid.2 | 16505551234 | 1796115500000",
            "read | wamid.3 | 16505551234 | 1796115500000",
            "failed whatsapp-131026: WhatsApp: Message undeliverable | wamid.4 | 16505551234 | 1796115500000",
            "failed whatsapp-131050: WhatsApp: User has stopped marketing messages | wamid.5 | 16505551234 | 1796115500000",
            "opted-out | wamid.5 | 16505551234 | 1796115500000",
        ]
    );
}

#[tokio::test]
async fn whatsapp_reports_what_people_write_and_want() {
    let from = |message: Value| {
        let mut message = message;
        message["from"] = "16505551234".into();
        message["timestamp"] = "1796115500".into();
        message
    };
    let messages = [
        from(json!({"id": "wamid.9", "type": "text", "text": {"body": "Stop"}})),
        from(
            json!({"id": "wamid.9", "type": "text", "text": {"body": "Hi"}, "context": {"from": "15550783881", "id": "wamid.2"}}),
        ),
        from(json!({"id": "wamid.9", "type": "button", "button": {"payload": "x", "text": "STOP"}})),
        from(json!({"id": "wamid.9", "type": "interactive",
            "interactive": {"type": "button_reply", "button_reply": {"id": "x", "title": "Unsubscribe"}}})),
        from(json!({"id": "wamid.9", "type": "image", "image": {"caption": "x"}})),
        from(json!({"id": "wamid.9", "type": "system", "system": {"body": "changed", "type": "user_changed_number"}})),
    ];
    let found = parsed("whatsapp-cloud", json!({}), &whatsapp("messages", &json!({"messages": messages}))).await;
    let of = |what: &str| format!("{what} | 16505551234 | 1796115500000");
    assert_eq!(
        events(&found),
        [
            of("reply \"Stop\" | "),
            of("reply \"Hi\" | wamid.2"),
            of("reply \"STOP\" | "),
            of("reply \"Unsubscribe\" | "),
            of("reply \"\" | "),
        ]
    );
    let preference = |value: &str| json!({"wa_id": "16505551234", "detail": "…", "category": "marketing_messages", "value": value, "timestamp": 1_796_115_500});
    let both = json!({"user_preferences": [preference("stop"), preference("resume")]});
    let found = parsed("whatsapp-cloud", json!({}), &whatsapp("user_preferences", &both)).await;
    assert_eq!(events(&found), [of("opted-out | ")]);
    // What it does not know says nothing.
    let found = parsed("whatsapp-cloud", json!({}), &whatsapp("account_update", &json!({"event": "x"}))).await;
    assert_eq!(events(&found), [""; 0]);
}

#[tokio::test]
async fn whatsapp_asks_whether_the_address_is_ours() {
    let plugin = first_party("whatsapp-cloud").await;
    let asked = async |config: Value, query: &str| {
        let parsed = plugin.parse(&ctx(config.to_string()), arrival("GET", query, "")).await.unwrap();
        assert!(parsed.events.is_empty());
        (parsed.response.status, parsed.response.body)
    };
    let ours = json!({"verify_token": "meat y+"});
    let right = "hub.mode=subscribe&hub.challenge=1158201444&hub.verify_token=meat%20y%2B";
    assert_eq!(asked(ours.clone(), right).await, (200, PluginBody::Text("1158201444".into())));
    assert_eq!(asked(ours.clone(), "hub.mode=subscribe&hub.challenge=1&hub.verify_token=wrong").await.0, 403);
    assert_eq!(asked(ours, "hub.challenge=1&hub.verify_token=meat+y%2B").await.0, 403);
    assert_eq!(asked(json!({}), right).await.0, 403, "without a token of our own nobody is believed");
}

#[tokio::test]
async fn telegram_reports_what_people_write_and_who_blocks_the_bot() {
    let chat = |kind: &str| json!({"id": 987_654_321, "type": kind});
    let message = |kind: &str, text: &str| json!({"update_id": 1, "message": {"message_id": 5, "chat": chat(kind), "date": 1_796_115_500, "text": text}});
    let member = |status: &str| {
        json!({"update_id": 2, "my_chat_member": {"chat": chat("private"), "date": 1_796_115_500,
            "old_chat_member": {"status": "member"}, "new_chat_member": {"status": status}}})
    };
    let at = "987654321 | 1796115500000";
    for (update, found) in [
        (message("private", "stop"), Some(format!("reply \"stop\" |  | {at}"))),
        (message("private", "/stop@the_bot"), Some(format!("reply \"/stop\" |  | {at}"))),
        (message("supergroup", "stop"), None),
        (member("kicked"), Some(format!("opted-out |  | {at}"))),
        (member("member"), None),
        (json!({"update_id": 3, "poll": {}}), None),
    ] {
        assert_eq!(events(&parsed("telegram", json!({}), &update).await), found.as_slice(), "{update}");
    }
}

#[tokio::test]
async fn a_phone_reports_deliveries_failures_and_what_people_write() {
    let event = |event: &str, payload: Value| {
        json!({"deviceId": "ffffffffceb0b1db0000018e937c815b", "event": event, "id": "Ey6ECgOkVVFjz3CL48B8C",
            "payload": payload, "webhookId": "w"})
    };
    for (body, found) in [
        (
            event("sms:delivered", json!({"messageId": "2000000000000000001", "phoneNumber": "+15550101", "simNumber": 1,
                "deliveredAt": "2026-12-01T15:58:20.000+07:00"})),
            Some("delivered | 2000000000000000001 | +15550101 | 1796115500000".to_owned()),
        ),
        (
            event("sms:failed", json!({"messageId": "2000000000000000002", "phoneNumber": "+15550101", "simNumber": null,
                "failedAt": "2026-12-01T08:58:20Z", "reason": "Send result: RESULT_ERROR_NO_SERVICE to +15550101"})),
            Some("failed sms-gateway-failed: the phone did not send it, or it did not arrive (RESULT_ERROR_NO_SERVICE) | \
                  2000000000000000002 | +15550101 | 1796115500000".to_owned()),
        ),
        (
            event("sms:received", json!({"messageId": "abc123", "message": "Stop", "phoneNumber": "6505551212", "simNumber": 1,
                "receivedAt": "soon"})),
            Some("reply \"Stop\" |  | 6505551212 | 1796115600000".to_owned()),
        ),
        (event("sms:sent", json!({"messageId": "1", "phoneNumber": "+1"})), None),
        (event("system:ping", json!({"health": {}})), None),
    ] {
        assert_eq!(events(&parsed("android-sms-gateway", json!({}), &body).await), found.as_slice(), "{body}");
    }
}

#[tokio::test]
async fn what_is_no_report_is_refused_and_shows_nothing_of_it() {
    for name in ["whatsapp-cloud", "telegram", "android-sms-gateway"] {
        let plugin = first_party(name).await;
        for body in ["", "+15550101 says no", "{\"a\": +15550101"] {
            let fault = plugin.parse(&ctx("{}"), arrival("POST", "", body)).await.unwrap_err();
            assert!(matches!(&fault, PluginFault::InvalidInput(text) if !text.contains("555")), "{name}: {fault:?}");
        }
        for body in ["{}", "[]", "null", r#"{"entry":{"changes":1},"event":5,"message":[],"payload":"x"}"#] {
            let parsed = plugin.parse(&ctx("{}"), arrival("POST", "", body)).await.unwrap();
            assert!(parsed.events.is_empty(), "{name}: {body}");
        }
        let bytes = HttpArrival { body: PluginBody::Bytes(vec![0xff, 0xfe]), ..arrival("POST", "", "") };
        assert!(matches!(plugin.parse(&ctx("{}"), bytes).await, Err(PluginFault::InvalidInput(_))));
    }
    let plugin = first_party("webhook").await;
    assert!(!plugin.reads_receipts() && !plugin.has_receipts());
    assert!(plugin.parse(&ctx("{}"), arrival("POST", "", "{}")).await.is_err());
}

async fn fault_of(parse: &str) -> PluginFault {
    let plugin = load(&host(), guests::receiving("harm", parse)).await;
    plugin.parse(&ctx("{}"), arrival("POST", "", "x")).await.unwrap_err()
}

#[tokio::test]
async fn a_reader_of_webhooks_has_its_limits() {
    let output = |fault: PluginFault| match fault {
        PluginFault::Output(text) => text,
        other => panic!("{other:?}"),
    };
    let plugin = load(&host(), guests::receiving("modest", &guests::parsed(10_000, 200, 65_536))).await;
    let most = plugin.parse(&ctx("{}"), arrival("POST", "", "x")).await.unwrap();
    assert_eq!((most.events.len(), most.response.status), (10_000, 200));
    assert_eq!((short(&most.events[9_999]), Time::default()), ("delivered |  |  | 0".to_owned(), Time::default()));
    assert!(output(fault_of(&guests::parsed(10_001, 200, 0)).await).contains("at most 10000 events"));
    assert!(output(fault_of(&guests::parsed(1_000_000, 200, 0)).await).contains("larger than an answer may be"));
    assert!(output(fault_of(&guests::parsed(0, 200, 65_537)).await).contains("at most 65536 bytes"));
    assert!(output(fault_of(&guests::parsed(0, 99, 0)).await).contains("status"));
    assert_eq!(fault_of("(loop $l (br $l)) unreachable").await, PluginFault::Deadline);
    assert!(matches!(fault_of("unreachable").await, PluginFault::Trap(_)));
}

#[tokio::test]
async fn what_strangers_send_does_not_count_as_how_quick_a_sender_is() {
    // The sender's own calls have room for one: would the reader's count among them, the next would be put off.
    let limits =
        PluginLimits { slow_calls_per_plugin: 1, slow_calls_waiting: 0, instances: 10, ..PluginLimits::default() };
    let host = PluginHost::new(limits, None).unwrap();
    let plugin = load(&host, guests::receiving("harm", "(loop $l (br $l)) unreachable")).await;
    let context = ctx("{}");
    let parsing = plugin.parse(&context, arrival("POST", "", "x"));
    let (parsed, crowded) = tokio::join!(parsing, async { plugin.crowded() });
    assert_eq!((parsed, crowded), (Err(PluginFault::Deadline), None));
    let stats = plugin.stats();
    assert_eq!(stats.of("parse").unwrap().deadlines, 1);
    assert_eq!(stats.of("start"), None);
}
