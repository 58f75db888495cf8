//! The contract to read: every interface, function and type of `wit/plugin.wit` with its words, as Markdown.

use std::fmt::{self, Write as _};

use anyhow::Context as _;
use wit_parser::{Docs, Interface, InterfaceId, Package, Resolve, Type, TypeDef, TypeDefKind, TypeId, TypeOwner};

/// Where the limits are that the words name.
const LIMITS: &str = "README.md#limits";
/// What a number of a limit may count.
const UNITS: [&str; 4] = ["KiB", "MiB", "bytes", "requests"];

/// All of a package.
pub fn markdown(resolve: &Resolve, package: &Package) -> anyhow::Result<String> {
    let page = Page { resolve };
    let mut out = format!(
        "<!-- Made by `carillon plugin wit` from wit/plugin.wit: change that. -->\n\n# Reference: `{}`\n\n{}",
        package.name,
        paragraphs(&package.docs)
    );
    out.push_str(
        "Limits that are named here are in [the table of limits](README.md#limits), too, with what breaks them.\n\n",
    );
    out.push_str("| interface | functions | types |\n|---|---|---|\n");
    for (name, id) in &package.interfaces {
        let functions: Vec<_> = page.interface(*id)?.functions.keys().map(|name| format!("`{name}`")).collect();
        let types: Vec<_> = page.own_types(*id)?.into_iter().map(|(id, _)| page.named(id)).collect::<Result<_, _>>()?;
        writeln!(out, "| [`{name}`](#interface-{name}) | {} | {} |", functions.join(", "), types.join(", "))?;
    }
    out.push('\n');
    for (name, id) in &package.worlds {
        let world = resolve.worlds.get(*id).context("a world of the package")?;
        let exports: Vec<_> = world
            .exports
            .keys()
            .map(|key| resolve.name_world_key(key))
            .filter_map(|name| Some(name.split_once('/')?.1.split('@').next()?.to_owned()))
            .map(|name| format!("[`{name}`](#interface-{name})"))
            .collect();
        writeln!(out, "- World `{name}`: {} Exports {}.", line(&world.docs), exports.join(", "))?;
    }
    for (name, id) in &package.interfaces {
        let interface = page.interface(*id)?;
        write!(out, "\n## interface `{name}`\n\n{}", paragraphs(&interface.docs))?;
        for (id, definition) in page.own_types(*id)? {
            page.definition(&mut out, id, definition)?;
        }
        for function in interface.functions.values() {
            let names: Vec<_> = function.params.iter().map(|param| param.name.as_str()).collect();
            write!(out, "### func `{}({})`\n\n{}", function.name, names.join(", "), paragraphs(&function.docs))?;
            for param in &function.params {
                writeln!(out, "- `{}`: {}", param.name, page.ty(&param.ty)?)?;
            }
            if let Some(result) = &function.result {
                writeln!(out, "- answers {}", page.ty(result)?)?;
            }
            out.push('\n');
        }
        out.truncate(out.trim_end().len());
        out.push('\n');
    }
    Ok(out)
}

struct Page<'a> {
    resolve: &'a Resolve,
}

