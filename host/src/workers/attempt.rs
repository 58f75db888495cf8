//! One attempt: render, start, the requests that the sender asks for, and how it ended. The only place from which
//! messages leave.

use std::sync::Arc;

use tokio::time::Instant;

use crate::core::Core;
use crate::device::Device;
use crate::egress::{Egress, EgressAnswer};
use crate::exchange::{MAX_ROUNDS, egress_request, plugin_answer};
use crate::fleet::{Configured, Fleet, LiveRun};
use crate::message::{Reason, Work};
use crate::plugins::{
    CallContext, Content, DeviceFacts, MessageRef, Outbound, PluginFault, Progress, RecipientFacts, RenderJob, Step,
};
use crate::workers::accounts::AccountStates;
use crate::workers::leases::{Lease, Leases};
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
}

/// What an attempt came to.
pub struct Finished {
    /// How it ended.
    pub ended: Ended,
    /// Characters of the message, 0 when none was made.
    pub text_length: u32,
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
    /// What senders keep per account.
    pub accounts: AccountStates,
}

impl Sending {
    /// Carries an attempt out.
    pub async fn run(&self, attempt: &Attempt) -> Finished {
        let mut text_length = 0;
        let ended = self.carry_out(attempt, &mut text_length).await;
        Finished { ended, text_length }
    }

    async fn carry_out(&self, attempt: &Attempt, text_length: &mut u32) -> Ended {
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
        let content = match self.render(&run.template, job).await {
            Ok(content) => content,
            Err(fault) => return Ended::FaultBefore("template", fault),
        };
        *text_length = u32::try_from(content.text.chars().count()).unwrap_or(u32::MAX);

        let account = attempt.device.spec.account.as_deref().unwrap_or(device.spec.id.as_str());
        let outbound = Outbound {
            message,
            recipient,
            content,
            device: facts,
            account_state: self.accounts.get(attempt.sender.plugin.digest, account),
        };
        let deadline = Instant::now() + self.core.config.send_timeout();
        let mut progress = match attempt.sender.plugin.start(&self.context(&attempt.sender), outbound).await {
            Ok(progress) => progress,
            Err(fault) => return Ended::FaultBefore("sender", fault),
        };
        // Whether some byte may have left: from then on nothing that goes wrong proves that the message was not sent.
        let mut left = false;
        for round in 0..=MAX_ROUNDS {
            let Progress { step, account_state } = progress;
            if let Some(state) = account_state {
                self.accounts.put(attempt.sender.plugin.digest, account, state);
            }
            let (request, state) = match step {
                Step::Done(outcome) => return Ended::Outcome(outcome),
                Step::Request { request, state } => (request, state),
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
            let answer = self.egress.send(egress_request(request), remaining).await;
            left |= !matches!(answer, EgressAnswer::NotSent(_));
            let resumed =
                attempt.sender.plugin.resume(&self.context(&attempt.sender), &state, plugin_answer(answer)).await;
            progress = match resumed {
                Ok(progress) => progress,
                Err(fault) if left => return Ended::FaultAfter(fault),
                Err(fault) => return Ended::FaultBefore("sender", fault),
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

    async fn render(&self, template: &Configured, job: RenderJob) -> Result<Content, PluginFault> {
        let mut rendered = template.plugin.render(&self.context(template), vec![job]).await?;
        match (rendered.pop(), rendered.is_empty()) {
            (Some(content), true) => content,
            _ => Err(PluginFault::Output("render gave another number of answers than it was asked for".to_owned())),
        }
    }

    fn context(&self, configured: &Configured) -> CallContext {
        CallContext { config: configured.config.clone(), now: self.core.clock.now(), random: rand::random() }
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
