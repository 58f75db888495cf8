//! What both stores have in common as types: a store is a struct, and one module per subject with a function for each
//! method of [`super::Store`].

/// Implements [`super::Store`] for a backend by the functions of the same names in the modules that are in scope: `hosts`,
/// `tokens`, `devices`, `audiences`, `plugins`, `deletion`, `grants`, `secrets`, `rollouts`, `cases`, `campaigns`, `runs`,
/// `messages`, `reading`, `webhooks`, `receipts`, `retention`, `unknown`, `consent` and `sequences`. The methods about the store itself are
/// the backend's own.
macro_rules! store_by_subject {
    ($backend:ty) => {
        impl $backend {
            /// Counts an answer that says that the database is away or refuses; what callers did wrong is no error here.
            fn noted<T>(&self, answer: Result<T>) -> Result<T> {
                if matches!(answer, Err(StoreError::Unavailable(_) | StoreError::Internal(_))) {
                    self.errors.fetch_add(1, Ordering::Relaxed);
                }
                answer
            }
        }

        #[async_trait::async_trait]
        impl Store for $backend {
            fn kind(&self) -> &'static str {
                <$backend>::KIND
            }
            fn grouping(&self) -> Grouping {
                <$backend>::GROUPING
            }
            async fn now(&self) -> Result<Time> {
                self.noted(self.database_time().await)
            }
            async fn health(&self) -> Result<StoreHealth> {
                self.noted(health::health(self).await)
            }
            fn statements(&self) -> u64 {
                self.statement_count()
            }
            fn errors(&self) -> u64 {
                self.errors.load(Ordering::Relaxed)
            }
            async fn close(&self) {
                self.close_pool().await;
            }
            async fn heartbeat(&self, beat: &Heartbeat, now: Time, alive: Duration) -> Result<Vec<HostRow>> {
                self.noted(hosts::heartbeat(self, beat, now, alive).await)
            }
            async fn leave(&self, host: HostId) -> Result<()> {
                self.noted(hosts::leave(self, host).await)
            }
            async fn revisions(&self) -> Result<Revisions> {
                self.noted(hosts::revisions(self).await)
            }
            async fn create_token(&self, row: &TokenRow, secret: Digest) -> Result<()> {
                self.noted(tokens::create_token(self, row, secret).await)
            }
            async fn token_by_secret(&self, secret: Digest) -> Result<Option<TokenRow>> {
                self.noted(tokens::token_by_secret(self, secret).await)
            }
            async fn tokens(&self) -> Result<Vec<TokenRow>> {
                self.noted(tokens::tokens(self).await)
            }
            async fn revoke_token(&self, id: TokenId, now: Time) -> Result<bool> {
                self.noted(tokens::revoke_token(self, id, now).await)
            }
            async fn claim_key(
                &self,
                owner: TokenId,
                key: &str,
                request: Digest,
                now: Time,
            ) -> Result<Option<KeptAnswer>> {
                self.noted(tokens::claim_key(self, owner, key, request, now).await)
            }
            async fn keep_answer(&self, owner: TokenId, key: &str, status: u16, body: &str) -> Result<()> {
                self.noted(tokens::keep_answer(self, owner, key, status, body).await)
            }
            async fn drop_key(&self, owner: TokenId, key: &str) -> Result<()> {
                self.noted(tokens::drop_key(self, owner, key).await)
            }
            async fn audit(&self, row: &AuditRow) -> Result<()> {
                self.noted(tokens::audit(self, row).await)
            }
            async fn audit_log(&self, cursor: Option<i64>, limit: u32) -> Result<Page<AuditRow, i64>> {
                self.noted(tokens::audit_log(self, cursor, limit).await)
            }
            async fn put_devices(&self, devices: &[DeviceSpec], now: Time) -> Result<u32> {
                self.noted(devices::put_devices(self, devices, now).await)
            }
            async fn update_device(
                &self,
                spec: &DeviceSpec,
                held: Option<&str>,
                ends_wait: bool,
                seen_updated_at: Time,
                now: Time,
            ) -> Result<bool> {
                self.noted(devices::update_device(self, spec, held, ends_wait, seen_updated_at, now).await)
            }
            async fn delete_device(&self, id: &DeviceId, now: Time) -> Result<bool> {
                self.noted(devices::delete_device(self, id, now).await)
            }
            async fn device(&self, id: &DeviceId) -> Result<Option<Device>> {
                self.noted(devices::device(self, id).await)
            }
            async fn devices(
                &self,
                tag: Option<&str>,
                channel: Option<&str>,
                cursor: Option<&DeviceId>,
                limit: u32,
            ) -> Result<Page<Device, DeviceId>> {
                self.noted(devices::devices(self, tag, channel, cursor, limit).await)
            }
            async fn devices_by_no(&self, nos: &[DeviceNo]) -> Result<Vec<Device>> {
                self.noted(devices::devices_by_no(self, nos).await)
            }
            async fn devices_changed(&self, since: Time) -> Result<(Vec<Device>, Vec<DeviceNo>)> {
                self.noted(devices::devices_changed(self, since).await)
            }
            async fn devices_of_account(&self, account: &str) -> Result<Vec<Device>> {
                self.noted(devices::devices_of_account(self, account).await)
            }
            async fn count_devices(&self) -> Result<u64> {
                self.noted(devices::count_devices(self).await)
            }
            async fn hold_devices(&self, nos: &[DeviceNo], reason: Option<&str>, now: Time) -> Result<()> {
                self.noted(devices::hold_devices(self, nos, reason, now).await)
            }
            async fn saved_paces(&self, devices: &[DeviceNo]) -> Result<Vec<(DeviceNo, SavedPace)>> {
                self.noted(paces::saved_paces(self, devices).await)
            }
            async fn save_paces(&self, paces: &[PaceUpdate]) -> Result<()> {
                self.noted(devices::save_paces(self, paces).await)
            }
            async fn begin_audience(&self, name: &str, columns: &[String], now: Time) -> Result<AudienceNo> {
                self.noted(audiences::begin_audience(self, name, columns, now).await)
            }
            async fn append_contacts(
                &self,
                audience: AudienceNo,
                first: u32,
                contacts: &[NewContact],
            ) -> Result<Vec<u32>> {
                self.noted(audiences::append_contacts(self, audience, first, contacts).await)
            }
            async fn finish_audience(&self, audience: AudienceNo, contacts: u32, last: u32, now: Time) -> Result<()> {
                self.noted(audiences::finish_audience(self, audience, contacts, last, now).await)
            }
            async fn abort_audience(&self, audience: AudienceNo) -> Result<()> {
                self.noted(audiences::abort_audience(self, audience).await)
            }
            async fn audience(&self, name: &str) -> Result<Option<AudienceRow>> {
                self.noted(audiences::audience(self, name).await)
            }
            async fn audiences(&self, cursor: Option<&str>, limit: u32) -> Result<Page<AudienceRow, String>> {
                self.noted(audiences::audiences(self, cursor, limit).await)
            }
            async fn contacts(&self, audience: AudienceNo, after: u32, limit: u32) -> Result<Vec<(u32, NewContact)>> {
                self.noted(audiences::contacts(self, audience, after, limit).await)
            }
            async fn prune_audiences(&self, now: Time, limit: u32) -> Result<u64> {
                self.noted(audiences::prune_audiences(self, now, limit).await)
            }
            async fn put_plugin(&self, new: &NewPluginVersion, activate: bool, now: Time) -> Result<Stored> {
                self.noted(plugins::put_plugin(self, new, activate, now).await)
            }
            async fn delete_version(&self, name: &str, version: &str, now: Time) -> Result<bool> {
                self.noted(deletion::delete_version(self, name, version, now).await)
            }
            async fn activate_plugin(
                &self,
                name: &str,
                version: &str,
                change: &Change<'_>,
                now: Time,
            ) -> Result<Option<PluginVersion>> {
                self.noted(rollouts::activate_plugin(self, name, version, change, now).await)
            }
            async fn rollback_plugin(
                &self,
                name: &str,
                actor: &str,
                reason: &str,
                now: Time,
            ) -> Result<Option<PluginVersion>> {
                self.noted(rollouts::rollback_plugin(self, name, actor, reason, now).await)
            }
            async fn plugin_history(&self, name: &str, limit: u32) -> Result<Vec<StableRow>> {
                self.noted(rollouts::plugin_history(self, name, limit).await)
            }
            async fn grant(
                &self,
                plugin: &str,
                grants: &Grants,
                actor: &str,
                when: Granting,
                now: Time,
            ) -> Result<bool> {
                self.noted(grants::grant(self, plugin, grants, actor, when, now).await)
            }
            async fn grants(&self) -> Result<Vec<GrantsRow>> {
                self.noted(grants::grants(self).await)
            }
            async fn put_secret(&self, secret: &Sealed) -> Result<bool> {
                self.noted(secrets::put_secret(self, secret).await)
            }
            async fn secrets(&self) -> Result<Vec<Sealed>> {
                self.noted(secrets::secrets(self).await)
            }
            async fn reseal_secret(&self, seen: &Sealed, secret: &Sealed) -> Result<bool> {
                self.noted(secrets::reseal_secret(self, seen, secret).await)
            }
            async fn delete_secret(&self, name: &str) -> Result<bool> {
                self.noted(secrets::delete_secret(self, name).await)
            }
            async fn start_rollout(
                &self,
                name: &str,
                version: &str,
                spec: &RolloutSpec,
                force: bool,
                actor: &str,
                now: Time,
            ) -> Result<Option<Rollout>> {
                self.noted(rollouts::start_rollout(self, name, version, spec, force, actor, now).await)
            }
            async fn end_rollout(
                &self,
                no: RolloutNo,
                ending: &Ending,
                actor: &str,
                reason: &str,
                now: Time,
            ) -> Result<Option<Rollout>> {
                self.noted(rollouts::end_rollout(self, no, ending, actor, reason, now).await)
            }
            async fn rollouts(&self, name: &str, limit: u32) -> Result<Vec<Rollout>> {
                self.noted(rollouts::rollouts(self, name, limit).await)
            }
            async fn running_rollouts(&self) -> Result<Vec<Rollout>> {
                self.noted(rollouts::running_rollouts(self).await)
            }
            async fn put_rollout_counts(&self, host: HostId, counts: &[(RolloutNo, RolloutCounts)]) -> Result<()> {
                self.noted(rollouts::put_rollout_counts(self, host, counts).await)
            }
            async fn rollout_counts(&self, nos: &[RolloutNo]) -> Result<Vec<(RolloutNo, RolloutCounts)>> {
                self.noted(rollouts::rollout_counts(self, nos).await)
            }
            async fn add_findings(&self, findings: &[(RolloutNo, Finding)]) -> Result<()> {
                self.noted(rollouts::add_findings(self, findings).await)
            }
            async fn findings(&self, no: RolloutNo, limit: u32) -> Result<Vec<Finding>> {
                self.noted(rollouts::findings(self, no, limit).await)
            }
            async fn plugins(&self) -> Result<Vec<PluginVersion>> {
                self.noted(plugins::plugins(self).await)
            }
            async fn plugin_bytes(&self, no: VersionNo) -> Result<Option<Bytes>> {
                self.noted(plugins::plugin_bytes(self, no).await)
            }
            async fn put_case(&self, new: &NewCase, keep: u32) -> Result<()> {
                self.noted(cases::put_case(self, new, keep).await)
            }
            async fn cases(&self, plugin: &str, cursor: Option<i64>, limit: u32) -> Result<Page<KeptCase, i64>> {
                self.noted(cases::cases(self, plugin, cursor, limit).await)
            }
            async fn case(&self, plugin: &str, id: i64) -> Result<Option<KeptCase>> {
                self.noted(cases::case(self, plugin, id).await)
            }
            async fn prune_cases(&self, before: Time, limit: u32) -> Result<u64> {
                self.noted(cases::prune_cases(self, before, limit).await)
            }
            async fn create_campaign(&self, id: CampaignId, spec: &CampaignSpec, now: Time) -> Result<()> {
                self.noted(campaigns::create_campaign(self, id, spec, now).await)
            }
            async fn campaign(&self, id: CampaignId) -> Result<Option<Campaign>> {
                self.noted(campaigns::campaign(self, id).await)
            }
            async fn campaigns(
                &self,
                status: Option<CampaignStatus>,
                cursor: Option<CampaignId>,
                limit: u32,
            ) -> Result<Page<Campaign, CampaignId>> {
                self.noted(campaigns::campaigns(self, status, cursor, limit).await)
            }
            async fn move_campaign(
                &self,
                id: CampaignId,
                from: CampaignStatus,
                event: CampaignEvent,
                reason: Option<&str>,
                now: Time,
            ) -> Result<Option<Campaign>> {
                self.noted(campaigns::move_campaign(self, id, from, event, reason, now).await)
            }
            async fn edit_campaign(&self, id: CampaignId, spec: &CampaignSpec, now: Time) -> Result<bool> {
                self.noted(campaigns::edit_campaign(self, id, spec, now).await)
            }
            async fn due_campaigns(&self, now: Time, limit: u32) -> Result<(Vec<Campaign>, Option<Time>)> {
                self.noted(campaigns::due_campaigns(self, now, limit).await)
            }
            async fn start_run(
                &self,
                campaign: &Campaign,
                audience: AudienceNo,
                devices: &[DeviceNo],
                now: Time,
            ) -> Result<Option<Run>> {
                self.noted(runs::start_run(self, campaign, audience, devices, now).await)
            }
            async fn open_runs(&self) -> Result<Vec<Run>> {
                self.noted(runs::open_runs(self).await)
            }
            async fn run(&self, key: RunKey) -> Result<Option<Run>> {
                self.noted(runs::run(self, key).await)
            }
            async fn runs(&self, keys: &[RunKey]) -> Result<Vec<Run>> {
                self.noted(runs::runs(self, keys).await)
            }
            async fn run_devices(&self, key: RunKey) -> Result<Vec<DeviceNo>> {
                self.noted(runs::run_devices(self, key).await)
            }
            async fn expand_page(
                &self,
                run: RunKey,
                cursor: u32,
                page: u32,
                now: Time,
            ) -> Result<Option<ExpandedPage>> {
                self.noted(runs::expand_page(self, run, cursor, page, now).await)
            }
            async fn counts(&self, runs: &[RunKey]) -> Result<Vec<(RunKey, Counts)>> {
                self.noted(runs::counts(self, runs).await)
            }
            async fn deferred(&self, runs: &[RunKey], limit: u32) -> Result<u64> {
                self.noted(runs::deferred(self, runs, limit).await)
            }
            async fn open_campaigns(&self) -> Result<Vec<OpenCampaigns>> {
                self.noted(campaigns::open_campaigns(self).await)
            }
            async fn complete_campaigns(&self, now: Time) -> Result<Vec<CampaignId>> {
                self.noted(runs::complete_campaigns(self, now).await)
            }
            async fn close_pending(&self, run: RunKey, to: MessageStatus, limit: u32, now: Time) -> Result<u64> {
                self.noted(runs::close_pending(self, run, to, limit, now).await)
            }
            async fn runs_to_close(&self) -> Result<Vec<(RunKey, CampaignStatus)>> {
                self.noted(runs::runs_to_close(self).await)
            }
            async fn campaigns_past_expiry(&self, now: Time) -> Result<Vec<Campaign>> {
                self.noted(campaigns::campaigns_past_expiry(self, now).await)
            }
            async fn retry_failed(&self, run: RunKey, limit: u32, now: Time) -> Result<u64> {
                self.noted(runs::retry_failed(self, run, limit, now).await)
            }
            async fn prune_run(&self, before: Time, limit: u32, now: Time) -> Result<Option<Pruned>> {
                self.noted(retention::prune_run(self, before, limit, now).await)
            }
            async fn top_up(&self, devices: &[DeviceNo], runs: &[RankedRun], window: u32) -> Result<Vec<TopUp>> {
                self.noted(messages::top_up(self, devices, runs, window).await)
            }
            async fn devices_with_ready(&self, after: Option<DeviceNo>, limit: u32) -> Result<Vec<DeviceNo>> {
                self.noted(messages::devices_with_ready(self, after, limit).await)
            }
            async fn promote_due(&self, now: Time, limit: u32) -> Result<(Vec<DeviceNo>, Option<Time>)> {
                self.noted(messages::promote_due(self, now, limit).await)
            }
            async fn turn(&self, host: HostId, ends: &[Settlement], claims: &[Claim], now: Time) -> Result<Turned> {
                self.noted(messages::turn(self, host, ends, claims, now).await)
            }
            async fn in_flight(
                &self,
                device: Option<DeviceNo>,
                after: Option<MessageId>,
                limit: u32,
                now: Time,
                alive: Duration,
            ) -> Result<Vec<InFlight>> {
                self.noted(messages::in_flight(self, device, after, limit, now, alive).await)
            }
            async fn defer(&self, messages: &[MessageId], due_at: Time, reason: &str) -> Result<u64> {
                self.noted(messages::defer(self, messages, due_at, reason).await)
            }
            async fn reassign(&self, from: DeviceNo, run: RunKey, to: &[DeviceNo], limit: u32) -> Result<u64> {
                self.noted(messages::reassign(self, from, run, to, limit).await)
            }
            async fn messages(
                &self,
                run: RunKey,
                status: Option<MessageStatus>,
                cursor: Option<MessageId>,
                limit: u32,
            ) -> Result<Page<MessageRow, MessageId>> {
                self.noted(reading::messages(self, run, status, cursor, limit).await)
            }
            async fn message(&self, id: MessageId) -> Result<Option<MessageRow>> {
                self.noted(reading::message(self, id).await)
            }
            async fn attempts(&self, id: MessageId) -> Result<Vec<AttemptRow>> {
                self.noted(reading::attempts(self, id).await)
            }
            async fn ahead_of(&self, id: MessageId, device: DeviceNo, runs: &[RankedRun], limit: u32) -> Result<u32> {
                self.noted(reading::ahead_of(self, id, device, runs, limit).await)
            }
            async fn create_webhook(&self, webhook: &Webhook, key: Digest) -> Result<()> {
                self.noted(webhooks::create_webhook(self, webhook, key).await)
            }
            async fn webhooks(&self, plugin: Option<&str>) -> Result<Vec<Webhook>> {
                self.noted(webhooks::webhooks(self, plugin).await)
            }
            async fn webhook_by_key(&self, key: Digest) -> Result<Option<Webhook>> {
                self.noted(webhooks::webhook_by_key(self, key).await)
            }
            async fn delete_webhook(&self, plugin: &str, id: WebhookId) -> Result<bool> {
                self.noted(webhooks::delete_webhook(self, plugin, id).await)
            }
            async fn expect_receipts(&self, expected: &[(MessageId, Expected)]) -> Result<()> {
                self.noted(receipts::expect_receipts(self, expected).await)
            }
            async fn note_receipts(&self, news: &[News], room: u32, now: Time) -> Result<Noted> {
                self.noted(receipts::note_receipts(self, news, room, now).await)
            }
            async fn settle_early_receipts(&self, before: Time, limit: u32) -> Result<(Noted, u64)> {
                self.noted(receipts::settle_early_receipts(self, before, limit).await)
            }
            async fn receipt(&self, id: MessageId) -> Result<Option<Receipt>> {
                self.noted(receipts::receipt(self, id).await)
            }
            async fn receipt_counts(&self, runs: &[RunKey]) -> Result<Vec<(RunKey, ReceiptCounts)>> {
                self.noted(receipts::receipt_counts(self, runs).await)
            }
            async fn addresses_of_receipts(
                &self,
                keys: &[ReceiptKey],
                addresses: &[AddressKey],
                limit: u32,
            ) -> Result<Vec<String>> {
                self.noted(receipts::addresses_of_receipts(self, keys, addresses, limit).await)
            }
            async fn unknown(
                &self,
                of: &UnknownOf,
                cursor: Option<MessageId>,
                limit: u32,
            ) -> Result<Page<MessageRow, MessageId>> {
                self.noted(unknown::unknown(self, of, cursor, limit).await)
            }
            async fn unknown_runs(&self, limit: u32) -> Result<Vec<(RunKey, u64)>> {
                self.noted(unknown::unknown_runs(self, limit).await)
            }
            async fn claim_lookups(
                &self,
                messages: &[MessageId],
                times: u32,
                first: Duration,
                longest: Duration,
                now: Time,
            ) -> Result<Vec<(MessageId, u32)>> {
                self.noted(unknown::claim_lookups(self, messages, times, first, longest, now).await)
            }
            async fn resolve(&self, resolutions: &[Resolution], now: Time) -> Result<Vec<Resolved>> {
                self.noted(unknown::resolve(self, resolutions, now).await)
            }
            async fn suppress(&self, entries: &[NewSuppression], now: Time) -> Result<u32> {
                self.noted(consent::suppress(self, entries, now).await)
            }
            async fn unsuppress(&self, entries: &[(String, Option<String>)], now: Time) -> Result<u32> {
                self.noted(consent::unsuppress(self, entries, now).await)
            }
            async fn suppressions(
                &self,
                address: Option<&str>,
                cursor: Option<(String, String)>,
                limit: u32,
            ) -> Result<Page<Suppression, (String, String)>> {
                self.noted(consent::suppressions(self, address, cursor, limit).await)
            }
            async fn suppressed_since(&self, since: Time, limit: u32) -> Result<Vec<Suppression>> {
                self.noted(consent::suppressed_since(self, since, limit).await)
            }
            async fn create_sequence(&self, id: SequenceId, spec: &SequenceSpec, now: Time) -> Result<Sequence> {
                self.noted(sequences::create_sequence(self, id, spec, now).await)
            }
            async fn sequence(&self, id: SequenceId) -> Result<Option<Sequence>> {
                self.noted(sequences::sequence(self, id).await)
            }
            async fn sequence_by_no(&self, no: SequenceNo) -> Result<Option<Sequence>> {
                self.noted(sequences::sequence_by_no(self, no).await)
            }
            async fn sequences(&self, cursor: Option<SequenceId>, limit: u32) -> Result<Page<Sequence, SequenceId>> {
                self.noted(sequences::sequences(self, cursor, limit).await)
            }
            async fn move_sequence(
                &self,
                id: SequenceId,
                from: SequenceStatus,
                to: SequenceStatus,
                reason: Option<&str>,
                devices: &[DeviceNo],
                now: Time,
            ) -> Result<Option<Sequence>> {
                self.noted(sequences::move_sequence(self, id, from, to, reason, devices, now).await)
            }
            async fn enrol_audience(
                &self,
                sequence: SequenceNo,
                audience: AudienceNo,
                after: u32,
                limit: u32,
                due_at: Time,
                now: Time,
            ) -> Result<(Enrolled, Option<u32>)> {
                self.noted(sequences::enrol_audience(self, sequence, audience, after, limit, due_at, now).await)
            }
            async fn enrol_contact(
                &self,
                sequence: SequenceNo,
                contact: &NewContact,
                due_at: Time,
                now: Time,
            ) -> Result<Enrolled> {
                self.noted(sequences::enrol_contact(self, sequence, contact, due_at, now).await)
            }
            async fn step_due(&self, now: Time, limit: u32) -> Result<(Vec<DeviceNo>, Option<Time>)> {
                self.noted(sequences::step_due(self, now, limit).await)
            }
            async fn exit_enrolment(
                &self,
                sequence: SequenceNo,
                address: &str,
                reason: &str,
                now: Time,
            ) -> Result<bool> {
                self.noted(sequences::exit_enrolment(self, sequence, address, reason, now).await)
            }
            async fn enrolments(
                &self,
                sequence: SequenceNo,
                status: Option<EnrolmentStatus>,
                cursor: Option<u32>,
                limit: u32,
            ) -> Result<Page<Enrolment, u32>> {
                self.noted(sequences::enrolments(self, sequence, status, cursor, limit).await)
            }
            async fn enrolment_counts(&self, sequence: SequenceNo) -> Result<[u64; 4]> {
                self.noted(sequences::enrolment_counts(self, sequence).await)
            }
        }
    };
}

pub(super) use store_by_subject;