impl<'a> Page<'a> {
    fn interface(&self, id: InterfaceId) -> anyhow::Result<&'a Interface> {
        self.resolve.interfaces.get(id).context("an interface of the package")
    }

    fn of_id(&self, id: TypeId) -> anyhow::Result<&'a TypeDef> {
        self.resolve.types.get(id).context("a type of the package")
    }

    /// The types that an interface says itself: not those that it uses.
    fn own_types(&self, id: InterfaceId) -> anyhow::Result<Vec<(TypeId, &'a TypeDef)>> {
        let types = self.interface(id)?.types.values();
        let types = types.map(|id| Ok((*id, self.of_id(*id)?))).collect::<anyhow::Result<Vec<_>>>()?;
        Ok(types.into_iter().filter(|(id, _)| self.origin(*id) == *id).collect())
    }

    /// Where a type is said that another interface uses.
    fn origin(&self, id: TypeId) -> TypeId {
        let Some(definition) = self.resolve.types.get(id) else { return id };
        match definition.kind {
            TypeDefKind::Type(Type::Id(used)) => match self.resolve.types.get(used) {
                Some(other) if other.owner != definition.owner && other.owner != TypeOwner::None => self.origin(used),
                _ => id,
            },
            _ => id,
        }
    }

    fn definition(&self, out: &mut String, id: TypeId, definition: &TypeDef) -> anyhow::Result<()> {
        let name = definition.name.as_deref().unwrap_or_default();
        write!(out, "### {} `{name}`\n\n{}", word(&definition.kind), paragraphs(&definition.docs))?;
        match &definition.kind {
            TypeDefKind::Record(record) => {
                out.push_str("| field | type | |\n|---|---|---|\n");
                for field in &record.fields {
                    writeln!(out, "| `{}` | {} | {} |", field.name, self.ty(&field.ty)?, line(&field.docs))?;
                }
            }
            TypeDefKind::Variant(variant) => {
                out.push_str("| case | with | |\n|---|---|---|\n");
                for case in &variant.cases {
                    let with = case.ty.as_ref().map(|ty| self.ty(ty)).transpose()?.unwrap_or_default();
                    writeln!(out, "| `{}` | {with} | {} |", case.name, line(&case.docs))?;
                }
            }
            TypeDefKind::Enum(cases) => {
                out.push_str("| case | |\n|---|---|\n");
                for case in &cases.cases {
                    writeln!(out, "| `{}` | {} |", case.name, line(&case.docs))?;
                }
            }
            other => writeln!(out, "It is {}.", self.structure(id, other)?)?,
        }
        out.push('\n');
        Ok(())
    }

    /// A type where it is used.
    fn ty(&self, ty: &Type) -> anyhow::Result<String> {
        Ok(match ty {
            Type::Id(id) if self.of_id(*id)?.name.is_some() => self.named(self.origin(*id))?,
            Type::Id(id) => self.structure(*id, &self.of_id(*id)?.kind)?,
            Type::Bool => "`bool`".to_owned(),
            Type::U8 => "`u8`".to_owned(),
            Type::U32 => "`u32`".to_owned(),
            Type::F64 => "`f64`".to_owned(),
            Type::String => "`string`".to_owned(),
            // The contract keeps to what every language has.
            other => anyhow::bail!("the reference has no word for {other:?}"),
        })
    }

    /// A type with a name of its own: a link.
    fn named(&self, id: TypeId) -> anyhow::Result<String> {
        let definition = self.of_id(id)?;
        let name = definition.name.as_deref().unwrap_or_default();
        Ok(format!("[`{name}`](#{}-{name})", word(&definition.kind)))
    }

    fn structure(&self, id: TypeId, kind: &TypeDefKind) -> anyhow::Result<String> {
        let of = |ty: &Option<Type>| ty.as_ref().map_or_else(|| Ok("`_`".to_owned()), |ty| self.ty(ty));
        let inner = match kind {
            TypeDefKind::Type(ty) => return self.ty(ty),
            TypeDefKind::List(ty) | TypeDefKind::Option(ty) => self.ty(ty)?,
            TypeDefKind::Result(result) => format!("{}`, `{}", of(&result.ok)?, of(&result.err)?),
            TypeDefKind::Tuple(tuple) => {
                let types = tuple.types.iter().map(|ty| self.ty(ty)).collect::<anyhow::Result<Vec<_>>>()?;
                types.join("`, `")
            }
            other => anyhow::bail!("the reference has no word for {other:?} ({id:?})"),
        };
        // Code spans that touch are one.
        Ok(format!("`{}<`{inner}`>`", kind.as_str()).replace("``", ""))
    }
}

const fn word(kind: &TypeDefKind) -> &'static str {
    match kind {
        TypeDefKind::Record(_) => "record",
        TypeDefKind::Variant(_) => "variant",
        TypeDefKind::Enum(_) => "enum",
        _ => "type",
    }
}

/// Words as they stand in a table.
fn line(docs: &Docs) -> impl fmt::Display {
    let words = docs.contents.as_deref().unwrap_or_default();
    linked(&words.split_whitespace().collect::<Vec<_>>().join(" ").replace('|', "\\|"))
}

/// Words as they stand alone, with an empty line after each paragraph.
fn paragraphs(docs: &Docs) -> String {
    let words = docs.contents.as_deref().unwrap_or_default();
    let paragraphs = words.split("\n\n").filter(|words| !words.trim().is_empty());
    paragraphs.map(|words| linked(&words.split_whitespace().collect::<Vec<_>>().join(" ")) + "\n\n").collect()
}

/// Limits that the words name lead to the table of limits.
fn linked(words: &str) -> String {
    let (mut out, mut rest) = (String::new(), words);
    while let Some(at) = rest.find("t most ").and_then(|at| at.checked_sub(1)) {
        let (before, limit) = rest.split_at(at);
        let end = limit_end(limit);
        let (limit, after) = limit.split_at(end);
        out.push_str(before);
        if end > "at most ".len() {
            out.extend(["[", limit, "](", LIMITS, ")"])
        } else {
            out.push_str(limit)
        }
        rest = after;
    }
    out + rest
}

/// How far `at most 4 KiB` goes; no further than its first two words when no number follows.
fn limit_end(limit: &str) -> usize {
    let start = "at most ".len();
    let after = limit.get(start..).unwrap_or_default();
    let digits = after.bytes().take_while(|b| b.is_ascii_digit() || *b == b',').count();
    let digits = after.get(..digits).unwrap_or_default().trim_end_matches(',').len();
    if digits == 0 {
        return start;
    }
    let unit = after.get(digits..).and_then(|rest| rest.strip_prefix(' ')).unwrap_or_default();
    let unit = UNITS.iter().find(|known| unit.starts_with(**known)).map_or(0, |known| known.len() + 1);
    start + digits + unit
}
