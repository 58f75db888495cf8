//! Progress on stderr: bars on a terminal, a line every few seconds elsewhere.

use std::io::IsTerminal;
use std::time::Duration;

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

use crate::message::Counts;

/// How often a line is written where there is no terminal.
const LINE_EVERY: Duration = Duration::from_secs(5);

/// How a campaign moves, shown to a person.
pub struct Progress {
    bars: Option<Bars>,
    last_line: Option<Duration>,
}

struct Bars {
    all: MultiProgress,
    messages: ProgressBar,
    states: ProgressBar,
}

impl Progress {
    /// A display for `total` messages.
    pub fn new(total: u64) -> Self {
        Self { bars: std::io::stderr().is_terminal().then(|| Bars::new(total)), last_line: None }
    }

    /// Shows where things stand; `elapsed` is the time since the display began.
    pub fn show(&mut self, counts: &Counts, elapsed: Duration) {
        match &self.bars {
            Some(bars) => {
                bars.messages.set_position(counts.total().saturating_sub(counts.open()));
                bars.states.set_message(states(counts));
            }
            None if self.last_line.is_none_or(|last| elapsed >= last + LINE_EVERY) => {
                self.last_line = Some(elapsed);
                eprintln!("{:>4} s  {}", elapsed.as_secs(), states(counts));
            }
            None => {}
        }
    }

    /// Says something above the bars.
    pub fn say(&self, text: &str) {
        match &self.bars {
            // A terminal that went away shows nothing; the work goes on.
            Some(bars) => drop(bars.all.println(text)),
            None => eprintln!("{text}"),
        }
    }

    /// Takes the bars away.
    pub fn finish(self) {
        if let Some(bars) = self.bars {
            bars.messages.abandon();
            bars.states.abandon();
        }
    }
}

impl Bars {
    fn new(total: u64) -> Self {
        let all = MultiProgress::new();
        let style = |template: &str| {
            ProgressStyle::with_template(template)
                .unwrap_or_else(|_| ProgressStyle::default_bar())
                .progress_chars("━╸─")
        };
        let messages = all.add(ProgressBar::new(total));
        messages.set_style(style("{elapsed_precise}  {bar:40}  {human_pos}/{human_len}  {per_sec:.0}  {eta} to go"));
        let states = all.add(ProgressBar::new_spinner());
        states.set_style(style("          {msg}"));
        Self { all, messages, states }
    }
}

/// One line on how many messages are in which state; states without any are left out.
pub fn states(counts: &Counts) -> String {
    let parts: Vec<_> = crate::message::MessageStatus::ALL
        .into_iter()
        .map(|status| (status, counts.of(status)))
        .filter(|(_, n)| *n > 0)
        .map(|(status, n)| format!("{} {n}", status.as_str()))
        .collect();
    if parts.is_empty() { "no message yet".to_owned() } else { parts.join(", ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_states_that_occur_are_named() {
        let counts = Counts { sent: 3, failed: 1, ..Counts::default() };
        assert_eq!(states(&counts), "sent 3, failed 1");
        assert_eq!(states(&Counts::default()), "no message yet");
    }
}
