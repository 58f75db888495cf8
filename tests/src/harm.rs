//! What plugins that mean harm do, one entry for each row of `docs/HOSTILE-PLUGINS.md` that can be done to a running server.

use bytes::Bytes;

use crate::guests::{self, RECORD, SCRATCH};

/// What somebody does with a plugin.
pub enum Deed {
    /// Runs a campaign with it: which of the campaign's plugins it is, and the component. Resumed whenever it is paused.
    Campaign(&'static str, Bytes),
    /// Uploads it, again and again.
    Upload(Bytes),
}

/// A deed and the row that it stands for.
pub struct Harm {
    /// The row's first words.
    pub row: &'static str,
    /// The plugin's name, where it gets one.
    pub name: &'static str,
    /// What is done.
    pub deed: Deed,
    /// Whether it was granted what it asks for: everything, for a sender whose configuration decides, but for secrets.
    pub granted: bool,
}

/// Has no end.
pub const LOOP: &str = "(loop $l (br $l)) unreachable";
const EATER: &str = "(loop $l (br_if $l (i32.ne (memory.grow (i32.const 16)) (i32.const -1)))) unreachable";
const TABLES: &str =
    "(loop $l (br_if $l (i32.ne (table.grow $t (ref.null func) (i32.const 1000)) (i32.const -1)))) unreachable)
    (table $t 1 funcref) (func";
const NONE: &str = "unreachable";
const OBJECT: &str = r#"{"type":"object"}"#;

/// Everything. `endless` is the port of a server on loopback whose answers have no end; the server has no other grant.
pub fn all(endless: u16) -> Vec<Harm> {
    let mut out = Vec::new();
    let mut campaign =
        |row, name, part, bytes| out.push(Harm { row, name, deed: Deed::Campaign(part, bytes), granted: true });
    campaign("loop without end in a call", "looping", "template", guests::template("looping", LOOP, NONE));
    campaign("grow its memory without end", "eater", "template", guests::template("eater", EATER, NONE));
    campaign("grow a table without end", "tables", "template", guests::template("tables", TABLES, NONE));
    let recursion = "(call $r) unreachable) (func $r (call $r)";
    campaign("call itself without end", "recursion", "template", guests::template("recursion", recursion, NONE));
    campaign("crash in each call", "crashing", "sender", guests::sender("crashing", NONE, NONE));
    campaign("more loops at once than there are threads", "loops", "delay", guests::delay("loops", LOOP));
    let gigabyte = rendered(1 << 30);
    campaign("a string that says it has 1 GiB", "gigabyte", "template", guests::template("gigabyte", &gigabyte, NONE));
    campaign("10,000 times the same 100 KiB", "repeats", "template", guests::template("repeats", &media(), NONE));
    campaign("not a number, infinity or a negative as a delay", "nan", "delay", guests::delay("nan", &next("nan")));
    let flood = format!(
        "(local $n i32) (local $out i32)
         (local.set $out (call $stdout))
         (loop $l
           (call $write (local.get $out))
           (local.set $n (i32.add (local.get $n) (i32.const 1)))
           (br_if $l (i32.lt_u (local.get $n) (i32.const 2000))))
         {}",
        next("1")
    );
    campaign("write 8 MB to its standard output", "flood", "delay", guests::writing("flood", &flood));
    let leak = "(loop $l (drop (call $stdout)) (br $l)) unreachable";
    campaign("ask for handles and never give them back", "leak", "delay", guests::writing("leak", leak));

    let asks = |name, url: &str, headers: &[(&str, &str)]| guests::asking_again(name, "POST", url, headers, "{}");
    let metadata = asks("metadata", "http://169.254.169.254/latest/meta-data", &[]);
    campaign("loopback, private, link-local, 169.254.169.254", "metadata", "sender", metadata);
    let named = asks("named", "http://localhost:1/", &[]);
    campaign("a name that leads into a private network", "named", "sender", named);
    let sink = format!("http://127.0.0.1:{endless}/");
    let breaks = asks("breaks", &sink, &[("x-a", "b\r\nx-injected: c")]);
    campaign("line breaks in header names and values", "breaks", "sender", breaks);
    campaign("its own `Host`, `Content-Length`", "own-host", "sender", asks("own-host", &sink, &[("Host", "x")]));
    campaign("a huge or endless answer of its own server", "endless", "sender", asks("endless", &sink, &[]));
    let again = guests::asking_again("again", "POST", "simulator:", &[], r#"{"answer":{"status":200}}"#);
    campaign("requests without end for one message", "again", "sender", again);
    let secret = [("x-a", "{{secret:THEIRS}}")];
    campaign("a secret that it was not granted", "secrets", "sender", asks("secrets", &sink, &secret));
    let in_url = asks("in-url", &format!("{sink}?q={{{{secret:THEIRS}}}}"), &[]);
    campaign("a secret in a URL", "in-url", "sender", in_url);

    let elsewhere = Deed::Campaign("sender", asks("ungranted", "https://api.example.com/", &[]));
    out.push(Harm { row: "a host that it was not granted", name: "ungranted", deed: elsewhere, granted: false });

    let mut upload = |row, bytes| out.push(Harm { row, name: "", deed: Deed::Upload(bytes), granted: false });
    let whole = guests::delay("hostile", &next("1"));
    upload(
        "loop without end when an instance is made",
        guests::delay("hostile", "unreachable) (start $s) (func $s (loop $l (br $l))"),
    );
    upload("loop without end in `describe`", guests::describing(LOOP));
    upload(
        "a memory or table that is too large from the start",
        guests::delay("hostile", "unreachable) (table 200000 funcref) (func"),
    );
    upload("be too large", vec![0; (64 << 20) + 1].into());
    upload("exhaust the compiler with many functions", guests::laborious(400));
    let long = format!("{} unreachable", "(drop (i64.const 9223372036854775807))".repeat(700_000));
    upload("exhaust it with one function", guests::delay("hostile", &long));
    upload("end in the middle of a section", whole.slice(..whole.len() - 97));
    upload("compiled machine code", Bytes::from_static(b"\x7fELF and so on"));
    upload("a name with a path, a version that is none", guests::described(&["../../etc", "1.0.0", "", OBJECT, ""]));
    let hosts = format!("(i32.store (i32.const {}) (i32.const 0x7fffffff)) (i32.const {RECORD})", RECORD + 44);
    upload("two billion hosts", guests::describing(&hosts));
    let fetched = r#"{"$ref":"http://169.254.169.254/latest"}"#;
    upload("a schema that the host would have to fetch", guests::described(&["hostile", "1.0.0", "", fetched, ""]));
    let itself = r##"{"allOf":[{"$ref":"#"}]}"##;
    upload("a schema that refers to itself", guests::described(&["hostile", "1.0.0", "", itself, ""]));
    upload("the exports of another world", other_world());
    upload("the name of another plugin", guests::described(&["jinja", "1.0.0", "", OBJECT, ""]));
    upload("import HTTP, sockets that connect", guests::importing(r#""wasi:http/types@0.2.0" (instance)"#));
    out
}

/// Answers `ok(next { delay-ms, state: "" })`.
fn next(delay_ms: &str) -> String {
    format!(
        "(i32.store8 (i32.const {SCRATCH}) (i32.const 0)) (f64.store (i32.const {}) (f64.const {delay_ms}))
         (i32.store (i32.const {}) (i32.const 1024)) (i32.store (i32.const {}) (i32.const 0)) (i32.const {SCRATCH})",
        SCRATCH + 8,
        SCRATCH + 16,
        SCRATCH + 20,
    )
}

/// Answers `ok([ok(content { text, … })])` of a text that says it is this long.
fn rendered(length: u32) -> String {
    let element = SCRATCH + 64;
    format!(
        "(i32.store8 (i32.const {SCRATCH}) (i32.const 0)) (i32.store (i32.const {}) (i32.const {element}))
         (i32.store (i32.const {}) (i32.const 1)) (i32.store8 (i32.const {element}) (i32.const 0))
         (i32.store (i32.const {}) (i32.const 1024)) (i32.store (i32.const {}) (i32.const {length})) (i32.const {SCRATCH})",
        SCRATCH + 4,
        SCRATCH + 8,
        element + 4,
        element + 8,
    )
}

/// Answers one content with 4,096 attachments, each of twice the same 100 KiB.
fn media() -> String {
    let element = SCRATCH + 64;
    format!(
        "(local $n i32) (drop (memory.grow (i32.const 2)))
         (loop $l
           (i32.store offset=131072 (i32.shl (local.get $n) (i32.const 3)) (i32.const 0))
           (i32.store offset=131076 (i32.shl (local.get $n) (i32.const 3)) (i32.const 102400))
           (local.set $n (i32.add (local.get $n) (i32.const 1)))
           (br_if $l (i32.lt_u (local.get $n) (i32.const 10000))))
         {}
         (i32.store (i32.const {}) (i32.const 131072)) (i32.store (i32.const {}) (i32.const 4096))",
        // The answer's pointer stays on the stack.
        rendered(5),
        element + 24,
        element + 28,
    )
}

/// Says that it is a delay strategy and has a function of another type.
fn other_world() -> Bytes {
    let wat = r#"(component
        (core module $m (func (export "f") (result i32) i32.const 1))
        (core instance $i (instantiate $m))
        (func $f (result u32) (canon lift (core func $i "f")))
        (instance $d (export "get" (func $f)))
        (export "carillon:plugin/describe@1.0.0" (instance $d))
        (instance $e (export "next-delay" (func $f)))
        (export "carillon:plugin/delay@1.0.0" (instance $e)))"#;
    wat::parse_str(wat).unwrap().into()
}
