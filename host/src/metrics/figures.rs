//! Figures of the whole cluster. One server looks at them now and then (`crate::sampler`) and shows them for as long as they
//! are fresh; the others show none, so that they may be added up over all servers.

use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::{ConstGauge, Gauge};
use prometheus_client::registry::Registry;

use crate::campaign::CampaignStatus;
use crate::config::Role;
use crate::store::{HostRow, OpenCampaigns};

/// How long figures are shown: when nothing newer can be had, none are better than old ones.
const FRESH: Duration = Duration::from_secs(120);

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct InState {
    state: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfRole {
    role: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct InStatus {
    status: &'static str,
    reason: &'static str,
}

/// Why campaigns are paused, in few words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PauseReason {
    /// No device of the pool may send.
    NoDevice,
    /// A plugin fails, or is not there.
    Plugin,
    /// The provider refuses what the messages say.
    Content,
    /// The configuration, of the campaign or its sender, cannot work.
    Configuration,
    /// Anything else: what a person has written.
    Operator,
}

impl PauseReason {
    const ALL: [Self; 5] = [Self::NoDevice, Self::Plugin, Self::Content, Self::Configuration, Self::Operator];

    const fn as_str(self) -> &'static str {
        match self {
            Self::NoDevice => "no-device",
            Self::Plugin => "plugin",
            Self::Content => "content",
            Self::Configuration => "configuration",
            Self::Operator => "operator",
        }
    }

    /// The class of a reason that begins with `code`.
    pub fn of(code: &str) -> Self {
        match code {
            "no-device" | "no device" => Self::NoDevice,
            "content-rejected" => Self::Content,
            "invalid-config" | "invalid-input" | "no-sender" => Self::Configuration,
            code if code.starts_with("plugin-") || code.starts_with("the ") && code.contains(" plugin ") => {
                Self::Plugin
            }
            _ => Self::Operator,
        }
    }
}

/// The figures of the cluster at one moment.
#[derive(Debug, Clone, Default)]
pub struct Figures {
    /// When they were taken, on the monotonic clock.
    pub at: Duration,
    /// Pending messages of the runs that may send, and of those that are paused.
    pub waiting: (u64, u64),
    /// Of the former, those that wait for a time of their own.
    pub deferred: u64,
    /// Runs (of campaigns, and steps of sequences) that may send, and those that are paused.
    pub runs: (u64, u64),
    /// Campaigns that are not final.
    pub campaigns: Vec<OpenCampaigns>,
    /// Devices with messages in the queue, and those of them that are due and wait for a worker; `None` while the queue is
    /// away.
    pub devices: Option<(u64, u64)>,
}

impl Figures {
    /// Whether they may be shown at this time on the monotonic clock.
    pub fn is_fresh(&self, now: Duration) -> bool {
        now.saturating_sub(self.at) < FRESH
    }

    pub(super) fn register(&self, registry: &mut Registry) {
        let of_two = |first: (&'static str, u64), second: (&'static str, u64)| {
            let family = Family::<InState, Gauge>::default();
            for (state, count) in [first, second] {
                family.get_or_create(&InState { state }).set(gauge(count));
            }
            family
        };
        let waiting = of_two(("active", self.waiting.0), ("paused", self.waiting.1));
        registry.register("messages_waiting", "Messages that are not begun, by whether their run may send", waiting);
        let due = self.waiting.0.saturating_sub(self.deferred);
        let help = "Messages of runs that may send which wait for nothing but their device's turn";
        registry.register("messages_due", help, ConstGauge::new(gauge(due)));
        let help = "Messages of runs that may send which wait for a time of their own";
        registry.register("messages_deferred", help, ConstGauge::new(gauge(self.deferred)));
        let runs = of_two(("active", self.runs.0), ("paused", self.runs.1));
        registry.register("runs", "Campaigns and steps of sequences that are not final", runs);
        if let Some((standing, due)) = self.devices {
            let help = "Devices with messages in the queue, waiting for their time or for a worker";
            registry.register("devices_ready", help, ConstGauge::new(gauge(standing)));
            let help = "Devices that might send now and wait for a worker";
            registry.register("devices_due", help, ConstGauge::new(gauge(due)));
        }
        registry.register("campaigns", "Campaigns that are not final; paused ones by reason", self.by_status());
    }

