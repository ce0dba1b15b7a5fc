"""The server's ends of slow clients, as the kernel lists them."""

import socket

import pytest
from conftest import missing

from fastbcast.load import endpoints
from fastbcast.load.endpoints import SlowEnds, look_at_slow_ends


@pytest.mark.parametrize("host", ["127.0.0.1", "::"])
def test_an_open_end_is_found_whatever_the_server_listens_on(host):
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listener = socket.create_server((host, 0), family=family, dualstack_ipv6=family == socket.AF_INET6)
    except OSError:
        missing("there is no IPv6")
    with listener, socket.create_connection(("127.0.0.1", listener.getsockname()[1])) as client:
        server_end, _ = listener.accept()
        with server_end:
            server_end.sendall(b"not read")
            assert look_at_slow_ends([client.fileno()]) == SlowEnds(open=1, unread_bytes=8)


def test_nothing_is_known_of_the_ends_of_a_server_on_another_machine(monkeypatch):
    assert endpoints._is_here(("127.0.0.1", 1))
    assert not endpoints._is_here(("203.0.113.7", 1))
    monkeypatch.setattr(endpoints, "_is_here", lambda address: False)
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.create_connection(listener.getsockname()) as client:
        ends = look_at_slow_ends([client.fileno()])
    assert ends == SlowEnds(is_known=False)
    total = SlowEnds(open=1)
    total.add(ends)
    assert not total.is_known
