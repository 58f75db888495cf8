//! `webhook`: the request that it wants and what it makes of every kind of answer.

use std::sync::Arc;

use carillon::plugins::{
    Answer, HttpRequest, HttpResponse, Outbound, Outcome, Plugin, PluginBody, PluginFault, RecipientFacts,
    RecipientProblem, Round, Scope, Step,
};
use serde_json::{Value, json};

use super::{ctx, first_party, outbound, recipient};

const URL: &str = "https://api.example.com/send";

async fn start(plugin: &Plugin, config: &Value) -> Result<HttpRequest, PluginFault> {
    plugin.check_config(&config.to_string()).unwrap();
    match plugin.start(&ctx(config.to_string()), outbound()).await?.step {
        Step::Request(round) => Ok(round.request),
        Step::Done(outcome) => panic!("{outcome:?}"),
    }
}

struct Asked {
    plugin: Arc<Plugin>,
    config: Value,
}

impl Asked {
    async fn with(more: Value) -> Self {
        let mut config = json!({ "url": URL });
        config.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let plugin = first_party("webhook").await;
        plugin.check_config(&config.to_string()).unwrap();
        Self { plugin, config }
    }

    async fn answer(&self, answer: Answer) -> Outcome {
        match self.plugin.resume(&ctx(self.config.to_string()), "", answer).await.unwrap().step {
            Step::Done(outcome) => outcome,
            Step::Request(_) => panic!("webhook makes one request"),
        }
    }

    async fn status(&self, status: u32, headers: &[(&str, &str)], body: &str) -> Outcome {
        let headers = headers.iter().map(|(n, v)| ((*n).into(), (*v).into())).collect();
        let body = if body.is_empty() { PluginBody::Empty } else { PluginBody::Text(body.into()) };
        self.answer(Answer::Response(HttpResponse { status, headers, body })).await
    }
}

fn header<'a>(request: &'a HttpRequest, name: &str) -> Option<&'a str> {
    request.headers.iter().find(|(n, _)| n == name).map(|(_, v)| v.as_str())
}

