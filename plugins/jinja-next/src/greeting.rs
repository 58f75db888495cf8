//! A greeting for where the recipient lives.

/// The greeting of a time zone.
pub fn of(zone: Option<&str>) -> &'static str {
    let zone = zone.unwrap_or_default();
    match zone {
        "Europe/Paris" => "Bonjour",
        "Europe/Berlin" => "Guten Tag",
        _ if zone.starts_with("Australia/") => "G'day",
        _ if zone.starts_with("America/") || zone.starts_with("Pacific/") => "Hi",
        _ => "Hello",
    }
}
