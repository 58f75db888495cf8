//! `carillon plugin wit`: the contract as files that the tools of plugin authors take.

use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use serde_json::json;
use wit_parser::Resolve;

use super::super::bad_input;
use super::reference;
use crate::id::Digest;

/// The contract.
pub const WIT: &str = include_str!("../../../../wit/plugin.wit");

/// The media types of a Wasm OCI artifact, and of what it lies in.
const CONFIG: &str = "application/vnd.wasm.config.v0+json";
const LAYER: &str = "application/wasm";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";

/// Where the contract is written to.
#[derive(Debug, clap::Args)]
pub struct Wit {
    /// A folder that is new or empty.
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
}

/// Writes the folder.
pub fn run(args: &Wit) -> anyhow::Result<ExitCode> {
    let out = args.out.display();
    fs::create_dir_all(&args.out).map_err(|error| bad_input(format!("--out: {out}: {error}")))?;
    if fs::read_dir(&args.out).with_context(|| format!("cannot read {out}"))?.next().is_some() {
        return Err(bad_input(format!("--out: {out} is not empty: name a new folder")));
    }
    let package = package()?;
    for (path, bytes) in files(&package) {
        let path = args.out.join(path);
        let folder = path.parent().unwrap_or(&args.out);
        fs::create_dir_all(folder)
            .and_then(|()| fs::write(&path, bytes))
            .with_context(|| format!("cannot write {}", path.display()))?;
    }
    println!("{} is in {out}/:", package.name);
    println!("  wit/           the text: for wit-bindgen, jco, componentize-py and others that take a folder");
    println!("  REFERENCE.md   the same to read");
    println!("  registry/      for wkg: a registry of the type \"local\"");
    println!("  oci/           an OCI image layout, tag {}: to be pushed to a registry", package.version);
    Ok(ExitCode::SUCCESS)
}

/// The contract, read.
struct Package {
    /// `carillon:plugin@1.0.0`.
    name: String,
    version: String,
    /// `registry/carillon/plugin/1.0.0.wasm`.
    in_registry: String,
    /// Its interfaces.
    exports: Vec<String>,
    /// It, in WebAssembly's form.
    wasm: Vec<u8>,
    reference: String,
}

fn package() -> anyhow::Result<Package> {
    let mut resolve = Resolve::default();
    let id = resolve.push_source("plugin.wit", WIT)?;
    let wasm = wit_component::encode(&resolve, id)?;
    let package = resolve.packages.get(id).context("the package was read")?;
    let name = &package.name;
    let version = name.version.as_ref().context("the package has a version")?.to_string();
    Ok(Package {
        name: name.to_string(),
        in_registry: format!("registry/{}/{}/{version}.wasm", name.namespace, name.name),
        version,
        exports: package.interfaces.values().filter_map(|interface| resolve.id_of(*interface)).collect(),
        wasm,
        reference: reference::markdown(&resolve, package)?,
    })
}

/// The files by their paths. What they are does not change from one call to the next: nothing is as of now.
fn files(package: &Package) -> Vec<(String, Vec<u8>)> {
    let Package { version, exports, wasm, .. } = package;
    let bytes = |value: &serde_json::Value| value.to_string().into_bytes();
    let digest = |bytes: &[u8]| format!("sha256:{}", Digest::of(bytes));
    let descriptor =
        |media: &str, bytes: &[u8]| json!({"mediaType": media, "digest": digest(bytes), "size": bytes.len()});
    let config = bytes(&json!({
        // The format wants a time, and the contract is not of a moment.
        "created": "1970-01-01T00:00:00Z", "author": null, "architecture": "wasm", "os": "wasip2",
        "layerDigests": [digest(wasm)],
        "component": {"exports": exports, "imports": [], "target": null},
    }));
    let manifest = bytes(&json!({
        "schemaVersion": 2, "mediaType": MANIFEST,
        "config": descriptor(CONFIG, &config),
        "layers": [descriptor(LAYER, wasm)],
        "annotations": {
            "org.opencontainers.image.title": package.name,
            "org.opencontainers.image.version": version,
            "org.opencontainers.image.description": "The contract between Carillon and its plugins.",
            "org.opencontainers.image.licenses": env!("CARGO_PKG_LICENSE"),
        },
    }));
    let mut tagged = descriptor(MANIFEST, &manifest);
    if let Some(tagged) = tagged.as_object_mut() {
        tagged.insert("annotations".to_owned(), json!({"org.opencontainers.image.ref.name": version}));
    }
    let index = bytes(&json!({"schemaVersion": 2, "mediaType": INDEX, "manifests": [tagged]}));
    let mut files = vec![
        ("wit/plugin.wit".to_owned(), WIT.as_bytes().to_vec()),
        ("REFERENCE.md".to_owned(), package.reference.clone().into_bytes()),
        (package.in_registry.clone(), wasm.clone()),
        ("oci/oci-layout".to_owned(), bytes(&json!({"imageLayoutVersion": "1.0.0"}))),
        ("oci/index.json".to_owned(), index),
    ];
    for blob in [config, manifest, wasm.clone()] {
        files.push((format!("oci/blobs/sha256/{}", Digest::of(&blob)), blob));
    }
    files
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reference_is_that_of_the_contract() {
        let written = include_str!("../../../../plugins/REFERENCE.md");
        let made = package().unwrap().reference;
        let first = written.lines().zip(made.lines()).position(|(written, made)| written != made);
        assert!(
            written == made,
            "plugins/REFERENCE.md is another than wit/plugin.wit says, from line {} on: `carillon plugin wit --out NEW` and \
             copy NEW/REFERENCE.md",
            first.unwrap_or(0) + 1
        );
    }

    #[test]
    fn every_name_of_the_contract_is_in_the_reference_with_its_words() {
        let made = package().unwrap().reference;
        for line in WIT.lines().map(str::trim) {
            if let Some(words) = line.strip_prefix("/// ") {
                // The beginning, as far as no link has changed it.
                let words = words.split(['|', '<']).next().unwrap_or_default();
                let words = words.to_lowercase();
                let words = words.split("at most").next().unwrap_or_default().trim();
                assert!(made.to_lowercase().contains(words), "{line}");
            }
        }
        for link in made.split("](#").skip(1).filter_map(|rest| rest.split(')').next()) {
            let heading = link.replacen('-', " `", 1) + "`";
            assert!(made.contains(&format!("# {heading}\n")), "{link} leads nowhere");
        }
        for limit in [
            "[At most 256 KiB](README.md#limits)",
            "[at most 4 KiB](README.md#limits)",
            "[At most 64](README.md#limits), of",
        ] {
            assert!(made.contains(limit), "{limit}");
        }
    }

    #[test]
    fn it_is_the_same_each_time() {
        let (first, second) = (files(&package().unwrap()), files(&package().unwrap()));
        assert!(first == second && first.len() == 8);
    }
}
