"""Which addresses may be called: each special network of the registries, in each form in which IPv6 can hide it."""

from collections.abc import Callable
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.outbound import is_allowed, networks_of

IPV4_REGISTRY = [
    *("0.0.0.0/8", "10.0.0.0/8", "100.64.0.0/10", "127.0.0.0/8", "169.254.0.0/16", "172.16.0.0/12", "192.0.0.0/24"),
    *("192.0.2.0/24", "192.88.99.0/24", "192.168.0.0/16", "198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24"),
    *("224.0.0.0/4", "240.0.0.0/4", "255.255.255.255/32"),
]
"""https://www.iana.org/assignments/iana-ipv4-special-registry, and multicast."""
IPV6_REGISTRY = [
    *("::/128", "::1/128", "64:ff9b:1::/48", "100::/64", "100:0:0:1::/64", "2001::/23", "2001:db8::/32", "2002::/16"),
    *("3fff::/20", "5f00::/16", "fc00::/7", "fe80::/10", "fec0::/10", "ff00::/8"),
]
"""https://www.iana.org/assignments/iana-ipv6-special-registry, multicast, and the site-local addresses of old."""

PUBLIC = ["8.8.8.8", "1.1.1.1", "93.184.215.14", "2606:4700:4700::1111", "2001:4860:4860::8888", "2a00:1450:4001::200e"]
METADATA = ["169.254.169.254", "169.254.170.2", "100.100.100.200", "192.0.0.192", "168.63.129.16", "fd00:ec2::254"]
EVERYTHING = networks_of(["*"])

FORMS: dict[str, Callable[[int], int]] = {
    "mapped": lambda inner: (0xFFFF << 32) | inner,
    "compatible": lambda inner: inner,
    "NAT64": lambda inner: (0x0064_FF9B << 96) | inner,
    "local NAT64": lambda inner: (0x0064_FF9B_0001 << 80) | inner,
    "6to4": lambda inner: (0x2002 << 112) | (inner << 80) | 1,
    "Teredo": lambda inner: (0x2001_0000 << 96) | (inner ^ 0xFFFF_FFFF),
    "Teredo's server": lambda inner: (0x2001_0000 << 96) | (inner << 64) | 0x0808_0808,
    "ISATAP": lambda inner: (0x2606_4700 << 96) | (0x5EFE << 32) | inner,
    "ISATAP of a public one": lambda inner: (0x2606_4700 << 96) | (0x0200_5EFE << 32) | inner,
}


@st.composite
def special_ipv4(draw: st.DrawFn) -> IPv4Address:
    network = ip_network(draw(st.sampled_from(IPV4_REGISTRY)))
    address = ip_address(int(network.network_address) + draw(st.integers(0, network.num_addresses - 1)))
    assert isinstance(address, IPv4Address)
    return address


@given(special_ipv4())
def test_no_special_address_is_called_bare_or_hidden(address: IPv4Address) -> None:
    assert not is_allowed(address)
    for form, hide in FORMS.items():
        assert not is_allowed(IPv6Address(hide(int(address)))), form


@given(st.sampled_from(IPV6_REGISTRY), st.data())
def test_no_special_ipv6_address_is_called(network: str, data: st.DataObject) -> None:
    first, size = ip_network(network).network_address, ip_network(network).num_addresses
    assert not is_allowed(ip_address(int(first) + data.draw(st.integers(0, size - 1))))


@given(st.integers(0, 2**128 - 1).map(IPv6Address).filter(lambda address: address not in ip_network("2000::/3")))
def test_what_no_registry_gave_to_anybody_is_not_called(address: IPv6Address) -> None:
    inner = address.ipv4_mapped or (address if address in ip_network("64:ff9b::/96") else None)
    assert inner or not is_allowed(address)


@pytest.mark.parametrize("address", PUBLIC)
def test_public_addresses_are_called(address: str) -> None:
    assert is_allowed(ip_address(address))


@pytest.mark.parametrize("form", ["mapped", "NAT64"])
def test_a_public_address_is_called_in_forms_that_lead_to_it(form: str) -> None:
    assert is_allowed(IPv6Address(FORMS[form](int(IPv4Address("8.8.8.8")))))


def test_an_operator_allows_networks_one_by_one_in_each_form() -> None:
    private = networks_of(["10.1.0.0/16", "fd12::/16"])
    assert is_allowed(ip_address("10.1.2.3"), private)
    assert is_allowed(ip_address("::ffff:10.1.2.3"), private)
    assert is_allowed(ip_address("fd12::1"), private)
    assert not is_allowed(ip_address("10.2.0.1"), private)
    assert not is_allowed(ip_address("127.0.0.1"), private)


@pytest.mark.parametrize("address", ["10.0.0.1", "127.0.0.1", "192.168.1.1", "::1", "fd00::1", "100.64.0.1"])
def test_a_star_allows_private_networks(address: str) -> None:
    assert is_allowed(ip_address(address), EVERYTHING)


@pytest.mark.parametrize(
    "address", [*METADATA, "0.0.0.0", "::", "224.0.0.1", "ff02::1", "255.255.255.255", "fe80::1", "::ffff:169.254.0.1"]
)
def test_credentials_of_clouds_and_what_is_no_host_are_never_called(address: str) -> None:
    assert not is_allowed(ip_address(address), EVERYTHING)
