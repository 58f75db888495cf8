//! `/devices`.

use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::core::Core;
use crate::device::DeviceSpec;
use crate::id::DeviceId;
use crate::json::Object;
use crate::operations::devices::{self, DeviceView, PutDevices};
use crate::operations::health::{self, CheckDevice, DeviceCheck};
use crate::operations::{Actor, fields};

use super::body::{self, Id, Json, OptionalJson, Query};
use super::page::{self, Listing};
use super::problem::Problem;

pub(super) fn routes() -> OpenApiRouter<Core> {
    OpenApiRouter::new().routes(routes!(put, list)).routes(routes!(show, change, remove)).routes(routes!(check))
}

/// One device or many.
#[derive(Deserialize, ToSchema)]
#[serde(untagged)]
#[allow(dead_code)] // Only a schema: the body is read by its media type.
enum OneOrMany {
    One(Box<DeviceSpec>),
    Many(Vec<DeviceSpec>),
}

/// Make or replace devices, all or none: one object, an array, a line each (NDJSON), or CSV with the columns `id`, `channel`
/// and, where wanted, `name`, `tags` (separated by spaces), `account`, `enabled`, `per_minute`, `per_hour`, `per_day`; every
/// other column is a field of `adapter`.
#[utoipa::path(post, path = "/devices", tag = "devices", security(("token" = ["devices:write"])),
    request_body(content((OneOrMany = "application/json"), (String = "application/x-ndjson"), (String = "text/csv"))),
    responses(
        (status = 201, description = "At least one device is new.", body = PutDevices),
        (status = 200, description = "All of them were there and have been replaced.", body = PutDevices),
    ))]
async fn put(
    State(core): State<Core>,
    actor: Actor,
    headers: HeaderMap,
    body: Body,
) -> Result<(StatusCode, Json<PutDevices>), Problem> {
    let media = body::media_type(&headers);
    let parse: fn(&Bytes) -> Result<Vec<DeviceSpec>, Problem> = match media.as_str() {
        "text/csv" => from_csv,
        "application/x-ndjson" | "application/ndjson" | "application/jsonl" => from_lines,
        json if body::is_json(json) => from_json,
        _ => return Err(body::unsupported(&media, "application/json, application/x-ndjson or text/csv")),
    };
    let devices = parse(&body::read(body, core.config.body_max_bytes).await?)?;
    let put = devices::put_devices(&core, &actor, devices).await?;
    Ok((if put.created > 0 { StatusCode::CREATED } else { StatusCode::OK }, Json(put)))
}

fn from_json(bytes: &Bytes) -> Result<Vec<DeviceSpec>, Problem> {
    if bytes.trim_ascii_start().first() == Some(&b'[') { body::parse(bytes) } else { Ok(vec![body::parse(bytes)?]) }
}

pub(super) fn from_lines(bytes: &Bytes) -> Result<Vec<DeviceSpec>, Problem> {
    let lines = bytes.split(|b| *b == b'\n').zip(1..).filter(|(line, _)| !line.trim_ascii().is_empty());
    lines.map(|(line, n): (_, usize)| body::parse(line).map_err(|problem| on_line(problem, n as u64))).collect()
}

/// Says on which line a problem is.
fn on_line(mut problem: Problem, line: u64) -> Problem {
    problem.detail = format!("line {line}: {}", problem.detail);
    for error in &mut problem.errors {
        error.field = format!("line {line}: {}", error.field);
    }
    problem
}

pub(super) fn from_csv(bytes: &Bytes) -> Result<Vec<DeviceSpec>, Problem> {
    let mut reader = csv::ReaderBuilder::new().trim(csv::Trim::All).from_reader(bytes.as_ref());
    let bad = |error: csv::Error| Problem::bad_request(format!("the body is not CSV: {error}"));
    let header = reader.headers().map_err(bad)?.clone();
    let mut out = Vec::new();
    for record in reader.records() {
        let record = record.map_err(bad)?;
        let line = record.position().map_or(0, csv::Position::line);
        let mut device = Map::new();
        let (mut caps, mut adapter) = (Map::new(), Map::new());
        for (column, cell) in header.iter().zip(&record).filter(|(_, cell)| !cell.is_empty()) {
            let column = column.trim_start_matches('\u{feff}');
            match column {
                "id" | "name" | "channel" | "account" => device.insert(column.to_owned(), json!(cell)),
                "tags" => device.insert("tags".to_owned(), cell.split([' ', ';']).filter(|t| !t.is_empty()).collect()),
                "enabled" => device.insert(column.to_owned(), number_or_flag(cell)),
                "per_minute" | "per_hour" | "per_day" => caps.insert(column.to_owned(), number_or_flag(cell)),
                _ => adapter.insert(column.to_owned(), json!(cell)),
            };
        }
        device.insert("caps".to_owned(), Value::Object(caps));
        device.insert("adapter".to_owned(), Value::Object(adapter));
        let spec = serde_path_to_error::deserialize(Value::Object(device)).map_err(|error| {
            let message = error.inner().to_string();
            Problem::field(fields::name(&error.path().to_string(), &message), message)
        });
        out.push(spec.map_err(|problem| on_line(problem, line))?);
    }
    Ok(out)
}

