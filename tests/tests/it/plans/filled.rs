//! A store as it looks after some weeks: a million messages, most of them final, and campaigns in every state.

use carillon::campaign::{CampaignEvent as E, CampaignStatus as C};
use carillon::clock::Time;
use carillon::device::DeviceSpec;
use carillon::id::{DeviceId, DeviceNo, RunKey, SequenceId};
use carillon::message::Begun;
use carillon::sequence::SequenceStatus;
use carillon::store::{self, RankedRun, Store};
use carillon_tests::fleet::{Started, T0, addresses, at, audience, campaign_spec, device_spec, launch, sequence_spec};
use carillon_tests::plans::explaining_server;
use carillon_tests::postgres::Postgres;
use sqlx::{AssertSqlSafe, Connection as _, Executor as _, PgConnection};

/// When it is looked at.
pub(super) const NOW: Time = Time::from_ms(1_800_000_000_000 + 700_000_000);

/// The key of a receipt is the number of its contact times this.
pub(super) const KEY: i64 = 1_000_003;
const DEVICES: usize = 3_000;
const CONTACTS: u32 = 500_000;
/// Campaigns that finished long ago, without messages of their own.
const FINISHED: u32 = 5_000;

/// The store, and what is in it.
pub(super) struct Filled {
    pub(super) server: Postgres,
    pub(super) url: String,
    pub(super) version: i32,
    pub(super) devices: Vec<DeviceNo>,
    pub(super) ids: Vec<DeviceId>,
    /// Completed, 400,000 messages.
    pub(super) old: Started,
    /// Running: 500,000, half of them final.
    pub(super) live: Started,
    /// Cancelled, 50,000 messages still to be closed.
    pub(super) cancelled: Started,
    /// Expanding, without a message.
    pub(super) fresh: Started,
    /// Those that send, in rank order.
    pub(super) ranked: Vec<RankedRun>,
    /// Messages of `live` that are being sent, by devices that no other call is about.
    pub(super) in_flight: usize,
    /// Those with messages.
    pub(super) runs: Vec<RunKey>,
}

