"""The guard: which addresses and hosts a webhook may have."""

from ipaddress import IPv4Address, IPv6Address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.core.errors import InvalidParameter
from server.core.webhooks.addresses import Guard, is_address, is_name
from server.core.webhooks.webhooks import host_of

pytestmark = pytest.mark.unit

REFUSED = [
    # loopback, in all spellings
    "127.0.0.1",
    "127.0.0.2",
    "127.255.255.255",
    "127.1",
    "127.0.1",
    "2130706433",
    "0x7f000001",
    "0x7f.0.0.1",
    "0x7f.1",
    "0177.0.0.1",
    "017700000001",
    "127.0.0.1.",
    "::1",
    "0:0:0:0:0:0:0:1",
    "::ffff:127.0.0.1",
    "::ffff:7f00:1",
    "::127.0.0.1",
    "0.0.0.0",
    "0",
    "::",
    # private, and carriers' NAT
    "10.0.0.1",
    "10.255.255.255",
    "172.16.0.1",
    "172.31.255.255",
    "192.168.0.1",
    "100.64.0.1",
    "100.127.255.255",
    "fc00::1",
    "fd12:3456:789a::1",
    "fec0::1",
    # link-local, and the metadata of clouds
    "169.254.0.1",
    "169.254.169.254",
    "::ffff:169.254.169.254",
    "100.100.100.200",
    "192.0.0.192",
    "168.63.129.16",
    "fd00:ec2::254",
    "fe80::1",
    "fe80::1%eth0",
    # addresses of IPv4 within IPv6
    "::ffff:10.0.0.1",
    "2002:7f00:1::",
    "2002:a00:1::1",
    "2002:808:808::",
    "64:ff9b::7f00:1",
    "64:ff9b::10.0.0.1",
    "64:ff9b::a9fe:a9fe",
    "64:ff9b:1::808:808",
    "2001:0:808:808::1",
    # documentation, benchmarks, multicast, reserved
    "192.0.2.1",
    "198.51.100.1",
    "203.0.113.1",
    "198.18.0.1",
    "192.88.99.1",
    "224.0.0.1",
    "239.255.255.250",
    "240.0.0.1",
    "255.255.255.255",
    "2001:db8::1",
    "3fff::1",
    "ff02::1",
    "100::1",
    # no addresses
    "localhost",
    "",
    "1.2.3.4.5",
    "256.0.0.1",
    "127%2e0.0.1",
]

PUBLIC = [
    "1.1.1.1",
    "8.8.8.8",
    "100.63.255.255",
    "100.128.0.1",
    "172.15.255.255",
    "172.32.0.1",
    "192.0.1.1",
    "223.255.255.255",
    "2606:4700:4700::1111",
    "2a00:1450:4001:831::200e",
    "::ffff:8.8.8.8",
    "64:ff9b::808:808",
]


@pytest.mark.parametrize("address", REFUSED)
def test_an_address_is_refused(address: str) -> None:
    assert not Guard().allows(address)


@pytest.mark.parametrize("address", PUBLIC)
def test_an_address_is_public(address: str) -> None:
    assert Guard().allows(address)


@given(st.ip_addresses(v=4))
def test_an_address_within_an_address_is_judged_as_itself(inner: IPv4Address) -> None:
    allowed = Guard().allows(str(inner))
    assert Guard().allows(f"::ffff:{inner}") == allowed
    assert Guard().allows(f"64:ff9b::{inner}") == allowed


@given(st.ip_addresses())
def test_nothing_is_public_that_python_takes_for_private(address: IPv4Address | IPv6Address) -> None:
    inner = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    if (inner or address).is_private or address.is_loopback or address.is_link_local or address.is_multicast:
        assert not Guard().allows(str(address))


def test_the_operator_allows_what_is_named_and_no_more() -> None:
    guard = Guard(["10.1.0.0/16", "fd00::/8"])
    for address in ("10.1.0.0", "10.1.255.255", "::ffff:10.1.2.3", "fd12::1", "8.8.8.8"):
        assert guard.allows(address)
    for address in ("10.2.0.0", "127.0.0.1", "10.1", "fe80::1", "0x0a010203"):
        assert not guard.allows(address)


@pytest.mark.parametrize("network", ["::ffff:10.1.0.0/112", "64:ff9b::10.1.0.0/112"])
def test_a_network_that_stands_for_another_is_that_one(network: str) -> None:
    guard = Guard([network])
    for address in ("10.1.0.0", "10.1.255.255", "::ffff:10.1.2.3", "64:ff9b::10.1.2.3"):
        assert guard.allows(address)
    for address in ("10.0.255.255", "10.2.0.0", "::ffff:10.2.0.0"):
        assert not guard.allows(address)


@pytest.mark.parametrize("host", ["127.1", "0x7f.1", "2130706433", "1.2.3.4", "a.0x10", "::1", "1.2.3.4.", "0x"])
def test_what_systems_take_for_an_address_is_no_name(host: str) -> None:
    assert is_address(host)


@pytest.mark.parametrize("host", ["example.com", "a", "a-b.c_d.e", "1.example", "xn--bcher-kva.example.", "0x.a"])
def test_names(host: str) -> None:
    assert is_name(host)
    assert not is_address(host)


@pytest.mark.parametrize(
    ("url", "host"),
    [
        ("https://Example.com/a?b=c", "example.com"),
        ("http://example.com:8080", "example.com"),
        ("http://[::1]:80/", "::1"),
        ("http://127.1/", "127.1"),
        ("HTTPS://example.com", "example.com"),
    ],
)
def test_the_host_of_a_url(url: str, host: str) -> None:
    assert host_of(url) == host


@pytest.mark.parametrize(
    "url",
    [
        "example.com",
        "ftp://example.com",
        "file:///etc/passwd",
        "http://",
        "http:///path",
        "http://user@example.com/",
        "http://user:password@example.com/",
        "http://example.com@127.0.0.1/",
        "http://example.com#@127.0.0.1/",
        "http://example.com\\@127.0.0.1/",
        "http://①②⑦.0.0.1/",
        "http://exa mple.com/",
        "http://example.com:0/",
        "http://example.com:65536/",
        "http://example.com:x/",
        "http://[::1/",
        "http://a..b/",
        "http://example.com/\n",
        "http://example.com/ä",
        f"http://{'a' * 64}.com/",
    ],
)
def test_a_url_that_clients_could_read_in_two_ways_is_refused(url: str) -> None:
    with pytest.raises(InvalidParameter, match=r"^url: "):
        host_of(url)
