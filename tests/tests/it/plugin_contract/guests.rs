//! Components made from a few lines of WAT: a core module in the shape that `wit-bindgen` gives its guests, made a component.

use bytes::Bytes;

/// A delay strategy whose `next-delay` has this body: its parameter is local 0, its result points at what it answers.
pub fn delay(name: &str, body: &str) -> Bytes {
    component(
        name,
        include_str!("delay.wat"),
        &format!(r#"(func (export "carillon:plugin/delay@1.0.0#next-delay") (param i32) (result i32) {body})"#),
    )
}

/// A sender whose `start` and `resume` have these bodies.
pub fn sender(name: &str, start: &str, resume: &str) -> Bytes {
    let functions = format!(
        r#"(func (export "carillon:plugin/sender@1.0.0#start") (param i32) (result i32) {start})
           (func (export "carillon:plugin/sender@1.0.0#resume")
             (param i32 i32 f64 i32 i32 i32 i32 i32 i32 i32 i32 i32 i32) (result i32) {resume})"#
    );
    component(name, include_str!("sender.wat"), &functions)
}

/// A template whose `render` and `variables` have these bodies.
pub fn template(name: &str, render: &str, variables: &str) -> Bytes {
    let functions = format!(
        r#"(func (export "carillon:plugin/template@1.0.0#render")
             (param i32 i32 f64 i32 i32 i32) (result i32) {render})
           (func (export "carillon:plugin/template@1.0.0#variables")
             (param i32 i32 f64 i32) (result i32) {variables})"#
    );
    component(name, include_str!("template.wat"), &functions)
}

/// Where bodies may write: below the strings, above nothing.
pub const SCRATCH: u32 = 16;

fn component(name: &str, world: &str, functions: &str) -> Bytes {
    let texts = [name, "1.0.0", "Means harm.", r#"{"type":"object"}"#, ""];
    let (mut record, mut strings, mut at) = (Vec::new(), Vec::new(), 2048u32);
    for text in texts {
        record.extend([at.to_le_bytes(), u32::try_from(text.len()).unwrap().to_le_bytes()].concat());
        strings.extend(text.as_bytes());
        at += u32::try_from(text.len()).unwrap();
    }
    // Three empty lists, which still have a place.
    let at = at.next_multiple_of(4);
    record.extend([at.to_le_bytes(), [0; 4], at.to_le_bytes(), [0; 4], at.to_le_bytes(), [0; 4]].concat());
    let escape = |bytes: &[u8]| bytes.iter().map(|b| format!("\\{b:02x}")).collect::<String>();
    let module = format!(
        r#"(core module $main
          (memory (export "memory") 2)
          (global $heap (mut i32) (i32.const 8192))
          (data (i32.const 1024) "{}")
          (data (i32.const 2048) "{}")
          (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32) (local i32)
            (local.set 4 (i32.and (i32.add (global.get $heap) (i32.const 7)) (i32.const -8)))
            (global.set $heap (i32.add (local.get 4) (local.get 3)))
            (local.get 4))
          (func (export "carillon:plugin/describe@1.0.0#get") (result i32) (i32.const 1024))
          {functions})"#,
        escape(&record),
        escape(&strings),
    );
    wat::parse_str(world.replace(";; MODULE", &module)).unwrap().into()
}
