"""Tells which addresses a webhook may be sent to: those of the public internet, and what the operator allows.

Without this, a tenant could let the server call hosts of the operator's own network, and read their responses in the
list of deliveries. An address may stand for another one (`::ffff:10.0.0.1` is 10.0.0.1): then that one counts.

Example: `::ffff:7f00:1` is 127.0.0.1, which is refused. `64:ff9b::808:808` is how a network without IPv4 reaches
8.8.8.8, which is public. `2002:7f00:1::` is refused like all of 6to4, which relays would take to any host.
"""

import re
from collections.abc import Iterable
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

NOT_PUBLIC_V4 = tuple(
    map(
        IPv4Network,
        (
            "0.0.0.0/8",  # this host
            "10.0.0.0/8",  # private
            "100.64.0.0/10",  # carriers' NAT, and the metadata of Alibaba's cloud
            "127.0.0.0/8",  # loopback
            "168.63.129.16/32",  # Azure's own services, reached from its machines only
            "169.254.0.0/16",  # link-local, and the metadata of most clouds
            "172.16.0.0/12",  # private
            "192.0.0.0/24",  # protocols, and the metadata of Oracle's cloud
            "192.0.2.0/24",  # documentation
            "192.88.99.0/24",  # relays of 6to4
            "192.168.0.0/16",  # private
            "198.18.0.0/15",  # benchmarks
            "198.51.100.0/24",  # documentation
            "203.0.113.0/24",  # documentation
            "224.0.0.0/4",  # multicast
            "240.0.0.0/4",  # reserved, and broadcast
        ),
    )
)

PUBLIC_V6 = IPv6Network("2000::/3")
"""All addresses that are given to hosts of the internet. Loopback, ULA, link-local and multicast are outside."""

NOT_PUBLIC_V6 = tuple(
    map(
        IPv6Network,
        (
            "2001::/23",  # protocols, such as Teredo, which stands for any address of IPv4
            "2001:db8::/32",  # documentation
            "2002::/16",  # 6to4, the same
            "3fff::/20",  # documentation
        ),
    )
)

NAT64 = IPv6Network("64:ff9b::/96")
"""How hosts without IPv4 reach those with IPv4: the last 32 bits are the address."""

STAND_FOR_V4 = (IPv6Network("::ffff:0:0/96"), NAT64)
"""Networks whose addresses stand for those of IPv4."""

V4_BITS = (1 << 32) - 1

NUMBER = re.compile(r"[0-9]+|0[xX][0-9a-fA-F]*")
"""The last part of a host that systems take for an address of IPv4, however it is written."""

NAME = re.compile(r"(?=.{1,253}\.?\Z)([A-Za-z0-9_]([A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?\.)*[A-Za-z0-9_-]{1,63}\.?")


class Guard:
    """Tells which addresses are allowed."""

    def __init__(self, allowed: Iterable[str] = ()) -> None:
        """`allowed` are networks, such as `10.1.0.0/16`, whose addresses are allowed as if they were public."""
        self._allowed = [actual_network(ip_network(network)) for network in allowed]

    def allows(self, text: str) -> bool:
        """Whether an address, as a socket or a URL has it, is public or allowed. A name is not: it is no address."""
        try:
            address = actual(ip_address(text))
        except ValueError:
            return False
        return is_public(address) or any(address in network for network in self._allowed)


def actual(address: Address) -> Address:
    """The address that an address stands for."""
    if isinstance(address, IPv6Address) and any(address in network for network in STAND_FOR_V4):
        return IPv4Address(int(address) & V4_BITS)
    return address


def actual_network(network: Network) -> Network:
    """The network that a network stands for: `::ffff:10.0.0.0/104` is `10.0.0.0/8`."""
    if isinstance(network, IPv6Network):
        for prefix in STAND_FOR_V4:
            if network.subnet_of(prefix):
                return IPv4Network((int(network.network_address) & V4_BITS, network.prefixlen - prefix.prefixlen))
    return network


def is_public(address: Address) -> bool:
    """Whether an address is one of a host on the internet."""
    if isinstance(address, IPv4Address):
        return not any(address in network for network in NOT_PUBLIC_V4)
    return address in PUBLIC_V6 and not any(address in network for network in NOT_PUBLIC_V6)


def is_address(host: str) -> bool:
    """Whether a host of a URL is an address, or what systems would take for one: `127.1`, `0x7f000001`, `2130706433`.

    Only the usual form of an address is allowed by a guard.
    """
    return ":" in host or NUMBER.fullmatch(host.rstrip(".").rpartition(".")[2]) is not None


def is_name(host: str) -> bool:
    """Whether a host of a URL has the form of a name."""
    return NAME.fullmatch(host) is not None
