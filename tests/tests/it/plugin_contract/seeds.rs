//! Everything that the fuzzer has kept for components and for the first-party guests, played again: through the real components,
//! whose stack is smaller than the fuzzer's.

use std::path::{Path, PathBuf};

use carillon::plugins::{Answer, PluginFault};
use carillon_tests::strangers;

use super::{ctx, device, first_party, message, recipient};

fn seeds(target: &str) -> Vec<(PathBuf, Vec<u8>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/seeds").join(target);
    let paths = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path());
    let seeds: Vec<_> = paths.map(|path| (path.clone(), std::fs::read(&path).unwrap())).collect();
    assert!(!seeds.is_empty(), "{target} has no seeds");
    seeds
}

fn play(target: &str, meet: fn(&[u8])) {
    for (path, bytes) in seeds(target) {
        assert!(std::panic::catch_unwind(|| meet(&bytes)).is_ok(), "{}", path.display());
    }
}

#[test]
fn uploads_that_the_fuzzer_kept_are_met_as_promised() {
    play("upload", strangers::upload);
}

#[test]
fn answers_that_the_fuzzer_kept_are_met_as_promised() {
    play("answers", strangers::answers);
}

/// A guest may refuse its input; one that crashes on it is not finished.
fn refuses(fault: &PluginFault) -> bool {
    matches!(fault, PluginFault::InvalidConfig(_) | PluginFault::InvalidInput(_))
}

#[tokio::test]
async fn templates_that_the_fuzzer_kept_crash_no_guest() {
    let jinja = first_party("jinja").await;
    for (path, bytes) in seeds("template") {
        for config in strangers::template_configs(&bytes) {
            let named = jinja.variables(&ctx(&config)).await;
            assert!(named.as_ref().err().is_none_or(refuses), "{}: {named:?}", path.display());
            let job = carillon::plugins::RenderJob {
                message: message().into(),
                recipient: recipient().into(),
                device: device().into(),
                random: 7,
            };
            let made = jinja.render(&ctx(&config), vec![job]).await;
            let fault = made.and_then(|mut contents| contents.remove(0)).err();
            assert!(fault.as_ref().is_none_or(refuses), "{}: {fault:?}", path.display());
        }
    }
}

#[tokio::test]
async fn answers_of_providers_that_the_fuzzer_kept_are_understood() {
    let webhook = first_party("webhook").await;
    for (path, bytes) in seeds("provider_answer") {
        let Some((config, response)) = strangers::provider_answer(&bytes) else { continue };
        if webhook.check_config(config).is_err() {
            continue;
        }
        let progress = webhook.resume(&ctx(config), "", Answer::Response(response)).await;
        assert!(progress.as_ref().err().is_none_or(refuses), "{}: {progress:?}", path.display());
    }
}