impl Filled {
    pub(super) async fn new() -> Self {
        let server = explaining_server();
        let url = server.database().await;
        let opened = store::open(&url, 2).await.unwrap();
        let store = &*opened;
        let specs: Vec<DeviceSpec> = (0..DEVICES).map(|n| device_spec(&format!("d-{n:04}"))).collect();
        store.put_devices(&specs, T0).await.unwrap();
        let ids: Vec<DeviceId> = specs.into_iter().map(|spec| spec.id).collect();
        let mut devices = Vec::new();
        let mut cursor = None;
        loop {
            let page = store.devices(None, None, cursor.as_ref(), 1_000).await.unwrap();
            devices.extend(page.items.into_iter().map(|device| device.no));
            cursor = page.next;
            if cursor.is_none() {
                break;
            }
        }

        let mut sql = PgConnection::connect(&url).await.unwrap();
        sql.execute("SET auto_explain.log_min_duration = -1; SET synchronous_commit = off").await.unwrap();
        // A version that was replaced, and the current one.
        audience(store, "people", &addresses(5_000)).await;
        let people = store.begin_audience("people", &["name".to_owned()], T0).await.unwrap();
        run(
            &mut sql,
            &format!(
                "INSERT INTO contacts (audience_no, no, address, variables)
                 SELECT {people}, n, '+39' || n, '[[\"name\",\"N\"]]' FROM generate_series(1, {CONTACTS}) n"
            ),
        )
        .await;
        store.finish_audience(people, CONTACTS, CONTACTS, T0).await.unwrap();

        // In the order of their keys, which are random: so the tables lie alike on the disk whenever they are filled.
        let mut launched = Vec::new();
        for n in 0..6 {
            launched.push(launch(store, &campaign_spec("people"), &devices, at(60 * n)).await);
        }
        launched.sort_by_key(|started| started.run.key);
        let [old, live, second, paused, cancelled, fresh] = <[Started; 6]>::try_from(launched).ok().unwrap();
        for (started, count, status) in [
            (&old, 400_000, "CASE WHEN n % 100 = 7 THEN 6 ELSE 3 END"),
            (
                &live,
                500_000,
                "CASE WHEN n > 250000 THEN CASE WHEN n % 300 = 5 THEN 1 ELSE 0 END
                      WHEN n % 100 = 7 THEN 6 WHEN n % 1000 = 8 THEN 7 WHEN n % 1000 = 9 THEN 8
                      WHEN n % 3 = 0 THEN 4 ELSE 3 END",
            ),
            (&second, 100_000, "0"),
            (&paused, 50_000, "0"),
            (&cancelled, 50_000, "0"),
        ] {
            messages_of(&mut sql, started, count, status).await;
        }
        for started in [&old, &live, &second, &paused, &cancelled] {
            let moved = store.move_campaign(started.campaign, C::Expanding, E::Expanded, None, at(400)).await;
            assert!(moved.unwrap().is_some());
        }
        let finish = async |started: &Started, event| {
            assert!(store.move_campaign(started.campaign, C::Running, event, None, at(500)).await.unwrap().is_some());
        };
        finish(&old, E::Complete).await;
        finish(&paused, E::Pause).await;
        finish(&cancelled, E::Cancel).await;
        let waiting = store.top_up(&devices[2_400..2_700], &[live.ranked()], 1).await.unwrap();
        let claims: Vec<_> = waiting.iter().map(|top| live.claim(top.messages[0].0, top.device, 7)).collect();
        let begun = store.begin(live.host, &claims, at(600)).await.unwrap();
        assert!(begun.iter().all(|b| matches!(b, Begun::Started(_))));
        sequence(store, &devices).await;
        finished_campaigns(&mut sql, &live).await;
        run(
            &mut sql,
            &format!(
                "INSERT INTO suppressions (address, channel, reason, created_at)
                 SELECT '+49' || n, '', 'opted-out', {0} + n FROM generate_series(1, 100000) n;
                 INSERT INTO device_state (device_no, next_at, token, pace) SELECT no, {0}, 0, '{{}}' FROM devices;
                 INSERT INTO lookups (message_id, next_at, tries)
                 SELECT id, {0}, 1 FROM messages WHERE id >> 32 = {1} ORDER BY id LIMIT 50000;
                 INSERT INTO receipts (message_id, key, address_key, delivered_at, state)
                 SELECT id, (id & 4294967295) * {KEY}, (id & 4294967295) % 100000, {0}, 2
                 FROM messages WHERE id >> 32 = {2} AND status IN (3, 4) ORDER BY id;
                 INSERT INTO early_receipts (key, state, at, arrived_at) SELECT -n, 2, {0}, {0} + n FROM generate_series(1, 5000) n;
                 INSERT INTO webhooks (id, key, plugin, spec, created_at)
                 SELECT gen_random_uuid(), sha256(n::text::bytea), 'p-' || n % 20, '{{}}', {0} FROM generate_series(1, 200) n",
                T0.as_ms(),
                old.run.key.0,
                live.run.key.0
            ),
        )
        .await;
        // Statistics from every row instead of a sample, which would differ from time to time.
        run(&mut sql, "SET default_statistics_target = 4000").await;
        run(&mut sql, "VACUUM ANALYZE").await;
        let version: String = sqlx::query_scalar("SHOW server_version_num").fetch_one(&mut sql).await.unwrap();
        sql.close().await.unwrap();
        opened.close().await;

        let mut ranked = [&live, &second, &fresh].map(Started::ranked).to_vec();
        ranked.sort_by_key(|run| run.rank);
        let runs = [&old, &live, &second, &paused, &cancelled, &fresh].map(|s| s.run.key).to_vec();
        let version = version.parse::<i32>().unwrap() / 10_000;
        let in_flight = claims.len();
        Self { in_flight, server, url, version, devices, ids, old, live, cancelled, fresh, ranked, runs }
    }
}

async fn run(sql: &mut PgConnection, text: &str) {
    sql.execute(AssertSqlSafe(text.to_owned())).await.unwrap();
}

