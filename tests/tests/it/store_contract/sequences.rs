use std::time::Duration;

use carillon::campaign::RunOwner;
use carillon::clock::Time;
use carillon::consent::NewSuppression;
use carillon::id::{DeviceNo, HostId, MessageId, RunKey, SequenceId};
use carillon::message::{
    AdvanceTo, Begun, Claim, Counts, EnrolmentAdvance, MessageStatus, Reason, Settled, Settlement, Versions, Work,
};
use carillon::resolution::{Resolution, Resolved, Way};
use carillon::sequence::{Enrolment, EnrolmentStatus, Sequence, SequenceStatus as S, Step};
use carillon::store::{Enrolled, Store, StoreError};
use carillon_tests::fleet::{
    T0, addresses, at, audience, contact, devices, exact_counts, sent, sequence_spec, versions,
};
use carillon_tests::stores::Opened;

/// A running sequence and what it takes to play its workers.
struct Play<'a> {
    store: &'a dyn Store,
    sequence: Sequence,
    devices: Vec<DeviceNo>,
    versions: Versions,
}

async fn playing<'a>(store: &'a dyn Store, steps: usize, ids: &[&str]) -> Play<'a> {
    let devices = devices(store, ids).await;
    let id = SequenceId::new();
    store.create_sequence(id, &sequence_spec(steps), T0).await.unwrap();
    let sequence = store.move_sequence(id, S::Draft, S::Running, None, &devices, T0).await.unwrap().unwrap();
    Play { store, sequence, devices, versions: versions(store).await }
}

impl Play<'_> {
    async fn enrol(&self, address: &str, due_at: Time) -> Enrolled {
        self.store.enrol_contact(self.sequence.no, &contact(address), due_at, T0).await.unwrap()
    }

    async fn enrolment(&self, contact: u32) -> Enrolment {
        let all = self.store.enrolments(self.sequence.no, None, None, 1_000).await.unwrap().items;
        all.into_iter().find(|e| e.contact == contact).expect("enrolled")
    }

    fn message(&self, step: usize, contact: u32) -> MessageId {
        MessageId::new(self.sequence.runs[step], contact)
    }

    fn run(&self, step: usize) -> RunKey {
        self.sequence.runs[step]
    }

    async fn begin(&self, id: MessageId, device: DeviceNo, now: Time) -> Begun {
        let claim = Claim {
            message: id,
            device,
            channel: "sms".into(),
            token: 1,
            versions: self.versions,
            uncertainty: Duration::ZERO,
        };
        self.store.begin(HostId::new(), &[claim], now).await.unwrap().remove(0)
    }

    async fn take(&self, id: MessageId, device: DeviceNo, now: Time) -> Work {
        match self.begin(id, device, now).await {
            Begun::Started(work) => *work,
            other => panic!("not taken: {other:?}"),
        }
    }

    fn end(&self, work: &Work, device: DeviceNo, outcome: Settled, step: u32, to: AdvanceTo, now: Time) -> Settlement {
        Settlement {
            message: work.message,
            device,
            token: 1,
            attempt: work.attempt,
            versions: self.versions,
            outcome,
            started_at: now,
            finished_at: now,
            pace: None,
            suppress: None,
            sequence: Some(EnrolmentAdvance { sequence: self.sequence.no, step, to }),
            receipt: None,
        }
    }

    async fn settle(&self, end: Settlement) {
        assert_eq!(self.store.settle(&[end]).await.unwrap(), [true]);
    }
}

fn opt_out(address: &str, channel: Option<&str>) -> NewSuppression {
    NewSuppression { address: address.into(), channel: channel.map(Into::into), reason: "opted-out".into() }
}

