//! Sequences: made, started, paused; contacts enrolled and let go.

use std::collections::HashMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::clock::Time;
use crate::core::Core;
use crate::id::{RunKey, SequenceId};
use crate::message::Counts;
use crate::queue::Wake;
use crate::receipt::ReceiptCounts;
use crate::sequence::{Sequence, SequenceSpec, SequenceStatus};
use crate::store::{Enrolled, NewContact, Page};

use super::{Actor, OpError, Result, audiences, check, done, plan, pool};

/// Contacts enrolled in one transaction.
const ENROL_PAGE: u32 = 5_000;

/// Who is enrolled.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Enrol {
    /// Everybody in this audience.
    Audience(String),
    /// One contact.
    Contact(ContactSpec),
}

/// A contact, as an enrolment names it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ContactSpec {
    /// Phone number, chat id, push token, mail address.
    pub address: String,
    /// What templates can use.
    #[serde(default)]
    pub variables: std::collections::BTreeMap<String, String>,
    /// BCP 47 language tag.
    #[serde(default)]
    pub locale: Option<String>,
    /// IANA time zone.
    #[serde(default)]
    pub zone: Option<String>,
}

/// How many enrolments are in each state.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, ToSchema)]
pub struct EnrolmentCounts {
    /// Their next message does not exist yet.
    pub waiting: u64,
    /// The message of their current step is on its way.
    pub in_step: u64,
    /// Every step is done.
    pub completed: u64,
    /// They left.
    pub exited: u64,
}

/// What became of a step's messages.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, ToSchema)]
pub struct StepProgress {
    /// How many of them are in each state.
    pub counts: Counts,
    /// How many of those that were sent were reported as what by their provider, where its webhook is set up.
    pub receipts: ReceiptCounts,
}

/// A sequence with its enrolments' states.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct SequenceView {
    /// Its id.
    pub id: SequenceId,
    /// Where it stands.
    pub status: SequenceStatus,
    /// Why it is paused.
    pub paused_reason: Option<String>,
    /// How many enrolments are in each state.
    pub enrolments: EnrolmentCounts,
    /// The runs of its steps, in order; empty until it is started.
    #[schema(value_type = Vec<i32>)]
    pub runs: Vec<RunKey>,
    /// What became of the messages of each of these runs.
    pub progress: Vec<StepProgress>,
    /// When it was made.
    pub created_at: Time,
    /// What was asked for.
    #[serde(flatten)]
    pub spec: SequenceSpec,
}

/// Makes a sequence, as a draft.
///
/// # Errors
/// [`OpError::Invalid`] with every problem of the specification.
pub async fn create(core: &Core, actor: &Actor, spec: SequenceSpec) -> Result<Sequence> {
    let mut problems = spec.problems();
    for (n, step) in spec.steps.iter().enumerate() {
        let of_step = plan::problems(core, &spec.plan(step), &format!("steps[{n}].")).await?;
        // The devices are the sequence's, not the step's.
        problems.extend(of_step.into_iter().filter(|p| n == 0 || !p.field.contains("].devices")).map(|mut p| {
            if let Some(field) = p.field.strip_prefix("steps[0].devices") {
                p.field = format!("devices{field}");
            }
            p
        }));
    }
    check(problems)?;
    let id = SequenceId::new();
    let made = core.store.create_sequence(id, &spec, core.clock.now()).await?;
    done(core, actor, "sequence.create", id.to_string(), &[]).await?;
    Ok(made)
}

/// The sequence, which must be there.
///
/// # Errors
/// [`OpError::NotFound`] when it is not.
pub async fn sequence(core: &Core, id: SequenceId) -> Result<Sequence> {
    core.store.sequence(id).await?.ok_or_else(|| OpError::not_found("sequence", id))
}

/// Lets a sequence send.
///
/// # Errors
/// [`OpError::Conflict`] when it runs already or has no device.
pub async fn start(core: &Core, actor: &Actor, id: SequenceId) -> Result<Sequence> {
    let current = sequence(core, id).await?;
    if current.status == SequenceStatus::Running {
        return Err(OpError::Conflict("the sequence is running already".to_owned()));
    }
    let devices = pool::resolve(core, &current.spec.devices).await?;
    if devices.is_empty() {
        return Err(OpError::Conflict("no device of the sequence's pool is enabled".to_owned()));
    }
    let now = core.clock.now();
    let moved = core.store.move_sequence(id, current.status, SequenceStatus::Running, None, &devices, now).await?;
    let moved = moved.ok_or_else(changed_meanwhile)?;
    done(core, actor, "sequence.start", id.to_string(), &[Wake::Trigger, Wake::Processor, Wake::Changed]).await?;
    Ok(moved)
}

fn changed_meanwhile() -> OpError {
    OpError::Conflict("the sequence was changed by another call at the same time".to_owned())
}

