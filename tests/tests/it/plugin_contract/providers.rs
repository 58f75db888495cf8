//! The senders of real providers, through the real egress, against a stand-in that answers as their documentation says.

use std::sync::Arc;
use std::time::Duration;

use carillon::egress::{Egress, EgressPolicy, Secret};
use carillon::exchange::{egress_request, plugin_answer};
use carillon::plugins::{
    DeviceFacts, HealthSubject, HttpRequest, Media, Outbound, Outcome, Plugin, PluginFault, Progress, RecipientProblem,
    Round, Scope, Step,
};
use carillon_tests::standin::{Asked, Says, StandIn};
use serde_json::{Value, json};

use super::{ctx, device, first_party, licence, outbound};

const PATIENCE: Duration = Duration::from_secs(10);

/// A sender, its stand-in, and what sends between them.
struct Bed {
    plugin: Arc<Plugin>,
    provider: StandIn,
    egress: Egress,
    config: Value,
    adapter: Value,
}

impl Bed {
    async fn new(name: &str, config: Value, adapter: Value) -> Self {
        let provider = StandIn::start().await;
        // Of the same shape as a bot's token, and of credentials in base 64.
        let secrets = ["TOKEN=123:s3cr+t/=@127.0.0.1", "OTHER=456:other@127.0.0.1"].map(|s| Secret::parse(s).unwrap());
        let allow = vec![format!("127.0.0.1:{}", provider.port).parse().unwrap()];
        let egress = Egress::new(EgressPolicy { allow, secrets: secrets.to_vec(), ..EgressPolicy::default() }).unwrap();
        let mut all = json!({ "url": provider.url(), "secret": "TOKEN" });
        all.as_object_mut().unwrap().extend(config.as_object().unwrap().clone());
        Self { plugin: first_party(name).await, provider, egress, config: all, adapter }
    }

    fn message(&self) -> Outbound {
        self.plugin.check_config(&self.config.to_string()).unwrap();
        self.plugin.check_adapter(&self.adapter).unwrap();
        let device = DeviceFacts { adapter: self.adapter.to_string(), ..device() };
        Outbound { device: device.into(), ..outbound() }
    }

    async fn exchanged(&self, request: HttpRequest) -> carillon::plugins::Answer {
        plugin_answer(self.egress.send(&licence(), egress_request(request), PATIENCE).await)
    }

    /// A send, as the worker does it.
    async fn send(&self, message: Outbound) -> Result<Outcome, PluginFault> {
        let ctx = ctx(self.config.to_string());
        let mut progress = self.plugin.start(&ctx, message).await?;
        loop {
            let Progress { step, .. } = progress;
            let (request, state) = match step {
                Step::Done(outcome) => return Ok(outcome),
                Step::Request(Round { request, state }) => (request, state),
            };
            progress = self.plugin.resume(&ctx, &state, self.exchanged(request).await).await?;
        }
    }

    /// A look-up, as the recovery does it.
    async fn look_up(&self) -> Outcome {
        let ctx = ctx(self.config.to_string());
        let Progress { step, .. } = self.plugin.start_lookup(&ctx, self.message()).await.unwrap();
        let Step::Request(Round { request, state }) = step else { panic!("{step:?}") };
        match self.plugin.resume_lookup(&ctx, &state, self.exchanged(request).await).await.unwrap().step {
            Step::Done(outcome) => outcome,
            Step::Request(_) => panic!("a look-up makes one request"),
        }
    }

    /// A check of the device, whose request is answered so: what was found, in a line, and what was asked.
    async fn check(&self, says: Says) -> (String, Asked) {
        self.provider.will_say(says.clone());
        let ctx = ctx(self.config.to_string());
        let subject = HealthSubject { device: self.message().device, account_state: String::new() };
        let step = self.plugin.start_health(&ctx, subject).await.unwrap().step;
        let Step::Request(Round { request, state }) = step else { panic!("{step:?}") };
        let step = self.plugin.resume_health(&ctx, &state, self.exchanged(request).await).await.unwrap().step;
        let Step::Done(verdict) = step else { panic!("{step:?}") };
        let wait = verdict.retry_ms().map(|ms| format!(" {ms}")).unwrap_or_default();
        let why = verdict.reason().map(|reason| format!(" {}", reason.code)).unwrap_or_default();
        let mut asked = self.provider.take_asked();
        assert_eq!(asked.len(), 1);
        assert!(!format!("{verdict:?}").contains("s3cr"), "{verdict:?}");
        (format!("{}{wait}{why}", verdict.as_str()), asked.remove(0))
    }

    /// What a send that is answered so asks for.
    async fn asks(&self, message: Outbound, body: Value) -> Asked {
        self.provider.will_say(says(200, &body));
        let outcome = self.send(message).await.unwrap();
        assert!(matches!(outcome, Outcome::Accepted(_)), "{outcome:?}");
        let mut asked = self.provider.take_asked();
        assert_eq!(asked.len(), 1);
        asked.remove(0)
    }

    /// Each answer has its outcome.
    async fn means<const N: usize>(&self, table: [(Says, &str); N]) {
        for (says, expected) in table {
            self.provider.will_say(says.clone());
            let outcome = self.send(self.message()).await.unwrap();
            assert_eq!(short(&outcome), expected, "{says:?}: {outcome:?}");
            let shown = format!("{outcome:?}");
            for personal in ["39055123", "s3cr", "Ada", "127.0.0.1"] {
                // Whoever was not answered may be named.
                assert!(expected == "unknown unanswered" || !shown.contains(personal), "{personal} in {shown}");
            }
        }
    }
}

