//! What is said of a command line that does not read: one line, as of everything else that was given and cannot work.

use std::ffi::OsString;

use clap::Command;
use clap::error::{ContextKind, ContextValue, ErrorKind};

use super::bad_input;

/// The command whose arguments may hold a secret by mistake.
const SETS_A_SECRET: &str = "carillon secret set";

/// Has commands that lack their subcommand say so, in place of printing their whole help as an error.
pub fn without_help_as_error(command: Command) -> Command {
    command.arg_required_else_help(false).mut_subcommands(without_help_as_error)
}

/// The error for these words: what is wrong with which argument, what clap proposes, and which help has the rest.
pub fn error(program: &Command, words: &[OsString], mut error: clap::Error) -> anyhow::Error {
    let (command, path) = named(program, words);
    // One argument too many is the secret itself, which must not come back in a text that a log keeps.
    if error.kind() == ErrorKind::UnknownArgument && path == SETS_A_SECRET {
        return bad_input(format!(
            "{path}: an argument that it does not take; the secret's value is read from standard input, not from the command \
             line; see `{path} --help`"
        ));
    }
    // Long, and in the help.
    error.remove(ContextKind::Usage);
    if let Some(ContextValue::String(argument)) = error.get(ContextKind::InvalidArg)
        && let Some(variable) = variable(command, words, argument)
    {
        let both = format!("{argument} ({variable})");
        error.insert(ContextKind::InvalidArg, ContextValue::String(both));
    }
    // clap lists subcommands that are nobody's to give, too.
    if let Some(ContextValue::Strings(names)) = error.remove(ContextKind::ValidSubcommand) {
        let hidden = |name: &String| command.find_subcommand(name).is_some_and(Command::is_hide_set);
        let shown = names.into_iter().filter(|name| !hidden(name)).collect();
        error.insert(ContextKind::ValidSubcommand, ContextValue::Strings(shown));
    }
    let text = error.render().to_string();
    bad_input(format!("{}; see `{path} --help`", one_line(text.strip_prefix("error: ").unwrap_or(&text))))
}

/// The command that words name, as far as they do, and how it is called.
fn named<'a>(program: &'a Command, words: &[OsString]) -> (&'a Command, String) {
    words.iter().fold((program, program.get_name().to_owned()), |(command, path), word| {
        match command.find_subcommand(word) {
            Some(inner) => (inner, format!("{path} {}", inner.get_name())),
            None => (command, path),
        }
    })
}

/// The variable that an argument comes from; `None` when it is one of the words.
fn variable(command: &Command, words: &[OsString], argument: &str) -> Option<String> {
    let flag = argument.split(' ').next()?;
    if words.iter().any(|word| word.to_string_lossy().split('=').next() == Some(flag)) {
        return None;
    }
    let long = flag.strip_prefix("--")?;
    let setting = command.get_arguments().find(|setting| setting.get_long() == Some(long))?;
    setting.get_env().map(|name| name.to_string_lossy().into_owned())
}

/// clap's lines (what is wrong, lists, tips) as one, without its pointer to a help that it does not name.
fn one_line(text: &str) -> String {
    let lines =
        text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with("For more information"));
    let mut out = String::new();
    for line in lines {
        let joint = if out.is_empty() {
            ""
        } else if out.ends_with(':') || line.starts_with('[') {
            " "
        } else if line.starts_with("tip:") {
            "; "
        } else {
            ", "
        };
        out.push_str(joint);
        // What was given may have anything in it.
        out.extend(line.chars().map(|c| if c.is_control() { ' ' } else { c }));
    }
    out
}

#[cfg(test)]
mod tests {
    use super::super::{BadInput, Cli};
    use super::*;

    fn line(words: &[&str]) -> String {
        let words: Vec<OsString> = std::iter::once(&"carillon").chain(words).map(OsString::from).collect();
        let error = Cli::from_words(&words).unwrap_err();
        assert!(error.downcast_ref::<BadInput>().is_some(), "{words:?}: {error}");
        error.to_string()
    }

    #[test]
    fn what_does_not_read_is_said_in_one_line_with_the_fix() {
        for (words, parts) in [
            (&["serve", "--windw", "1"][..], &["'--windw'", "'--window'", "`carillon serve --help`"][..]),
            (&["serve", "--window", "many"], &["'many' for '--window <N>': ", "`carillon serve --help`"]),
            (&["serve", "--window"], &["'--window <N>'", "`carillon serve --help`"]),
            (&["serve", "--window", "1", "--window", "2"], &["'--window <N>'", "multiple times"]),
            (
                &["serve", "--roles", "api,worker"],
                &["'worker' for '--roles <LIST>' [possible values: api, ", "'workers'"],
            ),
            (&["serve", "here"], &["'here'", "`carillon serve --help`"]),
            (
                &["--log-format", "json", "plugin", "check"],
                &["not provided: <FILE>; see `carillon plugin check --help`"],
            ),
            (&["plugin", "new"], &["not provided: ", "--lang <", ", ", "`carillon plugin new --help`"]),
            (&["plugin", "watch", ".", "--build", "make"], &["--wasm <FILE>", "`carillon plugin watch --help`"]),
            (&["plugin", "grant", "x", "--nothing", "--asked"], &["'--nothing'", "'--asked'", "cannot be used with"]),
            (&["srve"], &["'srve'; tip: ", "'serve'", "`carillon --help`"]),
            (&["plugin", "frobnicate"], &["'frobnicate'", "`carillon plugin --help`"]),
            (&[], &["subcommand", "[subcommands: serve, demo, ", "`carillon --help`"]),
            (&["plugin"], &["'carillon plugin' requires a subcommand", "check", "`carillon plugin --help`"]),
            (&["plugin", "rollout"], &["start", "`carillon plugin rollout --help`"]),
            (&["serve", "--window", "a\nb\r\u{1b}[31mc"], &["`carillon serve --help`"]),
        ] {
            let line = line(words);
            assert!(!line.chars().any(char::is_control), "{words:?}: {line}");
            for part in parts {
                assert!(line.contains(part), "{words:?}: no {part} in {line}");
            }
            for noise in ["error:", "Usage:", "For more information", "compile-plugin"] {
                assert!(!line.contains(noise), "{words:?}: {noise} in {line}");
            }
        }
    }

    #[test]
    fn a_secret_that_was_given_as_an_argument_is_not_repeated() {
        for given in [
            &["swordfish"][..],
            &["swordfish", "--host", "api.example.com"],
            &["--host", "api.example.com", "swordfish"],
            &["--", "-swordfish"],
            &["--swordfish"],
            &["--swordfish=swordfish"],
            &["--value", "swordfish"],
        ] {
            let words: Vec<&str> = ["secret", "set", "KEY"].iter().chain(given).copied().collect();
            let line = line(&words);
            assert!(!line.contains("swordfish"), "{words:?}: {line}");
            assert!(line.contains("standard input") && line.contains("`carillon secret set --help`"), "{line}");
        }
        // What is missing is still named.
        assert!(line(&["secret", "set", "KEY"]).contains("--host"));
    }

    #[test]
    fn help_and_version_are_what_was_asked_for() {
        for words in [&["carillon", "--help"], &["carillon", "--version"], &["carillon", "help"]] {
            let error = Cli::from_words(&words.map(OsString::from)).unwrap_err();
            let asked = error.downcast_ref::<clap::Error>();
            assert_eq!(asked.map(clap::Error::exit_code), Some(0), "{words:?}: {error}");
        }
    }
}
