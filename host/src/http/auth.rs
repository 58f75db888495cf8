//! Who calls, and whether they may: bearer tokens with scopes.
//!
//! What a route demands stands in one place, its OpenAPI entry; [`Rules`] is read from the document. A route without an entry
//! is refused to everybody.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{FromRequestParts, MatchedPath, Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use parking_lot::Mutex;

use crate::core::Core;
use crate::id::{Digest, TokenId};
use crate::operations::{Actor, tokens};
use crate::store::TokenRow;

use super::guesses::Knock;
use super::problem::Problem;

/// How long a token is trusted after it was looked up: the longest time for which a revoked one still works.
const TRUSTED: Duration = Duration::from_millis(750);
/// Tokens kept in memory at most.
const MAX_CACHED: usize = 10_000;
/// The longest secret that is looked at.
pub(super) const MAX_SECRET: usize = 512;

/// What a route demands.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Rule {
    Open,
    Scope(String),
}

/// What every route demands, by path pattern and method.
#[derive(Debug, Default)]
pub(super) struct Rules(HashMap<String, HashMap<Method, Rule>>);

impl Rules {
    /// Reads the rules from an OpenAPI document. An operation that does not say what it demands gets no rule.
    pub fn from_document(document: &serde_json::Value) -> Self {
        let mut rules: HashMap<String, HashMap<Method, Rule>> = HashMap::new();
        let paths = document.get("paths").and_then(|p| p.as_object());
        for (path, operations) in paths.into_iter().flatten() {
            for (method, operation) in operations.as_object().into_iter().flatten() {
                let Ok(method) = Method::from_bytes(method.to_ascii_uppercase().as_bytes()) else { continue };
                let Some(demanded) = operation.get("security").and_then(|s| s.as_array()) else { continue };
                let scope = demanded.iter().find_map(|d| d.get("token")?.get(0)?.as_str());
                let rule = match scope {
                    Some(scope) => Rule::Scope(scope.to_owned()),
                    None if demanded.iter().all(|d| d.as_object().is_some_and(serde_json::Map::is_empty)) => Rule::Open,
                    None => continue,
                };
                rules.entry(path.clone()).or_default().insert(method, rule);
            }
        }
        Self(rules)
    }

    fn methods(&self, path: &str) -> Option<String> {
        let names: BTreeSet<_> = self.0.get(path)?.keys().map(Method::as_str).collect();
        Some(names.into_iter().collect::<Vec<_>>().join(", "))
    }
}

/// The caller of a request that was let in.
#[derive(Debug, Clone)]
pub(super) struct Caller {
    /// Its token.
    pub token: TokenId,
    /// The token's name.
    pub name: String,
}

impl<S: Sync> FromRequestParts<S> for Actor {
    type Rejection = Problem;
    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        let caller = parts.extensions.get::<Caller>();
        caller
            .map(|c| Actor::new(c.name.clone()))
            .ok_or_else(|| Problem::internal(&anyhow::anyhow!("a route that is open to everybody wants an actor")))
    }
}

/// The doorkeeper of the API.
pub(super) struct Auth {
    core: Core,
    rules: Rules,
    known: Mutex<HashMap<Digest, (TokenRow, Duration)>>,
    buckets: Mutex<HashMap<TokenId, (f64, Duration)>>,
}

impl Auth {
    pub fn new(core: Core, rules: Rules) -> Self {
        Self { core, rules, known: Mutex::default(), buckets: Mutex::default() }
    }

    /// The valid token with this secret.
    async fn token(&self, secret: &str, knock: &Knock) -> Result<Option<TokenRow>, Problem> {
        // Looked up by its hash: comparing takes the same time whatever the secret is.
        let digest = tokens::digest(secret);
        let now = self.core.clock.monotonic();
        let known = self.known.lock().get(&digest).cloned();
        let was_known = known.is_some();
        if let Some((row, _)) = known.filter(|(_, at)| now.saturating_sub(*at) < TRUSTED) {
            return Ok(Some(row));
        }
        // One that was good here before is no guess: who shares an address with somebody that guesses can go on.
        let guess = if was_known { None } else { Some(knock.guess().map_err(slowed)?) };
        let row = self.core.store.token_by_secret(digest).await?.filter(|t| t.revoked_at.is_none());
        if let Some(guess) = guess.filter(|_| row.is_none()) {
            guess.was_wrong();
        }
        let mut cache = self.known.lock();
        match &row {
            Some(row) => {
                if cache.len() >= MAX_CACHED {
                    cache.clear();
                }
                cache.insert(digest, (row.clone(), now));
            }
            None => {
                cache.remove(&digest);
            }
        }
        Ok(row)
    }

