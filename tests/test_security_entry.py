"""SECURITY.md, "Before the 101": each row is what a client of a real server sees, and what is counted."""

import asyncio
import contextlib
import socket
import ssl
from contextlib import closing
from itertools import pairwise

import pytest
from raw_client import RawClient, get, handshake, serving
from reference import TEXT, client_frame
from security_table import Evidence, check, each_row, proves
from support import authorize_for_ever, until
from test_descriptors import descriptor_limit, use_up_descriptors

from fastbcast import Hub
from fastbcast.http import _handshake, pending
from fastbcast.identity.tokens import Tokens
from fastbcast.server import acceptor
from fastbcast.server.tls import make_context

UNFINISHED = b"GET / HTTP/1.1\r\nHost: a\r\n"


@contextlib.asynccontextmanager
async def connecting(port, *requests):
    """A RawClient for each of `requests`, which it has sent."""
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(closing(await RawClient.connect_tcp(port))) for _ in requests]
        for client, request in zip(clients, requests, strict=True):
            await client.send(request)
        yield clients


async def answers(seen, server, *requests):
    """See how `server` answers each of `requests`, one after the other, and what it counts."""
    for request in requests:
        async with connecting(server.port, request) as [client]:
            await seen.saw_answer(client)
    seen.count(server)


@proves("a request a byte at a time (slowloris)", made="slow_handshake")
async def slowloris(seen):
    async with serving(Hub(), handshake_seconds=0.05) as server:
        async with connecting(server.port, b"") as [client]:
            answer = asyncio.ensure_future(seen.saw_answer(client))
            for byte in UNFINISHED:
                await client.send(bytes([byte]))
                await asyncio.sleep(0)
            await answer
        seen.count(server)


@proves("endless headers", made="header_flood")
async def endless_headers(seen):
    long = UNFINISHED + b"X: " + b"x" * 16 * 1024
    many = UNFINISHED + b"X: x\r\n" * 100 + b"\r\n"
    async with serving(Hub()) as server:
        await answers(seen, server, long, many)


@proves("messages before the answer to the handshake")
async def early_messages(seen):
    hub = Hub()
    entered, _ = authorize_for_ever(hub)
    async with serving(hub) as server:
        async with connecting(server.port, handshake()) as [client]:
            await entered.wait()
            await client.send(client_frame(TEXT, b"x" * 1000) * 17)
            await seen.saw_answer(client)
        seen.count(server)


@proves("a TLS handshake that is broken, or no TLS", made="tls_storm", elsewhere=[
    "test_tls.test_a_tls_handshake_has_handshake_seconds",
])
async def broken_tls(seen):
    issued = seen.authority.issue_cert("localhost")
    issued.cert_chain_pems[0].write_to_path(seen.tmp_path / "cert")
    issued.private_key_pem.write_to_path(seen.tmp_path / "key")
    context = make_context(seen.tmp_path / "cert", seen.tmp_path / "key")
    assert context.options & ssl.OP_NO_RENEGOTIATION
    seen.monkeypatch.setattr(RawClient, "server_tls", context)
    async with serving(Hub()) as server:
        async with connecting(server.port, b"\x16\x03\x01\x00\x05hello") as [client]:
            while await client.receive():
                pass
            assert client.data[:1] == b"\x15"
            seen.saw("an alert")
        assert server.stats()["refused"] == {"tls": 1}
        await answers(seen, server, get())


@proves("connections on which nothing is sent, 10,000 of them", made="half_open")
async def half_open(seen):
    async with serving(Hub(), max_handshakes=2) as server:
        with closing(await RawClient.connect(server.port)):
            async with connecting(server.port, b"", b"") as [oldest, _]:
                await until(lambda: server.stats()["handshakes"] == 2)
                with closing(await RawClient.connect(server.port)):     # who asks at once is let in
                    assert not await oldest.receive()
                    seen.saw("a close")
                    seen.count(server)


@proves("a storm of connects", made="close_storm")
async def storm(seen):
    assert acceptor.ACCEPTS_PER_TURN == 64
    storm = 200
    async with serving(Hub()) as server:
        with contextlib.ExitStack() as stack:
            for _ in range(storm):      # blocking: the kernel takes them all, and no turn comes between
                stack.enter_context(socket.create_connection(("127.0.0.1", server.port)))
            accepted = [0]
            while accepted[-1] < storm:
                await asyncio.sleep(0)
                accepted.append(server.stats()["handshakes"])
            largest = max(after - before for before, after in pairwise(accepted))
            assert largest == 64
            seen.saw("a wait")


@proves("connections, very many")
async def many_connections(seen):
    async with serving(Hub(), max_connections=1) as server:
        with closing(await RawClient.connect(server.port)):
            await answers(seen, server, handshake())


@proves("the same from one address", elsewhere=["test_admission.test_one_ipv6_network_is_one_address"])
async def one_address(seen):
    forwarded = {"X_Forwarded_For": "203.0.113.7"}
    async with serving(Hub(), max_connections_per_address=1, forwarded_allow_ips=["127.0.0.1"]) as server:
        with (
            closing(await RawClient.connect(server.port, **forwarded)),
            closing(await RawClient.connect(server.port)),     # loopback
            closing(await RawClient.connect(server.port)),
        ):
            await answers(seen, server, handshake(**forwarded))


