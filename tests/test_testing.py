"""fastbcast.testing by its fixtures: a server, fleets of clients, slow clients, and drain."""

import asyncio
import os
import resource
import socket
import threading
import time
import urllib.request

import pytest
from conftest import seconds
from load_support import make_key
from reference import TEXT, encode_frame

from fastbcast import Hub, KeysFull, MessageTooBig
from fastbcast.testing import BroadcastServer
from fastbcast.testing.drain import NotDrained, drain
from fastbcast.testing.fleet import Fleet

# However slow the machine is, nobody is evicted for being behind.
patient = pytest.mark.broadcast_server(max_lag_bytes=2**30, soft_lag_bytes=2**30)


def stats_of(server):
    return server.call(server.hub.stats)


# The server.


@pytest.mark.broadcast_server(policy="conflate", max_keys=1, relay=True)
class TestSettings:
    def test_those_of_a_class_hold(self, broadcast_server, fleet):
        fleet(1)
        broadcast_server.publish("default", "x", key=1)
        with pytest.raises(KeysFull):
            broadcast_server.publish("default", "x", key=2)

    @pytest.mark.broadcast_server(max_keys=2, max_message_bytes=10, page=True)
    def test_those_of_the_test_have_the_last_word(self, broadcast_server, fleet):
        fleet(1)
        for key in (1, 2):
            broadcast_server.publish("default", "x", key=key)
        with pytest.raises(KeysFull):
            broadcast_server.publish("default", "x", key=3)
        with pytest.raises(MessageTooBig):
            broadcast_server.publish("default", "x" * 11)
        with urllib.request.urlopen(broadcast_server.url.replace("ws:", "http:")) as response:
            assert response.status == 200


def test_publish_says_the_seq_and_raises_here(broadcast_server, fleet):
    fleet(1, "a b/ü")
    assert [broadcast_server.publish("a b/ü", "x") for _ in range(3)] == [1, 2, 3]
    with pytest.raises(TypeError, match="key"):
        broadcast_server.publish("a b/ü", "x", key=1.5)
    assert broadcast_server.call(broadcast_server.hub.count_subscribers, "a b/ü") == 1


def test_call_runs_what_is_plain_or_async_on_the_servers_thread(broadcast_server):
    async def where():
        await asyncio.sleep(0)
        return threading.current_thread().name

    assert broadcast_server.call(where) == "broadcast_server"
    assert broadcast_server.call(threading.current_thread).name == "broadcast_server"
    with pytest.raises(ZeroDivisionError):
        broadcast_server.call(lambda: 1 / 0)
    with pytest.raises(TimeoutError, match="the function's own"):
        broadcast_server.call(raise_timeout)
    with pytest.raises(RuntimeError, match="would wait for itself"):
        broadcast_server.call(broadcast_server.call, int)


def raise_timeout():
    raise TimeoutError("the function's own")


def test_call_gives_up_what_does_not_return(broadcast_server):
    with pytest.raises(TimeoutError, match=r"has not returned within 0\.01 s"):
        broadcast_server.call_within(0.01, asyncio.Event().wait)


def test_a_server_of_ones_own_hub():
    hub = Hub()
    with BroadcastServer(hub, policy="skip") as server, Fleet(1, server.url, server=server) as clients:
        server.publish("default", "x")
        server.drain()
        assert clients.messages == [["x"]]
        assert server.hub is hub
    with pytest.raises(RuntimeError, match="the server has been closed"):
        server.publish("default", "x")
    with pytest.raises(TypeError, match="has its own settings: max_channels"):
        BroadcastServer(Hub(), max_channels=1)
    with pytest.raises(RuntimeError, match="use it in a `with` statement"):
        BroadcastServer().url  # noqa: B018


# Clients, and drain.


