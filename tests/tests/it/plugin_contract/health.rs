//! Whether a device can send: what `webhook`, `simulator` and senders that mean harm make of being asked.

use carillon::plugins::{
    Answer, CallContext, HealthSubject, HealthVerdict, HttpRequest, HttpResponse, Plugin, PluginBody, PluginFault, Step,
};
use carillon_tests::guests;
use serde_json::json;

use super::{ctx, device, first_party, host, load};

fn subject() -> HealthSubject {
    HealthSubject { device: device().into(), account_state: String::new() }
}

async fn asked(plugin: &Plugin, ctx: &CallContext) -> HttpRequest {
    match plugin.start_health(ctx, subject()).await.unwrap().step {
        Step::Request(round) => round.request,
        Step::Done(verdict) => panic!("{verdict:?}"),
    }
}

async fn told(plugin: &Plugin, ctx: &CallContext, answer: Answer) -> HealthVerdict {
    match plugin.resume_health(ctx, "", answer).await.unwrap().step {
        Step::Done(verdict) => verdict,
        Step::Request(_) => panic!("a check makes one request"),
    }
}

fn response(status: u32, headers: &[(&str, &str)], body: &str) -> Answer {
    let headers = headers.iter().map(|(n, v)| ((*n).into(), (*v).into())).collect();
    Answer::Response(HttpResponse { status, headers, body: PluginBody::Text(body.into()) })
}

#[tokio::test]
async fn a_check_asks_as_it_is_told() {
    let plugin = first_party("webhook").await;
    assert!(plugin.checks_health() && plugin.has_health());
    let config = json!({
        "url": "https://api.example.com/send", "headers": { "Authorization": "Bearer {{secret:KEY}}" },
        "health": { "url": "https://api.example.com/numbers/{{ adapter.number }}?of={{ device }}",
            "outcomes": [
                { "status": [503], "outcome": "down" },
                { "pointer": "/state", "values": ["suspended"], "outcome": "blocked" },
            ] },
    });
    plugin.check_config(&config.to_string()).unwrap();
    let ctx = ctx(config.to_string());
    let request = asked(&plugin, &ctx).await;
    assert_eq!(request.method, "GET");
    assert_eq!(request.url, "https://api.example.com/numbers/%2B39%20055?of=dev-1");
    assert_eq!(request.headers, [("Authorization".into(), "Bearer {{secret:KEY}}".into())], "those of a send");
    assert_eq!(told(&plugin, &ctx, response(200, &[], r#"{"state":"on"}"#)).await, HealthVerdict::Healthy);
    let down = told(&plugin, &ctx, response(503, &[("retry-after", "7")], "")).await;
    assert_eq!((down.as_str(), down.retry_ms()), ("down", Some(7000.0)));
    let blocked = told(&plugin, &ctx, response(200, &[], r#"{"state":"suspended"}"#)).await;
    assert_eq!(blocked.as_str(), "blocked");
    // Whatever no rule explains proves nothing, and so does a request that reached nobody.
    for status in [301, 401, 404, 429, 500] {
        assert_eq!(told(&plugin, &ctx, response(status, &[], "{}")).await.as_str(), "unknown", "{status}");
    }
    assert_eq!(told(&plugin, &ctx, Answer::NotSent("no route".into())).await.as_str(), "unknown");
    assert_eq!(told(&plugin, &ctx, Answer::Unanswered("cut".into())).await.as_str(), "down");
}

#[tokio::test]
async fn without_a_check_nothing_is_asked() {
    let plugin = first_party("webhook").await;
    let url = "https://api.example.com/send";
    let step = plugin.start_health(&ctx(json!({ "url": url }).to_string()), subject()).await.unwrap().step;
    assert!(matches!(step, Step::Done(HealthVerdict::Unknown(why)) if why.code == "no-health"));
    let wrong = json!({ "url": url, "health": { "url": "https://x/", "outcomes": [{ "status": [404], "outcome": "accepted" }] } });
    assert!(plugin.check_config(&wrong.to_string()).is_err(), "an outcome of a send");
    let wrong = json!({ "url": url, "health": { "url": "https://x/{{ device" } }).to_string();
    let error = plugin.start_health(&ctx(wrong), subject()).await.unwrap_err();
    assert!(matches!(&error, PluginFault::InvalidConfig(why) if why.starts_with("health.url, line 1")), "{error}");
    let fcm = first_party("fcm").await;
    assert!(!fcm.checks_health() && !fcm.has_health());
    assert!(fcm.start_health(&ctx("{}"), subject()).await.is_err());
}

#[tokio::test]
async fn a_simulated_device_is_as_often_down_as_it_is_told() {
    let plugin = first_party("simulator").await;
    for (config, verdict) in [("{}", "healthy"), (r#"{"device_down_rate":1}"#, "down")] {
        let ctx = ctx(config);
        let request = asked(&plugin, &ctx).await;
        assert_eq!(request.url, "simulator://send");
        let PluginBody::Text(body) = &request.body else { panic!("{request:?}") };
        let body: serde_json::Value = serde_json::from_str(body).unwrap();
        let status = u32::try_from(body["answer"]["status"].as_u64().unwrap()).unwrap();
        assert_eq!(told(&plugin, &ctx, response(status, &[], "")).await.as_str(), verdict);
    }
}

#[tokio::test]
async fn a_check_that_means_harm_has_its_limits() {
    let fault = async |start: &str| {
        let plugin = load(&host(), guests::checking("harm", start, "unreachable")).await;
        plugin.start_health(&ctx("{}"), subject()).await.unwrap_err()
    };
    assert_eq!(fault("(loop $l (br $l)) unreachable").await, PluginFault::Deadline);
    assert!(matches!(fault("unreachable").await, PluginFault::Trap(_)));
    for wait in ["nan", "inf", "-1"] {
        assert!(
            matches!(fault(&guests::down(wait)).await, PluginFault::Output(text) if text.contains("finite")),
            "{wait}"
        );
    }
    let modest = load(&host(), guests::checking("modest", &guests::down("1500"), "unreachable")).await;
    let Step::Done(verdict) = modest.start_health(&ctx("{}"), subject()).await.unwrap().step else { panic!() };
    assert_eq!((verdict.as_str(), verdict.retry_ms()), ("down", Some(1500.0)));
    assert!(modest.resume_health(&ctx("{}"), "", Answer::NotSent("x".into())).await.is_err());
    let stats = modest.stats();
    assert_eq!((stats.of("health-start").unwrap().calls, stats.of("health-resume").unwrap().traps), (1, 1));
}
