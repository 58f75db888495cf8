//! Which addresses a plugin's request may reach without a grant: those of the public internet, nothing else.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{Ipv4Net, Ipv6Net};

const fn v4(a: u8, b: u8, c: u8, d: u8, prefix: u8) -> Ipv4Net {
    Ipv4Net::new_assert(Ipv4Addr::new(a, b, c, d), prefix)
}

const fn v6(a: u16, b: u16, c: u16, prefix: u8) -> Ipv6Net {
    Ipv6Net::new_assert(Ipv6Addr::new(a, b, c, 0, 0, 0, 0, 0), prefix)
}

/// IANA's special-purpose registry for IPv4, and the metadata services that clouds put elsewhere. The first match counts.
const REFUSED_V4: [(Ipv4Net, &str); 19] = [
    (v4(169, 254, 169, 254, 32), "a cloud metadata"),
    (v4(168, 63, 129, 16, 32), "a cloud metadata"),
    (v4(100, 100, 100, 200, 32), "a cloud metadata"),
    (v4(192, 0, 0, 192, 32), "a cloud metadata"),
    (v4(0, 0, 0, 0, 8), "an unspecified"),
    (v4(10, 0, 0, 0, 8), "a private"),
    (v4(100, 64, 0, 0, 10), "a carrier-grade NAT"),
    (v4(127, 0, 0, 0, 8), "a loopback"),
    (v4(169, 254, 0, 0, 16), "a link-local"),
    (v4(172, 16, 0, 0, 12), "a private"),
    (v4(192, 0, 0, 0, 24), "a reserved"),
    (v4(192, 0, 2, 0, 24), "a documentation"),
    (v4(192, 88, 99, 0, 24), "a 6to4 relay"),
    (v4(192, 168, 0, 0, 16), "a private"),
    (v4(198, 18, 0, 0, 15), "a benchmarking"),
    (v4(198, 51, 100, 0, 24), "a documentation"),
    (v4(203, 0, 113, 0, 24), "a documentation"),
    (v4(224, 0, 0, 0, 4), "a multicast"),
    (v4(240, 0, 0, 0, 4), "a reserved"),
];

/// Named for the sake of the text; whatever is not global unicast is refused anyway.
const REFUSED_V6: [(Ipv6Net, &str); 8] = [
    (v6(0xfd00, 0xec2, 0, 32), "a cloud metadata"),
    (v6(0xfc00, 0, 0, 7), "a unique-local"),
    (v6(0xfe80, 0, 0, 10), "a link-local"),
    (v6(0xff00, 0, 0, 8), "a multicast"),
    // Teredo, benchmarking, ORCHID and what else the IETF keeps for protocols.
    (v6(0x2001, 0, 0, 23), "a reserved"),
    (v6(0x2001, 0xdb8, 0, 32), "a documentation"),
    (v6(0x3fff, 0, 0, 20), "a documentation"),
    // The old 6bone, given back and not assigned.
    (v6(0x3ffe, 0, 0, 16), "a reserved"),
];

const GLOBAL_UNICAST: Ipv6Net = v6(0x2000, 0, 0, 3);

/// Why `address` is refused, as in "resolves to … address"; `None` when it is public.
pub(super) fn refusal(address: IpAddr) -> Option<&'static str> {
    match address {
        IpAddr::V4(v4) => REFUSED_V4.iter().find(|(net, _)| net.contains(&v4)).map(|(_, why)| *why),
        IpAddr::V6(v6) => refusal_v6(v6),
    }
}

fn refusal_v6(address: Ipv6Addr) -> Option<&'static str> {
    if address.is_unspecified() {
        return Some("an unspecified");
    }
    if address.is_loopback() {
        return Some("a loopback");
    }
    // An address that carries an IPv4 address ends up there, so that is the one to judge.
    let [a, b, c, d, e, f, g, h] = address.segments();
    let embedded = match (a, b, c, d, e, f) {
        (0, 0, 0, 0, 0, 0xffff) | (0x64, 0xff9b, 0, 0, 0, 0) => Some((g, h)),
        (0x2002, ..) => Some((b, c)),
        _ => None,
    };
    if let Some((high, low)) = embedded {
        return refusal(IpAddr::V4(Ipv4Addr::from_bits(u32::from(high) << 16 | u32::from(low))));
    }
    if let Some((_, why)) = REFUSED_V6.iter().find(|(net, _)| net.contains(&address)) {
        return Some(why);
    }
    (!GLOBAL_UNICAST.contains(&address)).then_some("a reserved")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn public_addresses_pass() {
        for text in [
            "1.1.1.1",
            "8.8.8.8",
            "100.63.255.255",
            "100.128.0.1",
            "172.15.0.1",
            "172.32.0.1",
            "192.0.1.1",
            "198.17.0.1",
            "198.20.0.1",
            "223.255.255.255",
            "2606:4700:4700::1111",
            "2a00:1450:4001:81b::200e",
            "::ffff:1.1.1.1",
            "64:ff9b::1.1.1.1",
            "2002:0101:0101::1",
        ] {
            assert_eq!(refusal(text.parse().unwrap()), None, "{text}");
        }
    }

    #[test]
    fn everything_else_is_refused_in_every_form() {
        for (text, why) in [
            ("0.0.0.0", "an unspecified"),
            ("0.1.2.3", "an unspecified"),
            ("10.255.0.1", "a private"),
            ("172.16.0.1", "a private"),
            ("172.31.255.255", "a private"),
            ("192.168.1.1", "a private"),
            ("100.64.0.1", "a carrier-grade NAT"),
            ("100.127.255.255", "a carrier-grade NAT"),
            ("127.0.0.1", "a loopback"),
            ("127.255.255.254", "a loopback"),
            ("169.254.1.1", "a link-local"),
            ("169.254.169.254", "a cloud metadata"),
            ("168.63.129.16", "a cloud metadata"),
            ("100.100.100.200", "a cloud metadata"),
            ("192.0.0.192", "a cloud metadata"),
            ("192.0.0.8", "a reserved"),
            ("192.0.2.1", "a documentation"),
            ("198.51.100.7", "a documentation"),
            ("203.0.113.9", "a documentation"),
            ("198.18.0.1", "a benchmarking"),
            ("198.19.255.255", "a benchmarking"),
            ("224.0.0.1", "a multicast"),
            ("240.0.0.1", "a reserved"),
            ("255.255.255.255", "a reserved"),
            ("::", "an unspecified"),
            ("::1", "a loopback"),
            ("::127.0.0.1", "a reserved"),
            ("::ffff:127.0.0.1", "a loopback"),
            ("::ffff:169.254.169.254", "a cloud metadata"),
            ("::ffff:0:127.0.0.1", "a reserved"),
            ("64:ff9b::10.0.0.1", "a private"),
            ("64:ff9b:1::10.0.0.1", "a reserved"),
            ("2002:7f00:1::", "a loopback"),
            ("2002:a9fe:a9fe::1", "a cloud metadata"),
            ("2001::1", "a reserved"),
            ("2001:2::1", "a reserved"),
            ("2001:db8::1", "a documentation"),
            ("3fff::1", "a documentation"),
            ("5f00::1", "a reserved"),
            ("100::1", "a reserved"),
            ("fc00::1", "a unique-local"),
            ("fd00:ec2::254", "a cloud metadata"),
            ("fd12::1", "a unique-local"),
            ("fe80::1", "a link-local"),
            ("fec0::1", "a reserved"),
            ("ff02::1", "a multicast"),
        ] {
            assert_eq!(refusal(text.parse().unwrap()), Some(why), "{text}");
        }
    }
}
