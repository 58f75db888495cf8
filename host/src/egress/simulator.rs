//! The connector behind `simulator:` URLs: it waits as long as the request says and answers what it says, so that demos,
//! rehearsals and benchmarks go through the real path without a network.
//!
//! The request's body is JSON; method, headers and the rest of the URL do not matter:
//!
//! ```json
//! {"wait_ms": 12.5, "answer": {"status": 202, "headers": [["retry-after", "2"]], "body": "{\"id\":\"sim-1\"}"}}
//! ```
//!
//! `answer` may also be `"not-sent"` or `"unanswered"`.

use std::time::Duration;

use bytes::Bytes;
use serde::Deserialize;

use super::{Body, EgressAnswer, EgressResponse};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Instruction {
    #[serde(default)]
    wait_ms: f64,
    answer: Answer,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Answer {
    Response {
        status: u16,
        #[serde(default)]
        headers: Vec<(String, String)>,
        #[serde(default)]
        body: String,
    },
    Failure(Failure),
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Failure {
    NotSent,
    Unanswered,
}

/// Does what the body says, in at most `limit`.
pub(super) async fn answer(body: Body, limit: Duration) -> EgressAnswer {
    let Ok(Instruction { wait_ms, answer }) = serde_json::from_slice(&body.into_bytes()) else {
        return EgressAnswer::NotSent(
            "the simulator needs a JSON body with wait_ms and answer (a status with headers and body, \"not-sent\" or \
             \"unanswered\")"
                .into(),
        );
    };
    let Ok(wait) = Duration::try_from_secs_f64(wait_ms / 1000.0) else {
        return EgressAnswer::NotSent("the simulator cannot wait a negative or endless time".into());
    };
    if let Answer::Response { status, .. } = answer
        && !(100..=999).contains(&status)
    {
        return EgressAnswer::NotSent("the simulator's status is not one of HTTP".into());
    }

    // Benchmarks ask for no wait at all: then not even the timer is touched, whose granularity is a millisecond.
    if !wait.is_zero() {
        tokio::time::sleep(wait.min(limit)).await;
    }
    match answer {
        Answer::Failure(Failure::NotSent) => EgressAnswer::NotSent("the simulator was told not to send".into()),
        Answer::Failure(Failure::Unanswered) => EgressAnswer::Unanswered("the simulator was told not to answer".into()),
        Answer::Response { .. } if wait > limit => {
            EgressAnswer::Unanswered(format!("no answer from the simulator within {} ms", limit.as_millis()))
        }
        Answer::Response { status, headers, body } => {
            EgressAnswer::Response(EgressResponse { status, headers, body: Bytes::from(body) })
        }
    }
}
