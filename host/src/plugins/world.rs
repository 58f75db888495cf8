//! The world report: every item of a component that does not fit its world, with the WIT that was wanted and the WIT that was
//! found. Types are compared by their structure, as the engine does; a type that differs is told once, by its own name, and not
//! again for each that uses it.

use std::collections::HashMap;

use anyhow::bail;
use serde::{Deserialize, Serialize};
use wit_component::DecodedWasm;
use wit_parser::{
    Function, Handle, InterfaceId, Resolve, Type, TypeDefKind, TypeId, TypeOwner, WorldId, WorldItem, WorldKey,
};

use super::instance::{DESCRIBE, HEALTH, LOOKUP, RECEIPTS, interface};
use super::module;
use crate::message::truncate;
use crate::plugin::PluginKind;

const CONTRACT: &str = include_str!("../../../wit/plugin.wit");
/// Items that are told at once.
const MAX_MISFITS: usize = 50;
/// The longest piece of WIT in an item, in bytes: a stranger's types may be of any size.
const MAX_WIT: usize = 600;

/// An item of a component that does not fit.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Misfit {
    /// Which one, as in `export carillon:plugin/template@1.0.0#render` or `type carillon:plugin/types@1.0.0#content`.
    pub item: String,
    /// What is wrong with it, with the WIT that was wanted and the WIT that was found.
    pub problem: String,
}

/// Interfaces of WASI that the host has.
const WASI: [&str; 6] = ["wasi:cli/", "wasi:clocks/", "wasi:filesystem/", "wasi:io/", "wasi:random/", "wasi:sockets/"];

/// Whether the host may have what a component imports by this name: the contract's own interfaces hold types only.
pub(super) fn is_offered(import: &str) -> bool {
    import.starts_with("carillon:plugin/") || WASI.iter().any(|prefix| import.starts_with(prefix))
}

/// Everything in a component (or core module) of this kind that does not fit.
///
/// # Errors
/// When the component cannot be read as one.
pub(super) fn misfits(bytes: &[u8], kind: PluginKind) -> anyhow::Result<Vec<Misfit>> {
    let component = module::component(bytes)?;
    let DecodedWasm::Component(found, root) = wit_component::decode(&component)? else { bail!("it is a WIT package") };
    let mut wanted = Resolve::default();
    wanted.push_source("plugin.wit", CONTRACT)?;
    let mut report = Report { wanted, found, fits: HashMap::new(), misfits: Vec::new() };
    report.imports(root);
    for name in [DESCRIBE, interface(kind).0] {
        report.interface(root, name, true)?;
    }
    if kind == PluginKind::Sender {
        for (name, _) in [LOOKUP, RECEIPTS, HEALTH] {
            report.interface(root, name, false)?;
        }
    }
    report.misfits.truncate(MAX_MISFITS);
    Ok(report.misfits)
}

struct Report {
    wanted: Resolve,
    found: Resolve,
    /// What was compared already: contracts use a type in many places.
    fits: HashMap<(TypeId, TypeId), Fit>,
    misfits: Vec<Misfit>,
}

/// How two types compare.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Fit {
    Same,
    /// They differ in a named type that was told.
    Told,
    Differs,
}

impl Report {
    fn tell(&mut self, item: String, problem: String) {
        if self.misfits.len() < MAX_MISFITS {
            self.misfits.push(Misfit { item, problem });
        }
    }

    fn imports(&mut self, root: WorldId) {
        let Some(world) = self.found.worlds.get(root) else { return };
        let mut extra = Vec::new();
        for (key, item) in &world.imports {
            let name = self.found.name_world_key(key);
            // Of the contract's own interfaces a plugin imports the types only.
            let calls_host =
                matches!(item, WorldItem::Interface { id, .. } if functions(&self.found, *id).next().is_some());
            if !is_offered(&name) || (name.starts_with("carillon:plugin/") && calls_host) {
                extra.push((format!("import {name}"), holds(&self.found, item)));
            }
        }
        for (item, found) in extra {
            self.tell(item, format!("extra: the host does not offer it; found `{found}`"));
        }
    }

