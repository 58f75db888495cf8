//! The plugin `webhook` and what a provider answers, compiled for this machine so that the fuzzer sees its inside.
#![no_main]
#![allow(dead_code)]

use carillon::plugins::PluginBody;
use common::contract::sending::{Answer, Body, HttpResponse, Outcome};
use config::Compiled;

#[path = "../../../plugins/webhook/src/answer.rs"]
mod answer;
#[path = "../../../plugins/webhook/src/config.rs"]
mod config;

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    let Some((config, response)) = carillon_tests::strangers::provider_answer(data) else { return };
    let Ok(compiled) = Compiled::read(config) else { return };
    let body = match response.body {
        PluginBody::Empty => Body::Empty,
        PluginBody::Text(text) => Body::Text(text),
        PluginBody::Bytes(bytes) => Body::Bytes(bytes),
    };
    let response = HttpResponse { status: response.status, headers: response.headers, body };
    match answer::outcome(&compiled.config, 1_796_115_600_000.0, Answer::Response(response)) {
        // The configuration's own time is checked by its schema.
        Outcome::RetryAfter(pause) if pause.delay_ms != compiled.config.retry_after_ms => {
            assert!(pause.delay_ms.is_finite() && pause.delay_ms >= 0.0);
        }
        Outcome::DeviceDown(outage) => assert!(outage.retry_ms.is_none_or(|ms| ms.is_finite() && ms >= 0.0)),
        _ => {}
    }
});
