//! Each change leaves its row in the audit log: what was done, to what, by whom.

use std::collections::BTreeSet;

use bytes::Bytes;
use carillon::plugins::NEXT_JINJA;
use serde_json::{Value, json};

use super::{Api, campaign};

/// Calls as one token, and looks at what each left in the audit log.
struct Auditor<'a> {
    api: &'a Api,
    secret: String,
    covered: BTreeSet<String>,
}

impl Auditor<'_> {
    async fn rows(&self) -> Vec<Value> {
        self.api.get("/audit?limit=1000").await["items"].as_array().unwrap().clone()
    }

    /// Makes a change through `operation`, such as `POST /campaigns/{id}/pause`, and expects one row with this action.
    async fn change(&mut self, operation: &str, id: &str, media: &str, body: impl Into<Bytes>, action: &str) -> Value {
        let before = self.rows().await.len();
        let (method, template) = operation.split_once(' ').unwrap();
        let path =
            format!("/api/v1{}", template.replace("{id}", id).replace("{name}", id).replace("{version}", "1.1.0"));
        let bearer = format!("Bearer {}", self.secret);
        let headers = [("authorization", bearer.as_str()), ("content-type", media)];
        let answer = self.api.send(method, &path, &headers, body).await;
        assert!((200..300).contains(&answer.status), "{operation}: {answer:?}");
        let rows = self.rows().await;
        assert_eq!(rows.len(), before + 1, "{operation} leaves one row");
        let row = &rows[0];
        assert_eq!((&row["action"], &row["actor"]), (&json!(action), &json!("operator")), "{operation}: {row}");
        assert!(row["subject"].as_str().is_some_and(|s| !s.is_empty()) && row["at"].is_string(), "{row}");
        self.covered.insert(operation.to_owned());
        answer.body
    }

    async fn json(&mut self, operation: &str, id: &str, body: Value, action: &str) -> Value {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        self.change(operation, id, "application/json", body, action).await
    }
}

