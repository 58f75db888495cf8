//! `uniform`, `warmup`, `adaptive`, `jinja` and `simulator`.

use carillon::device::LastOutcome;
use carillon::plugin::PluginKind;
use carillon::plugins::{
    Answer, CallContext, Content, FIRST_PARTY, HttpResponse, Outcome, PaceFacts, PluginBody, PluginFault, RenderJob,
    Round, Scope, Step,
};
use serde_json::{Value, json};

use super::hostile::pace;
use super::{NOW, ctx, device, first_party, message, outbound, recipient};

#[tokio::test]
async fn all_pass_the_upload_check_and_document_their_settings() {
    for (name, _) in FIRST_PARTY {
        let plugin = first_party(name).await;
        assert_eq!(plugin.info.name, *name);
        let schema: Value = serde_json::from_str(&plugin.info.config_schema).unwrap();
        assert_eq!(schema["additionalProperties"], json!(false), "{name}");
        let adapter: Value = serde_json::from_str(&plugin.info.adapter_schema).unwrap_or_default();
        let of_device = adapter["properties"].as_object().into_iter().flatten();
        for (property, schema) in schema["properties"].as_object().unwrap().iter().chain(of_device) {
            assert!(schema["description"].is_string(), "{name}: {property}");
        }
        let kind = match *name {
            "uniform" | "warmup" | "adaptive" => PluginKind::Delay,
            "jinja" => PluginKind::Template,
            _ => PluginKind::Sender,
        };
        assert_eq!(plugin.kind, kind);
    }
}

