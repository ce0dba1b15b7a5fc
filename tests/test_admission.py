"""How many may be connected: in all, from one address, and in their handshakes."""

import asyncio
import contextlib
import json
import time
from contextlib import closing

import pytest
from raw_client import RawClient, answer_of, ask, get, handshake
from support import authorize_for_ever, subscribed, until

from fastbcast import Hub, serve
from fastbcast.deadlines import Deadlines
from fastbcast.http.admission import name_address


@contextlib.asynccontextmanager
async def connected(port, count, **headers):
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(closing(await RawClient.connect(port, **headers))) for _ in range(count)]


async def status_of_next(port, **headers):
    status, answer_headers, _ = await ask(port, handshake(**headers))
    assert answer_headers["retry-after"].isdecimal()
    return status


# In all.


async def test_above_max_connections_the_next_has_503_and_when_one_leaves_it_may_come():
    hub = Hub()
    async with serve(hub, max_connections=3) as server:
        async with connected(server.port, 2) as clients, connected(server.port, 1):
            assert await status_of_next(server.port) == 503
            assert await status_of_next(server.port) == 503  # what was refused counts no more
            assert server.stats()["refused"] == {"max_connections": 2}
            assert server.stats()["responses"] == {101: 3, 503: 2}
            hub.publish("default", "still here")
            assert await clients[0].read_payloads(1) == [b"still here"]
            clients[0].close()
            await until(lambda: len(list(hub.clients())) == 2)
            async with connected(server.port, 1):
                assert await status_of_next(server.port) == 503
        await until(lambda: server.stats()["connections"] == 0)
        async with connected(server.port, 3):
            pass


async def test_a_connection_in_its_handshake_counts_and_one_that_was_answered_does_not():
    async with serve(Hub(), page=True, max_connections=1) as server:
        with closing(await RawClient.connect_tcp(server.port)) as half_open:
            await until(lambda: server.stats()["handshakes"] == 1)
            assert await status_of_next(server.port) == 503
            await half_open.send(get())
            await half_open.read_head()  # and does not close
            async with connected(server.port, 1):
                assert await status_of_next(server.port) == 503


async def test_a_refusal_waits_for_the_request():
    async with serve(Hub(), max_connections=1) as server:
        async with connected(server.port, 1):
            with closing(await RawClient.connect_tcp(server.port)) as refused:
                await until(lambda: server.stats()["handshakes"] == 1)
                for _ in range(20):
                    await asyncio.sleep(0)
                with pytest.raises(BlockingIOError):
                    refused.sock.recv(1)
                await refused.send(handshake())
                assert (await answer_of(refused))[0] == 503


@pytest.mark.parametrize("start", [b"", b"GET / HTTP/1.1\r\n"], ids=["silent", "half a head"])
async def test_a_refusal_does_not_wait_for_the_request_for_ever(start):
    async with serve(Hub(), max_connections=1, handshake_seconds=0.05) as server:
        async with connected(server.port, 1):
            with closing(await RawClient.connect_tcp(server.port)) as refused:
                await refused.send(start)
                assert (await answer_of(refused))[0] == 503
            assert server.stats()["refused"] == {"max_connections": 1}


# By address.


@pytest.mark.parametrize(
    ("address", "is_forwarded", "name"),
    [
        (("203.0.113.7", 1), False, "203.0.113.7"),
        (("203.0.113.7", 0), True, "203.0.113.7"),
        (("2001:db8:1:2:3:4:5:6", 1, 0, 0), False, "2001:db8:1:2::"),
        (("2001:db8:1:2::9", 1, 0, 0), False, "2001:db8:1:2::"),
        (("2001:db8:1:3::9", 1, 0, 0), False, "2001:db8:1:3::"),
        (("fe80::1%eth0", 1, 0, 2), False, "fe80::"),
        (("::ffff:203.0.113.7", 1, 0, 0), False, "203.0.113.7"),
        (("127.0.0.1", 1), False, None),
        (("127.8.9.1", 1), False, None),
        (("::1", 1, 0, 0), False, None),
        (("::ffff:127.0.0.1", 1, 0, 0), False, None),
        (("127.0.0.1", 0), True, "127.0.0.1"),
        (("::1", 0, 0, 0), True, "::"),
        ("", False, None),
        ("", True, "unix"),
    ],
)
def test_what_an_address_is_counted_under(address, is_forwarded, name):
    assert name_address(address, is_forwarded=is_forwarded) == name


