"""Where the ranks of a learner group meet: a small server of the leading rank, on the address of its node alone."""

import fcntl
import os
import socket
import struct

import ray
import torch.distributed as dist

import monosem.mkl  # noqa: F401

SIOCGIFADDR = 0x8915
"""Linux: the address of a network interface."""


def open_place(seats: int) -> tuple[dist.TCPStore, str]:
    """The leading rank's: the server, and the host:port that the others are told."""
    host = own_address()
    listener = socket.create_server((host, 0))  # not on all addresses, as the server would by itself
    port = listener.getsockname()[1]
    store = dist.TCPStore(
        host, port, seats, is_master=True, wait_for_workers=False, master_listen_fd=listener.detach()
    )
    return store, f"{host}:{port}"


def find_place(place: str, seats: int) -> dist.TCPStore:
    host, port = place.rsplit(":", 1)
    return dist.TCPStore(host, int(port), seats, is_master=False)


def own_address() -> str:
    """This node's address in the cluster; loopback where the cluster is one node. Ranks talk on its interface."""
    alone = sum(node["Alive"] for node in ray.nodes()) == 1
    address = "127.0.0.1" if alone else ray.util.get_node_ip_address()
    if name := interface_of(address):
        os.environ.setdefault("GLOO_SOCKET_IFNAME", name)
    return address


def interface_of(address: str) -> str | None:
    """The network interface that has an IPv4 address."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        for _, name in socket.if_nameindex():
            request = struct.pack("256s", name.encode()[:15])
            try:
                found = fcntl.ioctl(probe.fileno(), SIOCGIFADDR, request)
            except OSError:  # an interface without an address
                continue
            if socket.inet_ntoa(found[20:24]) == address:
                return name
    return None
