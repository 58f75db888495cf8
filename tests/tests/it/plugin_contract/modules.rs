//! Core modules, which the host makes components of; and what an upload that does not fit is told.

use bytes::Bytes;
use carillon::plugins::{PluginHost, Refusal};

use super::hostile::{next, pace};
use super::{ctx, host, load};
use carillon_tests::guests::{self, SCRATCH};

async fn refusal(host: &PluginHost, bytes: Bytes) -> Refusal {
    host.inspect(bytes).await.unwrap_err()
}

#[tokio::test]
async fn a_core_module_with_its_types_is_made_a_component() {
    let host = host();
    let bytes = guests::delay_module("core", "", &next("12.5", 0));
    assert!(bytes.starts_with(b"\0asm\x01\0\0\0"));
    let seen = host.inspect(bytes.clone()).await.unwrap();
    assert_eq!(seen.digest, carillon::id::Digest::of(&bytes), "its name is what was uploaded");
    let plugin = load(&host, bytes).await;
    assert_eq!(plugin.next_delay(&ctx("{}"), pace(), "").await.unwrap().delay_ms, 12.5);
}

#[tokio::test]
async fn a_core_module_of_the_first_preview_gets_an_adapter() {
    // The delay is what the old system call for randomness gives. The adapter wants memory of its own from the guest, which has
    // little.
    let import = r#"(import "wasi_snapshot_preview1" "random_get" (func $random (param i32 i32) (result i32)))"#;
    let body = format!(
        "(if (i32.lt_u (memory.size) (i32.const 8)) (then (drop (memory.grow (i32.const 8)))))
         (i64.store (i32.const {0}) (i64.const 0)) (drop (call $random (i32.const {0}) (i32.const 4)))
         (i32.store8 (i32.const {SCRATCH}) (i32.const 0))
         (f64.store (i32.const {1}) (f64.convert_i64_u (i64.load (i32.const {0}))))
         (i32.store (i32.const {2}) (i32.const 1024)) (i32.store (i32.const {3}) (i32.const 0)) (i32.const {SCRATCH})",
        SCRATCH + 64,
        SCRATCH + 8,
        SCRATCH + 16,
        SCRATCH + 20,
    );
    let host = host();
    let plugin = load(&host, guests::delay_module("old", import, &body)).await;
    let mut context = ctx("{}");
    let first = plugin.next_delay(&context, pace(), "").await.unwrap().delay_ms;
    let same = plugin.next_delay(&context, pace(), "").await.unwrap().delay_ms;
    context.random += 1;
    let other = plugin.next_delay(&context, pace(), "").await.unwrap().delay_ms;
    assert!(first > 0.0 && first == same && first != other, "{first} {same} {other}");
}

#[tokio::test]
async fn a_core_module_without_its_types_is_told_how_to_be_built() {
    let host = host();
    let bare = refusal(&host, wat::parse_str("(module)").unwrap().into()).await;
    assert!(bare.code == "core-module" && bare.detail.contains("wit-bindgen"), "{bare:?}");
    // One that says that it exports what it does not.
    let hollow = guests::delay_module("core", "", "unreachable");
    let cut: Bytes = {
        let text = String::from_utf8_lossy(&hollow).into_owned();
        assert!(text.contains("delay@1.0.0#next-delay"));
        let mut bytes = hollow.to_vec();
        let at = bytes.windows(10).position(|w| w == b"next-delay").unwrap();
        bytes[at..at + 10].copy_from_slice(b"else-delay");
        bytes.into()
    };
    let lacking = refusal(&host, cut).await;
    assert!(lacking.code == "core-module" && lacking.detail.contains("next-delay"), "{lacking:?}");
}

#[tokio::test]
async fn everything_that_does_not_fit_is_told_at_once() {
    let host = host();
    let wit = guests::WIT
        .replace("invalid-input(string),", "invalid-recipient(string),")
        .replace("        text: string,\n        /// A subject", "        text: list<u8>,\n        /// A subject")
        .replace(
            "variables: func(ctx: context) -> result<list<string>, plugin-error>;",
            "variables: func(ctx: context) -> list<string>;",
        )
        .replace(
            "world message-template {",
            "interface store { get: func(key: string) -> option<string>; }\n world message-template { import store; ",
        );
    assert_ne!(wit, guests::WIT);
    let import = r#"(import "carillon:plugin/store@1.0.0" "get" (func (param i32 i32 i32)))"#;
    let refused = refusal(&host, guests::template_module(&wit, import, "unreachable", "unreachable")).await;
    let told: Vec<String> = refused.misfits.iter().map(|m| format!("{}: {}", m.item, m.problem)).collect();
    for wanted in [
        "import carillon:plugin/store@1.0.0: extra: the host does not offer it; found `get: func(key: string) -> option<string>`",
        "type carillon:plugin/types@1.0.0#plugin-error: has another structure: wanted `variant plugin-error { \
         invalid-config(string), invalid-input(string), internal(string) }`, found `variant plugin-error { \
         invalid-config(string), invalid-recipient(string), internal(string) }`",
        "export carillon:plugin/template@1.0.0#variables: has another type: wanted `variables: func(ctx: context) -> \
         result<list<string>, plugin-error>`, found `variables: func(ctx: context) -> list<string>`",
    ] {
        assert!(told.iter().any(|line| line == wanted), "{wanted}\nis not in\n{told:#?}");
    }
    let content = told.iter().find(|line| line.starts_with("type carillon:plugin/types@1.0.0#content")).unwrap();
    assert!(content.contains("text: string") && content.contains("text: list<u8>"), "{content}");
    assert_eq!(told.len(), 4, "each once: {told:#?}");

    // Missing: a function, and an interface.
    let wit = guests::WIT.replace("variables: func(ctx: context) -> result<list<string>, plugin-error>;", "");
    let refused = refusal(&host, guests::template_module(&wit, "", "unreachable", "unreachable")).await;
    assert_eq!(refused.misfits.len(), 1, "{refused:?}");
    let missing = &refused.misfits[0];
    assert_eq!(missing.item, "export carillon:plugin/template@1.0.0#variables");
    assert!(missing.problem.starts_with("missing: wanted `variables: func(ctx: context) -> result<"), "{missing:?}");
    let hollow = r#"(component (instance $i) (export "carillon:plugin/delay@1.0.0" (instance $i)))"#;
    let refused = refusal(&host, wat::parse_str(hollow).unwrap().into()).await;
    let items: Vec<_> = refused.misfits.iter().map(|m| m.item.as_str()).collect();
    assert_eq!(
        items,
        ["export carillon:plugin/describe@1.0.0", "export carillon:plugin/delay@1.0.0#next-delay"],
        "{refused:?}"
    );
}