@patient
def test_every_client_has_all_that_was_published_when_drain_returns(broadcast_server, fleet):
    clients = fleet(50, keep_messages=False)
    published = 0
    for count in (1, 100, 400):
        broadcast_server.call(publish_many, broadcast_server.hub, count)
        published += count
        clients.drain(seconds(60))
        assert clients.counts == [published] * 50
    with pytest.raises(RuntimeError, match="keep_messages=False"):
        _ = clients.messages


def publish_many(hub, count):
    """All in one turn of the loop."""
    for _ in range(count):
        hub.publish("default", b"x" * 10_000)


@pytest.mark.broadcast_server(max_messages_per_second=5)
def test_drain_waits_for_what_the_server_holds_back(broadcast_server, fleet):
    clients = fleet(2)
    broadcast_server.publish("default", "first")
    clients.drain()
    broadcast_server.publish("default", "second")  # 200 ms later at the earliest
    clients.drain(seconds(30))
    assert clients.messages == [["first", "second"]] * 2


@patient
def test_drain_waits_for_what_other_threads_have_queued(broadcast_server, fleet):
    clients = fleet(1, keep_messages=False)
    is_queued = threading.Event()
    broadcast_server.hub.loop.call_soon_threadsafe(is_queued.wait)
    for _ in range(30_000):  # more than the loop takes in one turn
        broadcast_server.hub.publish_threadsafe("default", "x")
    is_queued.set()
    clients.drain(seconds(30))
    assert clients.counts == [30_000]


@patient
def test_drain_does_not_wait_for_what_is_published_after_it_began(broadcast_server, fleet):
    clients = fleet(5, keep_messages=False)

    async def publish_for_ever():
        while True:
            broadcast_server.hub.publish("default", b"x" * 100)
            await asyncio.sleep(0)

    publishing = asyncio.run_coroutine_threadsafe(publish_for_ever(), broadcast_server.hub.loop)
    try:
        clients.drain(seconds(30))
    finally:
        publishing.cancel()
    assert min(clients.counts) > 0


def test_a_drain_that_would_wait_for_nobody_is_an_error(broadcast_server, fleet, slow_client):
    slow_client("stall")
    with pytest.raises(RuntimeError, match="this server has none"):
        broadcast_server.drain()
    clients = fleet(2)
    broadcast_server.publish("default", "x")
    broadcast_server.drain()
    assert clients.counts == [1, 1]


@pytest.mark.broadcast_server(relay=True)
def test_drain_waits_for_what_clients_have_said(broadcast_server, fleet):
    talkers, listeners = fleet(20), fleet(20)
    for talker in talkers:
        talker.send("text")
    talkers[0].send(b"\x00binary")
    broadcast_server.drain()
    assert talkers.counts == listeners.counts == [21] * 20
    assert sorted(map(repr, listeners[7].messages)) == sorted([*["'text'"] * 20, r"b'\x00binary'"])


@pytest.mark.broadcast_server(max_message_bytes=2**26, max_lag_bytes=2**30, soft_lag_bytes=2**30)
def test_drain_waits_for_what_takes_the_server_many_turns_to_read(broadcast_server, fleet):
    hub = broadcast_server.hub
    broadcast_server.call(hub.on_message, lambda client, message: hub.publish("news", message))
    talkers, listeners = fleet(1, "talk"), fleet(1, "news")
    talkers[0].send("x" * 20_000_000)
    broadcast_server.drain()
    assert (talkers.counts, listeners.counts) == ([0], [1])


def test_what_was_written_but_not_read_is_not_drained(broadcast_server, slow_client):
    slow = slow_client(1000)  # takes 50 bytes every 50 ms
    broadcast_server.publish("default", "x" * 120)
    drain([slow.fleet], seconds(30))
    assert slow.count == 1


@pytest.mark.broadcast_server(max_messages_per_second=0.01)
def test_drain_that_takes_too_long_says_who_lacks_what(broadcast_server, fleet):
    clients = fleet(7)
    for _ in range(2):
        broadcast_server.publish("default", "x" * 98)
        broadcast_server.call(asyncio.sleep, 0)
    with pytest.raises(NotDrained) as error:
        clients.drain(0.2)
    text = str(error.value)
    start = "7 of 7 clients have not read all that was published within 0.2 s: client 0 of ws://127.0.0.1:"
    assert text.startswith(start)
    assert "/default: 1 message (100 bytes) wait" in text
    assert text.endswith("; and 2 more")
    assert len(error.value.lacking) == 7