async def test_above_max_connections_per_address_the_next_has_429_and_other_addresses_do_not():
    hub = Hub()
    async with serve(hub, max_connections_per_address=2, forwarded_allow_ips=["127.0.0.1"]) as server:
        one, other = {"X_Forwarded_For": "203.0.113.7"}, {"X_Forwarded_For": "203.0.113.8"}
        async with connected(server.port, 2, **one) as clients:
            assert await status_of_next(server.port, **one) == 429
            assert await status_of_next(server.port, **one) == 429
            assert (await ask(server.port, get(**one)))[0] == 429  # pages, too
            assert server.stats()["refused"] == {"max_connections_per_address": 3}
            async with connected(server.port, 2, **other):
                assert server.stats()["addresses"] == 2
            clients[0].reset()
            await until(lambda: len(list(hub.clients())) == 1)
            async with connected(server.port, 1, **one):
                assert await status_of_next(server.port, **one) == 429
        await until(lambda: server.stats()["addresses"] == 0)
        async with connected(server.port, 2, **one):
            pass


async def test_one_ipv6_network_is_one_address():
    async with serve(Hub(), max_connections_per_address=1, forwarded_allow_ips=["127.0.0.1"]) as server:
        async with connected(server.port, 1, X_Forwarded_For="2001:db8::1"):
            assert await status_of_next(server.port, X_Forwarded_For="2001:db8::ffff:1") == 429
            async with connected(server.port, 1, X_Forwarded_For="2001:db8:0:1::1"):
                pass


async def test_loopback_is_exempt_unless_a_trusted_proxy_says_it():
    async with serve(Hub(), max_connections_per_address=1, forwarded_allow_ips=["127.0.0.1"]) as server:
        async with connected(server.port, 5):
            async with connected(server.port, 1, X_Forwarded_For="127.0.0.1"):
                assert await status_of_next(server.port, X_Forwarded_For="127.0.0.1") == 429
                # What tells nothing counts as the proxy's own address.
                assert await status_of_next(server.port, X_Forwarded_For="unknown") == 429
                assert await status_of_next(server.port, X_Forwarded_For="1.2.3.4", Forwarded="for=5.6.7.8") == 429


async def test_a_peer_that_is_not_trusted_is_counted_before_it_has_sent_anything(monkeypatch):
    monkeypatch.setattr("fastbcast.http._handshake.name_address", lambda address, **_: "203.0.113.7")

    async with serve(Hub(), max_connections_per_address=1) as server:
        with closing(await RawClient.connect_tcp(server.port)):
            await until(lambda: server.stats()["addresses"] == 1)
            assert await status_of_next(server.port) == 429
        await until(lambda: server.stats()["addresses"] == 0)


async def test_one_that_waits_to_be_told_that_its_address_has_too_many_keeps_out_nobody(monkeypatch):
    names = iter(["203.0.113.7", "203.0.113.7", "198.51.100.1"])
    monkeypatch.setattr("fastbcast.http._handshake.name_address", lambda address, **_: next(names))

    async with serve(Hub(), max_connections=2, max_connections_per_address=1) as server:
        async with connected(server.port, 1):
            with closing(await RawClient.connect_tcp(server.port)) as refused:
                await until(lambda: server.stats()["handshakes"] == 1)
                async with connected(server.port, 1):
                    await refused.send(handshake())
                    assert (await answer_of(refused))[0] == 429


# Handshakes.


async def test_above_max_handshakes_the_oldest_half_open_one_is_cut_off():
    hub = Hub()
    async with serve(hub, max_handshakes=3) as server:
        async with connected(server.port, 1) as (healthy,):
            half_open = []
            for count in range(1, 4):
                half_open.append(await RawClient.connect_tcp(server.port))
                await half_open[-1].send(b"GET / HTTP/1.1\r\n")
                await until(lambda count=count: server.stats()["handshakes"] == count)
            async with connected(server.port, 1):
                assert not await half_open[0].receive()  # no answer: it has none coming
                # Those that are left may still finish.
                await half_open[1].send(handshake().removeprefix(b"GET / HTTP/1.1\r\n"))
                assert (await half_open[1].read_head()).startswith("HTTP/1.1 101 ")
            assert server.stats()["refused"] == {"max_handshakes": 1}
            hub.publish("default", "still here")
            assert await healthy.read_payloads(1) == [b"still here"]
            for client in half_open:
                client.close()


async def test_of_who_has_an_answer_and_who_is_half_open_the_first_is_cut_off():
    async with serve(Hub(), max_handshakes=2) as server:
        with (
            closing(await RawClient.connect_tcp(server.port)) as half_open,
            closing(await RawClient.connect_tcp(server.port)) as answered,
        ):
            await half_open.send(get()[:-2])
            await answered.send(get())
            assert (await answer_of(answered))[0] == 426
            await until(lambda: server.stats()["handshakes"] == 2)
            async with connected(server.port, 1):
                await half_open.send(b"\r\n")
                assert (await answer_of(half_open))[0] == 426
            assert server.stats()["refused"] == {}