    fn by_status(&self) -> Family<InStatus, Gauge> {
        let family = Family::<InStatus, Gauge>::default();
        use CampaignStatus::{Draft, Expanding, Paused, Running, Scheduled};
        for status in [Draft, Scheduled, Expanding, Running] {
            drop(family.get_or_create(&InStatus { status: status.as_str(), reason: "" }));
        }
        for reason in PauseReason::ALL.map(PauseReason::as_str) {
            drop(family.get_or_create(&InStatus { status: Paused.as_str(), reason }));
        }
        for of in &self.campaigns {
            let reason = if of.status == Paused { PauseReason::of(&of.reason).as_str() } else { "" };
            family.get_or_create(&InStatus { status: of.status.as_str(), reason }).inc_by(gauge(of.count));
        }
        family
    }
}

/// The servers that are alive, and how many have each role.
pub(super) fn servers(registry: &mut Registry, hosts: &[HostRow]) {
    registry.register(
        "servers_alive",
        "Servers alive, as this one knows them",
        ConstGauge::new(gauge(hosts.len() as u64)),
    );
    let of_role = Family::<OfRole, Gauge>::default();
    for role in [Role::Api, Role::Trigger, Role::Processor, Role::Workers, Role::Recovery].map(Role::as_str) {
        let count = hosts.iter().filter(|host| host.roles.split(',').any(|r| r == role)).count();
        of_role.get_or_create(&OfRole { role }).set(gauge(count as u64));
    }
    registry.register("servers", "Servers alive by role, as this one knows them", of_role);
}

fn gauge(count: u64) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::metrics::{Counted, Metrics};

    #[test]
    fn figures_are_shown_while_they_are_fresh() {
        let metrics = Metrics::new();
        let campaigns = |status, reason: &str, count| OpenCampaigns { status, reason: reason.to_owned(), count };
        metrics.set_figures(Some(Figures {
            at: Duration::from_secs(1),
            waiting: (50, 7),
            deferred: 8,
            runs: (2, 1),
            campaigns: vec![
                campaigns(CampaignStatus::Running, "", 2),
                campaigns(CampaignStatus::Paused, "lunch", 1),
                campaigns(CampaignStatus::Paused, "the printers are on fire", 1),
                campaigns(CampaignStatus::Paused, "plugin-deadline", 1),
            ],
            devices: Some((20, 3)),
        }));
        let text = |now| {
            let now = Duration::from_secs(now);
            metrics
                .encode(&Counted { store: (0, 0), queue: (0, 0), plugins: &[], trials: &[], hosts: &[], now })
                .unwrap()
        };
        let shown = text(10);
        for line in [
            "carillon_messages_waiting{state=\"active\"} 50",
            "carillon_messages_waiting{state=\"paused\"} 7",
            "carillon_messages_due 42",
            "carillon_messages_deferred 8",
            "carillon_runs{state=\"paused\"} 1",
            "carillon_devices_ready 20",
            "carillon_devices_due 3",
            "carillon_campaigns{status=\"running\",reason=\"\"} 2",
            "carillon_campaigns{status=\"paused\",reason=\"operator\"} 2",
            "carillon_campaigns{status=\"paused\",reason=\"plugin\"} 1",
            "carillon_campaigns{status=\"paused\",reason=\"no-device\"} 0",
        ] {
            assert!(shown.contains(line), "{line} is not in {shown}");
        }
        assert!(!text(122).contains("carillon_messages_due"));
    }

    #[test]
    fn reasons_have_classes() {
        for (code, class) in [
            ("no device", PauseReason::NoDevice),
            ("content-rejected", PauseReason::Content),
            ("plugin-fault", PauseReason::Plugin),
            ("the sender plugin webhook 9.0.0 is not there or cannot be loaded", PauseReason::Plugin),
            ("invalid-config", PauseReason::Configuration),
            ("paused by ci", PauseReason::Operator),
            ("", PauseReason::Operator),
        ] {
            assert_eq!(PauseReason::of(code), class, "{code}");
        }
    }
}
