"""The server's ends of slow clients, as the kernel lists them."""

import socket

import pytest

from fastbcast.load.endpoints import SlowEnds, look_at_slow_ends


@pytest.mark.parametrize("host", ["127.0.0.1", "::"])
def test_an_open_end_is_found_whatever_the_server_listens_on(host):
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listener = socket.create_server((host, 0), family=family, dualstack_ipv6=family == socket.AF_INET6)
    except OSError:
        pytest.skip("there is no IPv6")
    with listener, socket.create_connection(("127.0.0.1", listener.getsockname()[1])) as client:
        server_end, _ = listener.accept()
        with server_end:
            server_end.sendall(b"not read")
            assert look_at_slow_ends([client.fileno()]) == SlowEnds(open=1, unread_bytes=8)