async fn a_sequence_is_a_draft_at_first(t: Opened) {
    let store = &*t.store;
    let ids: Vec<_> = (0..3).map(|_| SequenceId::new()).collect();
    for id in &ids {
        let made = store.create_sequence(*id, &sequence_spec(2), T0).await.unwrap();
        assert_eq!((made.id, made.status, made.runs.len(), made.created_at), (*id, S::Draft, 0, T0));
        assert_eq!(store.sequence_by_no(made.no).await.unwrap().unwrap().id, *id);
    }
    let again = store.create_sequence(ids[0], &sequence_spec(2), T0).await;
    assert!(matches!(again, Err(StoreError::Exists { .. })));
    assert!(store.sequence(SequenceId::new()).await.unwrap().is_none());
    let page = store.sequences(None, 2).await.unwrap();
    assert_eq!(page.items.iter().map(|s| s.id).collect::<Vec<_>>(), [ids[2], ids[1]], "newest first");
    let rest = store.sequences(page.next, 2).await.unwrap();
    assert_eq!((rest.items.len(), rest.items[0].id, rest.next), (1, ids[0], None));

    let nos = devices(store, &["a", "b"]).await;
    let before = store.revisions().await.unwrap().runs;
    let running = store.move_sequence(ids[0], S::Draft, S::Running, None, &nos, at(1)).await.unwrap().unwrap();
    assert_eq!((running.status, running.runs.len()), (S::Running, 2), "a run per step");
    assert!(store.revisions().await.unwrap().runs > before);
    assert!(store.move_sequence(ids[0], S::Draft, S::Running, None, &nos, at(1)).await.unwrap().is_none());
    for (step, key) in (0..).zip(&running.runs) {
        let run = store.run(*key).await.unwrap().unwrap();
        assert_eq!(run.owner, RunOwner::Step { sequence: running.no, step });
        assert_eq!((run.active, run.expanded, run.audience), (true, true, running.audience));
        assert_eq!(store.run_devices(*key).await.unwrap(), nos);
    }
    let paused = store.move_sequence(ids[0], S::Running, S::Paused, Some("wait"), &nos, at(2)).await.unwrap().unwrap();
    assert_eq!((paused.paused_reason.as_deref(), &paused.runs), (Some("wait"), &running.runs));
    assert!(!store.run(running.runs[1]).await.unwrap().unwrap().active);
    assert_eq!(store.open_runs().await.unwrap().len(), 2, "paused, but open");
    let resumed = store.move_sequence(ids[0], S::Paused, S::Running, None, &nos, at(3)).await.unwrap().unwrap();
    assert_eq!((resumed.paused_reason, &resumed.runs), (None, &running.runs));
    assert_eq!(store.sequence(ids[0]).await.unwrap().unwrap().runs, running.runs);
}

async fn a_contact_goes_through_its_steps(t: Opened) {
    let p = playing(&*t.store, 2, &["a"]).await;
    let device = p.devices[0];
    assert_eq!(p.enrol("+1", at(10)).await, Enrolled { enrolled: 1, ..Enrolled::default() });
    let e = p.enrolment(1).await;
    assert_eq!((e.status, e.step, e.due_at), (EnrolmentStatus::Waiting, 0, Some(at(10))));
    assert_eq!((e.address.as_str(), e.enrolled_at), ("+1", T0));
    assert_eq!(p.store.step_due(at(9), 10).await.unwrap(), (vec![], Some(at(10))));
    assert_eq!(p.store.step_due(at(10), 10).await.unwrap(), (vec![device], None));
    assert_eq!(p.store.step_due(at(10), 10).await.unwrap(), (vec![], None), "once");
    let e = p.enrolment(1).await;
    assert_eq!((e.status, e.step, e.due_at), (EnrolmentStatus::InStep, 0, None));
    assert_eq!(p.store.message(p.message(0, 1)).await.unwrap().unwrap().address, "+1");

    let work = p.take(p.message(0, 1), device, at(11)).await;
    assert_eq!(work.recipient.address, "+1");
    p.settle(p.end(&work, device, sent(), 0, AdvanceTo::NextStep(at(70)), at(12))).await;
    let e = p.enrolment(1).await;
    assert_eq!((e.status, e.step, e.due_at), (EnrolmentStatus::Waiting, 1, Some(at(70))));
    assert_eq!(p.store.step_due(at(69), 10).await.unwrap(), (vec![], Some(at(70))));
    assert_eq!(p.store.step_due(at(70), 10).await.unwrap().0, [device]);
    let work = p.take(p.message(1, 1), device, at(71)).await;
    p.settle(p.end(&work, device, sent(), 1, AdvanceTo::Completed, at(72))).await;
    assert_eq!(p.enrolment(1).await.status, EnrolmentStatus::Completed);
    for step in 0..2 {
        assert_eq!(exact_counts(p.store, p.run(step)).await, Counts { sent: 1, ..Counts::default() });
    }
    assert_eq!(p.store.enrolment_counts(p.sequence.no).await.unwrap(), [0, 0, 1, 0]);
    assert_eq!(p.enrol("+1", at(100)).await, Enrolled { already: 1, ..Enrolled::default() }, "once through");
    assert_eq!(p.store.complete_campaigns(at(200)).await.unwrap(), [], "a sequence never completes");
}

