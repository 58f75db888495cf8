//! What the Bot API's answers mean. Its errors have no codes of their own: their descriptions tell them apart.

use common::contract::health::Verdict;
use common::contract::sending::{Failure, Outcome, RecipientProblem, Scope};
use common::provider::{self, Reply, Settings, Usual as _, excerpt, failure, rejected};

/// What becomes of a recipient of whom Telegram says this, our word for it, and what it means.
struct Told {
    /// A part of the description, in small letters.
    says: &'static str,
    code: &'static str,
    problem: RecipientProblem,
    means: &'static str,
}

const fn told(says: &'static str, code: &'static str, problem: RecipientProblem, means: &'static str) -> Told {
    Told { says, code, problem, means }
}

/// A chat that the bot does not know may be one that nobody has opened yet, so it is not put on the suppression list.
static TOLD: [Told; 16] = [
    told("blocked by the user", "blocked", RecipientProblem::Blocked, "the user has blocked the bot"),
    told("bot was kicked", "kicked", RecipientProblem::Blocked, "the bot was removed from the chat"),
    told("user is deactivated", "deactivated", RecipientProblem::Invalid, "the user's account was deleted"),
    told("chat was deleted", "deleted", RecipientProblem::Invalid, "the chat was deleted"),
    told("group chat is deactivated", "deleted", RecipientProblem::Invalid, "the chat was deleted"),
    told(
        "upgraded to a supergroup",
        "migrated",
        RecipientProblem::Invalid,
        "the group has another id now, as a supergroup",
    ),
    told("chat_id is empty", "no-chat", RecipientProblem::Invalid, "there is no chat id"),
    told("to bots", "bot", RecipientProblem::Invalid, "the recipient is a bot"),
    told(
        "can't initiate conversation",
        "not-started",
        RecipientProblem::Unreachable,
        "the user has not started the bot",
    ),
    told("chat not found", "chat-not-found", RecipientProblem::Unreachable, "the bot knows no such chat"),
    told("user not found", "user-not-found", RecipientProblem::Unreachable, "the bot knows no such user"),
    told("peer_id_invalid", "peer-invalid", RecipientProblem::Unreachable, "the bot knows no such chat"),
    told("not a member", "not-a-member", RecipientProblem::Unreachable, "the bot is not a member of the chat"),
    told("rights to send", "no-rights", RecipientProblem::Unreachable, "the bot may not write in the chat"),
    told("chat_write_forbidden", "no-rights", RecipientProblem::Unreachable, "the bot may not write in the chat"),
    told("chat_restricted", "restricted", RecipientProblem::Unreachable, "the chat is restricted"),
];

/// What `getMe` says of the bot.
pub fn verdict(reply: &Reply) -> Verdict {
    match reply.status {
        200..=299 if reply.at("/ok") == Some(&serde_json::Value::Bool(true)) => Verdict::Healthy,
        401 | 404 => Verdict::Blocked(no_such_bot(reply)),
        // Being asked to slow down, and what goes wrong on Telegram's side, says nothing of the bot.
        _ => Verdict::Unknown(reply.said("which says nothing of the bot")),
    }
}

fn no_such_bot(reply: &Reply) -> Failure {
    failure(format!("telegram-{}-token", reply.status), "Telegram knows no bot with this token")
}

/// The outcome of a send.
pub fn outcome(settings: &Settings, reply: &Reply) -> Outcome {
    if reply.status < 300 {
        // An album is answered with a list.
        return match (reply.at("/ok"), reply.id("/result/message_id"), reply.id("/result/0/message_id")) {
            (Some(serde_json::Value::Bool(true)), one, first) => {
                provider::accepted(if one.is_empty() { first } else { one })
            }
            _ => reply.usual(settings, Scope::Device),
        };
    }
    let description = reply.text("/description");
    let said = description.to_lowercase();
    let code = |word: &str| format!("telegram-{}-{word}", reply.status);
    match reply.status {
        // What the API itself says goes before what a proxy on the way may have added.
        429 => match reply.seconds_as_ms("/parameters/retry_after") {
            Some(ms) => provider::wait(Scope::Device, ms, failure(code("flood"), "Telegram asks the bot to slow down")),
            None => reply.usual(settings, Scope::Device),
        },
        401 | 404 => Outcome::AccountBlocked(no_such_bot(reply)),
        400 | 403 => {
            if let Some(told) = TOLD.iter().find(|told| said.contains(told.says)) {
                return rejected(told.problem, failure(code(told.code), told.means));
            }
            if reply.status == 403 {
                let means = format!("Telegram does not let the bot write to this chat: {}", excerpt(description));
                return rejected(RecipientProblem::Unreachable, failure(code("forbidden"), means));
            }
            Outcome::ContentRejected(failure(
                code("bad-request"),
                format!("Telegram refuses it: {}", excerpt(description)),
            ))
        }
        _ => reply.usual(settings, Scope::Device),
    }
}
