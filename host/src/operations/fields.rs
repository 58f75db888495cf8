//! Which field a JSON document that does not fit a type is wrong in.

/// The path of the field that an error is about: `path` is where the reader stood, and the names of unknown and missing fields
/// are in the message only.
pub(crate) fn name(path: &str, message: &str) -> String {
    let path = if path == "." { "" } else { path };
    let named = ["unknown field `", "missing field `", "duplicate field `"]
        .iter()
        .find_map(|prefix| message.strip_prefix(prefix)?.split('`').next());
    match named {
        Some(field) if path.is_empty() => field.to_owned(),
        Some(field) if path == field || path.ends_with(&format!(".{field}")) => path.to_owned(),
        Some(field) => format!("{path}.{field}"),
        None => path.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_whole_paths() {
        assert_eq!(name(".", "unknown field `nme`, expected one of `name`"), "nme");
        assert_eq!(name("retry", "missing field `x` at line 1 column 2"), "retry.x");
        assert_eq!(name("retry.x", "unknown field `x`, expected"), "retry.x");
        assert_eq!(name("steps[1].offset_ms", "invalid type: string"), "steps[1].offset_ms");
    }
}
