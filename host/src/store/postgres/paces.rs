//! Paces that were saved, for devices that the queue does not know.

use super::*;

pub(super) async fn saved_paces(pg: &Postgres, devices: &[DeviceNo]) -> Result<Vec<(DeviceNo, SavedPace)>> {
    let found: Vec<(i32, i64, String)> = pg
        .rows("SELECT device_no, next_at, pace FROM device_state WHERE device_no = ANY($1)")
        .bind(devices.iter().map(|no| no.0).collect::<Vec<_>>())
        .fetch_all(&pg.pool)
        .await?;
    Ok(found
        .into_iter()
        .map(|(no, next_at, pace)| (DeviceNo(no), SavedPace { next_at: Time::from_ms(next_at), pace }))
        .collect())
}
