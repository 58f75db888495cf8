//! What both stores have in common as types: a store is a struct, and one module per subject with a function for each
//! method of [`super::Store`].

/// Implements [`super::Store`] for a backend by the functions of the same names in the modules that are in scope: `hosts`,
/// `tokens`, `devices`, `audiences`, `plugins`, `campaigns`, `runs`, `messages`, `reading`, `retention`, `consent` and
/// `sequences`. The methods about the store itself are the backend's own.
macro_rules! store_by_subject {
    ($backend:ty) => {
        #[async_trait::async_trait]
        impl Store for $backend {
            fn kind(&self) -> &'static str {
                <$backend>::KIND
            }
            fn grouping(&self) -> Grouping {
                <$backend>::GROUPING
            }
            async fn now(&self) -> Result<Time> {
                self.database_time().await
            }
            async fn health(&self) -> Result<StoreHealth> {
                health::health(self).await
            }
            fn statements(&self) -> u64 {
                self.statement_count()
            }
            async fn close(&self) {
                self.close_pool().await;
            }
            async fn heartbeat(&self, beat: &Heartbeat, now: Time, alive: Duration) -> Result<Vec<HostRow>> {
                hosts::heartbeat(self, beat, now, alive).await
            }
            async fn leave(&self, host: HostId) -> Result<()> {
                hosts::leave(self, host).await
            }
            async fn revisions(&self) -> Result<Revisions> {
                hosts::revisions(self).await
            }
            async fn create_token(&self, row: &TokenRow, secret: Digest) -> Result<()> {
                tokens::create_token(self, row, secret).await
            }
            async fn token_by_secret(&self, secret: Digest) -> Result<Option<TokenRow>> {
                tokens::token_by_secret(self, secret).await
            }
            async fn tokens(&self) -> Result<Vec<TokenRow>> {
                tokens::tokens(self).await
            }
            async fn revoke_token(&self, id: TokenId, now: Time) -> Result<bool> {
                tokens::revoke_token(self, id, now).await
            }
            async fn claim_key(
                &self,
                owner: TokenId,
                key: &str,
                request: Digest,
                now: Time,
            ) -> Result<Option<KeptAnswer>> {
                tokens::claim_key(self, owner, key, request, now).await
            }
            async fn keep_answer(&self, owner: TokenId, key: &str, status: u16, body: &str) -> Result<()> {
                tokens::keep_answer(self, owner, key, status, body).await
            }
            async fn drop_key(&self, owner: TokenId, key: &str) -> Result<()> {
                tokens::drop_key(self, owner, key).await
            }
            async fn audit(&self, row: &AuditRow) -> Result<()> {
                tokens::audit(self, row).await
            }
            async fn audit_log(&self, cursor: Option<i64>, limit: u32) -> Result<Page<AuditRow, i64>> {
                tokens::audit_log(self, cursor, limit).await
            }
            async fn put_devices(&self, devices: &[DeviceSpec], now: Time) -> Result<u32> {
                devices::put_devices(self, devices, now).await
            }
            async fn update_device(
                &self,
                spec: &DeviceSpec,
                held: Option<&str>,
                seen_updated_at: Time,
                now: Time,
            ) -> Result<bool> {
                devices::update_device(self, spec, held, seen_updated_at, now).await
            }
            async fn delete_device(&self, id: &DeviceId, now: Time) -> Result<bool> {
                devices::delete_device(self, id, now).await
            }
            async fn device(&self, id: &DeviceId) -> Result<Option<Device>> {
                devices::device(self, id).await
            }
            async fn devices(
                &self,
                tag: Option<&str>,
                channel: Option<&str>,
                cursor: Option<&DeviceId>,
                limit: u32,
            ) -> Result<Page<Device, DeviceId>> {
                devices::devices(self, tag, channel, cursor, limit).await
            }
            async fn devices_by_no(&self, nos: &[DeviceNo]) -> Result<Vec<Device>> {
                devices::devices_by_no(self, nos).await
            }
            async fn devices_changed(&self, since: Time) -> Result<(Vec<Device>, Vec<DeviceNo>)> {
                devices::devices_changed(self, since).await
            }
            async fn devices_of_account(&self, account: &str) -> Result<Vec<Device>> {
                devices::devices_of_account(self, account).await
            }
            async fn count_devices(&self) -> Result<u64> {
                devices::count_devices(self).await
            }
            async fn hold_devices(&self, nos: &[DeviceNo], reason: Option<&str>, now: Time) -> Result<()> {
                devices::hold_devices(self, nos, reason, now).await
            }
            async fn saved_paces(&self, devices: &[DeviceNo]) -> Result<Vec<(DeviceNo, SavedPace)>> {
                paces::saved_paces(self, devices).await
            }
            async fn save_paces(&self, paces: &[PaceUpdate]) -> Result<()> {
                devices::save_paces(self, paces).await
            }
            async fn begin_audience(&self, name: &str, columns: &[String], now: Time) -> Result<AudienceNo> {
                audiences::begin_audience(self, name, columns, now).await
            }
            async fn append_contacts(
                &self,
                audience: AudienceNo,
                first: u32,
                contacts: &[NewContact],
            ) -> Result<Vec<u32>> {
                audiences::append_contacts(self, audience, first, contacts).await
            }
            async fn finish_audience(&self, audience: AudienceNo, contacts: u32, last: u32, now: Time) -> Result<()> {
                audiences::finish_audience(self, audience, contacts, last, now).await
            }
            async fn abort_audience(&self, audience: AudienceNo) -> Result<()> {
                audiences::abort_audience(self, audience).await
            }
            async fn audience(&self, name: &str) -> Result<Option<AudienceRow>> {
                audiences::audience(self, name).await
            }
            async fn audiences(&self, cursor: Option<&str>, limit: u32) -> Result<Page<AudienceRow, String>> {
                audiences::audiences(self, cursor, limit).await
            }
            async fn contacts(&self, audience: AudienceNo, after: u32, limit: u32) -> Result<Vec<(u32, NewContact)>> {
                audiences::contacts(self, audience, after, limit).await
            }
            async fn prune_audiences(&self, now: Time, limit: u32) -> Result<u64> {
                audiences::prune_audiences(self, now, limit).await
            }
            async fn put_plugin(&self, new: &NewPluginVersion, activate: bool, now: Time) -> Result<Stored> {
                plugins::put_plugin(self, new, activate, now).await
            }
            async fn activate_plugin(&self, name: &str, version: &str, now: Time) -> Result<Option<PluginVersion>> {
                plugins::activate_plugin(self, name, version, now).await
            }
            async fn plugins(&self) -> Result<Vec<PluginVersion>> {
                plugins::plugins(self).await
            }
            async fn plugin_bytes(&self, no: VersionNo) -> Result<Option<Bytes>> {
                plugins::plugin_bytes(self, no).await
            }
            async fn create_campaign(&self, id: CampaignId, spec: &CampaignSpec, now: Time) -> Result<()> {
                campaigns::create_campaign(self, id, spec, now).await
            }
            async fn campaign(&self, id: CampaignId) -> Result<Option<Campaign>> {
                campaigns::campaign(self, id).await
            }
            async fn campaigns(
                &self,
                status: Option<CampaignStatus>,
                cursor: Option<CampaignId>,
                limit: u32,
            ) -> Result<Page<Campaign, CampaignId>> {
                campaigns::campaigns(self, status, cursor, limit).await
            }
            async fn move_campaign(
                &self,
                id: CampaignId,
                from: CampaignStatus,
                event: CampaignEvent,
                reason: Option<&str>,
                now: Time,
            ) -> Result<Option<Campaign>> {
                campaigns::move_campaign(self, id, from, event, reason, now).await
            }
            async fn edit_campaign(&self, id: CampaignId, spec: &CampaignSpec, now: Time) -> Result<bool> {
                campaigns::edit_campaign(self, id, spec, now).await
            }
            async fn due_campaigns(&self, now: Time, limit: u32) -> Result<(Vec<Campaign>, Option<Time>)> {
                campaigns::due_campaigns(self, now, limit).await
            }
            async fn start_run(
                &self,
                campaign: &Campaign,
                audience: AudienceNo,
                devices: &[DeviceNo],
                now: Time,
            ) -> Result<Option<Run>> {
                runs::start_run(self, campaign, audience, devices, now).await
            }
            async fn open_runs(&self) -> Result<Vec<Run>> {
                runs::open_runs(self).await
            }
            async fn run(&self, key: RunKey) -> Result<Option<Run>> {
                runs::run(self, key).await
            }
            async fn run_devices(&self, key: RunKey) -> Result<Vec<DeviceNo>> {
                runs::run_devices(self, key).await
            }
            async fn expand_page(
                &self,
                run: RunKey,
                cursor: u32,
                page: u32,
                now: Time,
            ) -> Result<Option<ExpandedPage>> {
                runs::expand_page(self, run, cursor, page, now).await
            }
            async fn counts(&self, runs: &[RunKey]) -> Result<Vec<(RunKey, Counts)>> {
                runs::counts(self, runs).await
            }
            async fn complete_campaigns(&self, now: Time) -> Result<Vec<CampaignId>> {
                runs::complete_campaigns(self, now).await
            }
            async fn close_pending(&self, run: RunKey, to: MessageStatus, limit: u32, now: Time) -> Result<u64> {
                runs::close_pending(self, run, to, limit, now).await
            }
            async fn runs_to_close(&self) -> Result<Vec<(RunKey, CampaignStatus)>> {
                runs::runs_to_close(self).await
            }
            async fn campaigns_past_expiry(&self, now: Time) -> Result<Vec<Campaign>> {
                campaigns::campaigns_past_expiry(self, now).await
            }
            async fn retry_failed(&self, run: RunKey, limit: u32, now: Time) -> Result<u64> {
                runs::retry_failed(self, run, limit, now).await
            }
            async fn prune_run(&self, before: Time, limit: u32, now: Time) -> Result<Option<Pruned>> {
                retention::prune_run(self, before, limit, now).await
            }
            async fn top_up(&self, devices: &[DeviceNo], runs: &[RankedRun], window: u32) -> Result<Vec<TopUp>> {
                messages::top_up(self, devices, runs, window).await
            }
            async fn devices_with_ready(&self, after: Option<DeviceNo>, limit: u32) -> Result<Vec<DeviceNo>> {
                messages::devices_with_ready(self, after, limit).await
            }
            async fn promote_due(&self, now: Time, limit: u32) -> Result<(Vec<DeviceNo>, Option<Time>)> {
                messages::promote_due(self, now, limit).await
            }
            async fn turn(&self, host: HostId, ends: &[Settlement], claims: &[Claim], now: Time) -> Result<Turned> {
                messages::turn(self, host, ends, claims, now).await
            }
            async fn in_flight(
                &self,
                device: Option<DeviceNo>,
                after: Option<MessageId>,
                limit: u32,
                now: Time,
                alive: Duration,
            ) -> Result<Vec<InFlight>> {
                messages::in_flight(self, device, after, limit, now, alive).await
            }
            async fn defer(&self, messages: &[MessageId], due_at: Time, reason: &str) -> Result<u64> {
                messages::defer(self, messages, due_at, reason).await
            }
            async fn reassign(&self, from: DeviceNo, run: RunKey, to: &[DeviceNo], limit: u32) -> Result<u64> {
                messages::reassign(self, from, run, to, limit).await
            }
            async fn messages(
                &self,
                run: RunKey,
                status: Option<MessageStatus>,
                cursor: Option<MessageId>,
                limit: u32,
            ) -> Result<Page<MessageRow, MessageId>> {
                reading::messages(self, run, status, cursor, limit).await
            }
            async fn message(&self, id: MessageId) -> Result<Option<MessageRow>> {
                reading::message(self, id).await
            }
            async fn attempts(&self, id: MessageId) -> Result<Vec<AttemptRow>> {
                reading::attempts(self, id).await
            }
            async fn ahead_of(&self, id: MessageId, device: DeviceNo, runs: &[RankedRun], limit: u32) -> Result<u32> {
                reading::ahead_of(self, id, device, runs, limit).await
            }
            async fn suppress(&self, entries: &[NewSuppression], now: Time) -> Result<u32> {
                consent::suppress(self, entries, now).await
            }
            async fn unsuppress(&self, entries: &[(String, Option<String>)], now: Time) -> Result<u32> {
                consent::unsuppress(self, entries, now).await
            }
            async fn suppressions(
                &self,
                address: Option<&str>,
                cursor: Option<(String, String)>,
                limit: u32,
            ) -> Result<Page<Suppression, (String, String)>> {
                consent::suppressions(self, address, cursor, limit).await
            }
            async fn suppressed_since(&self, since: Time, limit: u32) -> Result<Vec<Suppression>> {
                consent::suppressed_since(self, since, limit).await
            }
            async fn create_sequence(&self, id: SequenceId, spec: &SequenceSpec, now: Time) -> Result<Sequence> {
                sequences::create_sequence(self, id, spec, now).await
            }
            async fn sequence(&self, id: SequenceId) -> Result<Option<Sequence>> {
                sequences::sequence(self, id).await
            }
            async fn sequence_by_no(&self, no: SequenceNo) -> Result<Option<Sequence>> {
                sequences::sequence_by_no(self, no).await
            }
            async fn sequences(&self, cursor: Option<SequenceId>, limit: u32) -> Result<Page<Sequence, SequenceId>> {
                sequences::sequences(self, cursor, limit).await
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
                sequences::move_sequence(self, id, from, to, reason, devices, now).await
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
                sequences::enrol_audience(self, sequence, audience, after, limit, due_at, now).await
            }
            async fn enrol_contact(
                &self,
                sequence: SequenceNo,
                contact: &NewContact,
                due_at: Time,
                now: Time,
            ) -> Result<Enrolled> {
                sequences::enrol_contact(self, sequence, contact, due_at, now).await
            }
            async fn step_due(&self, now: Time, limit: u32) -> Result<(Vec<DeviceNo>, Option<Time>)> {
                sequences::step_due(self, now, limit).await
            }
            async fn exit_enrolment(
                &self,
                sequence: SequenceNo,
                address: &str,
                reason: &str,
                now: Time,
            ) -> Result<bool> {
                sequences::exit_enrolment(self, sequence, address, reason, now).await
            }
            async fn enrolments(
                &self,
                sequence: SequenceNo,
                status: Option<EnrolmentStatus>,
                cursor: Option<u32>,
                limit: u32,
            ) -> Result<Page<Enrolment, u32>> {
                sequences::enrolments(self, sequence, status, cursor, limit).await
            }
            async fn enrolment_counts(&self, sequence: SequenceNo) -> Result<[u64; 4]> {
                sequences::enrolment_counts(self, sequence).await
            }
        }
    };
}

pub(super) use store_by_subject;
