//! Components that mean harm, or are simply wrong: each ends in a refusal or a fault of its own, and costs nobody else anything.

use std::time::Duration;

use bytes::Bytes;
use carillon::device::LastOutcome;
use carillon::id::{Digest, VersionNo};
use carillon::plugins::{Answer, PaceFacts, PluginFault, PluginHost, PluginLimits, Refusal};

use super::{ctx, device, embedded, host, licence, load, outbound};
use carillon_tests::guests::{self, SCRATCH};

pub fn pace() -> PaceFacts {
    PaceFacts {
        device: device().into(),
        minute_of_day: 540,
        sent_this_minute: 1,
        sent_this_hour: 2,
        sent_today: 3,
        age_days: 4,
        failures_in_a_row: 0,
        last_delay_ms: 1000.0,
        last_outcome: LastOutcome::Sent,
        backlog: 10,
        text_length: 20,
        attributes: Vec::new(),
    }
}

/// Answers `ok(next { delay-ms, state })`.
pub fn next(delay_ms: &str, state_len: u32) -> String {
    format!(
        "(i32.store8 (i32.const {SCRATCH}) (i32.const 0))
         (f64.store (i32.const {}) (f64.const {delay_ms}))
         (i32.store (i32.const {}) (i32.const 1024))
         (i32.store (i32.const {}) (i32.const {state_len}))
         (i32.const {SCRATCH})",
        SCRATCH + 8,
        SCRATCH + 16,
        SCRATCH + 20,
    )
}

async fn delay_fault(host: &PluginHost, body: &str) -> PluginFault {
    load(host, guests::delay("hostile", body)).await.next_delay(&ctx("{}"), pace(), "").await.unwrap_err()
}