/// Stops a sequence for now.
///
/// # Errors
/// [`OpError::Conflict`] when it does not run.
pub async fn pause(core: &Core, actor: &Actor, id: SequenceId) -> Result<Sequence> {
    let current = sequence(core, id).await?;
    if current.status != SequenceStatus::Running {
        return Err(OpError::Conflict(format!("a sequence that is {} cannot be paused", current.status.as_str())));
    }
    let reason = format!("paused by {}", actor.name);
    let to = SequenceStatus::Paused;
    let moved = core.store.move_sequence(id, current.status, to, Some(&reason), &[], core.clock.now()).await?;
    let moved = moved.ok_or_else(changed_meanwhile)?;
    done(core, actor, "sequence.pause", id.to_string(), &[Wake::Changed]).await?;
    Ok(moved)
}

/// Enrols an audience or one contact; each address passes through a sequence once.
///
/// # Errors
/// [`OpError::Invalid`] for an audience that is not there or a contact that cannot be.
pub async fn enrol(core: &Core, actor: &Actor, id: SequenceId, who: Enrol) -> Result<Enrolled> {
    let sequence = sequence(core, id).await?;
    let now = core.clock.now();
    let due_at = now.plus(Duration::from_millis(sequence.spec.steps.first().map_or(0, |s| s.offset_ms)));
    let mut sum = Enrolled::default();
    match who {
        Enrol::Contact(contact) => {
            let contact = new_contact(contact)?;
            sum = core.store.enrol_contact(sequence.no, &contact, due_at, now).await?;
        }
        Enrol::Audience(name) => {
            let audience = core.store.audience(&name).await?;
            let audience =
                audience.ok_or_else(|| OpError::invalid("audience", format!("there is no audience {name:?}")))?;
            let mut after = Some(0);
            while let Some(from) = after {
                let (page, next) =
                    core.store.enrol_audience(sequence.no, audience.no, from, ENROL_PAGE, due_at, now).await?;
                sum.enrolled += page.enrolled;
                sum.already += page.already;
                sum.suppressed += page.suppressed;
                after = next;
            }
        }
    }
    let subject = format!("{id}: {} contacts", sum.enrolled);
    done(core, actor, "sequence.enrol", subject, &[Wake::Trigger]).await?;
    Ok(sum)
}

fn new_contact(contact: ContactSpec) -> Result<NewContact> {
    let ContactSpec { address, variables, locale, zone } = contact;
    let fields = [("address", Some(address)), ("locale", locale), ("zone", zone)]
        .into_iter()
        .filter_map(|(name, value)| Some((name.to_owned(), value?)))
        .chain(variables);
    audiences::contact(fields).map_err(|problem| OpError::invalid("contact", problem))
}

/// Lets a contact leave a sequence: its pending message is cancelled.
///
/// # Errors
/// [`OpError::NotFound`] when it has no open enrolment.
pub async fn exit_enrolment(
    core: &Core,
    actor: &Actor,
    id: SequenceId,
    address: &str,
    reason: Option<&str>,
) -> Result<()> {
    let sequence = sequence(core, id).await?;
    let reason = reason.unwrap_or("by a call");
    if reason.is_empty() || reason.len() > 200 || reason.chars().any(char::is_control) {
        return Err(OpError::invalid("reason", "give 1 to 200 bytes without control characters"));
    }
    if !core.store.exit_enrolment(sequence.no, address.trim(), reason, core.clock.now()).await? {
        return Err(OpError::not_found("open enrolment of this address in sequence", id));
    }
    done(core, actor, "sequence.exit", id.to_string(), &[Wake::Changed]).await
}

/// A sequence with its enrolments' states.
///
/// # Errors
/// [`OpError::NotFound`] when there is none.
pub async fn sequence_view(core: &Core, id: SequenceId) -> Result<SequenceView> {
    let sequence = sequence(core, id).await?;
    views(core, vec![sequence]).await?.pop().ok_or_else(|| OpError::not_found("sequence", id))
}

/// Sequences, newest first.
///
/// # Errors
/// When the store is away.
pub async fn sequence_views(
    core: &Core,
    cursor: Option<SequenceId>,
    limit: u32,
) -> Result<Page<SequenceView, SequenceId>> {
    let page = core.store.sequences(cursor, limit).await?;
    Ok(Page { items: views(core, page.items).await?, next: page.next })
}

async fn views(core: &Core, sequences: Vec<Sequence>) -> Result<Vec<SequenceView>> {
    let runs: Vec<RunKey> = sequences.iter().flat_map(|sequence| sequence.runs.iter().copied()).collect();
    let mut progress: HashMap<RunKey, StepProgress> = HashMap::with_capacity(runs.len());
    for (run, counts) in core.store.counts(&runs).await? {
        progress.entry(run).or_default().counts = counts;
    }
    for (run, receipts) in core.store.receipt_counts(&runs).await? {
        progress.entry(run).or_default().receipts = receipts;
    }
    let mut out = Vec::with_capacity(sequences.len());
    for sequence in sequences {
        let [waiting, in_step, completed, exited] = core.store.enrolment_counts(sequence.no).await?;
        let Sequence { id, spec, status, paused_reason, runs, created_at, .. } = sequence;
        let enrolments = EnrolmentCounts { waiting, in_step, completed, exited };
        let progress = runs.iter().map(|run| progress.get(run).copied().unwrap_or_default()).collect();
        out.push(SequenceView { id, status, paused_reason, enrolments, runs, progress, created_at, spec });
    }
    Ok(out)
}