fn text(body: &PluginBody) -> &str {
    match body {
        PluginBody::Text(text) => text,
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn the_default_request_says_everything() {
    let plugin = first_party("webhook").await;
    let request =
        start(&plugin, &json!({ "url": URL, "headers": { "Authorization": "Bearer {{secret:KEY}}" } })).await.unwrap();
    assert_eq!((request.method.as_str(), request.url.as_str()), ("POST", URL));
    assert_eq!(header(&request, "Authorization"), Some("Bearer {{secret:KEY}}"));
    assert_eq!(header(&request, "Idempotency-Key"), Some("1000000000000000001"));
    assert_eq!(header(&request, "Content-Type"), Some("application/json"));
    let body: Value = serde_json::from_str(text(&request.body)).unwrap();
    let expected = json!({
        "id": "1000000000000000001", "to": "+39055123", "text": "Hi \"Ada\"\n& you", "device": "dev-1",
        "campaign": "c-1", "attempt": 2, "attributes": { "kind": "promo" },
    });
    assert_eq!(body, expected);
}

#[tokio::test]
async fn templates_are_escaped_for_where_they_stand() {
    let plugin = first_party("webhook").await;
    let config = json!({
        "url": "https://api.example.com/{{ adapter.number }}/send?to={{ to }}",
        "headers": { "X-From": "{{ device }} {{secret:A}} {{secret:B}}" },
        "body": "{\"t\": \"{{ text }}\", \"n\": {{ attempt }}, \"v\": {{ vars }}, \"s\": {{ text|tojson }}}",
    });
    let request = start(&plugin, &config).await.unwrap();
    assert_eq!(request.url, "https://api.example.com/%2B39%20055/send?to=%2B39055123");
    assert_eq!(header(&request, "X-From"), Some("dev-1 {{secret:A}} {{secret:B}}"));
    let body: Value = serde_json::from_str(text(&request.body)).unwrap();
    assert_eq!(body["t"], "Hi \"Ada\"\n& you");
    assert_eq!(body["v"], json!({ "name": "Ada", "city": "Prato" }));
    assert_eq!(body["n"], 2);

    let form = json!({ "url": URL, "content_type": "application/x-www-form-urlencoded", "body": "to={{ to }}&text={{ text }}" });
    let request = start(&plugin, &form).await.unwrap();
    assert_eq!(text(&request.body), "to=%2B39055123&text=Hi%20%22Ada%22%0A%26%20you");
    let get = start(&plugin, &json!({ "url": URL, "method": "GET", "idempotency_header": "" })).await.unwrap();
    assert_eq!((get.body, get.headers), (PluginBody::Empty, Vec::new()));
}

#[tokio::test]
async fn bad_configurations_and_messages_are_told_apart() {
    let plugin = first_party("webhook").await;
    let fault = start(&plugin, &json!({ "url": URL, "body": "a\n{{ text" })).await.unwrap_err();
    assert!(matches!(&fault, PluginFault::InvalidConfig(text) if text.contains("body, line 2")), "{fault:?}");
    let fault = start(&plugin, &json!({ "url": "https://x.example/{{ adapter.nothing }}" })).await.unwrap_err();
    assert!(matches!(&fault, PluginFault::InvalidInput(text) if text.contains("adapter.nothing")), "{fault:?}");
    // A value cannot smuggle in a secret's placeholder.
    let config = json!({ "url": URL, "headers": { "X-Text": "{{ text }}" } }).to_string();
    let mut message = outbound();
    message.content.text = "{{secret:KEY}}".into();
    let fault = plugin.start(&ctx(config), message).await.unwrap_err();
    assert!(matches!(fault, PluginFault::InvalidInput(_)), "{fault:?}");
    for bad in [
        json!({}),
        json!({ "url": URL, "on_5xx": "maybe" }),
        json!({ "url": URL, "outcomes": [{ "outcome": "accepted" }] }),
    ] {
        assert!(plugin.check_config(&bad.to_string()).is_err(), "{bad}");
    }
}

/// A message with these texts wherever a recipient's data can be.
fn saying(text: &str, first: &str, second: &str) -> Outbound {
    let variables = [("name", text), ("first", first), ("second", second)];
    let variables = variables.map(|(name, value)| (name.to_owned(), value.to_owned())).to_vec();
    let mut message = outbound();
    message.recipient = RecipientFacts { address: text.into(), variables, ..recipient() }.into();
    message.content.text = text.into();
    message
}

#[tokio::test]
async fn no_value_brings_a_placeholder_along() {
    let plugin = first_party("webhook").await;
    let message = || saying("{{secret:KEY}}", "{{sec", "ret:KEY}}");
    for (url, header) in [
        ("https://api.example.com/{{ to | safe }}/send", "x"),
        ("https://api.example.com/{{secret:A}}/{{ vars.name | safe }}", "x"),
        ("https://api.example.com/{{ vars.first | safe }}{{ vars.second | safe }}", "x"),
        (URL, "{{ text }}"),
        (URL, "{{secret:A}} {{ vars.name }}"),
        (URL, "{{ vars.first }}{{ vars.second }}"),
        // Nor does it take the place of one that is not written this time.
        (URL, "{% if attempt > 9 %}{{secret:A}}{% endif %}{{ text }}"),
    ] {
        let config = json!({ "url": url, "headers": { "X-Key": header }, "lookup": { "url": url } });
        let ctx = ctx(config.to_string());
        for fault in [plugin.start(&ctx, message()).await, plugin.start_lookup(&ctx, message()).await] {
            let Err(PluginFault::InvalidInput(text)) = fault else { panic!("{url} {header}: {fault:?}") };
            assert!(text.contains("a value holds {{secret:") && !text.contains("KEY"), "{text}");
        }
    }
    // What stands for a placeholder inside of the plugin cannot be said by anybody else.
    let config = json!({ "url": URL, "headers": { "X-Key": "{{ text }}" } }).to_string();
    let fault = plugin.start(&ctx(config), saying("\u{1}KEY}}", "", "")).await.unwrap_err();
    assert!(matches!(fault, PluginFault::InvalidInput(_)), "{fault:?}");

    // In a URL a value is encoded, and in a body the host replaces nothing.
    let config = json!({ "url": "https://api.example.com/bot{{secret:BOT}}/{{ to }}?t={{ text }}",
        "headers": { "X-Key": "{% if attempt > 9 %}{{secret:A}}{% endif %}{% if attempt < 9 %}{{secret:B}}{% endif %}" },
        "body": "{\"t\": \"{{ text }}\"}" });
    let Step::Request(Round { request, .. }) = plugin.start(&ctx(config.to_string()), message()).await.unwrap().step
    else {
        panic!()
    };
    let encoded = "%7B%7Bsecret%3AKEY%7D%7D";
    assert_eq!(request.url, format!("https://api.example.com/bot{{{{secret:BOT}}}}/{encoded}?t={encoded}"));
    assert_eq!(header(&request, "X-Key"), Some("{{secret:B}}"));
    assert_eq!(text(&request.body), "{\"t\": \"{{secret:KEY}}\"}");
}

#[tokio::test]
async fn an_acceptance_may_have_an_id() {
    let asked = Asked::with(json!({})).await;
    for (body, id) in [(r#"{"id":"m-7"}"#, "m-7"), (r#"{"id":42}"#, "42"), ("", ""), ("OK", ""), ("{}", "")] {
        let Outcome::Accepted(acceptance) = asked.status(200, &[], body).await else { panic!() };
        assert_eq!(acceptance.provider_id, id);
    }
    let asked = Asked::with(json!({ "provider_id": "/messages/0/sid" })).await;
    let Outcome::Accepted(acceptance) = asked.status(201, &[], r#"{"messages":[{"sid":"S1"}]}"#).await else {
        panic!()
    };
    assert_eq!(acceptance.provider_id, "S1");
}

#[tokio::test]
async fn retry_after_is_read_as_seconds_and_as_a_date() {
    let asked = Asked::with(json!({ "retry_after_ms": 9000 })).await;
    let account = Asked::with(json!({ "retry_after_scope": "account" })).await;
    for (asked, status, headers, scope, delay_ms) in [
        (&asked, 429, vec![("retry-after", "7")], Scope::Device, 7_000.0),
        (&asked, 503, vec![("retry-after", "0")], Scope::Device, 0.0),
        // Two minutes after the call, and a day before it.
        (&asked, 429, vec![("retry-after", "Tue, 01 Dec 2026 09:02:00 GMT")], Scope::Device, 120_000.0),
        (&account, 503, vec![("retry-after", "Mon, 30 Nov 2026 09:00:00 GMT")], Scope::Account, 0.0),
        (&asked, 429, vec![("retry-after", "soon")], Scope::Device, 9_000.0),
        (&asked, 429, vec![], Scope::Device, 9_000.0),
    ] {
        let outcome = asked.status(status, &headers, "").await;
        let Outcome::RetryAfter(pause) = outcome else { panic!("{outcome:?}") };
        assert_eq!((pause.scope, pause.delay_ms), (scope, delay_ms), "{status} {headers:?}");
    }
    assert!(matches!(asked.status(503, &[], "").await, Outcome::Transient(_)));
}

#[tokio::test]
async fn every_other_answer_has_its_meaning() {
    let asked = Asked::with(json!({})).await;
    for (status, code) in
        [(404, "http-404"), (422, "http-422"), (400, "http-400"), (301, "http-301"), (403, "http-403")]
    {
        let outcome = asked.status(status, &[], "").await;
        assert!(matches!(&outcome, Outcome::ContentRejected(reason) if reason.code == code), "{outcome:?}");
    }
    assert!(matches!(asked.status(401, &[], "").await, Outcome::AccountBlocked(_)));
    assert!(matches!(asked.status(500, &[], "").await, Outcome::Transient(_)));
    assert!(matches!(asked.status(408, &[], "").await, Outcome::Transient(_)));
    assert!(matches!(asked.answer(Answer::NotSent("refused".into())).await, Outcome::Transient(_)));
    assert!(matches!(asked.answer(Answer::Unanswered("timed out".into())).await, Outcome::Unknown(_)));
    let wary = Asked::with(json!({ "on_5xx": "unknown" })).await;
    assert!(matches!(wary.status(502, &[], "").await, Outcome::Unknown(_)));
    assert!(matches!(wary.status(503, &[("retry-after", "1")], "").await, Outcome::RetryAfter(_)));
}

#[tokio::test]
async fn rules_decide_by_status_and_by_value() {
    let asked = Asked::with(json!({ "outcomes": [
        { "status": [410], "outcome": "opted-out" },
        { "status": [200], "pointer": "/error/code", "values": [21211, "bad-number"], "outcome": "invalid-recipient" },
        { "pointer": "/error/code", "values": ["30003"], "outcome": "unreachable" },
        { "pointer": "/error/blocked", "outcome": "blocked" },
        { "status": [403], "outcome": "account-blocked" },
        { "status": [502], "outcome": "device-down" },
        { "status": [208], "outcome": "delivered" },
    ] }))
    .await;
    let problem = |outcome: Outcome| match outcome {
        Outcome::RecipientPermanent(rejection) => rejection.problem,
        other => panic!("{other:?}"),
    };
    assert!(matches!(asked.status(410, &[], "").await, Outcome::OptedOut(_)));
    assert_eq!(problem(asked.status(200, &[], r#"{"error":{"code":21211}}"#).await), RecipientProblem::Invalid);
    assert_eq!(problem(asked.status(200, &[], r#"{"error":{"code":"bad-number"}}"#).await), RecipientProblem::Invalid);
    assert_eq!(problem(asked.status(400, &[], r#"{"error":{"code":30003}}"#).await), RecipientProblem::Unreachable);
    assert_eq!(problem(asked.status(400, &[], r#"{"error":{"blocked":true}}"#).await), RecipientProblem::Blocked);
    assert!(matches!(asked.status(200, &[], r#"{"error":{"code":1}}"#).await, Outcome::Accepted(_)));
    assert!(matches!(asked.status(403, &[], "").await, Outcome::AccountBlocked(_)));
    let down = asked.status(502, &[("retry-after", "60")], "").await;
    assert!(matches!(&down, Outcome::DeviceDown(outage) if outage.retry_ms == Some(60_000.0)), "{down:?}");
    assert!(matches!(asked.status(208, &[], "").await, Outcome::Delivered(_)));
}

#[tokio::test]
async fn a_look_up_asks_as_it_is_told() {
    let plugin = first_party("webhook").await;
    assert!(plugin.can_look_up());
    let config = json!({
        "url": URL, "headers": { "Authorization": "Bearer {{secret:KEY}}" },
        "lookup": { "url": "https://api.example.com/messages/{{ id }}?to={{ to }}", "provider_id": "/message/sid",
            "outcomes": [
                { "status": [404], "outcome": "transient" },
                { "pointer": "/message/state", "values": ["delivered"], "outcome": "delivered" },
                { "pointer": "/message/state", "values": ["rejected"], "outcome": "invalid-recipient" },
            ] },
    });
    plugin.check_config(&config.to_string()).unwrap();
    let ctx = ctx(config.to_string());
    let step = plugin.start_lookup(&ctx, outbound()).await.unwrap().step;
    let Step::Request(Round { request, state }) = step else { panic!("{step:?}") };
    assert_eq!((request.method.as_str(), text_or_empty(&request.body)), ("GET", ""));
    assert_eq!(request.url, "https://api.example.com/messages/1000000000000000001?to=%2B39055123");
    assert_eq!(request.headers, [("Authorization".into(), "Bearer {{secret:KEY}}".into())], "those of a send");
    let answered = async |answer: Answer| match plugin.resume_lookup(&ctx, &state, answer).await.unwrap().step {
        Step::Done(outcome) => outcome,
        Step::Request(_) => panic!("webhook makes one request"),
    };
    let status = async |status: u32, body: &str| {
        answered(Answer::Response(HttpResponse { status, headers: Vec::new(), body: PluginBody::Text(body.into()) }))
            .await
    };
    let sid = r#"{"message":{"sid":"s-1","state":"queued"}}"#;
    assert!(matches!(status(200, sid).await, Outcome::Accepted(a) if a.provider_id == "s-1"));
    assert!(matches!(status(200, &sid.replace("queued", "delivered")).await, Outcome::Delivered(_)));
    assert!(matches!(status(200, &sid.replace("queued", "rejected")).await, Outcome::RecipientPermanent(_)));
    assert!(matches!(status(404, "{}").await, Outcome::Transient(_)));
    // Whatever else it answers proves nothing about the message: not even that the provider is not there.
    for other in [301, 400, 401, 410, 429, 500, 503] {
        assert!(matches!(status(other, "{}").await, Outcome::Unknown(_)), "{other}");
    }
    assert!(matches!(answered(Answer::NotSent("no route".into())).await, Outcome::Unknown(_)));
    assert!(matches!(answered(Answer::Unanswered("cut".into())).await, Outcome::Unknown(_)));
}

#[tokio::test]
async fn without_a_look_up_nothing_is_asked() {
    let plugin = first_party("webhook").await;
    let step = plugin.start_lookup(&ctx(json!({ "url": URL }).to_string()), outbound()).await.unwrap().step;
    assert!(matches!(step, Step::Done(Outcome::Unknown(why)) if why.code == "no-lookup"));
    let simulator = first_party("simulator").await;
    assert!(!simulator.can_look_up());
    assert!(simulator.start_lookup(&ctx("{}"), outbound()).await.is_err());
    let wrong = json!({ "url": URL, "lookup": { "url": "https://x/{{ id", "outcomes": [{ "status": [404] }] } });
    assert!(plugin.check_config(&wrong.to_string()).is_err(), "a rule without an outcome");
    let wrong = json!({ "url": URL, "lookup": { "url": "https://x/{{ id" } }).to_string();
    let error = plugin.start_lookup(&ctx(wrong), outbound()).await.unwrap_err();
    assert!(matches!(&error, PluginFault::InvalidConfig(why) if why.starts_with("lookup.url, line 1")), "{error}");
}

fn text_or_empty(body: &PluginBody) -> &str {
    match body {
        PluginBody::Empty => "",
        other => text(other),
    }
}