#[tokio::test]
async fn every_changing_operation_leaves_a_row() {
    let api = Api::start_with(|config| config.secrets_key = Some(carillon::vault::Vault::new_key())).await;
    let first = api.get("/audit").await["items"][0].clone();
    assert_eq!(
        (&first["action"], &first["actor"]),
        (&json!("token.create"), &json!("system")),
        "the first admin token"
    );
    let made = api.call("POST", "/tokens", json!({"name": "operator", "scopes": ["admin"]})).await.expect(201);
    let secret = made["secret"].as_str().unwrap().to_owned();
    let mut by = Auditor { api: &api, secret, covered: BTreeSet::new() };
    let none = Value::Null;

    let devices = json!([{"id": "dev-1", "channel": "sms", "tags": ["eu"]}, {"id": "dev-2", "channel": "sms"}]);
    by.json("POST /devices", "", devices, "device.put").await;
    by.json("PATCH /devices/{id}", "dev-2", json!({"enabled": false}), "device.change").await;
    by.json("DELETE /devices/{id}", "dev-2", none.clone(), "device.delete").await;
    let csv = "address\n+1555001\n+1555002\n";
    by.change("PUT /audiences/{name}", "customers", "text/csv", csv, "audience.import").await;

    let id = by.json("POST /campaigns", "", campaign(), "campaign.create").await["id"].as_str().unwrap().to_owned();
    let view = by.json("POST /campaigns/{id}/launch", &id, none.clone(), "campaign.launch").await;
    let run = carillon::id::RunKey(i32::try_from(view["run"].as_i64().unwrap()).unwrap());
    api.core.store.expand_page(run, 0, 100, api.core.clock.now()).await.unwrap().unwrap();
    by.json("POST /devices/{id}/check", "dev-1", json!({"campaign": id}), "device.check").await;
    by.json("POST /campaigns/{id}/pause", &id, json!({"reason": "lunch"}), "campaign.pause").await;
    by.json("PATCH /campaigns/{id}", &id, json!({"priority": 1}), "campaign.edit").await;
    by.json("POST /campaigns/{id}/resume", &id, none.clone(), "campaign.resume").await;
    by.json("POST /campaigns/{id}/retry-failed", &id, none.clone(), "campaign.retry-failed").await;
    by.json("POST /campaigns/{id}/cancel", &id, none.clone(), "campaign.cancel").await;

    let (id, messages) = api.unproved(|_| {}).await;
    let message = |n: usize| messages[n].to_string();
    by.json("POST /messages/{id}/lookup", &message(0), none.clone(), "message.lookup").await;
    by.json("POST /messages/{id}/resolve", &message(0), json!({"as": "failed"}), "message.resolve").await;
    let word = json!({"as": "sent", "note": "seen in the log"});
    by.json("POST /campaigns/{id}/resolve-unknown", &id, word, "campaign.resolve-unknown").await;

    let step = json!({"template": {"plugin": "jinja", "config": {"text": "x"}},
        "delay": {"plugin": "uniform", "config": {"min_ms": 1, "max_ms": 2}},
        "sender": {"plugin": "simulator", "config": {}}});
    let spec = json!({"name": "welcome", "devices": {"tag": "eu"}, "steps": [step]});
    let id = by.json("POST /sequences", "", spec, "sequence.create").await["id"].as_str().unwrap().to_owned();
    by.json("POST /sequences/{id}/start", &id, none.clone(), "sequence.start").await;
    by.json("POST /sequences/{id}/enrol", &id, json!({"contact": {"address": "+1555003"}}), "sequence.enrol").await;
    by.json("POST /sequences/{id}/exit", &id, json!({"address": "+1555003"}), "sequence.exit").await;
    by.json("POST /sequences/{id}/pause", &id, none.clone(), "sequence.pause").await;

    by.json("PUT /max-workers", "", json!({"max_workers": 0}), "workers.limit").await;
    assert_eq!(api.get("/stats").await["max_workers"], 0);
    by.json("DELETE /max-workers", "", none.clone(), "workers.limit").await;
    assert_eq!(api.get("/stats").await["max_workers"], 500);

    by.json("POST /suppressions", "", json!([{"address": "+1555004"}]), "suppression.add").await;
    by.json("DELETE /suppressions", "", json!([{"address": "+1555004"}]), "suppression.remove").await;
    by.change("POST /plugins", "", "application/wasm", NEXT_JINJA, "plugin.upload").await;
    by.json("DELETE /plugins/{name}/versions/{version}", "jinja", none.clone(), "plugin.delete").await;
    by.change("POST /plugins", "", "application/wasm", NEXT_JINJA, "plugin.upload").await;
    let case = json!({"config": {"text": "Hi {{ name }}"}});
    by.json("POST /plugins/{name}/versions/{version}/try", "jinja", case, "plugin.try").await;
    by.json("POST /plugins/{name}/activate", "jinja", json!({"version": "1.1.0"}), "plugin.activate").await;
    by.json("POST /plugins/{name}/rollback", "jinja", none.clone(), "plugin.rollback").await;
    let canary = json!({"version": "1.1.0", "mode": "canary", "share": 0.1});
    by.json("POST /plugins/{name}/rollouts", "jinja", canary.clone(), "rollout.start").await;
    by.json("POST /plugins/{name}/rollouts/abort", "jinja", none.clone(), "rollout.abort").await;
    by.json("POST /plugins/{name}/rollouts", "jinja", canary, "rollout.start").await;
    by.json("POST /plugins/{name}/rollouts/promote", "jinja", none.clone(), "rollout.promote").await;
    let grants = json!({"hosts": ["api.example.com"], "secrets": ["KEY"], "requests_per_second": 5});
    by.json("PUT /plugins/{name}/grants", "webhook", grants, "plugin.grant").await;
    let secret = json!({"value": "car_hush", "host": "api.example.com"});
    by.json("PUT /secrets/{name}", "KEY", secret, "secret.put").await;
    by.json("POST /rotate-secrets", "", none.clone(), "secret.rotate").await;
    by.json("DELETE /secrets/{name}", "KEY", none.clone(), "secret.delete").await;
    let hook = by.json("POST /plugins/{name}/webhooks", "telegram", json!({}), "webhook.create").await;
    let path = format!("DELETE /plugins/{{name}}/webhooks/{}", hook["id"].as_str().unwrap());
    by.json(&path, "telegram", none.clone(), "webhook.delete").await;
    by.covered.remove(&path);
    by.covered.insert("DELETE /plugins/{name}/webhooks/{id}".to_owned());
    let made = by.json("POST /tokens", "", json!({"name": "t", "scopes": ["devices:read"]}), "token.create").await;
    by.json("DELETE /tokens/{id}", made["id"].as_str().unwrap(), none, "token.revoke").await;

    // Every operation of the document that is not a GET was among them.
    let document = api.send("GET", "/api/v1/openapi.json", &[], "").await.expect(200);
    let mut changing = BTreeSet::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        let path = path.strip_prefix("/api/v1").unwrap();
        let methods = item.as_object().unwrap().keys().map(|m| m.to_uppercase()).filter(|m| m != "GET");
        changing.extend(methods.map(|method| format!("{method} {path}")));
    }
    assert_eq!(by.covered, changing);

    // Neither addresses nor secrets are in it, and reading leaves nothing.
    let log = api.get("/audit?limit=1000").await.to_string();
    assert!(!log.contains("+1555") && !log.contains("car_") && !log.contains("hook_"), "{log}");
}

#[tokio::test]
async fn what_was_refused_leaves_no_row() {
    let api = Api::start().await;
    let before = api.get("/audit").await;
    api.call("POST", "/campaigns", json!({"name": ""})).await.expect(422);
    api.call("POST", "/tokens", json!({"name": "x", "scopes": ["root"]})).await.expect(422);
    api.call("DELETE", "/devices/none", Value::Null).await.expect(404);
    api.upload("POST", "/plugins", "application/wasm", "not wasm").await.expect(422);
    assert_eq!(api.get("/audit").await, before);
}
