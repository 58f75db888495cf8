//! Files that the command line reads.

/// A campaign file, or a list of devices as CSV.
pub fn campaign_file(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let one_line = |error: anyhow::Error| assert!(!error.to_string().contains('\n'), "{error}");
    super::campaign::fuzzing(text).unwrap_or_else(one_line);
    if let Ok(devices) = super::fleet_csv::parse(bytes, "fleet.csv") {
        for device in devices {
            device.problems();
        }
    }
}
