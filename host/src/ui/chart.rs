//! Bars and lines as SVG. Everything is in attributes, which the content security policy allows, and can be replaced by
//! the live updates; colours are in the style sheet.

use crate::id::CampaignId;
use crate::message::Counts;

/// One coloured part of a progress bar, in thousandths of its width.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Segment {
    /// Its name, which is its colour's too.
    pub name: &'static str,
    /// Where it begins.
    pub x: u64,
    /// How wide it is.
    pub width: u64,
}

/// The parts of a bar: sent, failed, in doubt, left out, being sent. What waits is the empty rest.
pub fn segments(counts: &Counts) -> [Segment; 5] {
    let total = counts.total().max(1);
    let mut before = 0;
    [
        ("sent", counts.sent + counts.delivered + counts.read),
        ("failed", counts.failed),
        ("warn", counts.unknown),
        ("none", counts.suppressed + counts.expired + counts.cancelled),
        ("busy", counts.processing),
    ]
    .map(|(name, n)| {
        // Both ends are rounded the same way, so that the parts meet and the last one ends with the bar.
        let x = thousandths(before, total);
        before += n;
        Segment { name, x, width: thousandths(before, total) - x }
    })
}

fn thousandths(part: u64, whole: u64) -> u64 {
    u64::try_from(u128::from(part) * 1000 / u128::from(whole)).unwrap_or(1000)
}

/// HTML: a campaign's progress bar. It is decoration: the numbers stand beside it as text.
pub fn bar(campaign: &CampaignId, counts: &Counts) -> String {
    let mut out = String::from(
        "<svg class=\"bar-of\" viewBox=\"0 0 1000 10\" preserveAspectRatio=\"none\" aria-hidden=\"true\" focusable=\"false\">",
    );
    for Segment { name, x, width } in segments(counts) {
        out.push_str(&format!(
            "<rect class=\"f-{name}\" x=\"{x}\" y=\"0\" width=\"{width}\" height=\"10\" \
             data-live-attr=\"x:{campaign}.{name}.x width:{campaign}.{name}.w\"/>"
        ));
    }
    out.push_str("</svg>");
    out
}

/// The width of a line's drawing.
const WIDTH: f64 = 600.0;
/// The height of a line's drawing.
const HEIGHT: f64 = 100.0;

/// The points of a line, as `polyline` takes them. `values` are `(how long ago in milliseconds, value)`, oldest first;
/// the line ends at the right border and reaches back `span_ms`.
pub fn line(values: impl Iterator<Item = (u64, f64)>, span_ms: u64, top: f64) -> String {
    let mut out = String::new();
    for (ago_ms, value) in values {
        let x = WIDTH * (1.0 - (ago_ms as f64 / span_ms.max(1) as f64).min(1.0));
        let y = HEIGHT - 4.0 - (value / top.max(f64::MIN_POSITIVE)).clamp(0.0, 1.0) * (HEIGHT - 8.0);
        if !out.is_empty() {
            out.push(' ');
        }
        out.push_str(&format!("{x:.1},{y:.1}"));
    }
    out
}

/// The area under a line of [`line()`], as `polygon` takes it.
pub fn area(points: &str) -> String {
    let first = points.split(' ').next().and_then(|p| p.split(',').next());
    let last = points.rsplit(' ').next().and_then(|p| p.split(',').next());
    match (first, last) {
        (Some(first), Some(last)) if !first.is_empty() => format!("{first},{HEIGHT} {points} {last},{HEIGHT}"),
        _ => String::new(),
    }
}

/// A round number at or above `value`: the top of an axis.
pub fn round_up(value: f64) -> f64 {
    if !value.is_finite() || value <= 1.0 {
        return 1.0;
    }
    let magnitude = 10f64.powf(value.log10().floor());
    [1.0, 2.0, 5.0, 10.0].into_iter().map(|step| step * magnitude).find(|top| *top >= value).unwrap_or(value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parts_of_a_bar_meet_and_fill_it() {
        let counts = Counts { sent: 1, failed: 1, unknown: 1, ..Counts::default() };
        let parts = segments(&counts);
        for (a, b) in parts.iter().zip(parts.iter().skip(1)) {
            assert_eq!(a.x + a.width, b.x);
        }
        assert_eq!(parts[4].x + parts[4].width, 1000);
        assert!(segments(&Counts::default()).iter().all(|s| s.width == 0));
    }

    #[test]
    fn a_line_ends_at_the_right() {
        let points = line([(300_000, 0.0), (0, 10.0)].into_iter(), 300_000, 10.0);
        assert_eq!(points, "0.0,96.0 600.0,4.0");
        assert_eq!(area(&points), "0.0,100 0.0,96.0 600.0,4.0 600.0,100");
        assert_eq!(area(""), "");
    }

    #[test]
    fn axis_tops_are_round() {
        assert_eq!([0.0, 3.0, 12.0, 480.0].map(round_up), [1.0, 5.0, 20.0, 500.0]);
    }
}
