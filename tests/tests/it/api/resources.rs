//! Each resource when all is well.

use std::collections::HashSet;
use std::time::Duration;

use carillon::core::StoreTrouble;
use carillon::plugins::FIRST_PARTY;
use carillon::store::Heartbeat;
use serde_json::{Value, json};

use super::{Api, campaign};

#[tokio::test]
async fn devices() {
    let api = Api::start().await;
    let one = json!({"id": "dev-1", "name": "One", "channel": "sms", "tags": ["eu"],
        "caps": {"per_minute": null, "per_hour": 10, "per_day": null}, "adapter": {"number": "+1"}});
    assert_eq!(api.call("POST", "/devices", json!([one])).await.expect(201), json!({"created": 1, "updated": 0}));
    assert_eq!(api.call("POST", "/devices", one).await.expect(200), json!({"created": 0, "updated": 1}));
    let lines = "{\"id\":\"dev-2\",\"channel\":\"sms\"}\n{\"id\":\"dev-3\",\"channel\":\"push\",\"tags\":[\"eu\"]}\n";
    api.upload("POST", "/devices", "application/x-ndjson", lines).await.expect(201);
    api.upload("POST", "/devices", "text/csv", "id,channel,tags,number\ndev-4,sms,eu us,+4\n").await.expect(201);

    let shown = api.get("/devices/dev-4").await;
    assert_eq!(
        (&shown["tags"], &shown["adapter"], &shown["name"]),
        (&json!(["eu", "us"]), &json!({"number": "+4"}), &json!("dev-4"))
    );
    assert_eq!(shown["queue"]["queued"], 0);
    let ids = |listing: &Value| -> Vec<String> {
        listing["items"].as_array().unwrap().iter().map(|d| d["id"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(ids(&api.get("/devices?tag=eu").await), ["dev-1", "dev-3", "dev-4"]);
    assert_eq!(ids(&api.get("/devices?tag=eu&channel=push").await), ["dev-3"]);

    let patch = json!({"name": "Uno", "caps": {"per_hour": null, "per_day": 5}, "adapter": {"number": null, "sim": 2}, "enabled": false});
    let changed = api.call("PATCH", "/devices/dev-1", patch).await.expect(200);
    assert_eq!(
        (&changed["name"], &changed["adapter"], &changed["enabled"]),
        (&json!("Uno"), &json!({"sim": 2}), &json!(false))
    );
    assert_eq!(changed["caps"], json!({"per_minute": null, "per_hour": null, "per_day": 5}));
    assert_eq!(changed["tags"], json!(["eu"]), "what the patch does not name stays");
    assert_eq!(api.call("PATCH", "/devices/dev-1", json!({"held": "blocked"})).await.expect(200)["held"], "blocked");
    assert_eq!(api.call("PATCH", "/devices/dev-1", json!({"held": null})).await.expect(200)["held"], Value::Null);

    api.call("DELETE", "/devices/dev-2", Value::Null).await.expect(204);
    api.call("DELETE", "/devices/dev-2", Value::Null).await.expect(404);
    let audit = api.get("/audit").await;
    assert_eq!(audit["items"][0]["action"], "device.delete");
    assert_eq!((&audit["items"][0]["actor"], &audit["items"][0]["subject"]), (&json!("admin"), &json!("dev-2")));
}

#[tokio::test]
async fn pages_show_everything_once() {
    let api = Api::start().await;
    let devices: Vec<_> = (0..25).map(|n| json!({"id": format!("d-{n:02}"), "channel": "sms"})).collect();
    api.call("POST", "/devices", json!(devices)).await.expect(201);
    let (mut seen, mut pages, mut path) = (HashSet::new(), 0, "/devices?limit=10".to_owned());
    loop {
        let page = api.get(&path).await;
        pages += 1;
        for device in page["items"].as_array().unwrap() {
            assert!(seen.insert(device["id"].as_str().unwrap().to_owned()));
        }
        let Some(cursor) = page["next_cursor"].as_str() else { break };
        path = format!("/devices?limit=10&cursor={cursor}");
    }
    assert_eq!((seen.len(), pages), (25, 3));
}

#[tokio::test]
async fn a_campaign_from_draft_to_cancelled() {
    let api = Api::start().await;
    api.furnish().await;
    let id = api.campaign(|_| {}).await;
    let at = |verb: &str| format!("/campaigns/{id}/{verb}");
    for verb in ["pause", "resume", "retry-failed"] {
        let problem = api.call("POST", &at(verb), Value::Null).await.expect(409);
        assert!(problem["detail"].as_str().unwrap().contains("draft"), "{problem}");
    }
    assert_eq!(api.get(&at("messages")).await, json!({"items": [], "next_cursor": null}));

    assert_eq!(api.call("POST", &at("launch"), Value::Null).await.expect(200)["status"], "expanding");
    api.call("POST", &at("launch"), Value::Null).await.expect(409);
    let view = api.get(&format!("/campaigns/{id}")).await;
    let run = carillon::id::RunKey(i32::try_from(view["run"].as_i64().unwrap()).unwrap());
    let page = api.core.store.expand_page(run, 0, 100, api.core.clock.now()).await.unwrap().unwrap();
    assert!(page.done);
    let view = api.get(&format!("/campaigns/{id}")).await;
    assert_eq!(
        (&view["counts"]["pending"], &view["status"], &view["recipients"]),
        (&json!(3), &json!("running"), &json!(3))
    );
    for state in
        ["pending", "processing", "sent", "delivered", "failed", "unknown", "suppressed", "expired", "cancelled"]
    {
        assert!(view["counts"][state].is_u64(), "{view}");
    }
    assert!(view["rate_per_s"].is_number() && view["eta_s"].is_null());

    let page = api.get(&format!("{}?status=pending&limit=2", at("messages"))).await;
    assert_eq!(page["items"].as_array().unwrap().len(), 2);
    let rest = api
        .get(&format!("{}?status=pending&limit=2&cursor={}", at("messages"), page["next_cursor"].as_str().unwrap()))
        .await;
    assert_eq!(rest["items"].as_array().unwrap().len(), 1);
    let message = page["items"][0]["id"].as_str().unwrap().to_owned();
    let codes = async || -> Vec<String> {
        let shown = api.get(&format!("/messages/{message}")).await;
        shown["waiting_because"].as_array().unwrap().iter().map(|e| e["code"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(codes().await, ["queue_filling", "no_workers"]);
    api.call("POST", &at("pause"), json!({"reason": "lunch"})).await.expect(200);
    assert_eq!(codes().await[0], "campaign_paused");
    assert_eq!(api.get(&format!("/campaigns/{id}")).await["paused_reason"], "lunch");
    api.call("PATCH", "/devices/dev-1", json!({"enabled": false})).await.expect(200);
    api.call("PATCH", "/devices/dev-2", json!({"held": "blocked"})).await.expect(200);
    let all: Vec<_> = codes().await;
    assert!(all.contains(&"device_disabled".to_owned()) || all.contains(&"device_held".to_owned()), "{all:?}");

    let patch = json!({"priority": 1, "delay": {"min_ms": 5, "config": {"min_ms": 1, "max_ms": 2}}, "window": {"from": "09:00", "to": "20:00"}});
    let edited = api.call("PATCH", &format!("/campaigns/{id}"), patch).await.expect(200);
    assert_eq!(
        (&edited["priority"], &edited["delay"]["min_ms"], &edited["delay"]["config"]["max_ms"]),
        (&json!(1), &json!(5), &json!(2))
    );
    assert!(
        api.call("PATCH", &format!("/campaigns/{id}"), json!({"window": null})).await.expect(200)["window"].is_null()
    );
    api.call("PATCH", &format!("/campaigns/{id}"), json!({"delay": {"config": {"min_ms": "x"}}})).await.expect(422);
    api.call("PATCH", &format!("/campaigns/{id}"), json!({"name": "other"})).await.expect(422);

    assert_eq!(api.call("POST", &at("resume"), Value::Null).await.expect(200)["status"], "running");
    assert_eq!(api.call("POST", &at("retry-failed"), Value::Null).await.expect(200)["retried"], 0);
    assert_eq!(api.call("POST", &at("cancel"), Value::Null).await.expect(200)["status"], "cancelled");
    api.call("POST", &at("cancel"), Value::Null).await.expect(409);
    api.call("PATCH", &format!("/campaigns/{id}"), json!({"priority": 2})).await.expect(409);
    let list = api.get("/campaigns?status=cancelled").await;
    assert_eq!(list["items"][0]["id"], json!(id));
    assert_eq!(api.get("/campaigns?status=running").await["items"], json!([]));
}

#[tokio::test]
async fn a_campaign_waits_for_its_time_and_for_a_device() {
    let api = Api::start().await;
    api.furnish().await;
    let later = api.campaign(|spec| spec["schedule"] = json!({"at": "2126-12-01T09:00:00Z"})).await;
    let launched = api.call("POST", &format!("/campaigns/{later}/launch"), Value::Null).await.expect(200);
    assert_eq!((&launched["status"], &launched["run"]), (&json!("scheduled"), &Value::Null));
    api.call("POST", &format!("/campaigns/{later}/pause"), Value::Null).await.expect(200);
    assert_eq!(
        api.call("POST", &format!("/campaigns/{later}/resume"), Value::Null).await.expect(200)["status"],
        "scheduled"
    );

    for device in ["dev-1", "dev-2"] {
        api.call("PATCH", &format!("/devices/{device}"), json!({"enabled": false})).await.expect(200);
    }
    let id = api.campaign(|_| {}).await;
    let launched = api.call("POST", &format!("/campaigns/{id}/launch"), Value::Null).await.expect(200);
    assert_eq!((&launched["status"], &launched["paused_reason"]), (&json!("paused"), &json!("no device")));
    api.call("PATCH", "/devices/dev-2", json!({"enabled": true})).await.expect(200);
    assert_eq!(
        api.call("POST", &format!("/campaigns/{id}/resume"), Value::Null).await.expect(200)["status"],
        "expanding"
    );
}

#[tokio::test]
async fn sequences_and_enrolments() {
    let api = Api::start().await;
    api.furnish().await;
    let step = json!({"offset_ms": 1000, "template": campaign()["template"], "delay": campaign()["delay"], "sender": campaign()["sender"]});
    let spec = json!({"name": "welcome", "devices": {"tag": "eu"}, "steps": [step, step]});
    let made = api.call("POST", "/sequences", spec).await.expect(201);
    let at = |verb: &str| format!("/sequences/{}{verb}", made["id"].as_str().unwrap());
    assert_eq!(made["status"], "draft");
    let enrolled = api.call("POST", &at("/enrol"), json!({"audience": "customers"})).await.expect(200);
    assert_eq!(enrolled, json!({"enrolled": 3, "already": 0, "suppressed": 0}));
    let contact = json!({"contact": {"address": "+9", "variables": {"name": "Zoe"}, "locale": "de-CH"}});
    assert_eq!(api.call("POST", &at("/enrol"), contact.clone()).await.expect(200)["enrolled"], 1);
    assert_eq!(api.call("POST", &at("/enrol"), contact).await.expect(200)["already"], 1);
    api.call("POST", &at("/enrol"), json!({"audience": "nobody"})).await.expect(422);
    api.call("POST", &at("/enrol"), json!({"contact": {"address": ""}})).await.expect(422);
    assert_eq!(api.call("POST", &at("/start"), Value::Null).await.expect(200)["status"], "running");
    api.call("POST", &at("/start"), Value::Null).await.expect(409);
    assert_eq!(api.call("POST", &at("/pause"), Value::Null).await.expect(200)["status"], "paused");
    api.call("POST", &at("/pause"), Value::Null).await.expect(409);
    api.call("POST", &at("/exit"), json!({"address": "+9", "reason": "asked"})).await.expect(204);
    api.call("POST", &at("/exit"), json!({"address": "+9"})).await.expect(404);
    let shown = api.get(&at("")).await;
    assert_eq!(shown["enrolments"], json!({"waiting": 3, "in_step": 0, "completed": 0, "exited": 1}));
    assert_eq!(shown["runs"].as_array().unwrap().len(), 2);
    let exited = api.get(&at("/enrolments?status=exited")).await;
    assert_eq!((&exited["items"][0]["address"], &exited["items"][0]["exit_reason"]), (&json!("+9"), &json!("asked")));
    let first = api.get(&at("/enrolments?limit=3")).await;
    let rest = api.get(&at(&format!("/enrolments?limit=3&cursor={}", first["next_cursor"].as_str().unwrap()))).await;
    assert_eq!(rest["items"].as_array().unwrap().len(), 1);
    assert_eq!(api.get("/sequences").await["items"][0]["name"], "welcome");
}

#[tokio::test]
async fn suppressions() {
    let api = Api::start().await;
    let entries =
        json!([{"address": " +1 ", "reason": "opted-out"}, {"address": "+2", "channel": "sms", "reason": "invalid"}]);
    assert_eq!(api.call("POST", "/suppressions", entries.clone()).await.expect(200), json!({"added": 2}));
    assert_eq!(api.call("POST", "/suppressions", entries).await.expect(200), json!({"added": 0}));
    let list = api.get("/suppressions?limit=1").await;
    assert_eq!((&list["items"][0]["address"], &list["items"][0]["channel"]), (&json!("+1"), &Value::Null));
    let rest = api.get(&format!("/suppressions?limit=1&cursor={}", list["next_cursor"].as_str().unwrap())).await;
    assert_eq!(rest["items"][0]["channel"], "sms");
    assert_eq!(api.get("/suppressions?address=%2B2").await["items"].as_array().unwrap().len(), 1);
    assert_eq!(
        api.call("DELETE", "/suppressions", json!([{"address": "+2", "channel": "sms"}, {"address": "+7"}]))
            .await
            .expect(200),
        json!({"removed": 1})
    );
    let audit = api.get("/audit").await.to_string();
    assert!(audit.contains("suppression.remove") && !audit.contains("+1"), "{audit}");
}

#[tokio::test]
async fn plugins() {
    let api = Api::start().await;
    let list = api.get("/plugins").await;
    let names: HashSet<_> = list["items"].as_array().unwrap().iter().map(|p| p["name"].as_str().unwrap()).collect();
    assert!(
        ["uniform", "adaptive", "jinja", "webhook", "telegram", "simulator"].iter().all(|n| names.contains(n)),
        "{names:?}"
    );
    let shown = api.get("/plugins/jinja").await;
    assert_eq!((&shown["kind"], &shown["versions"][0]["active"]), (&json!("template"), &json!(true)));
    assert!(shown["versions"][0]["config_schema"].is_object());
    let (_, bytes) = FIRST_PARTY.iter().find(|(name, _)| *name == "jinja").unwrap();
    let same = api.upload("POST", "/plugins", "application/wasm", bytes.to_vec()).await.expect(200);
    assert_eq!((&same["name"], &same["digest"]), (&json!("jinja"), &shown["versions"][0]["digest"]));
    let version = same["version"].as_str().unwrap();
    let activated = api.call("POST", "/plugins/jinja/activate", json!({"version": version})).await.expect(200);
    assert_eq!(activated["active"], true);
}

#[tokio::test]
async fn the_pages_that_watch_a_server() {
    let api = Api::start().await;
    api.furnish().await;
    assert_eq!(api.send("GET", "/healthz", &[], "").await.expect(200), json!("ok\n"));
    let ready = api.send("GET", "/readyz", &[], "").await.expect(200);
    assert_eq!((&ready["ready"], &ready["plugins"]["ok"]), (&json!(true), &json!(true)));
    let beat = Heartbeat {
        host: api.core.host,
        name: "box".into(),
        version: "1".into(),
        roles: "api,workers".into(),
        active_workers: 7,
    };
    let hosts = api.core.store.heartbeat(&beat, api.core.clock.now(), Duration::from_secs(10)).await.unwrap();
    *api.core.hosts.write() = hosts;
    let stats = api.get("/stats").await;
    assert_eq!(
        (&stats["active_workers"], &stats["max_workers"], &stats["devices"]),
        (&json!(7), &json!(500), &json!(2))
    );
    assert_eq!(
        (&stats["hosts"][0]["name"], &stats["store"], &stats["queue"]),
        (&json!("box"), &json!("sqlite"), &json!("memory"))
    );
    let text = api.send("GET", "/metrics", &[], "").await.expect(200);
    let text = text.as_str().unwrap();
    assert!(
        text.contains("carillon_http_requests_total{method=\"GET\",route=\"/api/v1/stats\",status=\"200\"} 1"),
        "{text}"
    );
    assert!(text.contains("carillon_servers{role=\"workers\"} 1") && text.contains("carillon_store_statements_total"));

    let answer = api.send("GET", "/healthz", &[("x-request-id", "abc-1")], "").await;
    assert_eq!(answer.header("x-request-id"), Some("abc-1"));
    assert_eq!(answer.header("x-content-type-options"), Some("nosniff"));
    let answer = api.call("GET", "/devices", Value::Null).await;
    assert_eq!(answer.header("cache-control"), Some("no-store"));
    assert_eq!(answer.header("x-request-id").map(str::len), Some(36));

    // Reading goes on while nothing can be written. That is told at once, and counts when the other servers count this one as
    // dead.
    let full = |alive_until| Some(StoreTrouble { told: "the store's disk is full", alive_until });
    *api.core.store_trouble.write() = full(Duration::MAX);
    let ready = api.send("GET", "/readyz", &[], "").await.expect(200);
    assert_eq!(ready["store"], json!({"ok": true, "problems": ["the store's disk is full"]}));
    *api.core.store_trouble.write() = full(Duration::ZERO);
    let away = api.send("GET", "/readyz", &[], "").await.expect_not_ready();
    assert_eq!(away["store"], json!({"ok": false, "problems": ["the store's disk is full"]}));
    *api.core.store_trouble.write() = None;
    let ready = api.send("GET", "/readyz", &[], "").await.expect(200);
    assert_eq!(ready["store"], json!({"ok": true}));

    api.core.store.close().await;
    let away = api.send("GET", "/readyz", &[], "").await.expect_not_ready();
    assert_eq!((&away["store"]["ok"], &away["queue"]["ok"]), (&json!(false), &json!(true)));
    let refused = api.call("GET", "/devices", Value::Null).await;
    assert!(refused.header("retry-after").is_some(), "{refused:?}");
    refused.expect(503);
}
