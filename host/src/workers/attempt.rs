//! One attempt: render, start, the requests that the sender asks for, and how it ended. The only place from which
//! messages leave.

use std::sync::Arc;

use tokio::time::Instant;

use crate::core::Core;
use crate::device::Device;
use crate::egress::{Egress, EgressAnswer};
use crate::exchange::{MAX_ROUNDS, egress_request, plugin_answer};
use crate::fleet::{Configured, Fleet, LiveRun};
use crate::id::MessageId;
use crate::message::{Reason, Work};
use crate::plugins::{
    Answer, CallContext, CallTimer, Content, DeviceFacts, MessageRef, Outbound, Plugin, PluginFault, Progress,
    RecipientFacts, RenderJob, Round, Step,
};
use crate::trial::{Side, Sides, Trial};
use crate::trials;
use crate::workers::leases::{Lease, Leases};
use crate::workers::shadow::Shadows;
use crate::workers::verdict::Ended;

/// Everything that an attempt needs.
pub struct Attempt {
    /// The message.
    pub work: Box<Work>,
    /// Its run.
    pub run: Arc<LiveRun>,
    /// The sender with its configuration.
    pub sender: Configured,
    /// The device.
    pub device: Arc<Device>,
    /// The device's lease.
    pub lease: Arc<Lease>,
    /// The versions that it begins with.
    pub sides: Sides,
}

/// What an attempt came to.
pub struct Finished {
    /// How it ended.
    pub ended: Ended,
    /// Characters of the message, 0 when none was made.
    pub text_length: u32,
    /// The versions that it ended with.
    pub sides: Sides,
    /// Which grant its sender lacked for a request.
    pub not_granted: Option<String>,
}

/// What attempts share.
pub struct Sending {
    /// The server's parts.
    pub core: Core,
    /// The picture of the cluster.
    pub fleet: Arc<Fleet>,
    /// The leases held.
    pub leases: Arc<Leases>,
    /// The way out.
    pub egress: Egress,
    /// Calls of versions that are only compared.
    pub shadows: Shadows,
}

impl Sending {
    /// Carries an attempt out.
    pub async fn run(&self, attempt: &Attempt) -> Finished {
        let ended = Ended::GivenUp;
        let mut finished = Finished { ended, text_length: 0, sides: attempt.sides, not_granted: None };
        finished.ended = self.carry_out(attempt, &mut finished).await;
        finished
    }

