//! How numbers, sizes, durations and times read on a page.

use crate::clock::Time;

/// A count with a narrow no-break space between groups of three digits: `12 345`.
pub fn number(n: u64) -> String {
    let digits = n.to_string();
    let mut out = String::with_capacity(digits.len() * 2);
    for (i, digit) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push('\u{202f}');
        }
        out.push(digit);
    }
    out
}

/// Events per second, with as many decimals as they are worth.
pub fn rate(per_second: f64) -> String {
    if !per_second.is_finite() || per_second <= 0.0 {
        "0/s".to_owned()
    } else if per_second < 10.0 {
        format!("{per_second:.1}/s")
    } else {
        format!("{}/s", number(per_second.round() as u64))
    }
}

/// A size in binary units.
pub fn bytes(n: u64) -> String {
    const UNITS: [&str; 4] = ["KiB", "MiB", "GiB", "TiB"];
    if n < 1024 {
        return format!("{n}\u{202f}B");
    }
    let mut value = n as f64 / 1024.0;
    let mut unit = "KiB";
    for next in UNITS.iter().skip(1) {
        if value < 1024.0 {
            break;
        }
        value /= 1024.0;
        unit = next;
    }
    if value < 10.0 { format!("{value:.1}\u{202f}{unit}") } else { format!("{value:.0}\u{202f}{unit}") }
}

/// A duration in its two largest units: `250 ms`, `4.2 s`, `3 min 5 s`, `2 h 10 min`, `3 d 4 h`.
pub fn duration_ms(ms: u64) -> String {
    let s = ms / 1000;
    let two = |a: u64, unit: &str, b: u64, small: &str| {
        if b == 0 { format!("{a}\u{202f}{unit}") } else { format!("{a}\u{202f}{unit} {b}\u{202f}{small}") }
    };
    match ms {
        0..1_000 => format!("{ms}\u{202f}ms"),
        1_000..10_000 if !ms.is_multiple_of(1000) => format!("{:.1}\u{202f}s", ms as f64 / 1000.0),
        1_000..60_000 => format!("{s}\u{202f}s"),
        60_000..3_600_000 => two(s / 60, "min", s % 60, "s"),
        3_600_000..86_400_000 => two(s / 3600, "h", s % 3600 / 60, "min"),
        _ => two(s / 86_400, "d", s % 86_400 / 3600, "h"),
    }
}

/// A duration in its largest unit only, for relative times.
fn roughly_ms(ms: u64) -> String {
    match ms / 1000 {
        s @ 0..60 => format!("{s}\u{202f}s"),
        s @ 60..3600 => format!("{}\u{202f}min", s / 60),
        s @ 3600..86_400 => format!("{}\u{202f}h", s / 3600),
        s => format!("{}\u{202f}d", s / 86_400),
    }
}

/// How far away a time is: `12 s ago`, `in 3 min`, `just now`.
pub fn relative(time: Time, now: Time) -> String {
    let ms = now.as_ms().saturating_sub(time.as_ms());
    match u64::try_from(ms) {
        Ok(past) if past < 1000 => "just now".to_owned(),
        Ok(past) => format!("{} ago", roughly_ms(past)),
        Err(_) => format!("in {}", roughly_ms(ms.unsigned_abs())),
    }
}

/// A time in UTC to the second: `2026-12-01 09:00:00 UTC`.
pub fn utc(time: Time) -> String {
    time.to_timestamp().strftime("%Y-%m-%d %H:%M:%S UTC").to_string()
}

/// A share in percent, never rounded up to 100 before it is whole.
pub fn percent(part: u64, whole: u64) -> String {
    if whole == 0 {
        return "0\u{202f}%".to_owned();
    }
    let tenths = u128::from(part) * 1000 / u128::from(whole);
    if tenths.is_multiple_of(10) {
        format!("{}\u{202f}%", tenths / 10)
    } else {
        format!("{}.{}\u{202f}%", tenths / 10, tenths % 10)
    }
}

/// JSON with line breaks and indents, its fields in their order and its numbers as they were written; a text that is not
/// JSON stays as it is.
pub fn pretty_json(text: &str) -> String {
    if serde_json::from_str::<serde::de::IgnoredAny>(text).is_err() {
        return text.to_owned();
    }
    let mut out = String::with_capacity(text.len() * 2);
    let (mut depth, mut in_string, mut escaped) = (0usize, false, false);
    let mut chars = text.chars().filter(|c| !c.is_ascii_control()).peekable();
    let line = |out: &mut String, depth: usize| {
        out.push('\n');
        out.extend(std::iter::repeat_n("  ", depth));
    };
    while let Some(c) = chars.next() {
        if in_string {
            in_string = escaped || c != '"';
            escaped = !escaped && c == '\\';
            out.push(c);
            continue;
        }
        match c {
            ' ' => {}
            '{' | '[' => {
                out.push(c);
                while chars.next_if_eq(&' ').is_some() {}
                if let Some(close) = chars.next_if(|c| matches!(c, '}' | ']')) {
                    out.push(close);
                } else {
                    depth += 1;
                    line(&mut out, depth);
                }
            }
            '}' | ']' => {
                depth = depth.saturating_sub(1);
                line(&mut out, depth);
                out.push(c);
            }
            ',' => {
                out.push(c);
                line(&mut out, depth);
            }
            ':' => out.push_str(": "),
            _ => {
                in_string = c == '"';
                out.push(c);
            }
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_read_well() {
        assert_eq!(number(0), "0");
        assert_eq!(number(1_234_567), "1\u{202f}234\u{202f}567");
        assert_eq!(rate(0.04), "0.0/s");
        assert_eq!(rate(3.26), "3.3/s");
        assert_eq!(rate(1234.4), "1\u{202f}234/s");
        assert_eq!(bytes(1536), "1.5\u{202f}KiB");
        assert_eq!(bytes(64 << 20), "64\u{202f}MiB");
        assert_eq!(duration_ms(4200), "4.2\u{202f}s");
        assert_eq!(duration_ms(185_000), "3\u{202f}min 5\u{202f}s");
        assert_eq!(duration_ms(86_400_000), "1\u{202f}d");
        assert_eq!(percent(999_999, 1_000_000), "99.9\u{202f}%");
        assert_eq!(percent(1, 4), "25\u{202f}%");
    }

    #[test]
    fn json_keeps_its_order_and_digits() {
        let text = r#"{"b": 1.10,"a":[ ],"t":"x, {\"y\": [1]}\\","l":[1,
            {"n":null}]}"#;
        let pretty = pretty_json(text);
        let expected = "{\n  \"b\": 1.10,\n  \"a\": [],\n  \"t\": \"x, {\\\"y\\\": [1]}\\\\\",\n  \"l\": [\n    1,\n    {\n      \"n\": null\n    }\n  ]\n}";
        assert_eq!(pretty, expected);
        assert_eq!(pretty_json("not {"), "not {");
    }

    #[test]
    fn times_are_utc_and_relative() {
        let t = Time::from_ms(1_796_115_600_000);
        assert_eq!(utc(t), "2026-12-01 09:00:00 UTC");
        let later = Time::from_ms(t.as_ms() + 90_000);
        assert_eq!(relative(t, later), "1\u{202f}min ago");
        assert_eq!(relative(later, t), "in 1\u{202f}min");
    }
}
