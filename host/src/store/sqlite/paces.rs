//! Paces that were saved, for devices that the queue does not know.

use super::*;

pub(super) async fn saved_paces(lite: &Sqlite, devices: &[DeviceNo]) -> Result<Vec<(DeviceNo, SavedPace)>> {
    let found: Vec<(i32, i64, String)> = lite
        .rows("SELECT device_no, next_at, pace FROM device_state WHERE device_no IN (SELECT value FROM json_each($1))")
        .bind(list(devices.iter().map(|no| no.0))?)
        .fetch_all(&lite.readers)
        .await?;
    Ok(found
        .into_iter()
        .map(|(no, next_at, pace)| (DeviceNo(no), SavedPace { next_at: Time::from_ms(next_at), pace }))
        .collect())
}
