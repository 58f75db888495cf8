//! What a plugin that is large costs the servers of a cluster. It takes every core for a while, so it runs beside nothing else.

use carillon_tests::guests;
use tokio::time::Instant;

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn a_plugin_that_takes_long_to_compile_makes_no_server_count_as_dead() {
    let sink = Sink::start().await;
    let world = World::cluster(&sink).await;
    let is_ready = |n: usize| {
        let client = world.servers[n].client.clone();
        async move { matches!(client.get("/readyz").await, Ok((200, _))) }
    };
    eventually("all three are seen", PATIENCE, || async {
        world.api().get("/api/v1/stats").await["hosts"].as_array().is_some_and(|hosts| hosts.len() == 3)
    })
    .await;
    // Several seconds of compiling, on each server; the lease is two.
    world.upload(guests::laborious(200), "?activate=true").await;
    let began = Instant::now();
    let mut was_busy = false;
    loop {
        let hosts = world.api().get("/api/v1/stats").await["hosts"].clone();
        assert_eq!(hosts.as_array().map(Vec::len), Some(3), "{:?} after the upload: {hosts}", began.elapsed());
        if is_ready(1).await && is_ready(2).await {
            break;
        }
        was_busy = true;
        assert!(began.elapsed() < PATIENCE, "the other servers load it");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert!(was_busy, "they compile it after the upload");
}