fn says(status: u16, body: &Value) -> Says {
    let body = if body.is_null() { String::new() } else { body.to_string() };
    Says::Answer { status, header: None, body }
}

fn says_with(status: u16, header: (&'static str, &str), body: &Value) -> Says {
    Says::Answer { status, header: Some((header.0, header.1.to_owned())), body: body.to_string() }
}

/// An outcome in a line: what it is, whom it concerns, how many milliseconds, and the code.
fn short(outcome: &Outcome) -> String {
    match outcome {
        Outcome::Accepted(taken) => format!("accepted {}", taken.provider_id),
        Outcome::Delivered(taken) => format!("delivered {}", taken.provider_id),
        Outcome::RetryAfter(pause) => {
            let scope = match pause.scope {
                Scope::Message => "message",
                Scope::Recipient => "recipient",
                Scope::Device => "device",
                Scope::Account => "account",
            };
            format!("wait {scope} {} {}", pause.delay_ms, pause.reason.code)
        }
        Outcome::Transient(reason) => format!("transient {}", reason.code),
        Outcome::RecipientPermanent(rejection) => {
            let problem = match rejection.problem {
                RecipientProblem::Invalid => "invalid",
                RecipientProblem::Unreachable => "unreachable",
                RecipientProblem::Blocked => "blocked",
            };
            format!("{problem} {}", rejection.reason.code)
        }
        Outcome::OptedOut(reason) => format!("opted-out {}", reason.code),
        Outcome::ContentRejected(reason) => format!("refused {}", reason.code),
        Outcome::DeviceDown(outage) => {
            format!("down {} {}", outage.retry_ms.map_or("-".to_owned(), |ms| ms.to_string()), outage.reason.code)
        }
        Outcome::AccountBlocked(reason) => format!("blocked-account {}", reason.code),
        Outcome::Unknown(reason) => format!("unknown {}", reason.code),
    }
}

fn media(items: &[(&str, &str)]) -> Vec<Media> {
    items.iter().map(|(kind, url)| Media { kind: (*kind).to_owned(), url: (*url).to_owned() }).collect()
}

fn invalid_input<T: std::fmt::Debug>(result: Result<T, PluginFault>, what: &str) {
    let fault = result.unwrap_err();
    assert!(matches!(&fault, PluginFault::InvalidInput(text) if text.contains(what)), "{fault:?}");
}

/// What holds for each: a provider that is not there, one that says nothing, a device that does not fit, and secrets' names that
/// are more than a name.
#[tokio::test]
async fn what_no_provider_answers_is_told_apart() {
    for (name, adapter, gone) in [
        ("telegram", json!({}), "transient not-sent"),
        ("whatsapp-cloud", json!({ "phone_number_id": "106540352242922" }), "transient not-sent"),
        ("fcm", json!({ "project": "carillon-demo" }), "transient not-sent"),
        ("android-sms-gateway", json!({}), "transient not-sent"),
    ] {
        let mut bed = Bed::new(name, json!({}), adapter).await;
        bed.means([
            (Says::Nothing, "unknown unanswered"),
            (says(500, &json!(null)), "transient http-500"),
            (says(502, &json!("<html>")), "transient http-502"),
            (says(200, &json!(null)), "unknown http-200"),
            (says(200, &json!({ "welcome": "to the hotel's network" })), "unknown http-200"),
            (says(302, &json!(null)), "refused http-302"),
            (
                says(429, &json!(null)),
                if name == "fcm" { "wait account 60000 http-429" } else { "wait device 30000 http-429" },
            ),
        ])
        .await;
        bed.config["on_5xx"] = json!("unknown");
        bed.means([(says(500, &json!(null)), "unknown http-500")]).await;
        bed.config["retry_after_ms"] = json!(5000);
        let scope = if name == "fcm" { "account" } else { "device" };
        let limited = says_with(429, ("retry-after", "7"), &json!(null));
        let (bare, asked) = (format!("wait {scope} 5000 http-429"), format!("wait {scope} 7000 http-429"));
        bed.means([(says(429, &json!(null)), bare.as_str()), (limited, asked.as_str())]).await;
        bed.provider.take_asked();

        let mut message = bed.message();
        message.device = DeviceFacts { adapter: r#"{"secret":"A}}{{secret:TOKEN"}"#.into(), ..device() }.into();
        assert_eq!(short(&bed.send(message).await.unwrap()), "down - adapter");
        let mut message = bed.message();
        message.device = DeviceFacts { adapter: r#"{"secret":7}"#.into(), ..device() }.into();
        assert_eq!(short(&bed.send(message).await.unwrap()), "down - adapter");
        assert!(bed.plugin.check_adapter(&json!({ "secret": "A}}{{secret:B" })).is_err());
        assert!(bed.plugin.check_config(&json!({ "url": "http://x/{{secret:TOKEN}}" }).to_string()).is_err());
        assert!(bed.plugin.check_config(&json!({ "uri": "http://x" }).to_string()).is_err());
        assert!(bed.provider.take_asked().is_empty(), "nothing left");

        bed.config["url"] = json!("http://127.0.0.1:9");
        let outcome = bed.send(bed.message()).await.unwrap();
        assert_eq!(short(&outcome), gone);
        assert!(!format!("{outcome:?}").contains("s3cr"), "{outcome:?}");
    }
}

#[tokio::test]
async fn telegram_sends_texts_attachments_and_albums() {
    let sent = json!({ "ok": true, "result": { "message_id": 42, "chat": { "id": 7 } } });
    let bed = Bed::new("telegram", json!({}), json!({})).await;
    let asked = bed.asks(bed.message(), sent.clone()).await;
    // The token stands in the path, percent-encoded where a path needs it.
    assert_eq!((asked.method.as_str(), asked.target.as_str()), ("POST", "/bot123:s3cr+t%2F=/sendMessage"));
    assert_eq!(asked.body, json!({ "chat_id": "+39055123", "text": "Hi \"Ada\"\n& you" }));

    let config = json!({ "parse_mode": "HTML", "disable_notification": true, "protect_content": true, "link_preview": false,
        "reply_markup": { "inline_keyboard": [[{ "text": "Open", "url": "https://example.com" }]] } });
    let bed = Bed::new("telegram", config.clone(), json!({ "secret": "OTHER" })).await;
    let mut message = bed.message();
    // A recipient cannot bring a placeholder along.
    message.recipient =
        carillon::plugins::RecipientFacts { address: "{{secret:TOKEN}}".into(), ..super::recipient() }.into();
    let asked = bed.asks(message, sent.clone()).await;
    assert_eq!(asked.target, "/bot456:other/sendMessage");
    let expected = json!({ "chat_id": "{{secret:TOKEN}}", "disable_notification": true, "protect_content": true,
        "text": "Hi \"Ada\"\n& you", "parse_mode": "HTML", "link_preview_options": { "is_disabled": true },
        "reply_markup": config["reply_markup"] });
    assert_eq!(asked.body, expected);

    let bed = Bed::new("telegram", json!({}), json!({})).await;
    for (kind, method, field) in [
        ("image", "sendPhoto", "photo"),
        ("image/jpeg", "sendPhoto", "photo"),
        ("image/gif", "sendAnimation", "animation"),
        ("image/svg+xml", "sendDocument", "document"),
        ("video/mp4", "sendVideo", "video"),
        ("audio/mpeg", "sendAudio", "audio"),
        ("application/pdf", "sendDocument", "document"),
    ] {
        let mut message = bed.message();
        message.content.media = media(&[(kind, "https://example.com/a")]);
        let asked = bed.asks(message, sent.clone()).await;
        assert!(asked.target.ends_with(method), "{kind}: {}", asked.target);
        assert_eq!(
            (&asked.body[field], &asked.body["caption"]),
            (&json!("https://example.com/a"), &json!("Hi \"Ada\"\n& you"))
        );
    }
    let album = json!({ "ok": true, "result": [{ "message_id": 43 }, { "message_id": 44 }] });
    for (kinds, types) in [
        (["image", "video/mp4"], ["photo", "video"]),
        (["image", "image/gif"], ["photo", "video"]),
        (["audio/mpeg", "audio"], ["audio", "audio"]),
        (["image", "application/pdf"], ["document", "document"]),
    ] {
        let mut message = bed.message();
        message.content.media = media(&[(kinds[0], "https://example.com/a"), (kinds[1], "https://example.com/b")]);
        let asked = bed.asks(message, album.clone()).await;
        assert!(asked.target.ends_with("sendMediaGroup"));
        let items = [
            json!({ "type": types[0], "media": "https://example.com/a", "caption": "Hi \"Ada\"\n& you" }),
            json!({ "type": types[1], "media": "https://example.com/b" }),
        ];
        assert_eq!(asked.body["media"], json!(items));
    }
    let mut message = bed.message();
    message.content.media = media(&[("image", "https://example.com/a"); 11]);
    invalid_input(bed.send(message).await, "at most 10 attachments");
    let mut message = bed.message();
    message.content.attributes = vec![("reply-markup".into(), "{".into())];
    invalid_input(bed.send(message).await, "reply-markup is not JSON");
}

#[tokio::test]
async fn telegrams_answers_have_their_meaning() {
    let bed = Bed::new("telegram", json!({}), json!({})).await;
    let error = |status: u16, description: &str| {
        says(status, &json!({ "ok": false, "error_code": status, "description": description }))
    };
    let flood = json!({ "ok": false, "error_code": 429, "description": "Too Many Requests: retry after 34",
        "parameters": { "retry_after": 34 } });
    let migrated = json!({ "ok": false, "error_code": 400, "parameters": { "migrate_to_chat_id": -1001 },
        "description": "Bad Request: group chat was upgraded to a supergroup chat" });
    bed.means([
        (says(200, &json!({ "ok": true, "result": { "message_id": 42 } })), "accepted 42"),
        (says(200, &json!({ "ok": true, "result": [{ "message_id": 43 }, { "message_id": 44 }] })), "accepted 43"),
        (says(429, &flood), "wait device 34000 telegram-429-flood"),
        (says_with(429, ("retry-after", "3"), &json!({ "ok": false })), "wait device 3000 http-429"),
        (error(401, "Unauthorized"), "blocked-account telegram-401-token"),
        (error(404, "Not Found"), "blocked-account telegram-404-token"),
        (error(403, "Forbidden: bot was blocked by the user"), "blocked telegram-403-blocked"),
        (error(403, "Forbidden: bot was kicked from the group chat"), "blocked telegram-403-kicked"),
        (error(403, "Forbidden: user is deactivated"), "invalid telegram-403-deactivated"),
        (error(403, "Forbidden: bot can't initiate conversation with a user"), "unreachable telegram-403-not-started"),
        (error(403, "Forbidden: bots can't send messages to bots"), "invalid telegram-403-bot"),
        (error(403, "Forbidden: bot is not a member of the channel chat"), "unreachable telegram-403-not-a-member"),
        (error(403, "Forbidden: something new"), "unreachable telegram-403-forbidden"),
        (error(400, "Bad Request: chat not found"), "unreachable telegram-400-chat-not-found"),
        (error(400, "Bad Request: PEER_ID_INVALID"), "unreachable telegram-400-peer-invalid"),
        (
            error(400, "Bad Request: not enough rights to send text messages to the chat"),
            "unreachable telegram-400-no-rights",
        ),
        (error(400, "Bad Request: chat_id is empty"), "invalid telegram-400-no-chat"),
        (says(400, &migrated), "invalid telegram-400-migrated"),
        (error(400, "Bad Request: message text is empty"), "refused telegram-400-bad-request"),
        (
            error(400, "Bad Request: can't parse entities: Unsupported start tag \"Ada\""),
            "refused telegram-400-bad-request",
        ),
        (error(500, "Internal Server Error: restart"), "transient http-500"),
    ])
    .await;
    bed.provider.will_say(error(400, "Bad Request: can't parse entities: Unsupported start tag \"Ada\" at byte 7"));
    let Outcome::ContentRejected(reason) = bed.send(bed.message()).await.unwrap() else { panic!() };
    assert!(reason.detail.ends_with("can't parse entities: Unsupported start tag"), "{}", reason.detail);
}

#[tokio::test]
async fn whatsapp_sends_texts_attachments_and_templates() {
    let accepted = json!({ "messaging_product": "whatsapp", "contacts": [{ "input": "+39055123", "wa_id": "39055123" }],
        "messages": [{ "id": "wamid.HBg", "message_status": "accepted" }] });
    let number = json!({ "phone_number_id": "106540352242922" });
    let bed = Bed::new("whatsapp-cloud", json!({}), number.clone()).await;
    let asked = bed.asks(bed.message(), accepted.clone()).await;
    assert_eq!((asked.method.as_str(), asked.target.as_str()), ("POST", "/v24.0/106540352242922/messages"));
    assert_eq!(asked.authorization, "Bearer 123:s3cr+t/=");
    let message = |of_type: &str, what: Value| {
        json!({ "messaging_product": "whatsapp", "recipient_type": "individual", "to": "+39055123", "type": of_type,
            (of_type): what, "biz_opaque_callback_data": "1000000000000000001" })
    };
    let text = "Hi \"Ada\"\n& you";
    assert_eq!(asked.body, message("text", json!({ "body": text, "preview_url": false })));

    let link = "https://example.com/files/price%20list.pdf?v=2";
    for (kind, of_type, what) in [
        ("image", "image", json!({ "link": link, "caption": text })),
        ("video/mp4", "video", json!({ "link": link, "caption": text })),
        ("application/pdf", "document", json!({ "link": link, "filename": "price%20list.pdf", "caption": text })),
    ] {
        let mut with_media = bed.message();
        with_media.content.media = media(&[(kind, link)]);
        assert_eq!(bed.asks(with_media, accepted.clone()).await.body, message(of_type, what));
    }
    let mut audio = bed.message();
    audio.content.media = media(&[("audio/ogg", link)]);
    invalid_input(bed.send(audio.clone()).await, "no text with an attachment of kind audio");
    audio.content.text.clear();
    assert_eq!(bed.asks(audio, accepted.clone()).await.body, message("audio", json!({ "link": link })));
    let mut two = bed.message();
    two.content.media = media(&[("image", link); 2]);
    invalid_input(bed.send(two).await, "one attachment");

    let config = json!({ "api_version": "v25.0", "template": { "name": "order_ready", "language": "it", "body": ["name", "city"] } });
    let bed = Bed::new("whatsapp-cloud", config, number.clone()).await;
    let asked = bed.asks(bed.message(), accepted.clone()).await;
    assert_eq!(asked.target, "/v25.0/106540352242922/messages");
    let body = json!({ "type": "body", "parameters": [{ "type": "text", "text": "Ada" }, { "type": "text", "text": "Prato" }] });
    let template =
        |components: Value| json!({ "name": "order_ready", "language": { "code": "it" }, "components": components });
    assert_eq!(asked.body, message("template", template(json!([body]))));
    let mut with_header = bed.message();
    with_header.content.media = media(&[("image", link)]);
    let header = json!({ "type": "header", "parameters": [{ "type": "image", "image": { "link": link } }] });
    let asked = bed.asks(with_header, accepted.clone()).await;
    assert_eq!(asked.body, message("template", template(json!([header, body]))));
    let mut nobody = bed.message();
    nobody.recipient = carillon::plugins::RecipientFacts { variables: Vec::new(), ..super::recipient() }.into();
    invalid_input(bed.send(nobody).await, "no value in the column \"name\"");

    let named = json!({ "template": { "name": "t", "language": "en_US", "body": ["name"], "named": true } });
    let bed = Bed::new("whatsapp-cloud", named, number.clone()).await;
    let asked = bed.asks(bed.message(), accepted.clone()).await;
    let parameter = json!({ "type": "text", "text": "Ada", "parameter_name": "name" });
    assert_eq!(asked.body["template"]["components"], json!([{ "type": "body", "parameters": [parameter] }]));
    // What the message's own template says goes first.
    let mut own = bed.message();
    own.content.attributes = [("template", "other"), ("template-language", "de"), ("template-components", "[]")]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .to_vec();
    let asked = bed.asks(own, accepted).await;
    assert_eq!(asked.body["template"], json!({ "name": "other", "language": { "code": "de" } }));

    assert!(bed.plugin.check_adapter(&json!({})).is_err(), "each device is a number");
    let mut none = bed.message();
    none.device = DeviceFacts { adapter: "{}".into(), ..device() }.into();
    assert_eq!(short(&bed.send(none).await.unwrap()), "down - adapter");
}

#[tokio::test]
async fn whatsapps_answers_have_their_meaning() {
    let bed = Bed::new("whatsapp-cloud", json!({}), json!({ "phone_number_id": "1" })).await;
    let body = |code: i64| {
        json!({ "error": { "message": format!("(#{code}) +39055123 said no"), "type": "OAuthException", "code": code,
            "error_data": { "messaging_product": "whatsapp", "details": "Ada is not here" }, "fbtrace_id": "Az8" } })
    };
    let error = |status: u16, code: i64| says(status, &body(code));
    let usage = r#"{"1":[{"type":"whatsapp","call_count":100,"estimated_time_to_regain_access":2}]}"#;
    bed.means([
        (says(200, &json!({ "messages": [{ "id": "wamid.HBg" }] })), "accepted wamid.HBg"),
        (error(400, 130_429), "wait device 30000 whatsapp-130429"),
        (says_with(429, ("retry-after", "9"), &body(130_429)), "wait device 9000 whatsapp-130429"),
        (error(400, 131_048), "wait device 3600000 whatsapp-131048"),
        (error(400, 131_056), "wait recipient 30000 whatsapp-131056"),
        (error(400, 4), "wait account 30000 whatsapp-4"),
        (error(400, 80007), "wait account 30000 whatsapp-80007"),
        (says_with(400, ("x-business-use-case-usage", usage), &body(80007)), "wait account 120000 whatsapp-80007"),
        (error(401, 0), "blocked-account whatsapp-0"),
        (error(401, 190), "blocked-account whatsapp-190"),
        (error(403, 10), "blocked-account whatsapp-10"),
        (error(403, 200), "blocked-account whatsapp-200"),
        (error(403, 368), "blocked-account whatsapp-368"),
        (error(403, 131_031), "blocked-account whatsapp-131031"),
        (error(400, 131_042), "blocked-account whatsapp-131042"),
        (error(400, 33), "down 900000 whatsapp-33"),
        (error(400, 133_010), "down 900000 whatsapp-133010"),
        (error(503, 133_004), "down - whatsapp-133004"),
        (error(400, 131_021), "invalid whatsapp-131021"),
        (error(400, 131_026), "unreachable whatsapp-131026"),
        (error(400, 131_047), "unreachable whatsapp-131047"),
        (error(400, 131_049), "unreachable whatsapp-131049"),
        (error(400, 131_050), "opted-out whatsapp-131050"),
        (error(400, 132_001), "refused whatsapp-132001"),
        (error(400, 132_015), "refused whatsapp-132015"),
        (error(400, 131_009), "refused whatsapp-131009"),
        (error(400, 100), "refused whatsapp-100"),
        (error(400, 999_999), "refused whatsapp-999999"),
        (error(503, 2), "transient http-503"),
        (error(500, 131_000), "transient http-500"),
        (error(500, 131_016), "transient http-500"),
        (error(500, 999_999), "transient http-500"),
        (error(401, 999_999), "blocked-account http-401"),
    ])
    .await;
}

#[tokio::test]
async fn fcm_sends_notifications_and_data() {
    let sent = json!({ "name": "projects/carillon-demo/messages/0:15" });
    let bed = Bed::new("fcm", json!({ "project": "carillon-demo" }), json!({})).await;
    let mut message = bed.message();
    message.content.subject = Some("News".into());
    message.content.media = media(&[("image", "https://example.com/a.png")]);
    let asked = bed.asks(message, sent.clone()).await;
    assert_eq!((asked.method.as_str(), asked.target.as_str()), ("POST", "/v1/projects/carillon-demo/messages:send"));
    assert_eq!(asked.authorization, "Bearer 123:s3cr+t/=");
    let notification = json!({ "title": "News", "body": "Hi \"Ada\"\n& you", "image": "https://example.com/a.png" });
    let expected = json!({ "token": "+39055123", "notification": notification, "data": { "kind": "promo" } });
    assert_eq!(asked.body, json!({ "message": expected }));

    let config = json!({ "project": "carillon-demo", "notification": false, "title": "Hello", "priority": "high", "ttl_s": 60,
        "collapse_key": "news", "validate_only": true });
    let bed = Bed::new("fcm", config, json!({ "project": "other", "secret": "OTHER" })).await;
    let asked = bed.asks(bed.message(), sent).await;
    assert_eq!(
        (asked.target.as_str(), asked.authorization.as_str()),
        ("/v1/projects/other/messages:send", "Bearer 456:other")
    );
    let expected = json!({ "token": "+39055123",
        "data": { "kind": "promo", "title": "Hello", "body": "Hi \"Ada\"\n& you" },
        "android": { "priority": "HIGH", "ttl": "60s", "collapse_key": "news" },
        "apns": { "headers": { "apns-priority": "10", "apns-collapse-id": "news" } } });
    assert_eq!(asked.body, json!({ "validate_only": true, "message": expected }));

    let bed = Bed::new("fcm", json!({}), json!({})).await;
    assert_eq!(short(&bed.send(bed.message()).await.unwrap()), "down - adapter", "no project");
}

#[tokio::test]
async fn fcms_answers_have_their_meaning() {
    let bed = Bed::new("fcm", json!({ "project": "p" }), json!({})).await;
    let body = |status: u16, word: &str, message: &str, details: Value| json!({ "error": { "code": status, "message": message, "status": word, "details": details } });
    let fcm =
        |code: &str| json!([{ "@type": "type.googleapis.com/google.firebase.fcm.v1.FcmError", "errorCode": code }]);
    let violation = |field: &str| json!([{ "@type": "type.googleapis.com/google.rpc.BadRequest", "fieldViolations": [{ "field": field, "description": "Ada" }] }]);
    let retry = json!([{ "@type": "type.googleapis.com/google.rpc.RetryInfo", "retryDelay": "12s" }]);
    let quota = body(429, "RESOURCE_EXHAUSTED", "Quota exceeded", fcm("QUOTA_EXCEEDED"));
    let unavailable = body(503, "UNAVAILABLE", "The service is currently unavailable.", fcm("UNAVAILABLE"));
    bed.means([
        (says(200, &json!({ "name": "projects/p/messages/7" })), "accepted projects/p/messages/7"),
        (
            says(404, &body(404, "NOT_FOUND", "Requested entity was not found.", fcm("UNREGISTERED"))),
            "invalid fcm-unregistered",
        ),
        (
            says(404, &body(404, "NOT_FOUND", "Requested entity was not found.", json!([]))),
            "blocked-account fcm-not-found",
        ),
        (
            says(
                400,
                &body(
                    400,
                    "INVALID_ARGUMENT",
                    "The registration token is not a valid FCM registration token",
                    fcm("INVALID_ARGUMENT"),
                ),
            ),
            "invalid fcm-invalid-argument",
        ),
        (
            says(400, &body(400, "INVALID_ARGUMENT", "Invalid value", violation("message.token"))),
            "invalid fcm-invalid-argument",
        ),
        (
            says(
                400,
                &body(
                    400,
                    "INVALID_ARGUMENT",
                    "Invalid value at 'message.data[0].value' (TYPE_STRING), 12",
                    violation("message.data[0].value"),
                ),
            ),
            "refused fcm-invalid-argument",
        ),
        (
            says(403, &body(403, "PERMISSION_DENIED", "SenderId mismatch", fcm("SENDER_ID_MISMATCH"))),
            "unreachable fcm-sender-id-mismatch",
        ),
        (
            says(403, &body(403, "PERMISSION_DENIED", "Permission denied", json!([]))),
            "blocked-account fcm-permission-denied",
        ),
        (
            says(401, &body(401, "UNAUTHENTICATED", "Auth error", fcm("THIRD_PARTY_AUTH_ERROR"))),
            "blocked-account fcm-third-party-auth-error",
        ),
        (
            says(401, &body(401, "UNAUTHENTICATED", "invalid credentials", json!([]))),
            "wait account 60000 fcm-unauthenticated",
        ),
        (says(429, &quota), "wait account 60000 fcm-quota-exceeded"),
        (says_with(429, ("retry-after", "5"), &quota), "wait account 5000 fcm-quota-exceeded"),
        (
            says(429, &body(429, "RESOURCE_EXHAUSTED", "Quota exceeded", retry)),
            "wait account 12000 fcm-resource-exhausted",
        ),
        (says(503, &unavailable), "transient http-503"),
        (says_with(503, ("retry-after", "20"), &unavailable), "wait account 20000 fcm-unavailable"),
        (says(500, &body(500, "INTERNAL", "Internal error encountered.", fcm("INTERNAL"))), "transient http-500"),
    ])
    .await;
}

const QUEUED: &str = "1000000000000000001";

/// What the gateway knows of the message.
fn state(state: &str, error: Option<&str>) -> Value {
    json!({ "id": QUEUED, "state": state, "isHashed": false, "isEncrypted": false,
        "recipients": [{ "phoneNumber": "+39055123", "state": state, "error": error }], "states": {} })
}

#[tokio::test]
async fn sms_gateways_are_reached_in_the_cloud_and_on_the_phone() {
    let bed =
        Bed::new("android-sms-gateway", json!({}), json!({ "device_id": "yVULogr4Y1ksRfnos1Dsw", "sim_number": "2" }))
            .await;
    let asked = bed.asks(bed.message(), state("Pending", None)).await;
    assert_eq!((asked.method.as_str(), asked.target.as_str()), ("POST", "/messages"));
    assert_eq!(asked.authorization, "Basic 123:s3cr+t/=");
    let expected = json!({ "id": QUEUED, "textMessage": { "text": "Hi \"Ada\"\n& you" }, "phoneNumbers": ["+39055123"],
        "withDeliveryReport": true, "deviceId": "yVULogr4Y1ksRfnos1Dsw", "simNumber": 2 });
    assert_eq!(asked.body, expected);

    let config = json!({ "mode": "local", "auth": "bearer", "ttl_s": 3600, "priority": 100, "delivery_report": false,
        "skip_phone_validation": true, "active_within_hours": 12 });
    let mut bed = Bed::new("android-sms-gateway", config, json!({})).await;
    bed.adapter = json!({ "url": format!("{}/", bed.provider.url()), "secret": "OTHER", "sim_number": 1 });
    bed.config["url"] = json!("http://127.0.0.1:9");
    let asked = bed.asks(bed.message(), state("Pending", None)).await;
    assert_eq!(asked.target, "/message?skipPhoneValidation=true&deviceActiveWithin=12", "the phone's own address");
    assert_eq!(asked.authorization, "Bearer 456:other");
    let options = ["ttl", "priority", "withDeliveryReport", "simNumber"].map(|name| asked.body[name].clone());
    assert_eq!(options, [json!(3600), json!(100), json!(false), json!(1)]);

    // A phone that is off costs no attempt: the device waits.
    bed.adapter = json!({});
    let gone = bed.send(bed.message()).await.unwrap();
    assert_eq!(short(&gone), "down - not-sent");
    bed.config.as_object_mut().unwrap().remove("url");
    assert_eq!(short(&bed.send(bed.message()).await.unwrap()), "down - adapter", "no address at all");
    let mut message = bed.message();
    message.content.media = media(&[("image", "https://example.com/a")]);
    invalid_input(bed.send(message).await, "no attachments");
    assert!(bed.plugin.check_adapter(&json!({ "sim_number": "4" })).is_err());
}

#[tokio::test]
async fn sms_gateways_answers_have_their_meaning() {
    let bed = Bed::new("android-sms-gateway", json!({}), json!({})).await;
    let error = |status: u16, message: &str| says(status, &json!({ "message": message }));
    let (accepted, delivered) = (format!("accepted {QUEUED}"), format!("delivered {QUEUED}"));
    bed.means([
        (says(202, &state("Pending", None)), accepted.as_str()),
        (says(202, &state("Failed", None)), "refused sms-gateway-failed"),
        (
            error(400, "failed to enqueue message: failed to use phone in row 1: invalid phone number: +39055123"),
            "invalid sms-gateway-number",
        ),
        (error(400, "failed to select device: record not found"), "down - sms-gateway-device"),
        (error(400, "Text message is empty"), "refused sms-gateway-400"),
        (error(401, "Unauthorized"), "blocked-account http-401"),
        (error(403, "Forbidden"), "blocked-account http-403"),
        (error(503, "queue limits exceeded: too many pending messages: 100 / 100"), "down - sms-gateway-503"),
        (says_with(503, ("retry-after", "30"), &json!({})), "down 30000 sms-gateway-503"),
        (says_with(429, ("retry-after", "4"), &json!({})), "wait device 4000 http-429"),
    ])
    .await;
    // A message that is there already was taken by an attempt before: what became of it is asked at once.
    bed.provider.take_asked();
    for (second, expected) in [
        (says(200, &state("Sent", None)), accepted.as_str()),
        (says(200, &state("Delivered", None)), delivered.as_str()),
        (says(200, &state("Failed", Some("Send result: RESULT_ERROR_NO_SERVICE"))), "refused sms-gateway-failed"),
        (says(404, &json!(null)), "unknown http-404"),
        (Says::Nothing, "unknown lookup-unanswered"),
    ] {
        bed.provider.will_say(error(409, "message with the same id already exists"));
        bed.provider.will_say(second);
        let outcome = bed.send(bed.message()).await.unwrap();
        assert_eq!(short(&outcome), expected, "{outcome:?}");
        let asked = bed.provider.take_asked();
        assert_eq!(asked.len(), 2);
        assert_eq!(
            (asked[1].method.as_str(), asked[1].target.as_str()),
            ("GET", format!("/messages/{QUEUED}").as_str())
        );
        assert_eq!(asked[1].authorization, "Basic 123:s3cr+t/=");
    }
}

#[tokio::test]
async fn an_sms_gateway_knows_what_became_of_a_message() {
    for (mode, path) in [("cloud", "/messages/"), ("local", "/message/")] {
        let bed = Bed::new("android-sms-gateway", json!({ "mode": mode }), json!({})).await;
        assert!(bed.plugin.can_look_up());
        let (accepted, delivered) = (format!("accepted {QUEUED}"), format!("delivered {QUEUED}"));
        for (says, expected) in [
            (says(200, &state("Pending", None)), accepted.as_str()),
            (says(200, &state("Processed", None)), accepted.as_str()),
            (says(200, &state("Sent", None)), accepted.as_str()),
            (says(200, &state("Delivered", None)), delivered.as_str()),
            (says(200, &state("Failed", Some("Delivery result from SC +39055123: 70"))), "refused sms-gateway-failed"),
            (says(200, &state("Cancelled", None)), "refused sms-gateway-cancelled"),
            (says(200, &state("Lost", None)), "unknown http-200"),
            (says(404, &json!(null)), "transient sms-gateway-not-found"),
            (says(401, &json!(null)), "unknown http-401"),
            (says(500, &json!({ "message": "x" })), "unknown http-500"),
            (Says::Nothing, "unknown lookup-unanswered"),
        ] {
            bed.provider.will_say(says.clone());
            let outcome = bed.look_up().await;
            assert_eq!(short(&outcome), expected, "{says:?}: {outcome:?}");
            assert!(!format!("{outcome:?}").contains("39055123"), "{outcome:?}");
            let asked = bed.provider.take_asked();
            assert_eq!(
                (asked[0].method.as_str(), asked[0].target.as_str()),
                ("GET", format!("{path}{QUEUED}").as_str())
            );
        }
    }
}

#[tokio::test]
async fn telegram_knows_whether_the_bot_is_there() {
    let bed = Bed::new("telegram", json!({}), json!({})).await;
    assert!(bed.plugin.checks_health());
    let me = json!({ "ok": true, "result": { "id": 1, "is_bot": true, "first_name": "b" } });
    let (found, asked) = bed.check(says(200, &me)).await;
    assert_eq!((found.as_str(), asked.method.as_str()), ("healthy", "GET"));
    assert!(asked.target.starts_with("/bot123:") && asked.target.ends_with("/getMe"), "{}", asked.target);
    for (says, expected) in [
        (
            says(401, &json!({ "ok": false, "error_code": 401, "description": "Unauthorized" })),
            "blocked telegram-401-token",
        ),
        (says(404, &json!({ "ok": false })), "blocked telegram-404-token"),
        (says(429, &json!({ "ok": false, "parameters": { "retry_after": 5 } })), "unknown http-429"),
        (says(200, &json!({ "ok": false })), "unknown http-200"),
        (says(502, &json!(null)), "unknown http-502"),
        (Says::Nothing, "down check-unanswered"),
    ] {
        assert_eq!(bed.check(says).await.0, expected);
    }
}

#[tokio::test]
async fn whatsapp_knows_whether_the_number_may_send() {
    let bed = Bed::new("whatsapp-cloud", json!({}), json!({ "phone_number_id": "106540352242922" })).await;
    assert!(bed.plugin.checks_health());
    let health = |overall: &str, number: &str, account: &str| {
        let entity = |kind: &str, state: &str| json!({ "entity_type": kind, "id": "1", "can_send_message": state });
        let entities = [entity("PHONE_NUMBER", number), entity("WABA", account), entity("APP", "AVAILABLE")];
        says(200, &json!({ "health_status": { "can_send_message": overall, "entities": entities }, "id": "1" }))
    };
    let error = |status: u16, code: i64| says(status, &json!({ "error": { "code": code, "message": "x" } }));
    let (found, asked) = bed.check(health("AVAILABLE", "AVAILABLE", "AVAILABLE")).await;
    assert_eq!((found.as_str(), asked.method.as_str()), ("healthy", "GET"));
    assert!(asked.target.ends_with("/106540352242922?fields=health_status"), "{}", asked.target);
    assert_eq!(asked.authorization, "Bearer 123:s3cr+t/=");
    for (says, expected) in [
        (health("LIMITED", "AVAILABLE", "LIMITED"), "healthy"),
        (health("BLOCKED", "BLOCKED", "AVAILABLE"), "down 900000 whatsapp-health"),
        (health("BLOCKED", "BLOCKED", "BLOCKED"), "blocked whatsapp-health"),
        (health("BLOCKED", "AVAILABLE", "BLOCKED"), "blocked whatsapp-health"),
        (error(401, 190), "blocked whatsapp-190"),
        (error(400, 33), "down 900000 whatsapp-33"),
        // A token that may send need not be one that may look.
        (error(400, 100), "unknown whatsapp-100"),
        (error(403, 200), "unknown whatsapp-200"),
        (error(400, 80007), "unknown whatsapp-80007"),
        (says(200, &json!({ "id": "1" })), "unknown http-200"),
        (Says::Nothing, "down check-unanswered"),
    ] {
        assert_eq!(bed.check(says).await.0, expected);
    }
}

#[tokio::test]
async fn an_sms_gateway_knows_whether_a_phone_is_there() {
    let phones = |seen: &str| {
        says(
            200,
            &json!([{ "id": "p-1", "name": "one", "lastSeen": "2026-12-01T08:30:00Z" }, { "id": "p-2", "lastSeen": seen }]),
        )
    };
    let bed = Bed::new("android-sms-gateway", json!({}), json!({ "device_id": "p-2" })).await;
    assert!(bed.plugin.checks_health());
    let (found, asked) = bed.check(phones("2026-12-01T08:45:00.123Z")).await;
    assert_eq!((found.as_str(), asked.target.as_str()), ("healthy", "/devices"));
    assert_eq!(asked.authorization, "Basic 123:s3cr+t/=");
    for (says, expected) in [
        (phones("2026-12-01T07:45:00Z"), "down sms-gateway-not-seen"),
        (says(200, &json!([{ "id": "p-1", "lastSeen": "2026-12-01T08:59:00Z" }])), "down sms-gateway-device"),
        (phones("soon"), "unknown http-200"),
        (says(401, &json!({})), "blocked http-401"),
        (says(403, &json!({})), "unknown http-403"),
        (says(500, &json!({})), "unknown http-500"),
        (Says::Nothing, "down check-unanswered"),
    ] {
        assert_eq!(bed.check(says).await.0, expected);
    }
    // Without a phone of its own any of the account's will do; how long ago is the configuration's to say.
    let bed = Bed::new("android-sms-gateway", json!({ "active_within_hours": 2 }), json!({})).await;
    assert_eq!(bed.check(phones("2026-12-01T07:10:00Z")).await.0, "healthy");

    let health = |status: &str, failed: &str| json!({ "status": status, "checks": { "messages:failed": { "status": failed }, "battery:level": { "status": status } } });
    let bed = Bed::new("android-sms-gateway", json!({ "mode": "local" }), json!({})).await;
    for (says, expected) in [
        (says(200, &health("pass", "pass")), "healthy"),
        (says(200, &health("warn", "warn")), "healthy"),
        // A battery that is low sends.
        (says(500, &health("fail", "pass")), "healthy"),
        (says(500, &health("fail", "fail")), "down sms-gateway-failing"),
        (says(401, &json!({})), "blocked http-401"),
        (says(404, &json!({})), "unknown http-404"),
        (Says::Nothing, "down check-unanswered"),
    ] {
        let (found, asked) = bed.check(says).await;
        assert_eq!((found.as_str(), asked.target.as_str()), (expected, "/health"));
    }
}
