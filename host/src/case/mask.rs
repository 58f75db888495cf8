//! Personal data taken out of a case: each letter and digit of a text is replaced by another one of its class that depends on its
//! place only, so that lengths, forms and what is equal stay, and nothing of the text can be told from it.
//!
//! Replaced are the address, the variables and the message's text, wherever they come again in answers and states; the device's
//! settings; headers of answers but for a few that steer a sender; and what looks like a number of somebody, a mail address or a
//! token in answers and in what a sender remembers. The configuration is the campaign's and stays, as does the rest of an answer:
//! it is what a sender's code decides by.

use serde_json::Value;

use super::{AnswerCase, Case, raw};

/// Headers of an answer that steer a sender and say nothing of a recipient.
const KEPT_HEADERS: [&str; 7] =
    ["content-type", "content-length", "date", "retry-after", "server", "x-ratelimit-remaining", "x-ratelimit-reset"];
/// The shortest text that is looked for in answers and states: a shorter one would be found everywhere.
const MIN_FOUND: usize = 4;
/// The shortest text in a state that is taken for a token.
const MIN_TOKEN: usize = 20;
/// The fewest digits in a row that are taken for a number of somebody.
const MIN_NUMBER: usize = 6;

/// Masks a case.
pub(super) fn mask(case: &mut Case) {
    let mut known: Vec<String> = vec![case.recipient.address.clone(), case.content.text.clone()];
    known.extend(case.recipient.variables.iter().map(|(_, value)| value.clone()));
    known.retain(|text| text.len() >= MIN_FOUND);
    // The longest first, so that none is left half replaced.
    known.sort_by_key(|text| std::cmp::Reverse(text.len()));
    known.dedup();

    text(&mut case.recipient.address);
    case.recipient.variables.iter_mut().for_each(|(_, value)| text(value));
    text(&mut case.content.text);
    case.content.subject.iter_mut().for_each(text);
    case.content.media.iter_mut().for_each(|media| text(&mut media.url));
    case.content.attributes.iter_mut().for_each(|(_, value)| text(value));
    let mut adapter: Value = serde_json::from_str(case.device.adapter.get()).unwrap_or_default();
    strings(&mut adapter, &mut |value: &mut String| text(value));
    case.device.adapter = raw(&adapter.to_string());
    for state in [&mut case.state, &mut case.account_state, &mut case.send_state] {
        replace(state, &known);
        tokens(state);
    }
    case.answers.iter_mut().for_each(|answer| mask_answer(answer, &known));
}

fn mask_answer(answer: &mut AnswerCase, known: &[String]) {
    for why in [&mut answer.not_sent, &mut answer.unanswered].into_iter().flatten() {
        replace(why, known);
    }
    let Some(response) = &mut answer.response else { return };
    for (name, value) in &mut response.headers {
        if !KEPT_HEADERS.contains(&name.as_str()) {
            text(value);
        }
    }
    replace(&mut response.body, known);
    // Nobody can say what is in it.
    if let Some(encoded) = &mut response.body_base64 {
        *encoded = "A".repeat(encoded.len() / 4 * 4);
    }
}

/// Replaces what is known wherever it comes again, and what looks like a number of somebody or a mail address.
fn replace(whole: &mut String, known: &[String]) {
    for found in known {
        if whole.contains(found.as_str()) {
            let mut masked = found.clone();
            text(&mut masked);
            *whole = whole.replace(found.as_str(), &masked);
        }
    }
    let is_of_word = |letter: char| letter.is_alphanumeric() || "@._%+-".contains(letter);
    let mut masked = String::with_capacity(whole.len());
    let mut rest = whole.as_str();
    while !rest.is_empty() {
        let (between, after) = rest.split_at(rest.find(is_of_word).unwrap_or(rest.len()));
        masked.push_str(between);
        let (word, after) = after.split_at(after.find(|letter| !is_of_word(letter)).unwrap_or(after.len()));
        masked.push_str(&mask_word(word));
        rest = after;
    }
    *whole = masked;
}

fn mask_word(word: &str) -> String {
    if word.split_once('@').is_some_and(|(name, domain)| !name.is_empty() && !domain.is_empty()) {
        let mut mail = word.to_owned();
        text(&mut mail);
        return mail;
    }
    let letters: Vec<char> = word.chars().collect();
    let runs = letters.chunk_by(|one, next| one.is_ascii_digit() == next.is_ascii_digit());
    let is_number = |run: &[char]| run.len() >= MIN_NUMBER && run.first().is_some_and(char::is_ascii_digit);
    // By the place in the whole word, so that an address comes to the same wherever it is masked.
    let numbers = runs.flat_map(|run| run.iter().map(move |letter| (*letter, is_number(run))));
    numbers
        .enumerate()
        .map(|(place, (letter, masked))| if masked { placeholder(place, letter) } else { letter })
        .collect()
}

