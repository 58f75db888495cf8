//! The dashboard as a browser meets it: every request goes through the whole router.

use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::http::{Request, StatusCode, header};
use axum::response::Response;
use http_body_util::BodyExt as _;
use tokio_util::sync::CancellationToken;
use tower::ServiceExt as _;

use super::router;
use crate::clock::SystemClock;
use crate::config::Config;
use crate::core::Core;
use crate::device::DeviceSpec;
use crate::egress::{Egress, EgressPolicy};
use crate::grants::Denial;
use crate::http::noting_who_asks;
use crate::id::{CampaignId, Digest, HostId, TokenId, WebhookId};
use crate::metrics::Metrics;
use crate::operations::{self, Actor};
use crate::plugin::{PluginInfo, PluginKind};
use crate::plugins::{FIRST_PARTY, PluginHost, PluginLimits, Registry};
use crate::queue::memory::MemoryQueue;
use crate::receipt::Webhook;
use crate::rollout::{Counts, Ending, Mode, RolloutSpec, SideCounts};
use crate::store::{self, NewCase, NewContact, NewPluginVersion, TokenRow};

struct Dashboard {
    router: Router,
    core: Core,
    stop: CancellationToken,
    _data: tempfile::TempDir,
}

impl Drop for Dashboard {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

const SECRET: &str = "an-admin-secret-for-tests";
const READER: &str = "a-readers-secret-for-tests";

impl Dashboard {
    async fn new() -> Self {
        let data = tempfile::tempdir().unwrap();
        let clock = Arc::new(SystemClock::new());
        let store = store::open(&format!("sqlite:{}", data.path().join("test.db").display()), 2).await.unwrap();
        let plugin_host = PluginHost::new(PluginLimits::default(), None).unwrap();
        let core = Core {
            host: HostId::new(),
            store,
            queue: Arc::new(MemoryQueue::new(clock.clone())),
            plugins: Arc::new(Registry::new(plugin_host.clone())),
            plugin_host,
            egress: Egress::new(EgressPolicy::default()).unwrap(),
            clock,
            config: Arc::new(Config { data: data.path().to_owned(), ..Config::default() }),
            metrics: Arc::new(Metrics::new()),
            accounts: Arc::default(),
            hosts: Arc::default(),
            store_trouble: Arc::default(),
        };
        for (name, secret, scopes) in [
            ("admin", SECRET, &["admin"][..]),
            ("reader", READER, &["campaigns:read", "devices:read", "suppressions:read"][..]),
        ] {
            let row = TokenRow {
                id: TokenId::new(),
                name: name.to_owned(),
                scopes: scopes.iter().map(|s| (*s).to_owned()).collect(),
                created_at: core.clock.now(),
                revoked_at: None,
            };
            core.store.create_token(&row, Digest::of(secret.as_bytes())).await.unwrap();
        }
        let stop = CancellationToken::new();
        let router = noting_who_asks(&core, router(core.clone(), stop.clone()));
        Self { router, core, stop, _data: data }
    }

    async fn send(&self, request: Request<Body>) -> Response {
        self.router.clone().oneshot(request).await.unwrap()
    }

    async fn get(&self, path: &str, cookie: &str) -> (StatusCode, String) {
        let answer = self.send(Request::get(path).header(header::COOKIE, cookie).body(Body::empty()).unwrap()).await;
        (answer.status(), text(answer).await)
    }

    async fn post(&self, path: &str, cookie: &str, form: &str) -> Response {
        let request = Request::post(path)
            .header(header::COOKIE, cookie)
            .header(header::CONTENT_TYPE, "application/x-www-form-urlencoded")
            .body(Body::from(form.to_owned()))
            .unwrap();
        self.send(request).await
    }

    /// Logs in and returns the session cookie, and the proof that its forms carry.
    async fn log_in(&self, secret: &str) -> (String, String) {
        let form = self.send(Request::get("/ui/login").body(Body::empty()).unwrap()).await;
        let login = set_cookie(&form);
        let csrf = csrf(&text(form).await);
        let answer = self.post("/ui/login", &login, &format!("csrf={csrf}&token={secret}&next=/ui/devices")).await;
        assert_eq!(answer.status(), StatusCode::SEE_OTHER);
        assert_eq!(answer.headers()[header::LOCATION], "/ui/devices");
        let cookie = set_cookie(&answer);
        let (_, page) = self.get("/ui/devices", &cookie).await;
        (cookie, self::csrf(&page))
    }