/// A cell as the JSON that it reads as; text that is none stays text, for the error to name.
fn number_or_flag(cell: &str) -> Value {
    serde_json::from_str(cell).unwrap_or_else(|_| json!(cell))
}

#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
struct DeviceQuery {
    /// Only devices with this tag.
    tag: Option<String>,
    /// Only devices of this channel.
    channel: Option<String>,
    /// Rows, 1 to 1000; 100 by default.
    #[param(minimum = 1, maximum = 1000)]
    limit: Option<u32>,
    /// `next_cursor` of the page before.
    cursor: Option<String>,
}

/// Devices, by id.
#[utoipa::path(get, path = "/devices", tag = "devices", security(("token" = ["devices:read"])), params(DeviceQuery),
    responses((status = 200, body = Listing<DeviceView>)))]
async fn list(
    State(core): State<Core>,
    Query(query): Query<DeviceQuery>,
) -> Result<Json<Listing<DeviceView>>, Problem> {
    let cursor: Option<DeviceId> = page::cursor(query.cursor.as_deref())?;
    let (tag, channel) = (query.tag.as_deref(), query.channel.as_deref());
    let page = devices::device_views(&core, tag, channel, cursor.as_ref(), page::limit(query.limit)?).await?;
    Ok(Json(Listing::of(page)))
}

/// One device.
#[utoipa::path(get, path = "/devices/{id}", tag = "devices", security(("token" = ["devices:read"])),
    params(("id" = DeviceId, Path, description = "The device's id")), responses((status = 200, body = DeviceView)))]
async fn show(State(core): State<Core>, Id(id): Id<DeviceId>) -> Result<Json<DeviceView>, Problem> {
    Ok(Json(devices::device_view(&core, &id).await?))
}

/// Change a device by a JSON merge patch (RFC 7396) of its fields; `"held": null` lifts a hold.
#[utoipa::path(patch, path = "/devices/{id}", tag = "devices", security(("token" = ["devices:write"])),
    params(("id" = DeviceId, Path, description = "The device's id")),
    request_body(content = Object, content_type = "application/merge-patch+json"),
    responses((status = 200, body = DeviceView)))]
async fn change(
    State(core): State<Core>,
    actor: Actor,
    Id(id): Id<DeviceId>,
    Json(patch): Json<Value>,
) -> Result<Json<DeviceView>, Problem> {
    devices::patch_device(&core, &actor, &id, &patch).await?;
    Ok(Json(devices::device_view(&core, &id).await?))
}

/// Delete a device that has no open messages.
#[utoipa::path(delete, path = "/devices/{id}", tag = "devices", security(("token" = ["devices:write"])),
    params(("id" = DeviceId, Path, description = "The device's id")), responses((status = 204, description = "It is gone.")))]
async fn remove(State(core): State<Core>, actor: Actor, Id(id): Id<DeviceId>) -> Result<StatusCode, Problem> {
    devices::delete_device(&core, &actor, &id).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// Ask a device's provider whether it can send, without sending a message. Nothing else follows from the answer. Needs a sender
/// that can tell: the campaign's, or the device's own.
#[utoipa::path(post, path = "/devices/{id}/check", tag = "devices", security(("token" = ["devices:write"])),
    params(("id" = DeviceId, Path, description = "The device's id")), request_body = Option<CheckDevice>,
    responses((status = 200, body = DeviceCheck)))]
async fn check(
    State(core): State<Core>,
    actor: Actor,
    Id(id): Id<DeviceId>,
    OptionalJson(Object(request)): OptionalJson<Object<CheckDevice>>,
) -> Result<Json<DeviceCheck>, Problem> {
    Ok(Json(health::check_device(&core, &actor, &id, request).await?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn csv_columns_become_fields_and_the_rest_the_adapter() {
        let text = "id,channel,tags,per_minute,enabled,number\nd1,sms,eu fast,5,false,+1\nd2,sms,,,,\n";
        let devices = from_csv(&Bytes::from(text)).unwrap();
        assert_eq!(devices[0].tags, ["eu", "fast"]);
        assert_eq!((devices[0].caps.per_minute, devices[0].enabled), (Some(5), false));
        assert_eq!(devices[0].adapter, json!({"number": "+1"}));
        assert!(devices[1].enabled && devices[1].tags.is_empty());
    }

    #[test]
    fn a_broken_line_is_named() {
        let problem = from_csv(&Bytes::from("id,channel,per_minute\nd1,sms,many\n")).unwrap_err();
        assert_eq!(problem.errors[0].field, "line 2: caps.per_minute");
        let problem = from_lines(&Bytes::from("{\"id\":\"a\",\"channel\":\"sms\"}\n{\"id\":\"b\"}\n")).unwrap_err();
        assert_eq!(problem.errors[0].field, "line 2: channel");
    }
}
