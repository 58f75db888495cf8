//! Core modules: what most compilers make before a component linker has seen it. One that carries the types which `wit-bindgen`
//! adds is made a component here, the same way as `wasm-tools component new` does it.
//!
//! What is stored and named by its digest stays the module as it was uploaded, so that a second upload of it is the same
//! version whatever release of the host reads it; the component is made anew whenever it is compiled.

use std::borrow::Cow;

use wasi_preview1_component_adapter_provider::{
    WASI_SNAPSHOT_PREVIEW1_ADAPTER_NAME as PREVIEW1, WASI_SNAPSHOT_PREVIEW1_REACTOR_ADAPTER,
};
use wasmparser::{Parser, Payload};
use wit_component::ComponentEncoder;

use super::check::Refusal;

/// Whether the bytes begin as a core module does.
pub(super) fn is_core(bytes: &[u8]) -> bool {
    bytes.starts_with(b"\0asm\x01\0\0\0")
}

/// A component as it is, or the one that a core module describes.
pub(super) fn component(bytes: &[u8]) -> Result<Cow<'_, [u8]>, Refusal> {
    if !is_core(bytes) {
        return Ok(Cow::Borrowed(bytes));
    }
    let uses_preview1 = look(bytes)?;
    let mut encoder = ComponentEncoder::default().module(bytes).map_err(refused)?;
    if uses_preview1 {
        encoder = encoder.adapter(PREVIEW1, WASI_SNAPSHOT_PREVIEW1_REACTOR_ADAPTER).map_err(refused)?;
    }
    encoder.encode().map(Cow::Owned).map_err(refused)
}

/// Refuses a module that says nothing of its types; otherwise tells whether it imports WASI's first preview.
fn look(bytes: &[u8]) -> Result<bool, Refusal> {
    let (mut typed, mut uses_preview1) = (false, false);
    for payload in Parser::new(0).parse_all(bytes) {
        match payload.map_err(Refusal::invalid)? {
            Payload::CustomSection(section) => typed |= section.name().starts_with("component-type"),
            Payload::ImportSection(imports) => {
                for import in imports.into_imports() {
                    uses_preview1 |= import.map_err(Refusal::invalid)?.module == PREVIEW1;
                }
            }
            _ => {}
        }
    }
    if typed { Ok(uses_preview1) } else { Err(Refusal::untyped_module()) }
}

fn refused(error: anyhow::Error) -> Refusal {
    Refusal::core_module(format_args!("no component can be made of the core module: {error:#}"))
}