def test_drain_says_if_the_servers_loop_is_blocked(broadcast_server, fleet, monkeypatch):
    monkeypatch.setattr("fastbcast.testing.fleet.DESCRIBE_SECONDS", 0.1)
    clients = fleet(1)
    done = threading.Event()
    broadcast_server.hub.loop.call_soon_threadsafe(done.wait)
    try:
        with pytest.raises(NotDrained, match="nothing is known, the server's event loop is blocked"):
            clients.drain(0.1)
    finally:
        done.set()


def test_another_server_that_answers_no_ping_is_not_drained(fleet):
    with socket.create_server(("127.0.0.1", 0)) as listener:
        accepted = []

        def serve():
            sock, _ = listener.accept()
            accepted.append(sock)
            head = sock.recv(65536)
            key = head.split(b"Sec-WebSocket-Key: ")[1].split(b"\r\n")[0]
            sock.sendall(
                b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nSec-WebSocket-Accept: "
                + make_key(key)[1] + b"\r\n\r\n" + encode_frame(TEXT, "grüß".encode())
            )

        thread = threading.Thread(target=serve)
        thread.start()
        clients = fleet(1, url=f"ws://127.0.0.1:{listener.getsockname()[1]}/")
        thread.join()
        with pytest.raises(NotDrained, match="its PING has no PONG"):
            clients.drain(0.1)
        assert clients.messages == [["grüß"]]
        accepted[0].close()
        assert clients[0].wait_closed(seconds(10)) == 1006
        clients.drain()  # who has been closed has read all it will get
        assert clients.closes == {1006: 1}


def test_closes_are_seen_by_code(broadcast_server, fleet):
    clients = fleet(5)

    def close_some():
        one, other, third, *_ = broadcast_server.hub.clients()
        one.close(4321, "you")
        other.close(4321, "you, too")
        third.abort()

    broadcast_server.call(close_some)
    clients.drain()
    assert clients.closes == {4321: 2, 1006: 1}
    assert clients.open_count == 2
    assert sorted(client.close_code or 0 for client in clients) == [0, 0, 1006, 4321, 4321]
    assert sorted(client.is_open for client in clients) == [False] * 3 + [True] * 2
    broadcast_server.call(broadcast_server.server.close)
    clients.drain()
    assert clients.closes == {4321: 2, 1006: 1, 1001: 2}
    with pytest.raises(ConnectionError, match="is not connected any more"):
        clients[0].send("x")


def test_who_leaves_does_so_with_a_handshake_and_what_it_got_can_still_be_read(broadcast_server, fleet):
    clients = fleet(200)
    broadcast_server.publish("default", "x")
    clients.drain()
    clients[0].close()
    assert [clients[0].is_open, clients[1].is_open] == [False, True]
    assert clients[0].close_code is None
    clients.close()
    clients.close()
    assert clients.messages == [["x"]] * 200
    assert (clients.counts, clients.closes, clients.open_count) == ([1] * 200, {}, 0)
    clients.drain()
    until(lambda: stats_of(broadcast_server)["disconnects"] == {"client": 200})


@patient
def test_a_stalled_client_reads_nothing_and_holds_nobody_up(broadcast_server, fleet, slow_client):
    clients = fleet(5, keep_messages=False)
    slow = slow_client()
    for number in range(40):
        broadcast_server.publish("default", b"%032d" % number + b"x" * 100_000)
    clients.drain(seconds(30))
    assert clients.counts == [40] * 5
    assert slow.count == 0
    assert stats_of(broadcast_server)["lag"]["subscriptions_behind"] == 1
    with pytest.raises(RuntimeError, match="slow clients are not waited for"):
        slow.fleet.drain()
    with pytest.raises(TimeoutError, match="is still connected"):
        slow.wait_closed(0.01)
    slow.read_freely()
    broadcast_server.drain(seconds(30))
    assert [int(message[:32]) for message in slow.messages] == list(range(40))


