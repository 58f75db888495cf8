//! Components made from a few lines of WAT: a core module in the shape that `wit-bindgen` gives its guests, made a component; or
//! left a core module, with the types that `wit-bindgen` adds. And where those are that were built of the examples.

use std::path::PathBuf;

use bytes::Bytes;

use crate::server::binary;

/// Where the example plugins were built before the tests, a folder for each language.
pub fn examples() -> PathBuf {
    let target = || binary().parent().expect("target/<profile>").with_file_name("examples");
    std::env::var_os("CARILLON_EXAMPLES").map_or_else(target, PathBuf::from)
}

/// A delay strategy whose `next-delay` has this body: its parameter is local 0, its result points at what it answers.
pub fn delay(name: &str, body: &str) -> Bytes {
    component(
        &[name, "1.0.0", "Means harm.", OBJECT, ""],
        DESCRIBED,
        include_str!("guests/delay.wat"),
        &next_delay(body),
    )
}

fn next_delay(body: &str) -> String {
    format!(r#"(func (export "carillon:plugin/delay@1.0.0#next-delay") (param i32) (result i32) {body})"#)
}

/// A delay strategy whose `describe` says these texts: name, version, summary, schema of the configuration and of devices.
pub fn described(texts: &[&str; 5]) -> Bytes {
    component(texts, DESCRIBED, include_str!("guests/delay.wat"), &next_delay("unreachable"))
}

/// A delay strategy whose `describe` has this body; it points at what it says, and [`DESCRIBED`] at what would be right.
pub fn describing(body: &str) -> Bytes {
    component(&["hostile", "1.0.0", "", OBJECT, ""], body, include_str!("guests/delay.wat"), &next_delay("unreachable"))
}

/// A delay strategy that also imports this instance, as in `"wasi:http/types@0.2.0" (instance)`.
pub fn importing(import: &str) -> Bytes {
    let world = include_str!("guests/delay.wat").replace(INSTANTIATE, &format!("(import {import}) {INSTANTIATE}"));
    component(&["hostile", "1.0.0", "", OBJECT, ""], DESCRIBED, &world, &next_delay("unreachable"))
}

/// A delay strategy of so many functions, each of which the compiler has to work for.
pub fn laborious(functions: usize) -> Bytes {
    let branches = "(if (local.get 0) (then (local.set 0 (i32.load (local.get 0)))))".repeat(1_000);
    let function = format!("(func (param i32) {branches})");
    let body = format!("unreachable) {} (func", function.repeat(functions));
    component(
        &["laborious", "1.0.0", "Means harm.", OBJECT, ""],
        DESCRIBED,
        include_str!("guests/delay.wat"),
        &next_delay(&body),
    )
}

/// A delay strategy that has its standard output: `$stdout` gives a handle of it, and `$write` writes 4096 bytes (a line of
/// `x`) to the handle that it is given.
pub fn writing(name: &str, body: &str) -> Bytes {
    let world = include_str!("guests/delay.wat").replace(INSTANTIATE, include_str!("guests/stdout.wat"));
    let functions = format!(
        "{} (func $write (param i32) (call $write-bytes (local.get 0) (i32.const 0) (i32.const 4096) (i32.const 8192)))",
        next_delay(body)
    );
    component(&[name, "1.0.0", "Means harm.", OBJECT, ""], DESCRIBED, &world, &functions)
}

/// A sender whose `start` and `resume` have these bodies.
pub fn sender(name: &str, start: &str, resume: &str) -> Bytes {
    sender_of(name, "1.0.0", start, resume)
}

/// A sender of this version whose `start` and `resume` have these bodies.
pub fn sender_of(name: &str, version: &str, start: &str, resume: &str) -> Bytes {
    let functions = sender_functions(start, resume);
    component(&[name, version, "Means harm.", OBJECT, ""], DESCRIBED, include_str!("guests/sender.wat"), &functions)
}

fn sender_functions(start: &str, resume: &str) -> String {
    format!(
        r#"(func (export "carillon:plugin/sender@1.0.0#start") (param i32) (result i32) {start})
           (func (export "carillon:plugin/sender@1.0.0#resume")
             (param i32 i32 f64 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32) (result i32) {resume})"#
    )
}

/// A sender whose `start` asks for this request: method, URL, headers, and a body of text.
pub fn asking(method: &str, url: &str, headers: &[(&str, &str)], body: &str) -> Bytes {
    let (request, data) = request(method, url, headers, body);
    sender("asking", &format!("{request}) {data} (func"), "unreachable")
}

/// A sender that asks for this request again and again.
pub fn asking_again(name: &str, method: &str, url: &str, headers: &[(&str, &str)], body: &str) -> Bytes {
    let (request, data) = request(method, url, headers, body);
    sender(name, &format!("{request}) {data} (func"), &request)
}

/// A sender whose `describe` wants these hosts and secrets, and that asks for this request: the message was sent when it is
/// answered, and is to be tried again when it is not.
pub fn wanting(
    name: &str,
    [hosts, secrets]: [&[&str]; 2],
    (method, url): (&str, &str),
    headers: &[(&str, &str)],
    body: &str,
) -> Bytes {
    let (request, data) = request(method, url, headers, body);
    // `ok(progress { step: done(accepted(…) or transient(…)), account-state: none })`, where everything else is zero: also for
    // the next start. What it was called with is not looked at, so its heap begins anew.
    let clear = |step: u32| {
        format!(
            "(global.set $heap (i32.const 8192)) (memory.fill (i32.const {SCRATCH}) (i32.const 0) (i32.const 256))
             (i32.store8 (i32.const {}) (i32.const {step}))",
            SCRATCH + 8
        )
    };
    let start = format!("{} {request}) {data} (func", clear(0));
    // The answer's case is parameter 6; 0 is a response.
    let resume = format!(
        "{} (if (local.get 6) (then (i32.store8 (i32.const {}) (i32.const 3)))) (i32.const {SCRATCH})",
        clear(1),
        SCRATCH + 16
    );
    let functions = sender_functions(&start, &resume);
    let texts = [name, "1.0.0", "Wants something.", OBJECT, ""];
    let fields = fields_wanting(&texts, [hosts, secrets], DESCRIBED, "", &functions);
    let module = format!("(core module $main {fields})");
    wat::parse_str(include_str!("guests/sender.wat").replace(";; MODULE", &module)).unwrap().into()
}

/// A function's body that asks for a request, and the data that it needs.
fn request(method: &str, url: &str, headers: &[(&str, &str)], body: &str) -> (String, String) {
    // Above what arguments take; the list of headers comes last, so that it is aligned.
    let (base, mut data) = (65_536u32, Vec::new());
    let mut put = |text: &str| {
        let at = base + u32::try_from(data.len()).unwrap();
        data.extend(text.as_bytes());
        (at, u32::try_from(text.len()).unwrap())
    };
    let (method, url, body) = (put(method), put(url), put(body));
    let texts: Vec<_> = headers.iter().flat_map(|(name, value)| [put(name), put(value)]).collect();
    data.resize(data.len().next_multiple_of(4), 0);
    let list = (base + u32::try_from(data.len()).unwrap(), u32::try_from(headers.len()).unwrap());
    data.extend(texts.iter().flat_map(|(at, len)| [at.to_le_bytes(), len.to_le_bytes()].concat()));
    // `ok(progress { step: request(round { request, state: "" }), account-state: none })`, where everything else is zero.
    let round = SCRATCH + 16;
    let mut stores = String::new();
    for (offset, (at, len)) in [(0, method), (8, url), (16, list), (28, body)] {
        stores += &format!(
            "(i32.store (i32.const {}) (i32.const {at})) (i32.store (i32.const {}) (i32.const {len}))",
            round + offset,
            round + offset + 4
        );
    }
    let request = format!(
        "{stores} (i32.store8 (i32.const {}) (i32.const 1)) (f64.store (i32.const {}) (f64.const 5000)) (i32.const {SCRATCH})",
        round + 24,
        round + 40,
    );
    (request, format!(r#"(data (i32.const {base}) "{}")"#, escape(&data)))
}

/// A template whose `render` and `variables` have these bodies.
pub fn template(name: &str, render: &str, variables: &str) -> Bytes {
    let functions = render_and_variables(render, variables);
    component(&[name, "1.0.0", "Means harm.", OBJECT, ""], DESCRIBED, include_str!("guests/template.wat"), &functions)
}

fn render_and_variables(render: &str, variables: &str) -> String {
    format!(
        r#"(func (export "carillon:plugin/template@1.0.0#render")
             (param i32 i32 f64 i32 i32 i32) (result i32) {render})
           (func (export "carillon:plugin/template@1.0.0#variables")
             (param i32 i32 f64 i32) (result i32) {variables})"#
    )
}

/// A template of this name and version that says both, as in `greet1.0.0`, after a body that may do something else first; its local
/// 3 is the call's random number.
pub fn saying(name: &str, version: &str, first: &str) -> Bytes {
    let element = SCRATCH + 64;
    let length = name.len() + version.len();
    let functions = format!(
        r#"(func (export "carillon:plugin/template@1.0.0#render")
             (param i32 i32 f64 i32 i32 i32) (result i32) {first}
             (i32.store8 (i32.const {SCRATCH}) (i32.const 0))
             (i32.store (i32.const {}) (i32.const {element}))
             (i32.store (i32.const {}) (i32.const 1))
             (i32.store8 (i32.const {element}) (i32.const 0))
             (i32.store (i32.const {}) (i32.const 2048))
             (i32.store (i32.const {}) (i32.const {length}))
             (i32.const {SCRATCH}))
           (func (export "carillon:plugin/template@1.0.0#variables") (param i32 i32 f64 i32) (result i32)
             (i32.store8 (i32.const {SCRATCH}) (i32.const 0))
             (i32.store (i32.const {}) (i32.const {element}))
             (i32.store (i32.const {}) (i32.const 0))
             (i32.const {SCRATCH}))"#,
        SCRATCH + 4,
        SCRATCH + 8,
        element + 4,
        element + 8,
        SCRATCH + 4,
        SCRATCH + 8,
    );
    component(&[name, version, "Greets.", OBJECT, ""], DESCRIBED, include_str!("guests/template.wat"), &functions)
}

/// A sender of this name and version that asks for this request, and crashes when it is answered.
pub fn asking_once(name: &str, version: &str, method: &str, url: &str, body: &str) -> Bytes {
    let (request, data) = request(method, url, &[], body);
    sender_of(name, version, &format!("{request}) {data} (func"), "unreachable")
}

/// A body that crashes one call in `n`, by the call's random number.
pub fn crashing_once_in(n: u32) -> String {
    format!("(if (i32.eqz (i32.rem_u (local.get 3) (i32.const {n}))) (then unreachable))")
}

/// Where bodies may write: below the strings, above nothing.
pub const SCRATCH: u32 = 16;
/// The body of a `describe` that says what it should.
pub const DESCRIBED: &str = "(i32.const 1024)";
/// Where the record of `describe` is.
pub const RECORD: u32 = 1024;

const OBJECT: &str = r#"{"type":"object"}"#;
const INSTANTIATE: &str = "(core instance $main (;0;) (instantiate $main))";

fn escape(bytes: &[u8]) -> String {
    bytes.iter().map(|b| format!("\\{b:02x}")).collect()
}

fn component(texts: &[&str; 5], describe: &str, world: &str, functions: &str) -> Bytes {
    let imports = if world.contains("(with \"wasi\"") {
        r#"(import "wasi" "write" (func $write-bytes (param i32 i32 i32 i32)))
           (import "wasi" "get-stdout" (func $stdout (result i32)))"#
    } else {
        ""
    };
    let module = format!("(core module $main {})", fields(texts, describe, imports, functions));
    wat::parse_str(world.replace(";; MODULE", &module)).unwrap().into()
}

/// A core module with the types of a world: what a compiler makes before a component linker has seen it. `wit` is the contract
/// that its author had.
fn typed(wit: &str, world: &str, fields: &str) -> Bytes {
    let mut module = wat::parse_str(format!("(module {fields})")).unwrap();
    let mut resolve = wit_parser::Resolve::default();
    let package = resolve.push_source("plugin.wit", wit).unwrap();
    let world = resolve.select_world(&[package], Some(world)).unwrap();
    let utf8 = wit_component::StringEncoding::UTF8;
    wit_component::embed_component_metadata(&mut module, &resolve, world, utf8).unwrap();
    module.into()
}

/// The contract as it is.
pub const WIT: &str = include_str!("../../wit/plugin.wit");

/// A delay strategy as a core module that has these imports.
pub fn delay_module(name: &str, imports: &str, body: &str) -> Bytes {
    let texts = [name, "1.0.0", "A core module.", OBJECT, ""];
    typed(WIT, "delay-strategy", &fields(&texts, DESCRIBED, imports, &next_delay(body)))
}

/// A template as a core module whose author had another contract.
pub fn template_module(wit: &str, imports: &str, render: &str, variables: &str) -> Bytes {
    let texts = ["other", "1.0.0", "Of another contract.", OBJECT, ""];
    typed(wit, "message-template", &fields(&texts, DESCRIBED, imports, &render_and_variables(render, variables)))
}

/// A sender that reads webhooks, whose `parse` has this body; a core module.
pub fn receiving(name: &str, parse: &str) -> Bytes {
    // `capabilities` is the last of eight lists and texts of `describe`: here it has one pair.
    let pair = [(70_016u32, 8u32), (70_024, 4)];
    let list: Vec<u8> = pair.iter().flat_map(|(at, len)| [at.to_le_bytes(), len.to_le_bytes()].concat()).collect();
    let describe = capable();
    let functions = format!(
        r#"(data (i32.const 70000) "{}receiptstrue")
           (func (export "carillon:plugin/sender@1.0.0#start") (param i32) (result i32) unreachable)
           (func (export "carillon:plugin/sender@1.0.0#resume")
             (param i32 i32 f64 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32) (result i32) unreachable)
           (func (export "carillon:plugin/receipts@1.0.0#parse")
             (param i32 i32 f64 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32) (result i32) {parse})"#,
        escape(&list),
    );
    typed(
        WIT,
        "device-sender-receipts",
        &fields(&[name, "1.0.0", "Reads webhooks.", OBJECT, ""], &describe, "", &functions),
    )
}

/// The body of a `describe` with one capability, whose pair of texts is at 70,000.
fn capable() -> String {
    format!(
        "(i32.store (i32.const {}) (i32.const 70000)) (i32.store (i32.const {}) (i32.const 1)) {DESCRIBED}",
        RECORD + 56,
        RECORD + 60,
    )
}

/// A sender that says whether a device can send, by a check whose `start` and `resume` have these bodies; a core module.
pub fn checking(name: &str, start: &str, resume: &str) -> Bytes {
    let pair = [(70_016u32, 6u32), (70_022, 4)];
    let list: Vec<u8> = pair.iter().flat_map(|(at, len)| [at.to_le_bytes(), len.to_le_bytes()].concat()).collect();
    let functions = format!(
        r#"(data (i32.const 70000) "{}healthtrue")
           {}
           (func (export "carillon:plugin/health@1.0.0#start")
             (param i32 i32 f64 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32) (result i32) {start})
           (func (export "carillon:plugin/health@1.0.0#resume")
             (param i32 i32 f64 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32) (result i32) {resume})"#,
        escape(&list),
        sender_functions("unreachable", "unreachable"),
    );
    let texts = [name, "1.0.0", "Looks at devices.", OBJECT, ""];
    typed(WIT, "device-sender-health", &fields(&texts, &capable(), "", &functions))
}

/// A sender whose check asks for this request again and again.
pub fn checking_again(name: &str, method: &str, url: &str) -> Bytes {
    // `ok(check-progress { step: request(…), … })` lies in memory as what `start` of a send answers.
    let (request, data) = request(method, url, &[], "");
    checking(name, &format!("{request}) {data} (func"), &request)
}

/// A body of a check's `start`: the device is down, and is to be looked at again in so many milliseconds.
pub fn down(retry_ms: &str) -> String {
    // `ok(check-progress { step: done(down(outage { retry-ms: some(…), reason })), … })`, where everything else is zero.
    let [step, verdict, retry, ms] = [SCRATCH + 8, SCRATCH + 16, SCRATCH + 24, SCRATCH + 32];
    format!(
        "(i32.store8 (i32.const {step}) (i32.const 1)) (i32.store8 (i32.const {verdict}) (i32.const 1))
         (i32.store8 (i32.const {retry}) (i32.const 1)) (f64.store (i32.const {ms}) (f64.const {retry_ms}))
         (i32.const {SCRATCH})"
    )
}

/// A body of `parse`: so many events of messages that arrived, of which it says nothing else, and an answer with this status and a
/// text of this length.
pub fn parsed(events: u32, status: u32, text: u32) -> String {
    // Each event takes 64 bytes of fresh memory, which is zero: no id, no address, 1970, delivered.
    let pages = (events * 64).max(text).div_ceil(65_536).min(1_000);
    format!(
        "(drop (memory.grow (i32.const {pages})))
         (i32.store8 (i32.const {SCRATCH}) (i32.const 0))
         (i32.store (i32.const {}) (i32.const 131072))
         (i32.store (i32.const {}) (i32.const {events}))
         (i32.store (i32.const {}) (i32.const {status}))
         (i32.store (i32.const {}) (i32.const 131072))
         (i32.store8 (i32.const {}) (i32.const 1))
         (i32.store (i32.const {}) (i32.const 131072))
         (i32.store (i32.const {}) (i32.const {text}))
         (i32.const {SCRATCH})",
        SCRATCH + 4,
        SCRATCH + 8,
        SCRATCH + 12,
        SCRATCH + 16,
        SCRATCH + 24,
        SCRATCH + 28,
        SCRATCH + 32,
    )
}

/// A body of `parse`: nothing happened, and the provider is to be answered with these headers and this text.
pub fn answering(headers: &[(&str, &str)], text: &str) -> String {
    // Above what `describe` says; the list comes first, so that it is aligned.
    let base = 80_000u32;
    let first = base + 16 * u32::try_from(headers.len()).unwrap();
    let mut strings = Vec::new();
    let mut put = |text: &str| {
        let at = first + u32::try_from(strings.len()).unwrap();
        strings.extend(text.as_bytes());
        (at, u32::try_from(text.len()).unwrap())
    };
    let texts: Vec<_> = headers.iter().flat_map(|(name, value)| [put(name), put(value)]).collect();
    let (at, length) = put(text);
    let list: Vec<u8> = texts.iter().flat_map(|(at, len)| [at.to_le_bytes(), len.to_le_bytes()].concat()).collect();
    // `ok(parsed { events, response: { status, headers, body: text(…) } })`, where everything else is zero.
    let mut stores = String::new();
    let count = u32::try_from(headers.len()).unwrap();
    for (offset, value) in [(12, 200), (16, base), (20, count), (24, 1), (28, at), (32, length)] {
        stores += &format!("(i32.store (i32.const {}) (i32.const {value}))", SCRATCH + offset);
    }
    let data = escape(&[list, strings].concat());
    format!(r#"{stores} (i32.const {SCRATCH})) (data (i32.const {base}) "{data}") (func"#)
}

/// What is in the core module of every guest.
fn fields(texts: &[&str; 5], describe: &str, imports: &str, functions: &str) -> String {
    fields_wanting(texts, [&[], &[]], describe, imports, functions)
}

/// The same for one whose `describe` wants these hosts and secrets.
fn fields_wanting(texts: &[&str; 5], wanted: [&[&str]; 2], describe: &str, imports: &str, functions: &str) -> String {
    let (mut record, mut strings) = (Vec::new(), Vec::new());
    let put = |strings: &mut Vec<u8>, text: &str| {
        let at = 2048 + u32::try_from(strings.len()).unwrap();
        strings.extend(text.as_bytes());
        [at.to_le_bytes(), u32::try_from(text.len()).unwrap().to_le_bytes()].concat()
    };
    for text in texts {
        record.extend(put(&mut strings, text));
    }
    // Hosts, secrets and no capabilities: empty lists have a place, too.
    for list in [wanted[0], wanted[1], &[]] {
        let elements: Vec<u8> = list.iter().flat_map(|text| put(&mut strings, text)).collect();
        strings.resize(strings.len().next_multiple_of(4), 0);
        let at = 2048 + u32::try_from(strings.len()).unwrap();
        record.extend([at.to_le_bytes(), u32::try_from(list.len()).unwrap().to_le_bytes()].concat());
        strings.extend(elements);
    }
    format!(
        r#"{imports}
          (memory (export "memory") 2)
          (global $heap (mut i32) (i32.const 8192))
          (data (i32.const {RECORD}) "{}")
          (data (i32.const 2048) "{}")
          (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32) (local i32)
            (local.set 4 (i32.and (i32.add (global.get $heap) (i32.const 7)) (i32.const -8)))
            (global.set $heap (i32.add (local.get 4) (local.get 3)))
            (local.get 4))
          (func (export "carillon:plugin/describe@1.0.0#get") (result i32) {describe})
          {functions}"#,
        escape(&record),
        escape(&strings),
    )
}