async fn an_audience_is_enrolled_in_pages(t: Opened) {
    let p = playing(&*t.store, 1, &["a", "b"]).await;
    let no = audience(p.store, "people", &addresses(7)).await;
    p.enrol("+2", at(10)).await;
    p.store.suppress(&[opt_out("+3", None), opt_out("+4", Some("push"))], T0).await.unwrap();
    let mut sum = Enrolled::default();
    let mut after = Some(0);
    let mut pages = 0;
    while let Some(from) = after {
        let (page, next) = p.store.enrol_audience(p.sequence.no, no, from, 3, at(20), at(1)).await.unwrap();
        sum.enrolled += page.enrolled;
        sum.already += page.already;
        sum.suppressed += page.suppressed;
        assert!(next.is_none_or(|n| n > from));
        (after, pages) = (next, pages + 1);
    }
    assert_eq!(sum, Enrolled { enrolled: 5, already: 1, suppressed: 1 });
    assert_eq!(pages, 3);
    let repeated = p.store.enrol_audience(p.sequence.no, no, 0, 100, at(30), at(2)).await.unwrap().0;
    assert_eq!((repeated.enrolled, repeated.already), (0, 6), "a repeat enrols nobody twice");
    assert_eq!(p.store.enrolment_counts(p.sequence.no).await.unwrap(), [6, 0, 0, 0]);

    let mut seen = Vec::new();
    let mut cursor = None;
    loop {
        let page = p.store.enrolments(p.sequence.no, Some(EnrolmentStatus::Waiting), cursor, 4).await.unwrap();
        seen.extend(page.items.into_iter().map(|e| (e.contact, e.address)));
        cursor = page.next;
        if cursor.is_none() {
            break;
        }
    }
    assert!(seen.is_sorted_by_key(|(contact, _)| *contact));
    let mut who: Vec<_> = seen.into_iter().map(|(_, address)| address).collect();
    who.sort();
    assert_eq!(who, ["+1", "+2", "+4", "+5", "+6", "+7"]);

    let (devices, next) = p.store.step_due(at(20), 4).await.unwrap();
    assert!(!devices.is_empty() && devices.len() <= 2);
    assert!(next.is_some_and(|at_| at_ <= at(20)), "there is more that is due");
    p.store.step_due(at(20), 4).await.unwrap();
    assert_eq!(p.store.step_due(at(20), 4).await.unwrap(), (vec![], None));
    assert_eq!(p.store.enrolment_counts(p.sequence.no).await.unwrap(), [0, 6, 0, 0]);
    assert_eq!(exact_counts(p.store, p.run(0)).await, Counts { pending: 6, ..Counts::default() });
    assert_eq!(p.store.devices_with_ready(None, 10).await.unwrap(), p.devices, "both devices have a share");
    let unknown = carillon::id::SequenceNo(999);
    assert!(p.store.enrol_contact(unknown, &contact("+1"), T0, T0).await.is_err());
}

async fn steps_of_a_sequence_that_does_not_run_wait(t: Opened) {
    let store = &*t.store;
    let draft = store.create_sequence(SequenceId::new(), &sequence_spec(1), T0).await.unwrap();
    store.enrol_contact(draft.no, &contact("+1"), at(1), T0).await.unwrap();
    assert_eq!(store.step_due(at(5), 10).await.unwrap(), (vec![], None), "a draft");
    let p = playing(store, 1, &["a"]).await;
    p.enrol("+1", at(1)).await;
    p.enrol("+2", at(5)).await;
    assert_eq!(store.step_due(at(2), 10).await.unwrap(), (vec![p.devices[0]], Some(at(5))));
    store.move_sequence(p.sequence.id, S::Running, S::Paused, None, &p.devices, at(3)).await.unwrap().unwrap();
    assert_eq!(store.step_due(at(9), 10).await.unwrap(), (vec![], None));
    assert_eq!(p.begin(p.message(0, 1), p.devices[0], at(9)).await, Begun::Inactive);
    store.move_sequence(p.sequence.id, S::Paused, S::Running, None, &p.devices, at(10)).await.unwrap().unwrap();
    assert_eq!(store.step_due(at(10), 10).await.unwrap(), (vec![p.devices[0]], None));
    p.take(p.message(0, 1), p.devices[0], at(10)).await;
}

async fn an_unknown_outcome_blocks_the_next_step(t: Opened) {
    let p = playing(&*t.store, 2, &["a"]).await;
    p.enrol("+1", at(1)).await;
    p.store.step_due(at(1), 10).await.unwrap();
    let work = p.take(p.message(0, 1), p.devices[0], at(2)).await;
    let mut end =
        p.end(&work, p.devices[0], Settled::Unknown(Reason::new("timeout", "")), 0, AdvanceTo::Completed, at(3));
    end.sequence = None;
    p.settle(end).await;
    assert_eq!(p.enrolment(1).await.status, EnrolmentStatus::InStep);
    assert_eq!(p.store.step_due(at(9_999), 10).await.unwrap(), (vec![], None));
}