    async fn carry_out(&self, attempt: &Attempt, finished: &mut Finished) -> Ended {
        let Finished { text_length, sides, not_granted, .. } = finished;
        let Attempt { work, run, device, .. } = attempt;
        let now = self.core.clock.now();
        if run.run.plan.expires_at.is_some_and(|at| at <= now) {
            return Ended::Expired;
        }
        if let Some(window) = &run.run.plan.window {
            let wait = window.opens_in(now, work.recipient.zone.as_deref());
            if !wait.is_zero() {
                return Ended::OutsideWindow(wait);
            }
        }
        let message = Arc::new(message_ref(attempt));
        let recipient = Arc::new(RecipientFacts::of(&work.recipient));
        let facts = Arc::new(DeviceFacts::of(device));
        let job = RenderJob {
            message: Arc::clone(&message),
            recipient: Arc::clone(&recipient),
            device: Arc::clone(&facts),
            random: rand::random(),
        };
        let content = match self.render(attempt, &mut sides.template, job).await {
            Ok(content) => content,
            Err(fault) => return Ended::FaultBefore("template", fault),
        };
        *text_length = u32::try_from(content.text.chars().count()).unwrap_or(u32::MAX);

        let outbound = Outbound { message, recipient, content, device: facts, account_state: String::new() };
        let deadline = Instant::now() + self.core.config.send_timeout();
        let tried = sides.sender == Side::Candidate;
        // What the stable version would go on with.
        let spare = tried.then(|| outbound.clone());
        let side = &mut sides.sender;
        let mut progress = match self.start(attempt, *side, outbound).await {
            Ok(progress) => progress,
            Err(fault) => match self.start_again(attempt, side, spare.clone(), fault).await {
                Ok(progress) => progress,
                Err(fault) => return Ended::FaultBefore("sender", fault),
            },
        };
        // Whether some byte may have left: from then on nothing that goes wrong proves that the message was not sent.
        let mut left = false;
        for round in 0..=MAX_ROUNDS {
            let Progress { step, account_state } = progress;
            if let Some(state) = account_state {
                self.core.accounts.put(attempt.sender.at(*side).digest, device, state);
            }
            let (request, state) = match step {
                Step::Done(outcome) => return Ended::Outcome(outcome),
                Step::Request(Round { request, state }) => (request, state),
            };
            if round == MAX_ROUNDS {
                break;
            }
            if let Some(ended) = self.stop_before_request(attempt, left) {
                return ended;
            }
            let remaining = deadline.saturating_duration_since(Instant::now());
            if remaining.is_zero() {
                return interrupted(left, "send-timeout", "the attempt took longer than the send time-out");
            }
            let licence = &attempt.sender.at(*side).licence;
            // The first one's place in the sender's rate was taken before the message was begun.
            if round > 0 {
                licence.requested();
            }
            let answer = self.egress.send(licence, egress_request(request), remaining).await;
            left |= !matches!(answer, EgressAnswer::NotSent(_) | EgressAnswer::NotGranted(_));
            if let EgressAnswer::NotGranted(which) = &answer {
                *not_granted = Some(which.clone());
            }
            progress = match self.resume(attempt, *side, &state, plugin_answer(answer)).await {
                Ok(progress) => progress,
                Err(fault) if left => {
                    if let Some(trial) = attempt.sender.to_blame(*side) {
                        self.blame(attempt, trial, &fault, None);
                    }
                    return Ended::FaultAfter(fault);
                }
                Err(fault) => match self.start_again(attempt, side, spare.clone(), fault).await {
                    Ok(progress) => progress,
                    Err(fault) => return Ended::FaultBefore("sender", fault),
                },
            };
        }
        interrupted(left, "too-many-requests", "the sender asked for more than 8 requests for one message")
    }

    /// The last look before bytes leave.
    fn stop_before_request(&self, attempt: &Attempt, left: bool) -> Option<Ended> {
        if !attempt.lease.is_valid(self.core.clock.monotonic()) {
            return Some(if left {
                Ended::Interrupted(Reason::new("lease-lost", "the device's lease was lost during the attempt"))
            } else {
                Ended::GivenUp
            });
        }
        let suppressed = self.fleet.suppressed(&attempt.work.recipient.address, &attempt.device.spec.channel);
        (suppressed && !left).then_some(Ended::Suppressed)
    }

    /// What the message says, by the version of this side; by the stable one, when the candidate fails.
    async fn render(&self, attempt: &Attempt, side: &mut Side, job: RenderJob) -> Result<Content, PluginFault> {
        let template = &attempt.run.template;
        let context = self.context(template);
        let Some(trial) = &template.trial else { return render(&template.plugin, &context, job).await };
        let (timed, timer) = timed(&context);
        let rendered = render(trial.at(*side), &timed, job.clone()).await;
        trial.called(*side, timer.read(), rendered.as_ref().err());
        if let Err(fault) = &rendered
            && *side == Side::Candidate
        {
            *side = Side::Fallback;
            let again = render(&trial.stable, &context, job).await;
            self.blame(attempt, trial, fault, again.as_ref().err());
            return side.after(fault, again);
        }
        if trial.is_sampled() {
            let (candidate, stable) = (Arc::clone(&trial.candidate), rendered.clone());
            let call = async move { render(&candidate, &context, job).await };
            let (message, device) = (attempt.work.message, &attempt.device);
            self.shadows.cast(trial, message, device, call, move |d, answer| d.contents(&stable, answer));
        }
        rendered
    }