    /// Compares an exported interface, which may be missing unless it is `required`.
    fn interface(&mut self, root: WorldId, name: &str, required: bool) -> anyhow::Result<()> {
        let Some((wanted, _)) =
            self.wanted.interfaces.iter().find(|(id, _)| self.wanted.id_of(*id).is_some_and(|n| n == name))
        else {
            bail!("the contract has no {name}");
        };
        let functions: Vec<Function> = functions(&self.wanted, wanted).cloned().collect();
        let Some(found) = exported(&self.found, root, name) else {
            if required {
                let signatures: Vec<_> = functions.iter().map(|f| signature(&self.wanted, f)).collect();
                self.tell(format!("export {name}"), format!("missing: wanted `{}`", signatures.join("; ")));
            }
            return Ok(());
        };
        for function in functions {
            let item = format!("export {name}#{}", function.name);
            let signature_wanted = signature(&self.wanted, &function);
            let Some(other) = functions_named(&self.found, found, &function.name).cloned() else {
                self.tell(item, format!("missing: wanted `{signature_wanted}`"));
                continue;
            };
            if self.function(&function, &other) == Fit::Differs {
                let found = signature(&self.found, &other);
                self.tell(item, format!("has another type: wanted `{signature_wanted}`, found `{found}`"));
            }
        }
        Ok(())
    }

    fn function(&mut self, wanted: &Function, found: &Function) -> Fit {
        if wanted.params.len() != found.params.len() || wanted.kind != found.kind {
            return Fit::Differs;
        }
        let params = wanted.params.iter().zip(&found.params).map(|(w, f)| (Some(w.ty), Some(f.ty)));
        self.all(params.chain([(wanted.result, found.result)]))
    }

    fn all(&mut self, pairs: impl IntoIterator<Item = (Option<Type>, Option<Type>)>) -> Fit {
        let fits = pairs.into_iter().map(|(wanted, found)| match (wanted, found) {
            (None, None) => Fit::Same,
            (Some(wanted), Some(found)) => self.types(wanted, found),
            _ => Fit::Differs,
        });
        fits.fold(Fit::Same, Fit::max)
    }

    /// Goes no deeper than the contract's own types, whatever the component's are.
    fn types(&mut self, wanted: Type, found: Type) -> Fit {
        match (aliased(&self.wanted, wanted), aliased(&self.found, found)) {
            (Type::Id(wanted), Type::Id(found)) => {
                if let Some(fit) = self.fits.get(&(wanted, found)) {
                    return *fit;
                }
                let fit = self.definitions(wanted, found);
                self.fits.insert((wanted, found), fit);
                fit
            }
            (wanted, found) if wanted == found => Fit::Same,
            _ => Fit::Differs,
        }
    }

    fn definitions(&mut self, wanted: TypeId, found: TypeId) -> Fit {
        let (Some(w), Some(f)) = (self.wanted.types.get(wanted), self.found.types.get(found)) else {
            return Fit::Differs;
        };
        let name = w.name.clone();
        let fit = match pairs(&w.kind, &f.kind) {
            Some(pairs) => self.all(pairs),
            None => Fit::Differs,
        };
        let (Fit::Differs, Some(name)) = (fit, name) else { return fit };
        let owner = match self.wanted.types.get(wanted).map(|w| w.owner) {
            Some(TypeOwner::Interface(id)) => self.wanted.id_of(id).unwrap_or_default(),
            _ => String::new(),
        };
        let problem = format!(
            "has another structure: wanted `{}`, found `{}`",
            definition(&self.wanted, wanted),
            definition(&self.found, found)
        );
        self.tell(format!("type {owner}#{name}"), problem);
        Fit::Told
    }
}

