//! Bindings for C and Go, and components from what their compilers make.

use std::path::Path;

use anyhow::{Context as _, Result, bail};
use wit_bindgen_core::Files;
use wit_bindgen_core::wit_parser::{Resolve, WorldId};
use wit_component::{ComponentEncoder, StringEncoding};

/// What compilers for WASI 0.1 want to import, without anything in it.
const PREVIEW1: &str = include_str!("preview1.wat");

fn main() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    match args[..] {
        ["bindings", language, wit, world, out] => bindings(language, wit, world, out),
        ["component", wit, world, module, out] => component(wit, world, module, out),
        _ => bail!("usage: plugin-tool bindings c|go WIT WORLD OUT | plugin-tool component WIT WORLD MODULE OUT"),
    }
}

fn parse(wit: &str, world: &str) -> Result<(Resolve, WorldId)> {
    let mut resolve = Resolve::default();
    let (package, _) = resolve.push_path(wit)?;
    let world = resolve.select_world(&[package], Some(world))?;
    Ok((resolve, world))
}

/// Writes what the language's compiler is to be given beside the plugin itself.
fn bindings(language: &str, wit: &str, world: &str, out: &str) -> Result<()> {
    let (mut resolve, world) = parse(wit, world)?;
    let mut generator = match language {
        "c" => wit_bindgen_c::Opts::default().build(),
        "go" => {
            wit_bindgen_go::Opts { format: wit_bindgen_go::Format::False, quiet: true, ..Default::default() }.build()
        }
        _ => bail!("{language}: bindings are made for c and go"),
    };
    let mut files = Files::default();
    generator.generate(&mut resolve, world, &mut files)?;
    for (name, bytes) in files.iter() {
        let path = Path::new(out).join(name);
        std::fs::create_dir_all(path.parent().unwrap_or(&path))
            .and_then(|()| std::fs::write(&path, bytes))
            .with_context(|| path.display().to_string())?;
    }
    Ok(())
}

/// Makes a component of a core module that was built with those bindings.
fn component(wit: &str, world: &str, module: &str, out: &str) -> Result<()> {
    let (resolve, world) = parse(wit, world)?;
    let mut bytes = std::fs::read(module).with_context(|| module.to_owned())?;
    wit_component::embed_component_metadata(&mut bytes, &resolve, world, StringEncoding::UTF8, false)?;
    let component = ComponentEncoder::default()
        .module(&bytes)?
        .adapter("wasi_snapshot_preview1", &wat::parse_str(PREVIEW1)?)?
        .validate(true)
        .encode()?;
    std::fs::write(out, component).with_context(|| out.to_owned())
}