    async fn campaign(&self) -> CampaignId {
        let now = self.core.clock.now();
        let spec = r#"{"name":"autumn <b>","audience":"customers","devices":{"tag":"eu"},"template":{"plugin":"jinja"},
            "delay":{"plugin":"uniform"}}"#;
        let id = CampaignId::new();
        self.core.store.create_campaign(id, &serde_json::from_str(spec).unwrap(), now).await.unwrap();
        id
    }

    /// A device, an audience of one, and a campaign that is expanded.
    async fn running(&self) -> CampaignId {
        let (store, now) = (&self.core.store, self.core.clock.now());
        let device: DeviceSpec = serde_json::from_str(r#"{"id":"dev-1","channel":"sms","tags":["eu"]}"#).unwrap();
        store.put_devices(&[device], now).await.unwrap();
        let audience = store.begin_audience("customers", &[], now).await.unwrap();
        let contact = NewContact { address: "+39<i>".to_owned(), locale: None, zone: None, variables: "[]".to_owned() };
        store.append_contacts(audience, 1, &[contact]).await.unwrap();
        store.finish_audience(audience, 1, 1, now).await.unwrap();
        let id = self.campaign().await;
        let campaign = store.campaign(id).await.unwrap().unwrap();
        let devices = store.devices(None, None, None, 10).await.unwrap().items;
        let run = store.start_run(&campaign, audience, &[devices[0].no], now).await.unwrap().unwrap();
        store.expand_page(run.key, 0, 100, now).await.unwrap().unwrap();
        id
    }
}

async fn text(answer: Response) -> String {
    String::from_utf8(answer.into_body().collect().await.unwrap().to_bytes().to_vec()).unwrap()
}

fn set_cookie(answer: &Response) -> String {
    answer.headers()[header::SET_COOKIE].to_str().unwrap().split(';').next().unwrap().to_owned()
}

fn csrf(page: &str) -> String {
    page.split("name=\"csrf\" value=\"").nth(1).unwrap().split('"').next().unwrap().to_owned()
}

#[tokio::test]
async fn nothing_is_shown_without_a_session() {
    let ui = Dashboard::new().await;
    for path in ["/ui/", "/ui/campaigns?status=running", "/ui/events", "/ui/messages/1000000000000000000"] {
        let answer = ui.send(Request::get(path).body(Body::empty()).unwrap()).await;
        assert_eq!(answer.status(), StatusCode::SEE_OTHER, "{path}");
        assert!(answer.headers()[header::LOCATION].to_str().unwrap().starts_with("/ui/login?next=%2Fui%2F"));
    }
    let answer = ui.post("/ui/suppressions", "carillon_session=AAAA", "address=x").await;
    assert_eq!(answer.status(), StatusCode::SEE_OTHER);
    assert!(ui.core.store.suppressions(None, None, 10).await.unwrap().items.is_empty());
}

#[tokio::test]
async fn log_in_wants_a_valid_token_from_our_own_form() {
    let ui = Dashboard::new().await;
    let form = ui.send(Request::get("/ui/login?next=//elsewhere.example").body(Body::empty()).unwrap()).await;
    let login = set_cookie(&form);
    let page = text(form).await;
    assert!(page.contains("name=\"next\" value=\"/ui/\""));
    let proof = csrf(&page);
    let wrong = ui.post("/ui/login", &login, &format!("csrf={proof}&token=wrong")).await;
    assert_eq!(wrong.status(), StatusCode::UNAUTHORIZED);
    let foreign = ui.post("/ui/login", "", &format!("csrf={proof}&token={SECRET}")).await;
    assert_eq!(foreign.status(), StatusCode::FORBIDDEN);
    let https = Request::post("/ui/login")
        .header(header::COOKIE, &login)
        .header("x-forwarded-proto", "https")
        .header(header::CONTENT_TYPE, "application/x-www-form-urlencoded")
        .body(Body::from(format!("csrf={proof}&token={SECRET}")))
        .unwrap();
    let answer = ui.send(https).await;
    let cookie = answer.headers()[header::SET_COOKIE].to_str().unwrap();
    for part in ["HttpOnly", "SameSite=Strict", "Secure", "Max-Age=43200", "Path=/ui"] {
        assert!(cookie.contains(part), "{cookie}");
    }
    assert!(!cookie.contains(SECRET));
}

#[tokio::test]
async fn log_ins_that_fail_too_often_wait() {
    let ui = Dashboard::new().await;
    let form = ui.send(Request::get("/ui/login").body(Body::empty()).unwrap()).await;
    let login = set_cookie(&form);
    let proof = csrf(&text(form).await);
    for n in 0..ui.core.config.auth_failures_per_minute {
        let wrong = ui.post("/ui/login", &login, &format!("csrf={proof}&token=wrong-{n}")).await;
        assert_eq!(wrong.status(), StatusCode::UNAUTHORIZED, "{n}");
    }
    let slowed = ui.post("/ui/login", &login, &format!("csrf={proof}&token={SECRET}")).await;
    assert_eq!(slowed.status(), StatusCode::TOO_MANY_REQUESTS);
    assert!(slowed.headers().contains_key(header::RETRY_AFTER));
    assert!(text(slowed).await.contains("Try again in"));
}

#[tokio::test]
async fn a_revoked_token_ends_its_sessions_and_so_does_logging_out() {
    let ui = Dashboard::new().await;
    let (cookie, proof) = ui.log_in(SECRET).await;
    let answer = ui.post("/ui/logout", &cookie, &format!("csrf={proof}")).await;
    assert!(answer.headers()[header::SET_COOKIE].to_str().unwrap().contains("Max-Age=0"));
    let token = ui.core.store.token_by_secret(Digest::of(SECRET.as_bytes())).await.unwrap().unwrap();
    assert!(ui.core.store.revoke_token(token.id, ui.core.clock.now()).await.unwrap());
    assert_eq!(ui.get("/ui/", &cookie).await.0, StatusCode::SEE_OTHER);
}

#[tokio::test]
async fn every_page_is_there_and_guarded() {
    let ui = Dashboard::new().await;
    let id = ui.running().await;
    let (cookie, _) = ui.log_in(SECRET).await;
    let run = ui.core.store.campaign(id).await.unwrap().unwrap().run.unwrap();
    let message = ui.core.store.messages(run, None, None, 1).await.unwrap().items[0].id;
    let paths = [
        "/ui/".to_owned(),
        "/ui/campaigns".to_owned(),
        "/ui/campaigns?status=running".to_owned(),
        "/ui/campaigns/new".to_owned(),
        format!("/ui/campaigns/{id}"),
        format!("/ui/campaigns/{id}?messages=pending"),
        format!("/ui/messages/{message}"),
        "/ui/messages".to_owned(),
        "/ui/sequences".to_owned(),
        "/ui/devices?tag=eu&channel=".to_owned(),
        "/ui/devices/dev-1".to_owned(),
        "/ui/audiences".to_owned(),
        "/ui/audiences/customers".to_owned(),
        "/ui/plugins".to_owned(),
        "/ui/suppressions?address=x".to_owned(),
        "/ui/servers".to_owned(),
    ];
    for path in paths {
        let request = Request::get(&path).header(header::COOKIE, &cookie).body(Body::empty()).unwrap();
        let answer = ui.send(request).await;
        assert_eq!(answer.status(), StatusCode::OK, "{path}");
        let policy = answer.headers()[header::CONTENT_SECURITY_POLICY].to_str().unwrap();
        assert!(policy.starts_with("default-src 'none'") && !policy.contains("unsafe"), "{path}");
        assert_eq!(answer.headers()[header::X_CONTENT_TYPE_OPTIONS], "nosniff");
        assert_eq!(answer.headers()[header::CACHE_CONTROL], "no-store", "{path}");
        let page = text(answer).await;
        assert!(!page.contains(" style=") && !page.contains("<style") && !page.contains(" onclick"), "{path}");
        assert!(!page.contains("autumn <b>") && !page.contains("+39<i>"), "{path} does not escape");
    }
    assert_eq!(ui.get("/ui/nowhere", &cookie).await.0, StatusCode::NOT_FOUND);
    assert_eq!(ui.get(&format!("/ui/campaigns/{}", CampaignId::new()), &cookie).await.0, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn forms_without_their_proof_change_nothing() {
    let ui = Dashboard::new().await;
    let (cookie, proof) = ui.log_in(SECRET).await;
    for bad in ["address=a", "address=a&csrf=", "address=a&csrf=AAAA"] {
        assert_eq!(ui.post("/ui/suppressions", &cookie, bad).await.status(), StatusCode::FORBIDDEN);
    }
    let (_, others) = ui.log_in(SECRET).await;
    let foreign = ui.post("/ui/suppressions", &cookie, &format!("address=a&csrf={others}")).await;
    assert_eq!(foreign.status(), StatusCode::FORBIDDEN);
    assert!(ui.core.store.suppressions(None, None, 10).await.unwrap().items.is_empty());

    let good = ui.post("/ui/suppressions", &cookie, &format!("address=a%40b&channel=&csrf={proof}")).await;
    assert_eq!(good.headers()[header::LOCATION], "/ui/suppressions?done=suppressed");
    assert_eq!(ui.core.store.suppressions(None, None, 10).await.unwrap().items[0].address, "a@b");
}

/// Addresses that answer without a session: redirects, the log-in, files that are the same for everybody, and what is not there.
const OPEN: [&str; 5] = ["/", "/ui", "/ui/login", "/ui/assets/{name}", "/ui/{*rest}"];

/// Every address of the dashboard with whether it is read and whether it takes a form, as the sources name them.
fn routes() -> Vec<(String, bool, bool)> {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/src/ui");
    let files = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let files = files.filter(|path| !path.ends_with("tests.rs")).chain([format!("{folder}.rs").into()]);
    let mut out = Vec::new();
    for file in files {
        let text = std::fs::read_to_string(file).unwrap();
        for piece in text.split(".route(\"").skip(1) {
            let (path, handlers) = piece.split_once('"').unwrap();
            let handlers = handlers.lines().next().unwrap();
            let (reads, writes) = (handlers.contains("get("), handlers.contains("post("));
            assert!(reads || writes, "{path} has neither get nor post");
            out.push((path.to_owned(), reads, writes));
        }
    }
    out
}

#[tokio::test]
async fn every_address_wants_a_session_and_every_form_its_proof_and_a_scope() {
    let ui = Dashboard::new().await;
    let (admin, _) = ui.log_in(SECRET).await;
    let (reader, proof) = ui.log_in(READER).await;
    let routes = routes();
    assert!(routes.len() >= 25, "{routes:?}");
    let before = ui.core.store.audit_log(None, 100).await.unwrap().items;
    for (path, reads, writes) in routes.iter().filter(|(path, ..)| !OPEN.contains(&path.as_str())) {
        let (id, action) = match path.split('/').nth(2) {
            Some("messages") => ("1000000000000000000", "sent"),
            Some("devices") => ("dev-1", "disable"),
            Some("sequences") => ("018f0000-0000-7000-8000-000000000000", "start"),
            _ => ("018f0000-0000-7000-8000-000000000000", "cancel"),
        };
        let path = path.replace("{id}", id).replace("{action}", action).replace("{name}", "x").replace("{case}", "1");
        if *reads {
            let answer = ui.send(Request::get(&path).body(Body::empty()).unwrap()).await;
            assert_eq!(answer.status(), StatusCode::SEE_OTHER, "{path}");
            assert!(answer.headers()[header::LOCATION].to_str().unwrap().starts_with("/ui/login"), "{path}");
        }
        if *writes {
            let is_upload = *reads && (path.ends_with("/audiences") || path.ends_with("/plugins"));
            let send = async |cookie: &str, proof: &str| {
                let (media, body) = if is_upload {
                    let part =
                        format!("--X\r\nContent-Disposition: form-data; name=\"csrf\"\r\n\r\n{proof}\r\n--X--\r\n");
                    ("multipart/form-data; boundary=X", part)
                } else {
                    ("application/x-www-form-urlencoded", format!("csrf={proof}&address=a&version=1.0.0"))
                };
                let request = Request::post(&path).header(header::COOKIE, cookie).header(header::CONTENT_TYPE, media);
                ui.send(request.body(Body::from(body)).unwrap()).await
            };
            for cookie in ["", "carillon_session=AAAA"] {
                let answer = send(cookie, &proof).await;
                assert_eq!(answer.status(), StatusCode::SEE_OTHER, "{path} without a session");
                assert!(answer.headers()[header::LOCATION].to_str().unwrap().starts_with("/ui/login"), "{path}");
            }
            // The proof of another session is as wrong as none.
            for wrong in ["", "AAAA", proof.as_str()] {
                assert_eq!(send(&admin, wrong).await.status(), StatusCode::FORBIDDEN, "{path} with proof {wrong:?}");
            }
            if path != "/ui/logout" {
                assert_eq!(send(&reader, &proof).await.status(), StatusCode::FORBIDDEN, "{path} by a reader");
            }
        }
    }
    assert_eq!(ui.core.store.audit_log(None, 100).await.unwrap().items, before, "nothing was changed");
}

#[tokio::test]
async fn a_token_sees_and_does_what_its_scopes_say() {
    let ui = Dashboard::new().await;
    let id = ui.running().await;
    let (cookie, _) = ui.log_in(READER).await;
    // The devices page has no form of its own for a reader: only the proof to log out is left.
    let (_, device) = ui.get("/ui/devices/dev-1", &cookie).await;
    assert!(!device.contains("/ui/devices/dev-1/disable"));
    let (_, campaign) = ui.get(&format!("/ui/campaigns/{id}"), &cookie).await;
    assert!(!campaign.contains("/pause") && !campaign.contains("/cancel"));
    let proof = csrf(&campaign);
    for path in [format!("/ui/campaigns/{id}/cancel"), "/ui/devices/dev-1/disable".into(), "/ui/suppressions".into()] {
        let answer = ui.post(&path, &cookie, &format!("csrf={proof}&address=a")).await;
        assert_eq!(answer.status(), StatusCode::FORBIDDEN, "{path}");
    }
    for path in ["/ui/plugins", "/ui/audiences", "/ui/campaigns/new"] {
        assert_eq!(ui.get(path, &cookie).await.0, StatusCode::FORBIDDEN, "{path}");
    }
    assert!(!campaign.contains("href=\"/ui/plugins\""));
    let (_, servers) = ui.get("/ui/servers", &cookie).await;
    assert!(!servers.contains("Audit log"));
    let row = ui.core.store.campaign(id).await.unwrap().unwrap();
    assert!(!row.status.is_final());
}

#[tokio::test]
async fn a_campaign_is_paused_resumed_and_cancelled() {
    let ui = Dashboard::new().await;
    let id = ui.running().await;
    let (cookie, proof) = ui.log_in(SECRET).await;
    for (action, status) in [("pause", "paused"), ("resume", "running"), ("cancel", "cancelled")] {
        let answer = ui.post(&format!("/ui/campaigns/{id}/{action}"), &cookie, &format!("csrf={proof}")).await;
        assert_eq!(answer.status(), StatusCode::SEE_OTHER, "{action}");
        let now = ui.core.store.campaign(id).await.unwrap().unwrap().status;
        assert!(now.as_str() == status || (action == "resume" && now.as_str() == "expanding"), "{action}: {now:?}");
    }
    let again = ui.post(&format!("/ui/campaigns/{id}/pause"), &cookie, &format!("csrf={proof}")).await;
    assert_eq!(again.status(), StatusCode::CONFLICT);
    assert!(text(again).await.contains("a campaign that is cancelled cannot be paused"));
}

#[tokio::test]
async fn a_plugins_page_shows_what_is_tried_and_what_went_wrong() {
    let ui = Dashboard::new().await;
    let (store, now) = (&ui.core.store, ui.core.clock.now());
    for version in ["1.0.0", "1.1.0"] {
        let info = PluginInfo {
            name: "greet".to_owned(),
            version: version.to_owned(),
            summary: "Greets.".to_owned(),
            config_schema: "{}".to_owned(),
            adapter_schema: String::new(),
            hosts: Vec::new(),
            secrets: Vec::new(),
            capabilities: Vec::new(),
        };
        let bytes = bytes::Bytes::from(version);
        let (kind, imports, digest) = (PluginKind::Template, Vec::new(), Digest::of(&bytes));
        let new = NewPluginVersion { kind, info, imports, digest, bytes };
        store.put_plugin(&new, version == "1.0.0", now).await.unwrap();
    }
    let spec = RolloutSpec { mode: Mode::Canary, share: 0.25, for_ms: None, ..RolloutSpec::watch(1) };
    let start = async || store.start_rollout("greet", "1.1.0", &spec, true, "ann", now).await.unwrap().unwrap();
    let rollout = start().await;
    let candidate = SideCounts { calls: 1_234, traps: 7, ..SideCounts::default() };
    store.put_rollout_counts(ui.core.host, &[(rollout.no, Counts { candidate, ..Counts::default() })]).await.unwrap();
    let (cookie, proof) = ui.log_in(SECRET).await;
    let (status, page) = ui.get("/ui/plugins/greet", &cookie).await;
    assert_eq!(status, StatusCode::OK);
    for part in
        ["Canary of 1.1.0 against 1.0.0", "25\u{202f}% of the devices", ">next<", ">stable<", "Promote", "Abort"]
    {
        assert!(page.contains(part), "{part} is not in {page}");
    }
    assert!(page.contains(&super::format::number(1_234)), "{page}");
    let form = format!("csrf={proof}");
    let answer = ui.post("/ui/plugins/greet/abort", &cookie, &form).await;
    assert_eq!(answer.headers()[header::LOCATION], "/ui/plugins/greet?done=aborted");
    assert!(store.running_rollouts().await.unwrap().is_empty());

    let (rollout, why) = (start().await, "7 of 1234 calls <crashed>");
    store.end_rollout(rollout.no, &Ending::RolledBack, "system", why, now).await.unwrap().unwrap();
    let (_, page) = ui.get("/ui/plugins/greet", &cookie).await;
    assert!(page.contains("rolled back") && page.contains(">quarantine<"), "{page}");
    assert!(page.contains("Activate all the same") && !page.contains(why), "{page}");
    assert_eq!(ui.post("/ui/plugins/greet/activate", &cookie, &format!("{form}&version=1.1.0")).await.status(), 409);
    let forced = ui.post("/ui/plugins/greet/activate", &cookie, &format!("{form}&version=1.1.0&force=yes")).await;
    assert_eq!(forced.status(), StatusCode::SEE_OTHER);
    let back = ui.post("/ui/plugins/greet/rollback", &cookie, &form).await;
    assert_eq!(back.status(), StatusCode::SEE_OTHER);
    let (_, page) = ui.get("/ui/plugins/greet", &cookie).await;
    assert!(page.contains("Stable versions") && page.contains("it was rolled back"), "{page}");
}

#[tokio::test]
async fn a_kept_call_is_shown_and_made_again() {
    let ui = Dashboard::new().await;
    let (_, uniform) = FIRST_PARTY.iter().find(|(name, _)| *name == "uniform").unwrap();
    let (actor, how) = (Actor::new("ann"), operations::plugins::Upload { activate: Some(true), ..Default::default() });
    let (version, ..) =
        operations::plugins::upload(&ui.core, &actor, bytes::Bytes::from_static(uniform), how).await.unwrap();
    for code in [None, Some("plugin-trap")] {
        let case = NewCase {
            plugin: version.no,
            at: ui.core.clock.now(),
            call: "next-delay".to_owned(),
            code: code.map(str::to_owned),
            detail: code.map(|_| "it <crashed>".to_owned()),
            masked: true,
            reproduces: true,
            complete: true,
            case: r#"{"config":{"min_ms":700,"max_ms":700}}"#.to_owned(),
        };
        ui.core.store.put_case(&case, 10).await.unwrap();
    }
    let (cookie, proof) = ui.log_in(SECRET).await;
    let (_, page) = ui.get("/ui/plugins/uniform", &cookie).await;
    assert!(page.contains("/ui/plugins/uniform/cases"), "{page}");
    let (_, page) = ui.get("/ui/plugins/uniform/cases", &cookie).await;
    assert!(page.contains("plugin-trap") && page.contains("answered") && !page.contains("<crashed>"), "{page}");
    let form = format!("csrf={proof}&version={}", version.version);
    for (case, verdict) in [(1, "the same as when it was kept"), (2, "it does not fail any more")] {
        let path = format!("/ui/plugins/uniform/cases/{case}");
        let (status, page) = ui.get(&path, &cookie).await;
        assert_eq!(status, StatusCode::OK);
        assert!(page.contains(&format!("carillon plugin replay uniform/{case}")) && page.contains("min_ms"), "{page}");
        let page = text(ui.post(&path, &cookie, &form).await).await;
        assert!(page.contains(verdict) && page.contains("&#34;delay_ms&#34;: 700"), "{page}");
    }
    let (reader, _) = ui.log_in(READER).await;
    for path in ["/ui/plugins/uniform/cases", "/ui/plugins/uniform/cases/1"] {
        assert_eq!(ui.get(path, &reader).await.0, StatusCode::FORBIDDEN);
    }
    assert_eq!(ui.get("/ui/plugins/uniform/cases/9", &cookie).await.0, StatusCode::NOT_FOUND);
    assert_eq!(
        ui.post("/ui/plugins/uniform/cases/1", &cookie, &format!("csrf={proof}&version=9.9.9")).await.status(),
        404
    );
}

#[tokio::test]
async fn a_senders_page_shows_what_it_asks_for_and_grants_it() {
    let ui = Dashboard::new().await;
    let info = PluginInfo {
        name: "acme".to_owned(),
        version: "1.0.0".to_owned(),
        summary: "Sends.".to_owned(),
        config_schema: "{}".to_owned(),
        adapter_schema: String::new(),
        hosts: vec!["api.acme.example".to_owned()],
        secrets: vec!["ACME_KEY".to_owned()],
        capabilities: Vec::new(),
    };
    let bytes = bytes::Bytes::from("acme");
    let digest = Digest::of(&bytes);
    let new = NewPluginVersion { kind: PluginKind::Sender, info, imports: Vec::new(), digest, bytes };
    ui.core.store.put_plugin(&new, true, ui.core.clock.now()).await.unwrap();
    ui.core.plugins.licence("acme").deny(Denial::Host("evil<b>.example".to_owned()));
    let (cookie, proof) = ui.log_in(SECRET).await;
    let (_, page) = ui.get("/ui/plugins/acme", &cookie).await;
    for part in ["host api.acme.example, secret ACME_KEY", "Grant what it asks for", "evil", "not granted"] {
        assert!(page.contains(part), "{part} is not in {page}");
    }
    assert!(!page.contains("evil<b>"), "{page}");
    assert_eq!(ui.post("/ui/plugins/acme/grant", &cookie, "csrf=wrong").await.status(), StatusCode::FORBIDDEN);
    assert!(ui.core.store.grants().await.unwrap().is_empty());
    let answer = ui.post("/ui/plugins/acme/grant", &cookie, &format!("csrf={proof}")).await;
    assert_eq!(answer.headers()[header::LOCATION], "/ui/plugins/acme?done=granted");
    let granted = ui.core.store.grants().await.unwrap();
    assert_eq!((granted[0].plugin.as_str(), granted[0].granted_by.as_str()), ("acme", "admin"));
    assert_eq!(granted[0].grants.hosts, ["api.acme.example"]);
    assert!(ui.core.plugins.licence("acme").permits().secret("ACME_KEY"));
    let (_, page) = ui.get("/ui/plugins/acme?done=granted", &cookie).await;
    assert!(page.contains("Granted by admin") && !page.contains("Grant what it asks for"), "{page}");
    let spec = serde_json::json!({"name": "<i>reports", "signature": {"scheme": "telegram", "secret": "ACME_HOOK"}});
    let spec = serde_json::from_value(spec).unwrap();
    let webhook = Webhook { id: WebhookId::new(), plugin: "acme".to_owned(), spec, created_at: ui.core.clock.now() };
    ui.core.store.create_webhook(&webhook, Digest::of(b"key")).await.unwrap();
    let (_, page) = ui.get("/ui/plugins/acme", &cookie).await;
    assert!(page.contains("reports</td>") && page.contains("telegram, with secret ACME_HOOK"), "{page}");
    assert!(!page.contains("<i>reports"), "{page}");
    let form = |id: &str| format!("csrf={proof}&id={id}");
    let delete = "/ui/plugins/acme/delete-webhook";
    assert_eq!(ui.post(delete, &cookie, &form("none")).await.status(), StatusCode::NOT_FOUND);
    assert_eq!(
        ui.post(delete, &cookie, &format!("csrf=wrong&id={}", webhook.id)).await.status(),
        StatusCode::FORBIDDEN
    );
    let answer = ui.post(delete, &cookie, &form(&webhook.id.to_string())).await;
    assert_eq!(answer.headers()[header::LOCATION], "/ui/plugins/acme?done=webhook-deleted");
    assert!(ui.core.store.webhooks(None).await.unwrap().is_empty());
}

#[tokio::test]
async fn a_refused_campaign_keeps_what_was_typed() {
    let ui = Dashboard::new().await;
    let (cookie, proof) = ui.log_in(SECRET).await;
    let form =
        format!("csrf={proof}&name=spring&template.plugin=jinja&template.config=%7B%22text%22&delay.plugin=uniform");
    let answer = ui.post("/ui/campaigns/new", &cookie, &form).await;
    assert_eq!(answer.status(), StatusCode::UNPROCESSABLE_ENTITY);
    let page = text(answer).await;
    assert!(page.contains("value=\"spring\"") && page.contains("id=\"template.config-error\""));
    assert!(page.contains("id=\"audience-error\"") && page.contains("id=\"devices-error\""));
}

#[tokio::test]
async fn a_csv_is_imported_through_the_form() {
    let ui = Dashboard::new().await;
    let (cookie, proof) = ui.log_in(SECRET).await;
    let upload = |proof: &str| {
        let part = |head: &str, body: &str| format!("--X\r\nContent-Disposition: form-data; {head}\r\n\r\n{body}\r\n");
        let body = part("name=\"csrf\"", proof)
            + &part("name=\"name\"", "friends")
            + &part("name=\"file\"; filename=\"a.csv\"", "address,city\n+391,Rome\n+391,Oslo\n,Paris\n")
            + "--X--\r\n";
        Request::post("/ui/audiences")
            .header(header::COOKIE, &cookie)
            .header(header::CONTENT_TYPE, "multipart/form-data; boundary=X")
            .body(Body::from(body))
            .unwrap()
    };
    assert_eq!(ui.send(upload("wrong")).await.status(), StatusCode::FORBIDDEN);
    assert!(ui.core.store.audience("friends").await.unwrap().is_none());
    let answer = ui.send(upload(&proof)).await;
    assert_eq!(answer.status(), StatusCode::OK);
    let page = text(answer).await;
    assert!(page.contains("contacts accepted 1, rows rejected 2") && page.contains("Rejected rows"), "{page}");
    assert_eq!(ui.core.store.audience("friends").await.unwrap().unwrap().contacts, 1);
}

#[tokio::test]
async fn assets_are_kept_for_good_under_their_hash() {
    let ui = Dashboard::new().await;
    let url = super::assets::css_url();
    let answer = ui.send(Request::get(&url).body(Body::empty()).unwrap()).await;
    assert_eq!(answer.headers()[header::CONTENT_TYPE], "text/css; charset=utf-8");
    assert!(answer.headers()[header::CACHE_CONTROL].to_str().unwrap().contains("immutable"));
    let etag = answer.headers()[header::ETAG].clone();
    let again = Request::get(&url).header(header::IF_NONE_MATCH, etag).body(Body::empty()).unwrap();
    assert_eq!(ui.send(again).await.status(), StatusCode::NOT_MODIFIED);
    let old = Request::get("/ui/assets/ui-0000000000000000.css").body(Body::empty()).unwrap();
    assert_eq!(ui.send(old).await.status(), StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn streams_send_samples_and_end_with_the_server() {
    let ui = Dashboard::new().await;
    let id = ui.running().await;
    let (cookie, _) = ui.log_in(SECRET).await;
    let path = format!("/ui/events?campaign={id}");
    let answer = ui.send(Request::get(path).header(header::COOKIE, &cookie).body(Body::empty()).unwrap()).await;
    assert_eq!(answer.headers()[header::CONTENT_TYPE], "text/event-stream");
    let mut body = answer.into_body();
    let mut seen = String::new();
    while !seen.contains(&format!("\"{id}.pending\":\"1\"")) {
        let frame = body.frame().await.unwrap().unwrap();
        seen.push_str(std::str::from_utf8(&frame.into_data().unwrap()).unwrap());
    }
    assert!(seen.contains("event: sample") && !seen.contains("+39"));
    ui.stop.cancel();
    while body.frame().await.is_some() {}
}
