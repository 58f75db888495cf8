//! The connection to one server or to a cluster.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures::StreamExt;
use redis::aio::{ConnectionLike, ConnectionManager, ConnectionManagerConfig};
use redis::cluster::ClusterClientBuilder;
use redis::cluster_async::ClusterConnection;
use redis::cluster_routing::{MultipleNodeRoutingInfo, RoutingInfo};
use redis::{Client, Cmd, ErrorKind, Pipeline, RedisError, RedisResult, ServerErrorKind, Value};

use super::script::Order;
use crate::queue::{QueueError, Result};

/// How long to wait for a connection.
pub(super) const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);
/// How long to wait for an answer.
pub(super) const ANSWER_TIMEOUT: Duration = Duration::from_secs(2);
/// How long a call may take, waiting for a lost connection to come back included.
const CALL_TIMEOUT: Duration = Duration::from_secs(3);
/// Commands on their way to a cluster at once, per call.
const CLUSTER_PIPELINE: usize = 256;

/// A connection that mends itself; commands are counted.
pub(super) struct Link {
    wire: Wire,
    sent: AtomicU64,
    failures: AtomicU64,
}

enum Wire {
    Single(ConnectionManager),
    Cluster(ClusterConnection),
}

impl Link {
    /// One server. Connects when the first command is sent.
    pub(super) fn single(client: Client) -> Result<Self> {
        let config = ConnectionManagerConfig::new()
            .set_connection_timeout(Some(CONNECT_TIMEOUT))
            .set_response_timeout(Some(ANSWER_TIMEOUT))
            .set_min_delay(Duration::from_millis(50))
            .set_max_delay(Duration::from_millis(500))
            .set_number_of_retries(3)
            .set_pipeline_buffer_size(1000);
        let manager = ConnectionManager::new_lazy_with_config(client, config).map_err(failed)?;
        Ok(Self::over(Wire::Single(manager)))
    }

    /// A cluster, found through any of these nodes. Connects in the background.
    pub(super) fn cluster(nodes: Vec<String>) -> Result<Self> {
        let client = ClusterClientBuilder::new(nodes)
            .connection_timeout(CONNECT_TIMEOUT)
            .response_timeout(ANSWER_TIMEOUT)
            .overall_response_timeout(Some(CALL_TIMEOUT))
            .retries(6)
            .min_retry_wait(20)
            .max_retry_wait(400)
            .build()
            .map_err(|_| bad_address())?;
        let connection = client.get_pending_async_connection_with_config(redis::cluster::ClusterConfig::new());
        Ok(Self::over(Wire::Cluster(connection)))
    }

    fn over(wire: Wire) -> Self {
        Self { wire, sent: AtomicU64::new(0), failures: AtomicU64::new(0) }
    }

    pub(super) fn is_cluster(&self) -> bool {
        matches!(self.wire, Wire::Cluster(_))
    }

    pub(super) fn sent(&self) -> u64 {
        self.sent.load(Ordering::Relaxed)
    }

    /// Calls of which a command failed.
    pub(super) fn failures(&self) -> u64 {
        self.failures.load(Ordering::Relaxed)
    }

    /// Sends commands in one round trip; one answer each, in order. A script that a server does not know (after SCRIPT
    /// FLUSH, a restart, a failover) goes to it in a second one.
    pub(super) async fn send(&self, orders: &[Order]) -> Vec<Result<Value>> {
        let mut answers = self.transmit(orders.iter().map(|o| o.cmd.clone()).collect()).await;
        let mut again = Vec::new();
        for (at, (answer, order)) in answers.iter().zip(orders).enumerate() {
            if let Err(error) = answer
                && error.kind() == ErrorKind::Server(ServerErrorKind::NoScript)
                && let Some(cmd) = order.in_full()
            {
                again.push((at, cmd));
            }
        }
        if !again.is_empty() {
            let (places, cmds): (Vec<usize>, Vec<Cmd>) = again.into_iter().unzip();
            for (place, repeated) in places.into_iter().zip(self.transmit(cmds).await) {
                if let Some(answer) = answers.get_mut(place) {
                    *answer = repeated;
                }
            }
        }
        if answers.iter().any(Result::is_err) {
            self.failures.fetch_add(1, Ordering::Relaxed);
        }
        answers.into_iter().map(|answer| answer.map_err(failed)).collect()
    }

    /// [`Link::send`] where any failure is the failure of the whole.
    pub(super) async fn send_all(&self, orders: &[Order]) -> Result<Vec<Value>> {
        self.send(orders).await.into_iter().collect()
    }

    /// Asks every master.
    pub(super) async fn ask_masters(&self, cmd: Cmd) -> Result<Vec<Value>> {
        let answers = self.ask_each_master(cmd).await;
        // One that does not allow the command is not away.
        if matches!(answers, Err(QueueError::Unavailable(_))) {
            self.failures.fetch_add(1, Ordering::Relaxed);
        }
        answers
    }