#[tokio::test]
async fn a_guest_of_a_few_lines_works() {
    let plugin = load(&host(), guests::delay("hostile", &next("7.5", 0))).await;
    for _ in 0..100 {
        assert_eq!(plugin.next_delay(&ctx("{}"), pace(), "").await.unwrap().delay_ms, 7.5);
    }
    let stats = plugin.stats();
    assert_eq!((stats.of("next-delay").unwrap().calls, stats.idle_instances), (100, 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_endless_loop_costs_only_its_own_calls() {
    let host = host();
    let looping = load(&host, guests::delay("hostile", "(loop $l (br $l)) unreachable")).await;
    let good = load(&host, embedded("uniform")).await;
    let config = ctx(r#"{"min_ms":1,"max_ms":2}"#);
    // More loops than there are threads for calls, and than the semaphore lets through.
    let loops: Vec<_> = (0..20)
        .map(|_| {
            let looping = looping.clone();
            tokio::spawn(async move { looping.next_delay(&ctx("{}"), pace(), "").await })
        })
        .collect();
    let answered = tokio::time::timeout(Duration::from_secs(5), async {
        for _ in 0..200 {
            good.next_delay(&config, pace(), "").await.unwrap();
        }
    });
    answered.await.expect("the other plugin keeps answering");
    for call in loops {
        assert_eq!(call.await.unwrap(), Err(PluginFault::Deadline));
    }
    assert_eq!(looping.stats().of("next-delay").unwrap().deadlines, 20);
}

#[tokio::test]
async fn memory_is_limited() {
    let eater = "(loop $l (br_if $l (i32.ne (memory.grow (i32.const 16)) (i32.const -1)))) unreachable";
    assert_eq!(delay_fault(&host(), eater).await, PluginFault::Memory);
    // The limit can be lower than what the pool has room for.
    let limits = PluginLimits { memory_bytes: 256 << 10, instances: 10, ..PluginLimits::default() };
    let small = PluginHost::new(limits, None).unwrap();
    let modest =
        format!("(if (i32.eq (memory.grow (i32.const 8)) (i32.const -1)) (then unreachable)) {}", next("1", 0));
    assert_eq!(delay_fault(&small, &modest).await, PluginFault::Memory);
    assert!(load(&host(), guests::delay("hostile", &modest)).await.next_delay(&ctx("{}"), pace(), "").await.is_ok());
}

#[tokio::test]
async fn answers_are_limited() {
    let host = host();
    let output = |fault: PluginFault| match fault {
        PluginFault::Output(text) => text,
        other => panic!("{other:?}"),
    };
    // A string of 1 GiB is not even there; one of 100 KiB is, and too much for a state; 5 KB come through to the check.
    output(delay_fault(&host, &next("1", 1 << 30)).await);
    assert!(output(delay_fault(&host, &next("1", 100 << 10)).await).contains("larger than an answer may be"));
    assert!(output(delay_fault(&host, &next("1", 5000)).await).contains("4096 bytes"));
    for delay in ["nan", "inf", "-1"] {
        assert!(output(delay_fault(&host, &next(delay, 0)).await).contains("finite"));
    }
    // 10,000 times the same 100 KiB: a gigabyte for the host, had it taken it.
    let many = format!(
        "(local $n i32)
         (loop $l
           (i32.store (i32.add (i32.const 16384) (i32.mul (local.get $n) (i32.const 8))) (i32.const 0))
           (i32.store (i32.add (i32.const 16388) (i32.mul (local.get $n) (i32.const 8))) (i32.const 102400))
           (local.set $n (i32.add (local.get $n) (i32.const 1)))
           (br_if $l (i32.lt_u (local.get $n) (i32.const 10000))))
         (i32.store8 (i32.const {SCRATCH}) (i32.const 0))
         (i32.store (i32.const {}) (i32.const 16384))
         (i32.store (i32.const {}) (i32.const 10000))
         (i32.const {SCRATCH})",
        SCRATCH + 4,
        SCRATCH + 8,
    );
    let template = load(&host, guests::template("hostile", "unreachable", &many)).await;
    assert!(output(template.variables(&ctx("{}")).await.unwrap_err()).contains("larger than an answer may be"));
}

#[tokio::test]
async fn crashes_are_told_apart_and_the_next_call_is_a_new_instance() {
    let host = host();
    let sender = load(&host, guests::sender("hostile", "unreachable", "(i32.load (i32.const -4))")).await;
    let PluginFault::Trap(start) = sender.start(&ctx("{}"), outbound()).await.unwrap_err() else { panic!() };
    assert!(start.contains("unreachable"), "{start}");
    let answer = Answer::NotSent("refused".into());
    let PluginFault::Trap(resume) = sender.resume(&ctx("{}"), "", answer).await.unwrap_err() else { panic!() };
    assert!(resume.contains("out of bounds"), "{resume}");
    assert_eq!(sender.stats().idle_instances, 0);
    assert_eq!(sender.stats().of("start").unwrap().traps, 1);
    // Calling a function of another world is the caller's mistake, not a crash of the server.
    assert!(sender.next_delay(&ctx("{}"), pace(), "").await.is_err());
}

async fn refusal(bytes: impl Into<Bytes>) -> Refusal {
    host().inspect(bytes.into()).await.unwrap_err()
}

fn component(wat: &str) -> Bytes {
    wat::parse_str(wat).unwrap().into()
}

#[tokio::test]
async fn what_does_not_fit_is_refused_with_a_reason() {
    let core = refusal(wat::parse_str("(module)").unwrap()).await;
    assert_eq!(core.code, "core-module");
    assert!(core.detail.contains("wasm-tools component new"));
    assert_eq!(refusal(Bytes::from_static(b"not wasm at all")).await.code, "not-wasm");
    assert_eq!(refusal(Bytes::from_static(b"\x7fELF and so on")).await.code, "precompiled");
    assert_eq!(refusal(Bytes::from_static(b"\0asm\x0d\0\x01\0\xff\xff")).await.code, "invalid-component");

    let empty = refusal(component("(component)")).await;
    assert_eq!(empty.code, "wrong-world");
    assert!(empty.detail.contains("delay-strategy"));
    let stranger =
        refusal(component(r#"(component (instance $i) (export "acme:thing/run@1.0.0" (instance $i)))"#)).await;
    assert!(stranger.code == "wrong-world" && stranger.detail.contains("acme:thing/run@1.0.0"), "{stranger:?}");
    let old =
        refusal(component(r#"(component (instance $i) (export "carillon:plugin/delay@0.9.0" (instance $i)))"#)).await;
    assert!(old.code == "wrong-world" && old.detail.contains("0.9.0"), "{old:?}");
    let hollow =
        refusal(component(r#"(component (instance $i) (export "carillon:plugin/delay@1.0.0" (instance $i)))"#)).await;
    assert!(hollow.code == "missing-export" && hollow.detail.contains("describe"), "{hollow:?}");

    let import = refusal(component(r#"(component (import "acme:net/http" (func)))"#)).await;
    assert!(import.code == "unexpected-import" && import.detail.contains("acme:net/http"), "{import:?}");

    let other_type = r#"(component
        (core module $m (func (export "f") (result i32) i32.const 1))
        (core instance $i (instantiate $m))
        (func $f (result u32) (canon lift (core func $i "f")))
        (instance $d (export "get" (func $f)))
        (export "carillon:plugin/describe@1.0.0" (instance $d))
        (instance $e (export "next-delay" (func $f)))
        (export "carillon:plugin/delay@1.0.0" (instance $e)))"#;
    let wrong = refusal(component(other_type)).await;
    assert!(wrong.code == "wrong-type" && wrong.detail.contains("get of carillon:plugin/describe"), "{wrong:?}");

    let limits = PluginLimits { max_component_bytes: 100, instances: 10, ..PluginLimits::default() };
    let small = PluginHost::new(limits, None).unwrap();
    assert_eq!(small.inspect(embedded("uniform")).await.unwrap_err().code, "too-large");
}

#[tokio::test]
async fn tables_are_limited() {
    let eater =
        "(loop $l (br_if $l (i32.ne (table.grow $t (ref.null func) (i32.const 1000)) (i32.const -1)))) unreachable)
        (table $t 1 funcref) (func";
    assert_eq!(delay_fault(&host(), eater).await, PluginFault::Memory);
    // One that is too large from the start is refused at the upload.
    let huge = refusal(guests::delay("hostile", "unreachable) (table 200000 funcref) (func")).await;
    assert!(huge.code == "invalid-component" && huge.detail.contains("table"), "{huge:?}");
    let memory = refusal(guests::delay("hostile", "unreachable) (memory 4096) (func")).await;
    assert!(memory.code == "invalid-component" && memory.detail.contains("memory"), "{memory:?}");
}

#[tokio::test]
async fn recursion_without_end_is_a_crash_of_the_guest_alone() {
    let host = host();
    let PluginFault::Trap(cause) = delay_fault(&host, "(call $r) unreachable) (func $r (call $r)").await else {
        panic!()
    };
    assert!(cause.contains("call stack exhausted"), "{cause}");
    let good = load(&host, embedded("uniform")).await;
    good.next_delay(&ctx(r#"{"min_ms":1,"max_ms":2}"#), pace(), "").await.unwrap();
}

#[tokio::test]
async fn sections_that_are_cut_off_or_changed_are_refused() {
    let whole = guests::delay("hostile", &next("1", 0));
    for cut in (9..whole.len()).step_by(97) {
        let cut = refusal(whole.slice(..cut)).await;
        assert!(["invalid-component", "wrong-world", "missing-export"].contains(&cut.code), "{cut:?}");
        assert!(!cut.detail.is_empty());
    }
    // Whatever a byte is changed to, the check ends with a plugin or a refusal.
    let host = host();
    for at in (8..whole.len()).step_by(61) {
        let mut changed = whole.to_vec();
        changed[at] ^= 0xff;
        if let Err(refused) = host.inspect(changed.into()).await {
            assert_ne!(refused.code, "internal", "{at}: {refused:?}");
        }
    }
}

#[tokio::test]
async fn functions_that_no_compiler_should_meet_are_refused() {
    // The engine's own limits, which keep one function from costing more than all others.
    let locals = format!("{} unreachable", "(local i64)".repeat(50_001));
    let many = refusal(guests::delay("hostile", &locals)).await;
    assert!(many.code == "invalid-component" && many.detail.contains("locals"), "{many:?}");
    let long = format!("{} unreachable", "(drop (i64.const 9223372036854775807))".repeat(700_000));
    let long = refusal(guests::delay("hostile", &long)).await;
    assert!(long.code == "invalid-component" && long.detail.contains("size"), "{long:?}");
}

#[tokio::test]
async fn a_loop_at_instantiation_is_refused() {
    let wat = r#"(component
        (core module $m (func $s (loop $l (br $l))) (start $s))
        (core instance (instantiate $m)))"#;
    // It has no world either, so it is built on one that has: the start function of a guest's module.
    assert_eq!(refusal(component(wat)).await.code, "wrong-world");
    let limits =
        PluginLimits { describe_deadline: Duration::from_millis(100), instances: 10, ..PluginLimits::default() };
    let host = PluginHost::new(limits, None).unwrap();
    let bytes = guests::delay("hostile", "unreachable) (start $s) (func $s (loop $l (br $l))");
    let refused = host.inspect(bytes).await.unwrap_err();
    assert!(refused.code == "instantiation-failed" && refused.detail.contains("100 ms"), "{refused:?}");
}

#[tokio::test]
async fn compiled_code_comes_from_the_cache_the_second_time() {
    let dir = tempfile::tempdir().unwrap();
    let limits = || PluginLimits { instances: 10, ..PluginLimits::default() };
    let bytes = embedded("uniform");
    let digest = Digest::of(&bytes);
    let first = PluginHost::new(limits(), Some(dir.path())).unwrap().inspect(bytes.clone()).await.unwrap();
    assert_eq!(first.digest, digest);
    let host = PluginHost::new(limits(), Some(dir.path())).unwrap();
    let plugin = host.load(VersionNo(7), first.kind, digest, first.info, licence(), Bytes::new()).await.unwrap();
    let next = plugin.next_delay(&ctx(r#"{"min_ms":5,"max_ms":5}"#), pace(), "").await.unwrap();
    assert_eq!(next.delay_ms, 5.0);
}

#[tokio::test]
async fn when_the_engine_has_no_instance_left_waiting_ones_make_room() {
    let limits = PluginLimits { instances: 2, ..PluginLimits::default() };
    let host = PluginHost::new(limits, None).unwrap();
    let mut plugins = Vec::new();
    for delay in ["1", "2", "3", "4"] {
        plugins.push(load(&host, guests::delay("hostile", &next(delay, 0))).await);
    }
    for _ in 0..3 {
        for plugin in &plugins {
            plugin.next_delay(&ctx("{}"), pace(), "").await.unwrap();
        }
    }
}
