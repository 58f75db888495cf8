//! What meets bytes of strangers, each as one function for the fuzzer (`tests/fuzz`). A function returns when all is well,
//! whatever the bytes are, and panics when a promise is broken. None of it is in the program: only tests and the fuzzer's build
//! have this module. The tests call each function with every input that the fuzzer has kept (`tests/fuzz/seeds`).

use crate::operations::audiences::Format;

pub use crate::cli::fuzzing::campaign_file;
pub use crate::egress::fuzzing::request;
pub use crate::http::fuzzing::{names, specs};
pub use crate::operations::audiences::fuzzing::import;
pub use crate::plugins::fuzzing::description;
pub use crate::window::fuzzing::window;

/// An audience as CSV.
pub fn csv(bytes: &[u8]) {
    import(Format::Csv, bytes);
}

/// An audience as NDJSON.
pub fn ndjson(bytes: &[u8]) {
    import(Format::Ndjson, bytes);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_fuzzer_kept_is_met_as_promised() {
        type Target = fn(&[u8]);
        let targets: [(&str, Target); 8] = [
            ("campaign_file", campaign_file),
            ("csv", csv),
            ("description", description),
            ("names", names),
            ("ndjson", ndjson),
            ("request", request),
            ("specs", specs),
            ("window", window),
        ];
        let seeds = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/fuzz/seeds");
        for (name, target) in targets {
            let mut played = 0;
            for seed in std::fs::read_dir(seeds.join(name)).unwrap() {
                let path = seed.unwrap().path();
                let bytes = std::fs::read(&path).unwrap();
                let met = std::panic::catch_unwind(|| target(&bytes));
                assert!(met.is_ok(), "{}", path.display());
                played += 1;
            }
            assert!(played > 0, "{name} has no seeds");
        }
    }
}