async fn a_resolved_outcome_moves_its_enrolment(t: Opened) {
    let p = playing(&*t.store, 2, &["a"]).await;
    let device = p.devices[0];
    for address in ["+1", "+2", "+3", "+4"] {
        p.enrol(address, at(1)).await;
    }
    p.store.step_due(at(1), 10).await.unwrap();
    for contact in 1..=4 {
        let work = p.take(p.message(0, contact), device, at(2)).await;
        let unknown = Settled::Unknown(Reason::new("timeout", ""));
        p.settle(Settlement { sequence: None, ..p.end(&work, device, unknown, 0, AdvanceTo::Completed, at(3)) }).await;
    }
    let step = Step { sequence: p.sequence.no, step: 0, next_offset: Some(Duration::from_secs(60)) };
    let said = |contact: u32, outcome: Settled| Resolution {
        message: p.message(0, contact),
        attempt: 1,
        sequence: step.advance(&outcome, at(10)),
        outcome,
        way: Way::Operator,
        note: String::new(),
        suppress: None,
    };
    let again = || Settled::Retry { due_at: at(10), counts: true, reason: Reason::new("resolved-retry", "") };
    assert!(p.store.exit_enrolment(p.sequence.no, "+4", "goal", at(9)).await.unwrap());
    let words = [
        said(1, sent()),
        said(2, Settled::Failed(Reason::new("recipient-invalid", ""))),
        said(3, again()),
        said(4, again()),
    ];
    let answers = p.store.resolve(&words, at(10)).await.unwrap();
    assert_eq!(answers[..3], [Resolved::Done, Resolved::Done, Resolved::Done]);
    assert!(matches!(&answers[3], Resolved::Refused(why) if why.contains("sequence")), "it has left: {answers:?}");

    let e = p.enrolment(1).await;
    assert_eq!((e.status, e.step, e.due_at), (EnrolmentStatus::Waiting, 1, Some(at(70))), "as after any send");
    let e = p.enrolment(2).await;
    assert_eq!((e.status, e.exit_reason.as_deref()), (EnrolmentStatus::Exited, Some("recipient-invalid")));
    assert_eq!((p.enrolment(3).await.status, p.enrolment(3).await.step), (EnrolmentStatus::InStep, 0));
    assert_eq!(p.enrolment(4).await.status, EnrolmentStatus::Exited);
    let expected = Counts { pending: 1, sent: 1, failed: 1, unknown: 1, ..Counts::default() };
    assert_eq!(exact_counts(p.store, p.run(0)).await, expected);
    let work = p.take(p.message(0, 3), device, at(11)).await;
    p.settle(p.end(&work, device, sent(), 0, AdvanceTo::NextStep(at(71)), at(12))).await;
    assert_eq!(p.enrolment(3).await.step, 1);
    // Of one that has left it can still be said what it was: that moves nothing.
    assert_eq!(p.store.resolve(&[said(4, sent())], at(20)).await.unwrap(), [Resolved::Done]);
    assert_eq!(p.enrolment(4).await.status, EnrolmentStatus::Exited);
}

async fn a_step_advances_only_from_where_it_stands(t: Opened) {
    let p = playing(&*t.store, 3, &["a"]).await;
    p.enrol("+1", at(1)).await;
    p.store.step_due(at(1), 10).await.unwrap();
    let work = p.take(p.message(0, 1), p.devices[0], at(2)).await;
    p.settle(p.end(&work, p.devices[0], sent(), 1, AdvanceTo::Completed, at(3))).await;
    let e = p.enrolment(1).await;
    assert_eq!((e.status, e.step), (EnrolmentStatus::InStep, 0), "the message was of another step");
}

