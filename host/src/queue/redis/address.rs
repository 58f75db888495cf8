//! Addresses of servers.

use redis::Client;

use super::link::bad_address;
use crate::queue::Result;

/// The address of each node of `redis-cluster://user:password@a:1,b:2/?…`.
pub(super) fn cluster_nodes(url: &str) -> Option<Vec<String>> {
    let (scheme, rest) = url.split_once("-cluster://")?;
    let (authority, tail) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
    let (user, hosts) = match authority.rsplit_once('@') {
        Some((user, hosts)) => (format!("{user}@"), hosts),
        None => (String::new(), authority),
    };
    Some(hosts.split(',').map(|host| format!("{scheme}://{user}{host}{tail}")).collect())
}

pub(super) fn client(url: &str) -> Result<Client> {
    if url.starts_with("rediss:") {
        // The library takes the process' provider; an error means that there is one.
        let _ = rustls::crypto::ring::default_provider().install_default();
    }
    Client::open(url).map_err(|_| bad_address())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clusters_address_gives_its_nodes() {
        assert_eq!(
            cluster_nodes("rediss-cluster://u:p@a:1,[::1]:2?protocol=resp3").unwrap(),
            ["rediss://u:p@a:1?protocol=resp3", "rediss://u:p@[::1]:2?protocol=resp3"]
        );
        assert_eq!(cluster_nodes("redis-cluster://a:1").unwrap(), ["redis://a:1"]);
    }

    #[test]
    fn an_errors_text_does_not_name_the_password() {
        for url in ["redis://u:secret@host:port", "redis://u:secret@", "amqp://u:secret@host"] {
            let error = client(url).unwrap_err();
            assert!(!(format!("{error:?}") + &format!("{:#}", anyhow::Error::new(error))).contains("secret"));
        }
    }
}
