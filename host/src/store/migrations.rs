//! The files of `migrations/`, embedded. They are listed by hand: the macro that reads the folder would compile both
//! database drivers a second time, for the compiler.

use sqlx::SqlSafeStr as _;
use sqlx::migrate::{Migration, MigrationType, Migrator};

/// Version, description and statements of a file.
type File = (i64, &'static str, &'static str);

const POSTGRES: &[File] = &[
    (1, "schema", include_str!("../../../migrations/postgres/0001_schema.sql")),
    (2, "retention", include_str!("../../../migrations/postgres/0002_retention.sql")),
    (3, "lists", include_str!("../../../migrations/postgres/0003_lists.sql")),
    (4, "unknown", include_str!("../../../migrations/postgres/0004_unknown.sql")),
    (5, "rollouts", include_str!("../../../migrations/postgres/0005_rollouts.sql")),
    (6, "plugin_cases", include_str!("../../../migrations/postgres/0006_plugin_cases.sql")),
    (7, "grants", include_str!("../../../migrations/postgres/0007_grants.sql")),
    (8, "receipts", include_str!("../../../migrations/postgres/0008_receipts.sql")),
    (9, "deleted_versions", include_str!("../../../migrations/postgres/0009_deleted_versions.sql")),
];
const SQLITE: &[File] = &[
    (1, "schema", include_str!("../../../migrations/sqlite/0001_schema.sql")),
    (2, "retention", include_str!("../../../migrations/sqlite/0002_retention.sql")),
    (3, "lists", include_str!("../../../migrations/sqlite/0003_lists.sql")),
    (4, "unknown", include_str!("../../../migrations/sqlite/0004_unknown.sql")),
    (5, "rollouts", include_str!("../../../migrations/sqlite/0005_rollouts.sql")),
    (6, "plugin_cases", include_str!("../../../migrations/sqlite/0006_plugin_cases.sql")),
    (7, "grants", include_str!("../../../migrations/sqlite/0007_grants.sql")),
    (8, "receipts", include_str!("../../../migrations/sqlite/0008_receipts.sql")),
    (9, "deleted_versions", include_str!("../../../migrations/sqlite/0009_deleted_versions.sql")),
];

/// The tables of PostgreSQL.
pub fn postgres() -> Migrator {
    migrator(POSTGRES)
}

/// The tables of SQLite.
pub fn sqlite() -> Migrator {
    migrator(SQLITE)
}

fn migrator(files: &[File]) -> Migrator {
    let one = |(version, description, sql): &File| {
        Migration::new(*version, (*description).into(), MigrationType::Simple, sql.into_sql_str(), false)
    };
    Migrator::with_migrations(files.iter().map(one).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_file_is_listed_under_its_own_name() {
        for (folder, files) in [("postgres", POSTGRES), ("sqlite", SQLITE)] {
            let path = format!("{}/../migrations/{folder}", env!("CARGO_MANIFEST_DIR"));
            let mut found: Vec<_> =
                std::fs::read_dir(path).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
            found.sort();
            let listed: Vec<_> = files.iter().map(|(no, name, _)| format!("{no:04}_{name}.sql")).collect();
            assert_eq!(found, listed, "{folder}");
        }
    }
}