    /// Counts a call of the token; how long to wait when it made too many.
    fn throttled(&self, token: TokenId) -> Option<u64> {
        let rate = f64::from(self.core.config.rate_limit);
        if rate <= 0.0 {
            return None;
        }
        let now = self.core.clock.monotonic();
        let mut buckets = self.buckets.lock();
        if buckets.len() >= MAX_CACHED {
            buckets.clear();
        }
        let (left, at) = buckets.entry(token).or_insert((rate, now));
        *left = (*left + now.saturating_sub(*at).as_secs_f64() * rate).min(rate);
        *at = now;
        if *left >= 1.0 {
            *left -= 1.0;
            None
        } else {
            Some(1)
        }
    }

    /// The scope that a request must have; `None` when it is open to everybody.
    fn demanded(&self, request: &Request) -> Result<Option<&str>, Problem> {
        let Some(path) = request.extensions().get::<MatchedPath>() else {
            return Ok(None); // No route: the answer is a 404 for everybody.
        };
        let Some(methods) = self.rules.0.get(path.as_str()) else {
            return Err(Problem::new(StatusCode::FORBIDDEN, "forbidden", "this route is not open to anybody"));
        };
        let method = if request.method() == Method::HEAD { &Method::GET } else { request.method() };
        match methods.get(method) {
            Some(Rule::Scope(scope)) => Ok(Some(scope)),
            Some(Rule::Open) => Ok(None),
            None => Err(super::wrong_method(&self.rules.methods(path.as_str()).unwrap_or_default())),
        }
    }

    async fn admit(&self, scope: &str, secret: Option<String>, knock: Knock) -> Result<Caller, Problem> {
        let Some(secret) = secret else {
            return Err(unauthorised("give a token: Authorization: Bearer car_…"));
        };
        let Some(token) = self.token(&secret, &knock).await? else {
            return Err(unauthorised("the token is unknown or has been revoked"));
        };
        if let Some(seconds) = self.throttled(token.id) {
            let detail = format!("this token may make {} calls a second", self.core.config.rate_limit);
            return Err(Problem::new(StatusCode::TOO_MANY_REQUESTS, "rate-limited", detail).retry_after(seconds));
        }
        if !token.scopes.iter().any(|s| s == "admin" || s == scope) {
            let detail = format!("the token does not have the scope {scope}");
            let problem = Problem::new(StatusCode::FORBIDDEN, "forbidden", detail);
            return Err(problem.challenge("Bearer error=\"insufficient_scope\""));
        }
        Ok(Caller { token: token.id, name: token.name })
    }
}

fn slowed(seconds: u64) -> Problem {
    let detail =
        "too many tokens that are not valid came from this address; one that is valid may be tried again later";
    Problem::new(StatusCode::TOO_MANY_REQUESTS, "too-many-failures", detail).retry_after(seconds)
}

fn unauthorised(detail: &str) -> Problem {
    Problem::new(StatusCode::UNAUTHORIZED, "unauthorized", detail).challenge("Bearer")
}

pub(super) fn bearer(headers: &HeaderMap) -> Option<&str> {
    let (scheme, secret) = headers.get(header::AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    let secret = secret.trim();
    (scheme.eq_ignore_ascii_case("bearer") && !secret.is_empty() && secret.len() <= MAX_SECRET).then_some(secret)
}

/// Lets a request in, or answers why not.
pub(super) async fn authorise(State(auth): State<Arc<Auth>>, mut request: Request, next: Next) -> Response {
    match auth.demanded(&request) {
        Ok(None) => {}
        Ok(Some(scope)) => {
            let secret = bearer(request.headers()).map(ToOwned::to_owned);
            let Some(knock) = request.extensions().get::<Knock>().cloned() else {
                return Problem::internal(&anyhow::anyhow!("nobody has noted who asks")).into_response();
            };
            match auth.admit(scope, secret, knock).await {
                Ok(caller) => {
                    request.extensions_mut().insert(caller);
                }
                Err(problem) => return problem.into_response(),
            }
        }
        Err(problem) => return problem.into_response(),
    }
    next.run(request).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_come_from_the_document() {
        let rules = Rules::from_document(&serde_json::json!({"paths": {
            "/a": {"get": {"security": [{"token": ["devices:read"]}]}, "post": {}},
            "/b": {"get": {"security": [{}]}},
        }}));
        assert_eq!(rules.0["/a"].get(&Method::GET), Some(&Rule::Scope("devices:read".to_owned())));
        assert_eq!(rules.0["/a"].get(&Method::POST), None);
        assert_eq!(rules.0["/b"].get(&Method::GET), Some(&Rule::Open));
    }
}
