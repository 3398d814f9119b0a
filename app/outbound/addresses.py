"""Which addresses the service calls on a user's word: public ones, and private networks that an operator allows."""

from collections.abc import Iterable
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_network

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

_EVERY_NETWORK = (ip_network("0.0.0.0/0"), ip_network("::/0"))


def _networks(*words: str) -> tuple[Network, ...]:
    return tuple(map(ip_network, words))


NEVER = _networks(
    *("0.0.0.0/8", "169.254.0.0/16", "224.0.0.0/4", "240.0.0.0/4", "::/128", "fe80::/10", "fec0::/10", "ff00::/8"),
    # Where clouds hand out credentials, beside the link-local address: Alibaba, Oracle, Azure, Amazon.
    *("100.100.100.200/32", "192.0.0.192/32", "168.63.129.16/32", "fd00:ec2::254/128"),
)
"""Never called, whatever an operator allows: no host, many hosts, services of this link alone, or credentials."""

SPECIAL = _networks(
    *("10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "172.16.0.0/12", "192.0.0.0/24", "192.0.2.0/24", "192.88.99.0/24"),
    *("192.168.0.0/16", "198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24"),
    *("2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20"),
)
"""What the registries of special addresses (RFC 6890, IANA) take out of the public ones; 2001::/23 has Teredo in it,
and 2002::/16 is 6to4, which both carry another address inside."""

_PUBLIC_IPV6 = IPv6Network("2000::/3")
_NAT64 = IPv6Network("64:ff9b::/96")
_ISATAP = (0x0000_5EFE, 0x0200_5EFE)


def networks_of(words: Iterable[str]) -> tuple[Network, ...]:
    """Return networks by their names; `*` is all of them. Raises ValueError."""
    return tuple(network for word in words for network in (_EVERY_NETWORK if word == "*" else (ip_network(word),)))


def is_allowed(address: Address, private: Iterable[Network] = ()) -> bool:
    """Return whether an address may be called: a public one, or one of these private networks."""
    inner = _inner(address)
    if inner is not None:
        return is_allowed(inner, private)
    if _within(address, NEVER):
        return False
    return _is_public(address) or _within(address, private)


def _inner(address: Address) -> IPv4Address | None:
    """Return the IPv4 address that an IPv6 one stands for: mapped, or behind the well-known prefix of NAT64."""
    if isinstance(address, IPv6Address) and (address.ipv4_mapped is not None or address in _NAT64):
        return IPv4Address(int(address) & 0xFFFF_FFFF)
    return None


def _is_public(address: Address) -> bool:
    if _within(address, SPECIAL):
        return False
    if isinstance(address, IPv4Address):
        return True
    return address in _PUBLIC_IPV6 and (int(address) >> 32) & 0xFFFF_FFFF not in _ISATAP


def _within(address: Address, networks: Iterable[Network]) -> bool:
    return any(address in network for network in networks)