#[tokio::test]
async fn uniform_stays_between_its_bounds_and_repeats_with_the_same_dice() {
    let plugin = first_party("uniform").await;
    let config = r#"{"min_ms":1000,"max_ms":3000}"#;
    plugin.check_config(config).unwrap();
    let mut sum = 0.0;
    for random in 0..500 {
        let ctx = CallContext { random: random * 7_919_317, ..ctx(config) };
        let first = plugin.next_delay(&ctx, pace(), "").await.unwrap();
        assert!((1000.0..=3000.0).contains(&first.delay_ms));
        assert_eq!(plugin.next_delay(&ctx, pace(), "").await.unwrap(), first);
        sum += first.delay_ms;
    }
    assert!((1900.0..2100.0).contains(&(sum / 500.0)));

    let problems = plugin.check_config(r#"{"min_ms":-1,"max":3}"#).unwrap_err();
    assert!(problems.iter().any(|p| p.starts_with("/min_ms: ")), "{problems:?}");
    assert!(plugin.check_config("nonsense").is_err());
    for bad in [r#"{"min_ms":5,"max_ms":1}"#, "{}"] {
        let fault = plugin.next_delay(&ctx(bad), pace(), "").await.unwrap_err();
        assert!(matches!(fault, PluginFault::InvalidConfig(_)), "{fault:?}");
    }
}

#[tokio::test]
async fn warmup_sends_more_each_day_and_waits_for_the_next_when_one_is_full() {
    let plugin = first_party("warmup").await;
    let config = r#"{"start_per_day":24,"full_per_day":2400,"ramp_days":10,"jitter":0}"#;
    plugin.check_config(config).unwrap();
    let mut last = f64::INFINITY;
    for age_days in 0..12 {
        let next = plugin.next_delay(&ctx(config), PaceFacts { age_days, ..pace() }, "").await.unwrap();
        assert!(next.delay_ms < last || (age_days == 11 && next.delay_ms == last), "{age_days}: {}", next.delay_ms);
        last = next.delay_ms;
    }
    assert_eq!(last, 36_000.0);
    // At nine in the morning a day that is full leaves fifteen hours, and some of the next day's first hour.
    let full = PaceFacts { age_days: 0, sent_today: 24, ..pace() };
    let next = plugin.next_delay(&ctx(config), full, "").await.unwrap();
    let hours = next.delay_ms / 3_600_000.0;
    assert!((15.0..16.0).contains(&hours), "{hours}");
    let fault = plugin.next_delay(&ctx(r#"{"start_per_day":9,"full_per_day":3,"ramp_days":1}"#), pace(), "").await;
    assert!(matches!(fault, Err(PluginFault::InvalidConfig(_))), "{fault:?}");
}

#[tokio::test]
async fn adaptive_finds_its_pace_and_keeps_it_in_its_state() {
    let plugin = first_party("adaptive").await;
    let config = r#"{"min_ms":100,"max_ms":60000,"start_ms":1000,"jitter":0,"speed_up":0.5}"#;
    plugin.check_config(config).unwrap();
    let mut state = String::new();
    for (last_outcome, failures_in_a_row, delay_ms) in [
        (LastOutcome::Sent, 0, 500.0),
        (LastOutcome::Sent, 0, 250.0),
        (LastOutcome::Throttled, 1, 500.0),
        (LastOutcome::Failed, 1, 500.0),
        (LastOutcome::Retried, 2, 1000.0),
        (LastOutcome::Sent, 0, 500.0),
    ] {
        let facts = PaceFacts { last_outcome, failures_in_a_row, ..pace() };
        let next = plugin.next_delay(&ctx(config), facts, &state).await.unwrap();
        assert_eq!(next.delay_ms, delay_ms, "{last_outcome:?} after {state:?}");
        state = next.state;
    }
    let strange = plugin.next_delay(&ctx(config), pace(), "not a number").await.unwrap();
    assert_eq!(strange.delay_ms, 500.0, "it begins anew");
    let fault = plugin.next_delay(&ctx(r#"{"min_ms":5,"max_ms":4}"#), pace(), "").await.unwrap_err();
    assert!(matches!(fault, PluginFault::InvalidConfig(_)), "{fault:?}");
}

async fn render(config: Value, locale: Option<&str>) -> Result<Content, PluginFault> {
    let mut recipient = recipient();
    recipient.locale = locale.map(str::to_owned);
    let job = RenderJob { message: message().into(), recipient: recipient.into(), device: device().into(), random: 7 };
    let plugin = first_party("jinja").await;
    plugin.check_config(&config.to_string()).unwrap();
    let mut contents = plugin.render(&ctx(config.to_string()), vec![job]).await?;
    contents.pop().unwrap()
}

async fn text(template: &str) -> Result<String, PluginFault> {
    render(json!({ "text": template }), None).await.map(|c| c.text)
}

#[tokio::test]
async fn jinja_renders_variables_filters_and_conditions() {
    assert_eq!(text("Hi {{ name|upper }} in {{ vars.city }}").await.unwrap(), "Hi ADA in Prato");
    assert_eq!(text("{% if city == 'Prato' %}near{% else %}far{% endif %}").await.unwrap(), "near");
    assert_eq!(
        text("{{ recipient.address }} {{ device.id }} {{ message.attempt }} {{ message.id }}").await.unwrap(),
        "+39055123 dev-1 2 1000000000000000001"
    );
    // Text is not HTML.
    assert_eq!(text("{{ '<b>' ~ name }} & co").await.unwrap(), "<b>Ada & co");
    assert_eq!(text("{{ pick('one') }}").await.unwrap(), "one");
    assert!(["a", "b"].contains(&text("{{ pick('a', 'b') }}").await.unwrap().as_str()));
    assert_eq!(text("{{ surname|default('Lovelace') }}").await.unwrap(), "Lovelace");
}

#[tokio::test]
async fn jinja_makes_subjects_media_and_language_variants() {
    let config = json!({
        "text": "Hello {{ name }}",
        "subject": "For {{ name }}",
        "media": [{ "kind": "image", "url": "https://example.com/{{ city }}.png" }],
        "locales": { "it": { "text": "Ciao {{ name }}" }, "pt-BR": { "text": "Oi {{ name }}", "subject": "Para {{ name }}" } },
    });
    for (locale, text, subject) in [
        (None, "Hello Ada", "For Ada"),
        (Some("de"), "Hello Ada", "For Ada"),
        (Some("it"), "Ciao Ada", "For Ada"),
        (Some("it-IT"), "Ciao Ada", "For Ada"),
        (Some("pt_br"), "Oi Ada", "Para Ada"),
        (Some("pt"), "Hello Ada", "For Ada"),
    ] {
        let content = render(config.clone(), locale).await.unwrap();
        assert_eq!((content.text.as_str(), content.subject.as_deref()), (text, Some(subject)), "{locale:?}");
        assert_eq!(content.media[0].url, "https://example.com/Prato.png");
    }
}

#[tokio::test]
async fn jinja_names_what_is_missing_or_wrong_and_quotes_no_value() {
    let PluginFault::InvalidInput(fault) = text("Hi {{ name }}\n{{ surname }}").await.unwrap_err() else { panic!() };
    assert!(fault.contains("surname") && fault.contains("line 2"), "{fault}");
    let PluginFault::InvalidInput(fault) = text("{{ vars.nothing }}").await.unwrap_err() else { panic!() };
    assert!(fault.contains("vars.nothing"), "{fault}");
    let lenient = json!({ "text": "Hi {{ surname }}!", "undefined": "empty" });
    assert_eq!(render(lenient, None).await.unwrap().text, "Hi !");
    let PluginFault::InvalidConfig(fault) = text("Hi\n{{ name }").await.unwrap_err() else { panic!() };
    assert!(fault.contains("line 2"), "{fault}");
    let PluginFault::InvalidInput(fault) = text("{{ name|int }}").await.unwrap_err() else { panic!() };
    assert!(!fault.contains("Ada"), "{fault}");
    let broken = json!({ "text": "ok", "locales": { "it": { "text": "{% if %}" } } });
    let PluginFault::InvalidConfig(fault) = render(broken, None).await.unwrap_err() else { panic!() };
    assert!(fault.contains("locales.it.text"), "{fault}");
}

#[tokio::test]
async fn jinja_answers_a_batch_job_by_job_and_knows_its_variables() {
    let plugin = first_party("jinja").await;
    let config = ctx(json!({ "text": "{{ name }} {{ vars.code }} {{ recipient.address }} {{ pick('a') }}", "subject": "{{ city }}" }).to_string());
    let job = |variables: &[(&str, &str)]| {
        let mut recipient = recipient();
        recipient.variables = variables.iter().map(|(n, v)| ((*n).into(), (*v).into())).collect();
        RenderJob { message: message().into(), recipient: recipient.into(), device: device().into(), random: 1 }
    };
    let good = job(&[("name", "Ada"), ("code", "1"), ("city", "Prato")]);
    let answers = plugin.render(&config, vec![good.clone(), job(&[("name", "Bob")]), good]).await.unwrap();
    assert_eq!(answers.iter().map(Result::is_ok).collect::<Vec<_>>(), [true, false, true]);
    assert_eq!(plugin.variables(&config).await.unwrap(), ["city", "code", "name"]);
}

#[tokio::test]
async fn a_huge_message_is_refused_alone() {
    let PluginFault::Output(fault) = text("{% for n in range(30000) %}0123456789{% endfor %}").await.unwrap_err()
    else {
        panic!()
    };
    assert!(fault.contains("262144"), "{fault}");
    let fault =
        text("{% for n in range(90000) %}{% for m in range(90000) %}x{% endfor %}{% endfor %}").await.unwrap_err();
    assert!(matches!(fault, PluginFault::Memory | PluginFault::Deadline), "{fault:?}");
}

/// What the simulator asks its connector for, and what it makes of the answer.
async fn simulate(config: &str, random: u32) -> (Value, Outcome) {
    let plugin = first_party("simulator").await;
    plugin.check_config(config).unwrap();
    let ctx = CallContext { random, ..ctx(config) };
    let Step::Request(Round { request, state }) = plugin.start(&ctx, outbound()).await.unwrap().step else { panic!() };
    assert_eq!(request.url, "simulator://send");
    let PluginBody::Text(body) = request.body else { panic!() };
    let body: Value = serde_json::from_str(&body).unwrap();
    let answer = match &body["answer"] {
        Value::String(word) if word == "not-sent" => Answer::NotSent("told".into()),
        Value::String(word) if word == "unanswered" => Answer::Unanswered("told".into()),
        told => Answer::Response(HttpResponse {
            status: u32::try_from(told["status"].as_u64().unwrap()).unwrap(),
            headers: Vec::new(),
            body: told["body"].as_str().map_or(PluginBody::Empty, |b| PluginBody::Text(b.into())),
        }),
    };
    let Step::Done(outcome) = plugin.resume(&ctx, &state, answer).await.unwrap().step else { panic!() };
    (body, outcome)
}

#[tokio::test]
async fn the_simulator_does_what_its_shares_say() {
    let (body, outcome) = simulate(r#"{"latency_ms":{"min":10,"max":20}}"#, 99).await;
    assert!((10.0..=20.0).contains(&body["wait_ms"].as_f64().unwrap()));
    let Outcome::Accepted(acceptance) = outcome else { panic!("{outcome:?}") };
    assert_eq!(acceptance.provider_id, "sim-1000000000000000001");
    let of = async |config: &str| simulate(config, 1).await.1;
    assert!(matches!(of(r#"{"failure_rate":1}"#).await, Outcome::ContentRejected(_)));
    assert!(matches!(of(r#"{"permanent_rate":1}"#).await, Outcome::RecipientPermanent(_)));
    assert!(matches!(of(r#"{"opted_out_rate":1}"#).await, Outcome::OptedOut(_)));
    assert!(matches!(of(r#"{"transient_rate":1}"#).await, Outcome::Transient(_)));
    assert!(matches!(of(r#"{"device_down_rate":1}"#).await, Outcome::DeviceDown(_)));
    assert!(matches!(of(r#"{"not_sent_rate":1}"#).await, Outcome::Transient(_)));
    assert!(matches!(of(r#"{"unanswered_rate":1}"#).await, Outcome::Unknown(_)));
    let Outcome::RetryAfter(pause) = of(r#"{"rate_limit_rate":1,"retry_after_ms":1500}"#).await else { panic!() };
    assert_eq!((pause.scope, pause.delay_ms), (Scope::Device, 1500.0));
}

#[tokio::test]
async fn the_simulator_keeps_to_its_shares_over_many_sends() {
    let plugin = first_party("simulator").await;
    let config = r#"{"transient_rate":0.2,"unanswered_rate":0.1}"#;
    let mut counts = [0; 3];
    for n in 0..2000u32 {
        let ctx = CallContext { random: n.wrapping_mul(2_654_435_761), now: NOW, config: config.into(), timer: None };
        let Step::Request(Round { request, .. }) = plugin.start(&ctx, outbound()).await.unwrap().step else { panic!() };
        let PluginBody::Text(body) = request.body else { panic!() };
        let slot = if body.contains("500") { 1 } else { usize::from(body.contains("unanswered")) * 2 };
        counts[slot] += 1;
    }
    assert!((350..450).contains(&counts[1]) && (150..250).contains(&counts[2]), "{counts:?}");
    for bad in [r#"{"transient_rate":0.6,"failure_rate":0.6}"#, r#"{"latency_ms":{"min":2,"max":1}}"#] {
        let fault = plugin.start(&ctx(bad), outbound()).await.unwrap_err();
        assert!(matches!(fault, PluginFault::InvalidConfig(_)), "{fault:?}");
    }
    assert!(plugin.check_config(r#"{"transient_rate":2}"#).is_err());
    assert!(plugin.check_config(r#"{"transient":0.5}"#).is_err());
}