/// What two types are made of, side by side; `None` when they are not built alike.
fn pairs(wanted: &TypeDefKind, found: &TypeDefKind) -> Option<Vec<(Option<Type>, Option<Type>)>> {
    let both = |w: &Type, f: &Type| (Some(*w), Some(*f));
    let alike = |same: bool| same.then(Vec::new);
    match (wanted, found) {
        (TypeDefKind::Record(w), TypeDefKind::Record(f)) => {
            let same_names = w.fields.iter().map(|field| &field.name).eq(f.fields.iter().map(|field| &field.name));
            same_names.then(|| w.fields.iter().zip(&f.fields).map(|(w, f)| both(&w.ty, &f.ty)).collect())
        }
        (TypeDefKind::Variant(w), TypeDefKind::Variant(f)) => {
            let same_names = w.cases.iter().map(|case| &case.name).eq(f.cases.iter().map(|case| &case.name));
            same_names.then(|| w.cases.iter().zip(&f.cases).map(|(w, f)| (w.ty, f.ty)).collect())
        }
        (TypeDefKind::Tuple(w), TypeDefKind::Tuple(f)) => {
            (w.types.len() == f.types.len()).then(|| w.types.iter().zip(&f.types).map(|(w, f)| both(w, f)).collect())
        }
        (TypeDefKind::Enum(w), TypeDefKind::Enum(f)) => {
            alike(w.cases.iter().map(|case| &case.name).eq(f.cases.iter().map(|case| &case.name)))
        }
        (TypeDefKind::Option(w), TypeDefKind::Option(f)) | (TypeDefKind::List(w), TypeDefKind::List(f)) => {
            Some(vec![both(w, f)])
        }
        (TypeDefKind::Result(w), TypeDefKind::Result(f)) => Some(vec![(w.ok, f.ok), (w.err, f.err)]),
        // The contract has no others.
        _ => None,
    }
}

/// The type that a name stands for.
fn aliased(resolve: &Resolve, mut ty: Type) -> Type {
    while let Type::Id(id) = ty
        && let Some(TypeDefKind::Type(next)) = resolve.types.get(id).map(|def| &def.kind)
    {
        ty = *next;
    }
    ty
}

fn exported(resolve: &Resolve, root: WorldId, name: &str) -> Option<InterfaceId> {
    // Any 1.x of the interface is looked at: a difference in what it holds says more than one in its number.
    let unversioned = |name: &str| name.split_once('@').map_or(name, |(name, _)| name).to_owned();
    resolve.worlds.get(root)?.exports.iter().find_map(|(key, item)| match (key, item) {
        (WorldKey::Interface(_), WorldItem::Interface { id, .. })
            if unversioned(&resolve.name_world_key(key)) == unversioned(name) =>
        {
            Some(*id)
        }
        _ => None,
    })
}

fn functions(resolve: &Resolve, id: InterfaceId) -> impl Iterator<Item = &Function> {
    resolve.interfaces.get(id).into_iter().flat_map(|interface| interface.functions.values())
}

fn functions_named<'a>(resolve: &'a Resolve, id: InterfaceId, name: &str) -> Option<&'a Function> {
    resolve.interfaces.get(id)?.functions.get(name)
}

/// What an import brings, on one line.
fn holds(resolve: &Resolve, item: &WorldItem) -> String {
    match item {
        WorldItem::Interface { id, .. } => {
            let mut all = functions(resolve, *id).map(|function| signature(resolve, function));
            let mut text = all.by_ref().take(3).collect::<Vec<_>>().join("; ");
            let more = all.count();
            if more > 0 {
                text.push_str(&format!("; and {more} more"));
            }
            if text.is_empty() { "an interface without functions".to_owned() } else { text }
        }
        WorldItem::Function(function) => signature(resolve, function),
        WorldItem::Type { id, .. } => definition(resolve, *id),
    }
}

fn signature(resolve: &Resolve, function: &Function) -> String {
    let mut wit = Wit::new(resolve);
    wit.push(&function.name);
    wit.push(": func(");
    for (n, param) in function.params.iter().enumerate() {
        wit.push(if n == 0 { "" } else { ", " });
        wit.push(&param.name);
        wit.push(": ");
        wit.ty(&param.ty);
    }
    wit.push(")");
    if let Some(result) = &function.result {
        wit.push(" -> ");
        wit.ty(result);
    }
    wit.end()
}

fn definition(resolve: &Resolve, id: TypeId) -> String {
    let mut wit = Wit::new(resolve);
    if let Some(def) = resolve.types.get(id) {
        wit.kind(&def.kind, def.name.as_deref());
    }
    wit.end()
}

/// WIT on one line, which ends early where it would be too long.
struct Wit<'a> {
    resolve: &'a Resolve,
    text: String,
}

impl<'a> Wit<'a> {
    fn new(resolve: &'a Resolve) -> Self {
        Self { resolve, text: String::new() }
    }