@patient
def test_a_stalled_client_leaves_as_the_others_do(broadcast_server, slow_client):
    slow = slow_client()
    broadcast_server.call(publish_many, broadcast_server.hub, 1000)
    slow.fleet.close()
    until(lambda: stats_of(broadcast_server)["disconnects"] == {"client": 1})


@patient
@pytest.mark.parametrize("rate", ["100KB/s", 100_000])
def test_a_slow_client_reads_no_faster_than_it_should(broadcast_server, slow_client, rate):
    start = time.monotonic()
    slow = slow_client(rate)
    for _ in range(1000):
        broadcast_server.publish("default", "x" * 996)  # 1000 bytes with its header
    until(lambda: slow.count >= 10)
    assert slow.count * 1000 <= (time.monotonic() - start) * 100_000 + 5000  # one piece is 50 ms' worth


@pytest.mark.broadcast_server(max_lag_bytes=65536, max_burst_bytes=0, send_buffer_bytes=8192)
def test_a_slow_client_is_evicted_and_sees_it_when_it_reads(broadcast_server, fleet, slow_client):
    clients = fleet(2, keep_messages=False)
    slow = slow_client("stall")
    while broadcast_server.call(broadcast_server.hub.count_subscribers, "default") == 3:
        broadcast_server.publish("default", b"x" * 10_000)
        clients.drain(seconds(30))
    slow.read_freely()
    assert slow.wait_closed(seconds(10)) == 1013
    assert clients.open_count == 2


@pytest.mark.broadcast_server(max_lag_bytes=1000, max_burst_bytes=0, send_buffer_bytes=8192)
def test_drain_says_who_was_evicted(broadcast_server, fleet):
    clients = fleet(3)
    broadcast_server.call(publish_at_once, broadcast_server.hub, 2000)  # nobody can keep up with that
    with pytest.raises(NotDrained, match=r"of 3 clients .* published: client .* has evicted it \(slow_consumer\)"):
        clients.drain()


async def publish_at_once(hub, count):
    for _ in range(count):
        hub.publish("default", b"x" * 10_000)
        await asyncio.sleep(0)


def test_a_fleet_that_needs_too_many_files_says_so(broadcast_server, fleet):
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (500, hard))
    try:
        with pytest.raises(ValueError, match="open files are needed, this process may have 500: raise `ulimit -n`"):
            fleet(300)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_more_messages_than_may_be_kept_are_counted_and_reading_them_raises(broadcast_server, fleet, monkeypatch):
    monkeypatch.setattr("fastbcast.testing.fleet.MAX_KEPT_BYTES", 1000)
    clients = fleet(1)
    for size in (600, 300, 101, 1):
        broadcast_server.publish("default", "x" * size)
    clients.drain()
    assert clients.counts == [4]
    with pytest.raises(RuntimeError, match="more than 1,000 bytes"):
        _ = clients.messages


def test_all_descriptors_and_threads_are_given_back():
    def count():
        return len(os.listdir("/proc/self/fd")), threading.active_count()

    before = count()
    with BroadcastServer() as server, Fleet(20, server.url, server=server) as clients:
        assert clients.open_count == 20
        with pytest.raises(ConnectionError):
            Fleet(3, "ws://127.0.0.1:1/")
    del server, clients
    assert count() == before


def test_async_tests_may_use_them(run, broadcast_server, fleet):
    async def scenario():
        clients = fleet(3)
        broadcast_server.publish("default", "x")
        await asyncio.to_thread(clients.drain)
        return clients.messages

    assert run(scenario()) == [["x"]] * 3


def until(condition):
    deadline = time.monotonic() + seconds(20)
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