async def test_if_all_handshakes_wait_for_the_hook_a_new_one_has_503():
    hub = Hub()
    decisions = []

    @hub.authorize
    async def decide(request):
        decisions.append(asyncio.get_running_loop().create_future())
        await decisions[-1]

    async with serve(hub, max_handshakes=2) as server:
        waiting = []
        for count in (1, 2):
            waiting.append(await RawClient.connect_tcp(server.port))
            await waiting[-1].send(handshake())
            await until(lambda count=count: len(decisions) == count)
        assert await status_of_next(server.port) == 503
        assert await status_of_next(server.port) == 503
        assert server.stats()["refused"] == {"max_handshakes": 2}
        for decision in decisions:
            decision.set_result(None)
        for client in waiting:
            assert (await client.read_head()).startswith("HTTP/1.1 101 ")
            client.close()


async def test_the_time_for_the_hook_and_the_time_for_the_head_are_two_limits():
    hub = Hub()
    _, cancelled = authorize_for_ever(hub)
    async with serve(hub, authorize_seconds=0.05, handshake_seconds=60) as server:
        status, headers, _ = await ask(server.port, handshake())
        assert (status, "retry-after" in headers) == (503, True)
        await cancelled.wait()
        assert server.stats()["refused"] == {"authorize_seconds": 1}
    hub = Hub()
    entered, cancelled = authorize_for_ever(hub)
    async with serve(hub, authorize_seconds=60, handshake_seconds=0.05) as server:
        with closing(await RawClient.connect_tcp(server.port)) as deciding:
            await deciding.send(handshake())
            await entered.wait()
            with closing(await RawClient.connect_tcp(server.port)) as half_open:
                assert (await answer_of(half_open))[0] == 408  # later than the other's head would be due
            assert not cancelled.is_set()
            assert server.stats()["refused"] == {"handshake_seconds": 1}


async def test_a_hook_that_goes_on_though_it_was_cancelled_lets_nobody_in():
    hub = Hub()
    ended = asyncio.Event()

    @hub.authorize
    async def stubborn(request):
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.Event().wait()
        ended.set()
        return "somebody"

    async with serve(hub, authorize_seconds=0.05) as server:
        with closing(await RawClient.connect_tcp(server.port)) as client:
            await client.send(handshake())
            assert (await answer_of(client))[0] == 503
            await ended.wait()
            assert hub.stats()["clients"] == 0
            assert server.stats()["responses"] == {503: 1}


async def test_stats_add_up_and_are_plain_numbers():
    hub = Hub()
    async with serve(hub) as server:
        async with connected(server.port, 2):
            with closing(await RawClient.connect_tcp(server.port)):
                await until(lambda: server.stats()["handshakes"] == 1)
                stats = server.stats()
                assert stats == {
                    "connections": 3, "handshakes": 1, "addresses": 0, "responses": {101: 2}, "refused": {},
                    "compression": {"off": 2, "deflate": 0, "window": 0},
                }
                json.dumps(stats)
        await subscribed(hub, "default", 0)
        await until(lambda: server.stats()["connections"] == 0)


# Deadlines.


async def test_deadlines_end_in_the_order_of_coming_and_not_before_their_time():
    ended = []
    deadlines = Deadlines(0.03, lambda name: ended.append((name, time.monotonic())))
    began = {}
    for name in "abcd":
        began[name] = time.monotonic()
        deadlines.add(name)
        if name in "ac":    # at once: however long the turns of a busy machine are, it is not due yet
            deadlines.discard(name)
            assert name not in deadlines.waiting
        await asyncio.sleep(0.002)
    deadlines.discard("never there")
    await until(lambda: not deadlines.waiting)
    assert [name for name, _ in ended] == ["b", "d"]
    assert all(ended_at >= began[name] + 0.03 for name, ended_at in ended)
    began["e"] = time.monotonic()
    deadlines.add("e")  # after the queue was empty
    await until(lambda: len(ended) == 3)
    assert ended[2][1] >= began["e"] + 0.03
    deadlines.add("f")
    deadlines.close()
    assert not deadlines.waiting


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"max_connections": 0}, ValueError),
        ({"max_connections_per_address": 0}, ValueError),
        ({"max_connections_per_address": 1.5}, TypeError),
        ({"max_handshakes": 0}, ValueError),
        ({"authorize_seconds": 0}, ValueError),
        ({"authorize_seconds": float("nan")}, ValueError),
        ({"ping_seconds": 5e-324}, ValueError),
        ({"origins": "https://example.org"}, TypeError),
        ({"origins": [1]}, TypeError),
        ({"subprotocols": "chat"}, TypeError),
        ({"subprotocols": 5}, TypeError),
        ({"subprotocols": ["a b"]}, ValueError),
        ({"subprotocols": [""]}, ValueError),
        ({"forwarded_allow_ips": "127.0.0.1"}, TypeError),
    ],
)
def test_a_bad_option_of_the_server_raises_at_once(options, error):
    with pytest.raises(error, match=next(iter(options))):
        serve(Hub(), **options)