    async fn ask_each_master(&self, cmd: Cmd) -> Result<Vec<Value>> {
        let answer = match &self.wire {
            Wire::Single(_) => return self.transmit(vec![cmd]).await.into_iter().map(|a| a.map_err(failed)).collect(),
            Wire::Cluster(connection) => {
                self.sent.fetch_add(1, Ordering::Relaxed);
                let mut connection = connection.clone();
                let everywhere = RoutingInfo::MultiNode((MultipleNodeRoutingInfo::AllMasters, None));
                timed(connection.route_command(cmd, everywhere)).await.map_err(failed)?
            }
        };
        match answer {
            Value::Map(by_node) => {
                by_node.into_iter().map(|(_, value)| value.extract_error().map_err(failed)).collect()
            }
            Value::Array(pairs) => Ok(pairs
                .into_iter()
                .filter_map(|pair| match pair {
                    Value::Array(mut node_and_value) => node_and_value.pop(),
                    _ => None,
                })
                .collect()),
            other => Ok(vec![other]),
        }
    }

    async fn transmit(&self, cmds: Vec<Cmd>) -> Vec<RedisResult<Value>> {
        let count = cmds.len();
        if count == 0 {
            return Vec::new();
        }
        self.sent.fetch_add(count as u64, Ordering::Relaxed);
        match &self.wire {
            Wire::Single(manager) => {
                let mut manager = manager.clone();
                let mut pipeline = Pipeline::with_capacity(count);
                for cmd in cmds {
                    pipeline.add_command(cmd);
                }
                match timed(manager.req_packed_commands(&pipeline, 0, count)).await {
                    Ok(values) if values.len() == count => values.into_iter().map(Value::extract_error).collect(),
                    Ok(_) => vec![Err((ErrorKind::Parse, "not one answer per command").into()); count],
                    Err(error) => vec![Err(error); count],
                }
            }
            // The commands go to different nodes; those to one node share its connection without waiting for each other.
            Wire::Cluster(connection) => {
                futures::stream::iter(cmds)
                    .map(|cmd| {
                        let mut connection = connection.clone();
                        async move { timed(connection.req_packed_command(&cmd)).await.and_then(Value::extract_error) }
                    })
                    .buffered(CLUSTER_PIPELINE)
                    .collect()
                    .await
            }
        }
    }
}

/// Neither the library's time-out for answers nor that for connections covers waiting for a reconnection.
async fn timed<T>(call: impl Future<Output = RedisResult<T>>) -> RedisResult<T> {
    match tokio::time::timeout(CALL_TIMEOUT, call).await {
        Ok(result) => result,
        Err(_) => Err(std::io::Error::from(std::io::ErrorKind::TimedOut).into()),
    }
}

/// An address that does not read as one. The library's own error is not passed on: it could name the password.
pub(super) fn bad_address() -> QueueError {
    QueueError::Internal(anyhow::anyhow!(
        "the queue's address is not valid: expected redis://[user:password@]host:port/[database], rediss:// (TLS), \
         redis-cluster://[user:password@]host:port,host:port or memory:"
    ))
}

/// Sorts the library's errors into those that pass and those that stay.
pub(super) fn failed(error: RedisError) -> QueueError {
    let passes = match error.kind() {
        ErrorKind::Io | ErrorKind::ClusterConnectionNotFound => true,
        ErrorKind::Server(kind) => matches!(
            kind,
            ServerErrorKind::BusyLoading
                | ServerErrorKind::NoScript
                | ServerErrorKind::Moved
                | ServerErrorKind::Ask
                | ServerErrorKind::TryAgain
                | ServerErrorKind::ClusterDown
                | ServerErrorKind::MasterDown
                | ServerErrorKind::ReadOnly
        ),
        // BUSY: a script of somebody else's blocks the server; MISCONF: it cannot write its snapshot.
        ErrorKind::Extension => matches!(error.code(), Some("OOM" | "BUSY" | "MISCONF" | "NOREPLICAS")),
        _ => false,
    };
    let crosses = error.kind() == ErrorKind::Server(ServerErrorKind::CrossSlot);
    let mut source = anyhow::Error::new(error);
    if crosses {
        source = source.context("the server runs in cluster mode: its address must begin with redis-cluster://");
    }
    if passes { QueueError::Unavailable(source) } else { QueueError::Internal(source) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_that_pass_are_told_from_those_that_stay() {
        let passing = [
            RedisError::from(std::io::Error::from(std::io::ErrorKind::ConnectionRefused)),
            (ErrorKind::Server(ServerErrorKind::BusyLoading), "").into(),
            (ErrorKind::Server(ServerErrorKind::ReadOnly), "").into(),
            redis::make_extension_error("OOM".into(), None),
        ];
        for error in passing {
            assert!(matches!(failed(error), QueueError::Unavailable(_)));
        }
        let staying = [
            (ErrorKind::AuthenticationFailed, "").into(),
            (ErrorKind::Server(ServerErrorKind::ResponseError), "").into(),
            redis::make_extension_error("WRONGTYPE".into(), None),
        ];
        for error in staying {
            assert!(matches!(failed(error), QueueError::Internal(_)));
        }
    }
}
