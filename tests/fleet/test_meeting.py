"""Where ranks meet: on one address, not on all."""

import socket

from monosem.fleet.meeting import interface_of


def test_the_interface_of_an_address():
    name = interface_of("127.0.0.1")
    assert name in {name for _, name in socket.if_nameindex()} and name.startswith("lo")
    assert interface_of("192.0.2.1") is None, "nobody has this address"