    /// What a sender wants done first, by the version of this side.
    async fn start(&self, attempt: &Attempt, side: Side, mut outbound: Outbound) -> Result<Progress, PluginFault> {
        let sender = &attempt.sender;
        let (plugin, context) = (sender.at(side), self.context(sender));
        outbound.account_state = self.core.accounts.get(plugin.digest, &attempt.device);
        let Some(trial) = &sender.trial else { return plugin.start(&context, outbound).await };
        let shadow = trial.is_sampled().then(|| outbound.clone());
        let (timed, timer) = timed(&context);
        let started = plugin.start(&timed, outbound).await;
        trial.called(side, timer.read(), started.as_ref().err());
        if let Some(outbound) = shadow {
            let (candidate, stable) = (Arc::clone(&trial.candidate), started.clone());
            let call = async move { candidate.start(&context, outbound).await };
            let (message, device) = (attempt.work.message, &attempt.device);
            self.shadows.cast(trial, message, device, call, move |d, answer| d.starts(&stable, answer));
        }
        started
    }

    /// A sender has failed before anything left: a candidate is followed by the stable version, from the start.
    async fn start_again(
        &self,
        attempt: &Attempt,
        side: &mut Side,
        spare: Option<Outbound>,
        fault: PluginFault,
    ) -> Result<Progress, PluginFault> {
        let (Some(trial), Some(outbound)) = (attempt.sender.to_blame(*side), spare) else { return Err(fault) };
        *side = Side::Fallback;
        let again = self.start(attempt, *side, outbound).await;
        self.blame(attempt, trial, &fault, again.as_ref().err());
        side.after(&fault, again)
    }

    async fn resume(
        &self,
        attempt: &Attempt,
        side: Side,
        state: &str,
        answer: Answer,
    ) -> Result<Progress, PluginFault> {
        let sender = &attempt.sender;
        let context = self.context(sender);
        let Some(trial) = &sender.trial else { return sender.plugin.resume(&context, state, answer).await };
        let (timed, timer) = timed(&context);
        let resumed = trial.at(side).resume(&timed, state, answer).await;
        trial.called(side, timer.read(), resumed.as_ref().err());
        resumed
    }

    /// Counts a candidate's fault, with the stable version's in its place, if it had one.
    fn blame(&self, attempt: &Attempt, trial: &Trial, fault: &PluginFault, again: Option<&PluginFault>) {
        note_fault(&self.core, trial, attempt.work.message, &attempt.device, fault, again);
    }

    fn context(&self, configured: &Configured) -> CallContext {
        CallContext {
            config: configured.config.clone(),
            now: self.core.clock.now(),
            random: rand::random(),
            timer: None,
        }
    }
}

/// The same, with a timer for the call.
pub(super) fn timed(context: &CallContext) -> (CallContext, CallTimer) {
    let timer = CallTimer::default();
    (CallContext { timer: Some(timer.clone()), ..context.clone() }, timer)
}

/// One message by one version of a template.
async fn render(plugin: &Plugin, context: &CallContext, job: RenderJob) -> Result<Content, PluginFault> {
    let mut rendered = plugin.render(context, vec![job]).await?;
    match (rendered.pop(), rendered.is_empty()) {
        (Some(content), true) => content,
        _ => Err(PluginFault::Output("render gave another number of answers than it was asked for".to_owned())),
    }
}

/// Counts and notes a fault of a candidate; many have the rollout looked at at once.
pub(super) fn note_fault(
    core: &Core,
    trial: &Trial,
    message: MessageId,
    device: &Device,
    fault: &PluginFault,
    again: Option<&PluginFault>,
) {
    if trial.failed(fault, again) {
        trial.note_fault(core.clock.now(), message, device, fault);
        core.metrics.fell_back(&trial.rollout.name);
        trials::alarm(core, trial);
    }
}

fn interrupted(left: bool, code: &str, detail: &str) -> Ended {
    if left {
        Ended::Interrupted(Reason::new(code, detail))
    } else {
        Ended::FaultBefore("sender", PluginFault::Internal(detail.to_owned()))
    }
}

fn message_ref(attempt: &Attempt) -> MessageRef {
    MessageRef {
        id: attempt.work.message.to_string(),
        campaign: Arc::clone(&attempt.run.campaign),
        sequence_step: attempt.run.step.map(|s| s.step),
        attempt: attempt.work.attempt,
    }
}
