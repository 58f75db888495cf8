//! Guesses at tokens, slowed down: how often an address may be wrong about who it is. Each server counts by itself, in memory
//! of a fixed size.

use std::hash::{BuildHasher as _, RandomState};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use axum::extract::{Request, State};
use axum::http::HeaderMap;
use axum::middleware::Next;
use axum::response::Response;
use ipnet::IpNet;

use crate::clock::SharedClock;
use crate::config::Config;
use crate::metrics::{AuthFailure, Metrics};

/// Places that addresses share: 128 KiB. Each address has two of them, and is slowed down only where both are full, so that
/// hardly any is for another's guesses.
const PLACES: usize = 1 << 14;
/// Within what the wrong guesses that are allowed may come all at once.
const MINUTE: Duration = Duration::from_secs(60);

/// Where a connection comes from; the listener adds it to each request.
#[derive(Debug, Clone, Copy)]
pub struct Peer(pub SocketAddr);

/// How often addresses were wrong lately.
pub struct Guesses {
    /// For each place, the time (µs, monotonic) at which all of its guesses are forgotten.
    places: Box<[AtomicU64]>,
    /// Unknown to whoever guesses, so that nobody can choose whose places to fill.
    hasher: RandomState,
    /// How long one guess takes to be forgotten, in µs; 0 when guesses are not counted.
    each_us: u64,
    /// Proxies whose word about addresses counts.
    trusted: Vec<IpNet>,
    clock: SharedClock,
    metrics: Arc<Metrics>,
}

/// Somebody who asks: an address, and the book that its guesses are kept in.
#[derive(Clone)]
pub struct Knock {
    guesses: Arc<Guesses>,
    from: IpAddr,
}

/// A guess that is being looked at. Unless it turns out to be wrong, it is forgotten at once.
pub struct Guess {
    knock: Knock,
    wrong: bool,
}

impl Guesses {
    /// A book as the settings have it.
    pub fn new(config: &Config, clock: SharedClock, metrics: Arc<Metrics>) -> Self {
        let a_minute = u64::from(config.auth_failures_per_minute);
        let each_us = us(MINUTE).checked_div(a_minute).map_or(0, |each| each.max(1));
        let trusted = config.trusted_proxies.clone();
        let places = (0..PLACES).map(|_| AtomicU64::new(0)).collect();
        Self { places, hasher: RandomState::new(), each_us, trusted, clock, metrics }
    }

    /// Who asks: the peer, or where that is a trusted proxy whoever the proxy says.
    fn origin(&self, peer: IpAddr, headers: &HeaderMap) -> IpAddr {
        let is_trusted = |ip: &IpAddr| self.trusted.iter().any(|net| net.contains(ip));
        let mut origin = peer.to_canonical();
        if !is_trusted(&origin) {
            return origin;
        }
        let told: Vec<&str> = headers
            .get_all("x-forwarded-for")
            .iter()
            .filter_map(|value| value.to_str().ok())
            .flat_map(|value| value.split(','))
            .collect();
        // Each proxy adds whom it heard from at the end; what stands before the first that is not ours can be made up.
        for entry in told.into_iter().rev() {
            let entry = entry.trim();
            let ip = entry.parse().ok().or_else(|| entry.parse::<SocketAddr>().ok().map(|at| at.ip()));
            let Some(ip) = ip else { break };
            origin = ip.to_canonical();
            if !is_trusted(&origin) {
                break;
            }
        }
        origin
    }

    /// The places of an address: for IPv6 those of its /64, which one machine has to itself.
    fn places_of(&self, from: IpAddr) -> [&AtomicU64; 2] {
        let prefix = match from {
            IpAddr::V4(ip) => u64::from(ip.to_bits()),
            // Its upper half; that of a global address is larger than any IPv4 address.
            IpAddr::V6(ip) => (ip.to_bits() >> 64) as u64,
        };
        let hash = self.hasher.hash_one(prefix) as usize;
        let at = |n: usize| self.places.get(n % PLACES);
        let none = &NONE;
        [at(hash).unwrap_or(none), at(hash >> 32).unwrap_or(none)]
    }

    fn take(&self, from: IpAddr) -> Result<(), Duration> {
        let now = us(self.clock.monotonic());
        let full = us(MINUTE);
        let places = self.places_of(from);
        let wait = |place: &AtomicU64| {
            let until = place.load(Ordering::Relaxed).max(now) + self.each_us;
            until.saturating_sub(now + full)
        };
        let wait = places.into_iter().map(wait).min().unwrap_or(0);
        if wait > 0 {
            return Err(Duration::from_micros(wait));
        }
        for place in places {
            let _never_refused = place.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |until| {
                Some((until.max(now) + self.each_us).min(now + full))
            });
        }
        Ok(())
    }

    fn give_back(&self, from: IpAddr) {
        for place in self.places_of(from) {
            let _never_refused = place
                .fetch_update(Ordering::Relaxed, Ordering::Relaxed, |until| Some(until.saturating_sub(self.each_us)));
        }
    }
}