@proves("more than the process has descriptors for")
async def no_descriptors(seen):
    async with serving(Hub()) as server:
        async with connecting(server.port, b""):
            await until(lambda: server.stats()["handshakes"] == 1)
            with contextlib.ExitStack() as stack, socket.socket() as sock:
                sock.setblocking(False)
                stack.enter_context(descriptor_limit())
                spare = use_up_descriptors()
                stack.callback(lambda: [socket.close(fd) for fd in spare])
                await asyncio.get_running_loop().sock_connect(sock, ("127.0.0.1", server.port))
                waiting = RawClient(sock)
                await waiting.send(handshake())
                await until(lambda: seen.caplog.records)
                assert server.stats()["handshakes"] == 1
                stack.close()
                assert (await waiting.read_head()).startswith("HTTP/1.1 101 ")
            seen.saw("a wait")
            seen.read_log()


@proves("a forged X-Forwarded-For")
async def forged_address(seen):
    hub, addresses = Hub(), []
    hub.authorize(lambda request: addresses.append(request.remote_address[0]))
    seen.monkeypatch.setattr(_handshake, "name_address", lambda address, is_forwarded: f"{address[0]} {is_forwarded}")
    async with serving(hub) as server:
        with closing(await RawClient.connect(server.port, X_Forwarded_For="203.0.113.7", Forwarded="for=203.0.113.7")):
            assert addresses == ["127.0.0.1"]
            assert list(server.admission._by_address) == ["127.0.0.1 False"]
        seen.saw("counted by its own address")


@proves("a page of somebody else that connects from a visitor's browser")
async def other_origin(seen):
    async with serving(Hub(), origins=["https://example.org"]) as server:
        await answers(seen, server, handshake(Origin="https://evil.example"))
    async with serving(Hub()) as server:    # the default
        (await RawClient.connect(server.port, Origin="https://evil.example")).close()


@proves("a handshake that is none, request smuggling")
async def no_handshake(seen):
    smuggled = handshake(Content_Length="5") + b"GET /"
    requests = [
        smuggled, get(Host="b"), get(method="POST"), get(), handshake(Sec_WebSocket_Version="8"), get() + handshake(),
        b"GET / HTTP/2.0\r\nHost: a\r\n\r\n",
    ]
    async with serving(Hub()) as server:
        await answers(seen, server, *requests)
    assert server.stats()["responses"] == {400: 2, 405: 1, 426: 3, 505: 1}


@proves("bytes that are no HTTP")
async def no_http(seen):
    async with serving(Hub(), handshake_seconds=1000) as server:
        await answers(seen, server, b"\x16\x03\x01", b"SSH-2.0-OpenSSH_9.2\r\n")
    assert server.stats()["responses"] == {400: 2}


@proves("guessing tokens", elsewhere=[
    "test_tokens.test_all_tokens_are_compared_whichever_it_is_and_each_in_constant_time",
    "test_cli_tokens.test_who_has_no_token_for_the_channel_is_refused_and_nothing_of_it_is_logged",
])
async def guessed_tokens(seen):
    path = seen.tmp_path / "tokens"
    path.write_text("x" * 15)
    with pytest.raises(ValueError, match="16"):
        Tokens(path, None)
    path.write_text("x" * 16)
    path.chmod(0o600)
    hub = Hub()
    hub.authorize(Tokens(path, None))
    async with serving(hub) as server:
        await answers(seen, server, handshake(), handshake(Authorization="Bearer " + "x" * 15))
        (await RawClient.connect(server.port, Authorization="Bearer " + "x" * 16)).close()


@proves("a decision that takes for ever")
async def endless_decision(seen):
    hub = Hub()
    authorize_for_ever(hub)
    async with serving(hub, authorize_seconds=0.05) as server:
        await answers(seen, server, handshake())


@proves("requests whose answer is not read", made="http_flood")
async def unread_answers(seen):
    assert (pending.LINGER_SECONDS, _handshake.LINGER_BYTES) == (2, 1024 * 1024)
    async with serving(Hub(), page=True) as server:
        async with connecting(server.port, get()) as [client]:
            with pytest.raises(ConnectionError):
                for _ in range(1000):
                    await client.send(bytes(64 * 1024))
            await until(lambda: not server.handshakes)
    seen.monkeypatch.setattr(pending, "LINGER_SECONDS", 0.05)
    async with serving(Hub(), page=True) as server:
        async with connecting(server.port, get()):
            await until(lambda: server.stats()["responses"])
            await until(lambda: not server.handshakes)
    seen.saw("a close")


@each_row("Before the 101")
def test_a_row_is_what_a_client_sees_and_what_is_counted(loop, row, authority, monkeypatch, caplog, tmp_path):
    check(loop, row, Evidence(authority, monkeypatch, caplog, tmp_path))
