//! Versions of plugins are deleted.

use carillon::case::Case;
use carillon::case::run::run;
use carillon::plugins::{NEXT_JINJA, Registry};
use serde_json::{Value, json};

use super::Api;

const VERSION: &str = "/plugins/jinja/versions/1.1.0";

impl Api {
    /// The next version of jinja, stored beside the active one.
    async fn second(&self) {
        let stored = self.upload("POST", "/plugins", "application/wasm", NEXT_JINJA).await.expect(201);
        assert_eq!((&stored["version"], &stored["active"]), (&json!("1.1.0"), &json!(false)));
    }

    async fn delete(&self, path: &str) -> super::Answer {
        self.call("DELETE", path, Value::Null).await
    }

    /// Why a version is kept.
    async fn kept(&self, path: &str) -> String {
        let problem = self.delete(path).await.expect(409);
        assert_eq!(problem["type"], "urn:carillon:problem:conflict");
        problem["detail"].as_str().unwrap().to_owned()
    }
}

#[tokio::test]
async fn a_version_that_nothing_uses_is_deleted_everywhere() {
    let api = Api::start().await;
    api.second().await;
    // Another server, in the middle of a message.
    let (store, now) = (&*api.core.store, api.core.clock.now());
    let other = Registry::new(api.core.plugin_host.clone());
    other.reload(store, now).await.unwrap();
    let held = other.resolve("jinja", Some("1.1.0")).expect("it is loaded");

    assert_eq!(api.delete(VERSION).await.status, 204);
    assert!(api.core.plugins.resolve("jinja", Some("1.1.0")).is_none());
    let shown = api.get("/plugins/jinja").await;
    let versions: Vec<_> = shown["versions"].as_array().unwrap().iter().map(|v| &v["version"]).collect();
    assert_eq!(versions, ["1.0.0"]);
    api.call("POST", &format!("{VERSION}/try"), json!({})).await.expect(404);
    api.call("POST", "/plugins/jinja/activate", json!({"version": "1.1.0"})).await.expect(404);
    for path in [VERSION, "/plugins/nobody/versions/1.0.0", "/plugins/jinja/versions/1.0"] {
        api.delete(path).await.expect(404);
    }
    let row = api.get("/audit").await["items"][0].clone();
    assert_eq!(row["action"], "plugin.delete");
    assert_eq!(row["subject"], format!("jinja 1.1.0, sha256 {}", held.digest));

    other.reload(store, now).await.unwrap();
    assert!(other.resolve("jinja", Some("1.1.0")).is_none() && other.by_no(held.no).is_none());
    let case: Case = serde_json::from_value(json!({"config": {"text": "Hi {{ name }}"}})).unwrap();
    let ran = run(&held, &case, None).await;
    assert!(ran.fault.is_none(), "who has it goes on with it: {:?}", ran.fault);

    api.second().await;
    let again = api.core.plugins.resolve("jinja", Some("1.1.0")).expect("it is loaded");
    assert!(again.no > held.no && again.digest == held.digest);
}

#[tokio::test]
async fn a_version_in_use_is_kept_and_the_answer_says_what_to_do() {
    let api = Api::start().await;
    api.furnish().await;
    let own = api.kept("/plugins/jinja/versions/1.0.0").await;
    assert!(own.contains("it comes with this program"), "{own}");

    api.second().await;
    let canary = json!({"version": "1.1.0", "mode": "canary", "share": 0.1});
    api.call("POST", "/plugins/jinja/rollouts", canary).await.expect(201);
    let tried = api.kept(VERSION).await;
    assert!(tried.contains("promote or abort it first"), "{tried}");
    api.call("POST", "/plugins/jinja/rollouts/abort", Value::Null).await.expect(200);

    let id = api.campaign(|spec| spec["template"]["version"] = json!("1.1.0")).await;
    let named = api.kept(VERSION).await;
    assert!(named.contains(&format!("campaign {id} stays on it; cancel that")), "{named}");
    api.call("POST", &format!("/campaigns/{id}/cancel"), Value::Null).await.expect(200);

    api.call("POST", "/plugins/jinja/activate", json!({"version": "1.1.0", "watch_ms": 0})).await.expect(200);
    let active = api.kept(VERSION).await;
    assert!(active.contains("activate another one first"), "{active}");
    api.call("POST", "/plugins/jinja/activate", json!({"version": "1.0.0", "watch_ms": 0})).await.expect(200);
    let before = api.kept(VERSION).await;
    assert!(before.contains("a roll-back would go back to it"), "{before}");
    // One step further it is not. (The next version is uploaded under another number, to have a third one.)
    let third = api.upload("POST", "/plugins?suffix=third", "application/wasm", NEXT_JINJA).await.expect(201);
    api.call("POST", "/plugins/jinja/activate", json!({"version": third["version"], "watch_ms": 0})).await.expect(200);
    assert_eq!(api.delete(VERSION).await.status, 204);
    let history = api.get("/plugins/jinja/history").await.to_string();
    assert!(history.contains("\"1.1.0\""), "{history}");
}