/// A place for nobody.
static NONE: AtomicU64 = AtomicU64::new(0);

fn us(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX / 4)
}

impl Knock {
    /// A token is about to be looked up that this server does not know to be good.
    ///
    /// # Errors
    /// How many seconds to wait, when the address was wrong too often.
    pub fn guess(&self) -> Result<Guess, u64> {
        if self.guesses.each_us > 0
            && let Err(wait) = self.guesses.take(self.from)
        {
            self.guesses.metrics.auth_failure(AuthFailure::Slowed);
            return Err(wait.as_secs() + 1);
        }
        Ok(Guess { knock: self.clone(), wrong: false })
    }
}

impl Guess {
    /// The token is no good.
    pub fn was_wrong(mut self) {
        self.wrong = true;
        self.knock.guesses.metrics.auth_failure(AuthFailure::Wrong);
    }
}

impl Drop for Guess {
    fn drop(&mut self) {
        if !self.wrong && self.knock.guesses.each_us > 0 {
            self.knock.guesses.give_back(self.knock.from);
        }
    }
}

/// Notes who asks, for whoever looks at the token.
pub(super) async fn note(State(guesses): State<Arc<Guesses>>, mut request: Request, next: Next) -> Response {
    let unknown = SocketAddr::from(([0, 0, 0, 0], 0));
    let Peer(peer) = request.extensions().get().copied().unwrap_or(Peer(unknown));
    let from = guesses.origin(peer.ip(), request.headers());
    request.extensions_mut().insert(Knock { guesses, from });
    next.run(request).await
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::ManualClock;

    fn book(a_minute: u32, trusted: &[&str]) -> (Arc<Guesses>, Arc<ManualClock>) {
        let clock = Arc::new(ManualClock::new(crate::clock::Time::from_ms(0)));
        let trusted_proxies = trusted.iter().map(|net| net.parse().unwrap()).collect();
        let config = Config { auth_failures_per_minute: a_minute, trusted_proxies, ..Config::default() };
        (Arc::new(Guesses::new(&config, clock.clone(), Arc::default())), clock)
    }

    fn knock(guesses: &Arc<Guesses>, from: &str) -> Knock {
        Knock { guesses: guesses.clone(), from: from.parse().unwrap() }
    }

    #[test]
    fn wrong_guesses_use_up_an_addresss_own_and_come_back_with_time() {
        let (guesses, clock) = book(6, &[]);
        let (bad, good) = (knock(&guesses, "203.0.113.7"), knock(&guesses, "203.0.113.8"));
        for _ in 0..1_000 {
            drop(bad.guess().unwrap()); // Right, or never looked at: no guess.
        }
        for _ in 0..6 {
            bad.guess().unwrap().was_wrong();
        }
        assert_eq!(bad.guess().err(), Some(11));
        good.guess().unwrap().was_wrong();
        clock.advance(Duration::from_secs(11));
        bad.guess().unwrap().was_wrong();
        assert!(bad.guess().is_err());
        clock.advance(Duration::from_secs(600));
        for _ in 0..6 {
            bad.guess().unwrap().was_wrong();
        }
        assert!(bad.guess().is_err());
        let (off, _) = book(0, &[]);
        (0..1_000).for_each(|_| knock(&off, "203.0.113.7").guess().unwrap().was_wrong());
    }

    #[test]
    fn a_machine_cannot_hide_among_its_own_addresses() {
        let (guesses, _) = book(3, &[]);
        for n in 0..3 {
            knock(&guesses, &format!("2001:db8:1:2::{n}")).guess().unwrap().was_wrong();
        }
        assert!(knock(&guesses, "2001:db8:1:2:ffff::9").guess().is_err());
        assert!(knock(&guesses, "2001:db8:1:3::1").guess().is_ok());
    }

    #[test]
    fn only_a_trusted_proxy_says_who_asks() {
        let (guesses, _) = book(3, &["10.0.0.0/8", "::1/128"]);
        let origin = |peer: &str, told: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert("x-forwarded-for", told.parse().unwrap());
            guesses.origin(peer.parse().unwrap(), &headers).to_string()
        };
        assert_eq!(origin("203.0.113.7", "198.51.100.1"), "203.0.113.7");
        assert_eq!(origin("10.0.0.1", "192.0.2.66, 198.51.100.1"), "198.51.100.1");
        assert_eq!(origin("::ffff:10.0.0.1", "198.51.100.1, 10.2.3.4"), "198.51.100.1");
        assert_eq!(origin("::1", "198.51.100.1:4711"), "198.51.100.1");
        assert_eq!(origin("10.0.0.1", "nonsense"), "10.0.0.1");
        assert_eq!(guesses.origin("10.0.0.1".parse().unwrap(), &HeaderMap::new()).to_string(), "10.0.0.1");
    }
}
