//! Windows and zones as strangers write them: how long until a window opens.

use std::time::Duration;

use super::SendingWindow;
use crate::clock::Time;

/// A time (milliseconds, eight bytes) and a window as JSON.
pub fn window(bytes: &[u8]) {
    let Some((time, json)) = bytes.split_first_chunk::<8>() else { return };
    let Ok(window) = serde_json::from_slice::<SendingWindow>(json) else { return };
    let mut problems = Vec::new();
    window.problems("window", &mut problems);
    let ms = i64::from_le_bytes(*time);
    for zone in [None, Some(window.from.as_str()), Some("America/St_Johns")] {
        // Any time and any text must be borne; a promise is made for windows without problems, in times that clocks show.
        window.opens_in(Time::from_ms(ms), zone);
        if !problems.is_empty() {
            continue;
        }
        let now = Time::from_ms(ms.rem_euclid(4_102_444_800_000));
        let wait = window.opens_in(now, zone);
        assert!(wait <= Duration::from_secs(9 * 86_400), "{wait:?}");
        assert_eq!(window.opens_in(now.plus(wait), zone), Duration::ZERO);
    }
}