async fn a_call_ends_an_enrolment(t: Opened) {
    let p = playing(&*t.store, 2, &["a"]).await;
    let exit = async |address: &str| p.store.exit_enrolment(p.sequence.no, address, "goal", at(5)).await.unwrap();
    for address in ["+1", "+2", "+3"] {
        p.enrol(address, at(if address == "+3" { 50 } else { 1 })).await;
    }
    p.store.step_due(at(1), 10).await.unwrap();
    let work = p.take(p.message(0, 2), p.devices[0], at(2)).await;
    for address in ["+1", "+2", "+3"] {
        assert!(exit(address).await);
        assert!(!exit(address).await, "it is no longer open");
    }
    assert!(!exit("+9").await);
    let e = p.enrolment(1).await;
    assert_eq!((e.status, e.exit_reason.as_deref()), (EnrolmentStatus::Exited, Some("goal")));
    let row = p.store.message(p.message(0, 1)).await.unwrap().unwrap();
    assert_eq!((row.status, row.finished_at), (MessageStatus::Cancelled, Some(at(5))));
    p.settle(p.end(&work, p.devices[0], sent(), 0, AdvanceTo::NextStep(at(60)), at(6))).await;
    assert_eq!(p.enrolment(2).await.status, EnrolmentStatus::Exited, "what was being sent does not bring it back");
    assert_eq!(p.store.step_due(at(100), 10).await.unwrap(), (vec![], None));
    assert_eq!(exact_counts(p.store, p.run(0)).await, Counts { sent: 1, cancelled: 1, ..Counts::default() });
    assert_eq!(p.store.enrolment_counts(p.sequence.no).await.unwrap(), [0, 0, 0, 3]);
}

async fn an_opt_out_ends_every_sequence_of_the_address(t: Opened) {
    let p = playing(&*t.store, 2, &["a"]).await;
    let other = playing(p.store, 1, &["a"]).await;
    for address in ["+1", "+2", "+3"] {
        p.enrol(address, at(1)).await;
        other.enrol(address, at(500)).await;
    }
    p.store.step_due(at(1), 10).await.unwrap();
    let work = p.take(p.message(0, 1), p.devices[0], at(2)).await;
    let mut end = p.end(
        &work,
        p.devices[0],
        Settled::Failed(Reason::new("opted-out", "")),
        0,
        AdvanceTo::Exited("opted-out".into()),
        at(3),
    );
    end.suppress = Some(opt_out("+1", None));
    p.settle(end).await;
    assert_eq!(p.enrolment(1).await.status, EnrolmentStatus::Exited);
    assert_eq!(other.enrolment(1).await.status, EnrolmentStatus::Exited, "also where it waits");

    p.store.suppress(&[opt_out("+2", Some("push"))], at(4)).await.unwrap();
    assert_eq!(p.enrolment(2).await.status, EnrolmentStatus::InStep, "another channel");
    p.store.suppress(&[opt_out("+2", Some("sms"))], at(5)).await.unwrap();
    for play in [&p, &other] {
        let e = play.enrolment(2).await;
        assert_eq!((e.status, e.exit_reason.as_deref()), (EnrolmentStatus::Exited, Some("opted-out")));
        let open = matches!(play.enrolment(3).await.status, EnrolmentStatus::Waiting | EnrolmentStatus::InStep);
        assert!(open, "the others stay");
    }
    assert_eq!(p.store.message(p.message(0, 2)).await.unwrap().unwrap().status, MessageStatus::Suppressed);
    assert_eq!(
        exact_counts(p.store, p.run(0)).await,
        Counts { pending: 1, failed: 1, suppressed: 1, ..Counts::default() }
    );
    assert_eq!(other.store.step_due(at(500), 10).await.unwrap().0, other.devices);
    assert_eq!(exact_counts(p.store, other.run(0)).await, Counts { pending: 1, ..Counts::default() });
}

async fn two_servers_make_a_step_once(t: Opened) {
    let p = playing(&*t.store, 1, &["a", "b", "c"]).await;
    let no = audience(p.store, "people", &addresses(90)).await;
    p.store.enrol_audience(p.sequence.no, no, 0, 1_000, at(1), T0).await.unwrap();
    let other = t.again().await;
    let servers: Vec<_> = [t.store.clone(), other.clone(), t.store.clone()]
        .into_iter()
        .map(|store| {
            tokio::spawn(async move {
                for _ in 0..20 {
                    store.step_due(at(1), 10).await.unwrap();
                }
            })
        })
        .collect();
    for server in servers {
        server.await.unwrap();
    }
    assert_eq!(exact_counts(p.store, p.run(0)).await, Counts { pending: 90, ..Counts::default() });
    assert_eq!(p.store.enrolment_counts(p.sequence.no).await.unwrap(), [0, 90, 0, 0]);
    other.close().await;
}

super::on_every_store!(
    a_sequence_is_a_draft_at_first,
    a_contact_goes_through_its_steps,
    an_audience_is_enrolled_in_pages,
    steps_of_a_sequence_that_does_not_run_wait,
    an_unknown_outcome_blocks_the_next_step,
    a_resolved_outcome_moves_its_enrolment,
    a_step_advances_only_from_where_it_stands,
    a_call_ends_an_enrolment,
    an_opt_out_ends_every_sequence_of_the_address,
    two_servers_make_a_step_once,
);