/// Masks what looks like a token in a state: long texts in JSON, or the state itself when it is something else.
fn tokens(state: &mut String) {
    match serde_json::from_str::<Value>(state) {
        Ok(mut value) => {
            let before = value.clone();
            strings(&mut value, &mut |inner: &mut String| {
                if inner.len() >= MIN_TOKEN {
                    text(inner);
                }
            });
            // What has none keeps its spelling.
            if value != before {
                *state = value.to_string();
            }
        }
        Err(_) if state.len() >= MIN_TOKEN => text(state),
        Err(_) => {}
    }
}

fn strings(value: &mut Value, change: &mut impl FnMut(&mut String)) {
    match value {
        Value::String(text) => change(text),
        Value::Array(items) => items.iter_mut().for_each(|item| strings(item, change)),
        Value::Object(fields) => fields.values_mut().for_each(|field| strings(field, change)),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

/// Replaces letters and digits; what comes before `://` stays, or no URL would be one any more.
fn text(whole: &mut String) {
    let scheme = whole.find("://").map_or(0, |at| at + 3);
    let (kept, rest) = whole.split_at(scheme);
    let masked: String = rest.chars().enumerate().map(|(place, letter)| placeholder(place, letter)).collect();
    *whole = format!("{kept}{masked}");
}

fn placeholder(place: usize, letter: char) -> char {
    let nth = |alphabet: &[u8]| alphabet.get(place % alphabet.len()).map_or('x', |byte| char::from(*byte));
    match letter {
        '0'..='9' => nth(b"1234567890"),
        'a'..='z' => nth(b"abcdefghijklmnopqrstuvwxyz"),
        'A'..='Z' => nth(b"ABCDEFGHIJKLMNOPQRSTUVWXYZ"),
        _ if letter.is_ascii() => letter,
        // As many bytes as before.
        _ => match letter.len_utf8() {
            2 => 'é',
            3 => '中',
            _ => '😀',
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_of_a_recipient_is_left_and_forms_stay() {
        let json = r#"{"recipient":{"address":"+39055123456","variables":{"name":"Zoë Krämer","city":"Prato","age":"41"}},
            "content":{"text":"Dear Zoë Krämer!","subject":"Hi","attributes":{"image":"https://pictures.example/zoe.png"}},
            "device":{"adapter":{"url":"http://10.0.0.7:8080/send","slot":2}},
            "account_state":"{\"token\":\"secret-secret-secret-1\",\"expires\":7}","send_state":"{\"to\":\"+39055123456\"}",
            "config":{"text":"Dear {{ name }}!"},
            "answers":[{"response":{"status":400,"headers":{"retry-after":"7","x-user":"zoe"},"body":"{\"error\":\"no Prato for +39055123456\",\"cc\":\"ada@example.org\",\"of\":\"0171-555888,12345\"}"}}]}"#;
        let mut case: Case = serde_json::from_str(json).unwrap();
        mask(&mut case);
        let all = serde_json::to_string(&case).unwrap();
        for gone in ["39055123456", "Zo", "zoe", "Prato", "Kr", "10.0.0.7", "secret-secret", "Dear Z", "ada@", "555888"]
        {
            assert!(!all.contains(gone), "{gone} in {all}");
        }
        assert_eq!(case.recipient.address, "+23456789012");
        assert_eq!(case.recipient.variables[0].1, "Abé Eféhij");
        assert_eq!(case.recipient.variables[2].1, "12");
        let adapter: Value = serde_json::from_str(case.device.adapter.get()).unwrap();
        assert_eq!(adapter, serde_json::json!({"url": "http://12.4.6.8:0123/opqr", "slot": 2}));
        let response = case.answers[0].response.as_ref().unwrap();
        let body = r#"{"error":"no Abcde for +23456789012","cc":"abc@efghijk.mno","of":"0171-678901,12345"}"#;
        assert_eq!(response.body, body);
        assert_eq!(response.headers[0], ("retry-after".to_owned(), "7".to_owned()));
        assert_eq!(case.send_state, r#"{"to":"+23456789012"}"#, "what is equal stays equal");
        assert_eq!(case.config.get(), r#"{"text":"Dear {{ name }}!"}"#);
        let once = serde_json::to_string(&case).unwrap();
        mask(&mut case);
        assert_eq!(serde_json::to_string(&case).unwrap(), once, "a masked case is masked");
    }
}