    fn is_full(&self) -> bool {
        self.text.len() > MAX_WIT
    }

    fn push(&mut self, text: &str) {
        if !self.is_full() {
            self.text.push_str(text);
        }
    }

    fn end(mut self) -> String {
        if self.is_full() {
            truncate(&mut self.text, MAX_WIT);
            self.text.push('…');
        }
        self.text
    }

    fn ty(&mut self, ty: &Type) {
        // Each step writes something, so this also bounds how deep it goes.
        if self.is_full() {
            return;
        }
        let word = match ty {
            Type::Bool => "bool",
            Type::U8 => "u8",
            Type::U16 => "u16",
            Type::U32 => "u32",
            Type::U64 => "u64",
            Type::S8 => "s8",
            Type::S16 => "s16",
            Type::S32 => "s32",
            Type::S64 => "s64",
            Type::F32 => "f32",
            Type::F64 => "f64",
            Type::Char => "char",
            Type::String => "string",
            Type::ErrorContext => "error-context",
            Type::Id(id) => {
                if let Some(def) = self.resolve.types.get(*id) {
                    match &def.name {
                        Some(name) => self.push(name),
                        None => self.kind(&def.kind, None),
                    }
                }
                return;
            }
        };
        self.push(word);
    }

    fn kind(&mut self, kind: &TypeDefKind, name: Option<&str>) {
        let named = |word: &str| name.map_or(word.to_owned(), |name| format!("{word} {name}"));
        match kind {
            TypeDefKind::Record(record) => {
                self.push(&named("record"));
                self.list(record.fields.iter().map(|field| (field.name.as_str(), Some(&field.ty))), ": ", "");
            }
            TypeDefKind::Variant(variant) => {
                self.push(&named("variant"));
                self.list(variant.cases.iter().map(|case| (case.name.as_str(), case.ty.as_ref())), "(", ")");
            }
            TypeDefKind::Enum(cases) => {
                self.push(&named("enum"));
                self.list(cases.cases.iter().map(|case| (case.name.as_str(), None)), "", "");
            }
            TypeDefKind::Flags(flags) => {
                self.push(&named("flags"));
                self.list(flags.flags.iter().map(|flag| (flag.name.as_str(), None)), "", "");
            }
            TypeDefKind::Resource => self.push(&named("resource")),
            TypeDefKind::Handle(Handle::Own(id)) => self.ty(&Type::Id(*id)),
            TypeDefKind::Handle(Handle::Borrow(id)) => self.around("borrow", [Some(&Type::Id(*id))]),
            TypeDefKind::Tuple(tuple) => self.around("tuple", tuple.types.iter().map(Some)),
            TypeDefKind::Option(ty) => self.around("option", [Some(ty)]),
            TypeDefKind::List(ty) | TypeDefKind::FixedLengthList(ty, _) => self.around("list", [Some(ty)]),
            TypeDefKind::Result(result) => self.around("result", [result.ok.as_ref(), result.err.as_ref()]),
            TypeDefKind::Map(key, value) => self.around("map", [Some(key), Some(value)]),
            TypeDefKind::Future(ty) => self.around("future", [ty.as_ref()]),
            TypeDefKind::Stream(ty) => self.around("stream", [ty.as_ref()]),
            TypeDefKind::Type(ty) => self.ty(ty),
            TypeDefKind::Unknown => self.push("unknown"),
        }
    }

    fn around<'t>(&mut self, word: &str, types: impl IntoIterator<Item = Option<&'t Type>>) {
        self.push(word);
        for (n, ty) in types.into_iter().enumerate() {
            self.push(if n == 0 { "<" } else { ", " });
            match ty {
                Some(ty) => self.ty(ty),
                None => self.push("_"),
            }
        }
        self.push(">");
    }

    fn list<'t>(&mut self, items: impl Iterator<Item = (&'t str, Option<&'t Type>)>, before: &str, after: &str) {
        self.push(" { ");
        for (n, (name, ty)) in items.enumerate() {
            if self.is_full() {
                return;
            }
            self.push(if n == 0 { "" } else { ", " });
            self.push(name);
            if let Some(ty) = ty {
                self.push(before);
                self.ty(ty);
                self.push(after);
            }
        }
        self.push(" }");
    }
}