/// The run's messages to the first `count` contacts, each with the status that the expression over its number `n` gives, as
/// expansion and sending would have left them.
async fn messages_of(sql: &mut PgConnection, started: &Started, count: u32, status: &str) {
    let (key, t0) = (started.run.key.0, T0.as_ms());
    run(
        sql,
        &format!(
            "INSERT INTO messages (id, due_at, device_no, attempt, status, failures, started_at, finished_at, provider_id,
                                   reason_code)
             SELECT ({key}::bigint << 32) | n, CASE s.code WHEN 1 THEN {t0} + n ELSE {t0} END, rd.device_no,
                    (s.code NOT IN (0, 8))::int, s.code, (s.code IN (1, 6))::int,
                    CASE WHEN s.code NOT IN (0, 8) THEN {t0} + n END, CASE WHEN s.code > 2 THEN {t0} + n + 100 END,
                    CASE WHEN s.code IN (3, 4) THEN 'p-' || n END, CASE WHEN s.code IN (1, 6, 7) THEN 'http_503' END
             FROM generate_series(1, {count}) n
             JOIN run_devices rd ON rd.run_key = {key} AND rd.pos = (n - 1) % {DEVICES}
             CROSS JOIN LATERAL (SELECT ({status})::smallint AS code) s
             ORDER BY n;
             INSERT INTO attempts (message_id, started_at, finished_at, attempt, device_no, outcome, reason_code)
             SELECT id, {t0}, {t0}, attempt, device_no, 'failed', reason_code
             FROM messages WHERE id >> 32 = {key} AND status IN (1, 6, 7);
             INSERT INTO run_counts (run_key, shard, total, sent, delivered, failed, unknown, suppressed)
             SELECT {key}, 0, count(*), count(*) FILTER (WHERE status = 3), count(*) FILTER (WHERE status = 4),
                    count(*) FILTER (WHERE status = 6), count(*) FILTER (WHERE status = 7),
                    count(*) FILTER (WHERE status = 8)
             FROM messages WHERE id >> 32 = {key};
             UPDATE runs SET cursor = {count}, last = {count}, expanded = TRUE WHERE key = {key}"
        ),
    )
    .await;
}

/// A running sequence with 50,000 enrolments, of which a tenth is due.
async fn sequence(store: &dyn Store, devices: &[DeviceNo]) {
    let id = SequenceId::new();
    let made = store.create_sequence(id, &sequence_spec(2), T0).await.unwrap();
    let people = store.audience("people").await.unwrap().unwrap().no;
    store
        .move_sequence(id, SequenceStatus::Draft, SequenceStatus::Running, None, &devices[..100], T0)
        .await
        .unwrap()
        .unwrap();
    store.enrol_audience(made.no, people, 0, 5_000, at(1_000), T0).await.unwrap();
    store.enrol_audience(made.no, people, 5_000, 45_000, at(10_000_000), T0).await.unwrap();
}

/// Thousands of campaigns like this one that finished, and whose messages retention has removed.
async fn finished_campaigns(sql: &mut PgConnection, like: &Started) {
    let (campaign, key) = (like.campaign, like.run.key.0);
    run(
        sql,
        &format!(
            "CREATE TEMPORARY TABLE made AS SELECT gen_random_uuid() AS id, n AS key FROM generate_series(1, {FINISHED}) n;
             INSERT INTO campaigns (id, spec, status, run_key, created_at, launched_at, finished_at, messages_pruned_at)
             SELECT m.id, c.spec, 'completed', m.key, c.created_at, c.launched_at, c.created_at + m.key, c.created_at
             FROM made m JOIN campaigns c ON c.id = '{campaign}';
             INSERT INTO runs (key, campaign_id, audience_no, name, plan, priority, sticky, pool_size, active, expanded, cursor,
                               last, started_at, finished_at, pruned)
             SELECT m.key, m.id, 0, r.name, r.plan, r.priority, r.sticky, r.pool_size, FALSE, TRUE, r.cursor, r.last,
                    r.started_at, r.started_at + m.key, TRUE
             FROM made m JOIN runs r ON r.key = {key};
             INSERT INTO run_counts (run_key, shard, total, sent) SELECT key, 0, 1000, 1000 FROM made"
        ),
    )
    .await;
}
