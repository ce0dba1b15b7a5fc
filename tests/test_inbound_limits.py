"""Limits of one client: the messages it may send in a second, and the channels it may be subscribed to."""

import asyncio
import socket

import pytest
from raw_client import RawClient, handshake, serving
from reference import CLOSE, PING, PONG, TEXT, Frame, client_frame, close_payload
from support import connections, raw_connections, say_goodbye, until

from fastbcast import Hub, TooManySubscriptions
from fastbcast.connection import throttle
from fastbcast.connection.throttle import Throttle

# max_subscriptions.


async def test_a_subscription_too_many_raises_and_one_that_ends_makes_room():
    hub = Hub(max_subscriptions=2)
    async with connections(hub, "/a", "/a") as [(raw, client), (_, other)]:
        assert client.subscribe("b")
        assert client.subscribe("a")  # it is already
        with pytest.raises(TooManySubscriptions) as caught:
            client.subscribe("c")
        assert (caught.value.channel, caught.value.max_subscriptions) == ("c", 2)
        assert str(caught.value) == "not subscribed to 'c': the client has max_subscriptions=2 already"
        assert {channel.name for channel in hub.channels()} == {"a", "b"}  # none was made for it
        assert hub.stats()["refused"] == {"max_subscriptions": 1}
        assert other.subscribe("c")
        assert client.unsubscribe("a")
        assert client.subscribe("c")
        hub.publish("c", "here")
        assert await raw.read_payloads(1) == [b"here"]


# max_inbound_messages_per_second. The clock is the test's.


class Clock:
    """Stands for the time: `at(seconds)` sets it, and runs the timers that are due."""

    def __init__(self, monkeypatch):
        self.now = 1_000_000.3
        self.timers = []
        monkeypatch.setattr(throttle, "monotonic", lambda: self.now)
        monkeypatch.setattr(throttle.asyncio, "get_running_loop", lambda: self)

    def call_later(self, seconds, callback, *arguments):
        timer = Timer(self.now + seconds, callback, arguments)
        self.timers.append(timer)
        return timer

    def at(self, seconds):
        self.now = 1_000_000.3 + seconds
        for timer in [timer for timer in self.timers if timer.when <= self.now and not timer.is_cancelled]:
            self.timers.remove(timer)
            timer.callback(*timer.arguments)


class Timer:
    def __init__(self, when, callback, arguments):
        self.when = when
        self.callback = callback
        self.arguments = arguments
        self.is_cancelled = False

    def cancel(self):
        self.is_cancelled = True


class Reader:
    """Stands for a client: says whether it is read from."""

    def __init__(self):
        self.is_reading = True

    def _pause_reading(self):
        assert self.is_reading
        self.is_reading = False

    def resume(self):
        assert not self.is_reading
        self.is_reading = True


@pytest.fixture
def now(monkeypatch):
    """The throttle's time where the loop is a real one: a list of the seconds, to be changed."""
    seconds = [0.0]
    monkeypatch.setattr(throttle, "monotonic", lambda: seconds[0])
    return seconds


@pytest.fixture
def clock(monkeypatch):
    return Clock(monkeypatch)


def count(throttle_, reader, messages):
    for _ in range(messages):
        throttle_.count(reader)


@pytest.mark.parametrize("rate", [1, 3, 10, 1000, 0.7 * 1000])
def test_a_second_s_worth_may_come_at_once_and_one_more_pauses(clock, rate):
    limit, reader = Throttle(rate, Reader.resume), Reader()
    for round_ in range(3):
        clock.at(10 * round_)
        count(limit, reader, int(rate))
        assert reader.is_reading
        assert clock.timers == []
    count(limit, reader, 1)
    assert not reader.is_reading
    assert limit.pauses == 1


def test_a_client_within_its_rate_is_never_paused(clock):
    limit, reader = Throttle(10, Reader.resume), Reader()
    for tenth in range(1000):
        clock.at(tenth / 10)
        count(limit, reader, 1)
    assert (reader.is_reading, limit.pauses, clock.timers) == (True, 0, [])


def test_reading_goes_on_as_soon_as_there_is_room_for_one_message(clock):
    limit, reader = Throttle(10, Reader.resume), Reader()
    count(limit, reader, 11)
    (timer,) = clock.timers
    assert timer.when - clock.now == pytest.approx(0.2)
    clock.at(0.19)
    assert not reader.is_reading
    clock.at(0.21)
    assert reader.is_reading
    count(limit, reader, 1)
    assert reader.is_reading
    count(limit, reader, 1)
    assert not reader.is_reading
    assert limit.pauses == 2


def test_a_timer_that_comes_too_early_looks_again(clock):
    limit, reader = Throttle(10, Reader.resume), Reader()
    count(limit, reader, 11)
    clock.timers[0].when = clock.now + 0.1
    clock.at(0.1)
    assert not reader.is_reading
    clock.at(0.21)
    assert reader.is_reading
    assert clock.timers == []


@pytest.mark.parametrize("rate", [0.5, 1e-12])
def test_a_rate_below_one_a_second_lets_one_message_through(clock, rate):
    limit, reader = Throttle(rate, Reader.resume), Reader()
    count(limit, reader, 1)
    assert reader.is_reading
    count(limit, reader, 1)
    assert not reader.is_reading
    clock.at(3.9)
    assert not reader.is_reading
    clock.at(4.1)
    assert reader.is_reading == (rate == 0.5)


def test_buckets_are_apart_and_forgotten(clock):
    limit, reader, other = Throttle(1, Reader.resume), Reader(), Reader()
    count(limit, reader, 5)
    count(limit, other, 1)
    assert other.is_reading
    assert limit.is_holding(reader)
    assert not limit.is_holding(other)
    limit.forget(reader)
    limit.forget(other)
    assert limit._full_at == limit._timers == {}
    assert clock.timers[0].is_cancelled


def send_at_once(raw):
    """Not 40 ms later, when the server acknowledges what was sent before."""
    raw.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


async def pass_time(raw):
    """Round trips of another client: what was sent before, and is read at all, has been read then."""
    for _ in range(5):
        await raw.send_frame(PING)
        assert await raw.read_frames(1) == [Frame(PONG, b"")]


async def test_a_client_over_its_rate_is_held_back_and_nothing_is_lost(now):
    hub = Hub(max_inbound_messages_per_second=200)
    received = []
    hub.on_message(lambda client, message: received.append(int(message)))
    limit = hub.handlers.throttle
    async with raw_connections(hub, "/", "/") as [busy, calm]:
        send_at_once(busy)
        for number in range(201):   # each in a read of its own
            await busy.send_frame(TEXT, b"%d" % number)
            await until(lambda number=number: len(received) > number)
        assert hub.stats()["inbound_pauses"] == 1
        await busy.send_frame(TEXT, b"-1")
        await calm.send_frame(TEXT, b"201")
        await until(lambda: len(received) > 201)
        await pass_time(calm)
        assert received == list(range(202))
        now[0] += 1
        await until(lambda: received[-1] == -1)
        assert hub.stats()["inbound_pauses"] == 1
        for raw in (busy, calm):
            assert await say_goodbye(raw) == (1000, "")
        await until(lambda: hub.stats()["clients"] == 0)
        assert limit._full_at == limit._timers == {}


async def test_a_client_that_is_held_back_is_served_and_can_be_closed_by_the_server():
    hub = Hub(max_inbound_messages_per_second=0.01)
    async with connections(hub, "/") as (raw, client):
        await raw.send(client_frame(TEXT, b"one") + client_frame(TEXT, b"two"))
        await until(lambda: hub.stats()["inbound_pauses"] == 1)
        await raw.send_frame(PING, b"not read")
        hub.publish("default", "hello")
        assert await raw.read_payloads(1) == [b"hello"]
        client.close(4000)
        await raw.send_frame(CLOSE, close_payload(4000))
        assert await raw.read_close() == (4000, "")


def many(count):
    return b"".join(client_frame(TEXT, b"%d" % number) for number in range(count))


async def test_what_a_read_brings_that_is_over_the_rate_is_handled_when_its_time_has_come(now):
    hub = Hub(max_inbound_messages_per_second=100)
    received = []
    hub.on_message(lambda client, message: received.append(int(message)))
    async with raw_connections(hub, "/", "/") as [busy, other]:
        await busy.send(many(300) + client_frame(PING, b"behind them"))
        await until(lambda: len(received) >= 101)
        for _ in range(3):
            await pass_time(other)
            assert hub.stats()["received_messages"] == len(received)
            assert hub.stats()["partial_bytes"] > 0
            await until(lambda: len(received) >= 101 + int(now[0] * 100))
            assert received == list(range(101 + int(now[0] * 100)))
            now[0] += 0.5
        now[0] += 10
        assert await busy.read_frames(1) == [Frame(PONG, b"behind them")]
        assert received == list(range(300))
        assert hub.stats()["partial_bytes"] == 0


async def test_what_was_sent_behind_the_handshake_keeps_to_the_rate_too(now):
    hub = Hub(max_inbound_messages_per_second=20)
    received = []
    hub.on_message(lambda client, message: received.append(int(message)))
    async with serving(hub) as server:
        early = await RawClient.connect_tcp(server.port)
        await early.send(handshake() + many(24))
        assert (await early.read_head()).startswith("HTTP/1.1 101 ")
        assert received == list(range(21))
        now[0] = 10
        await until(lambda: received == list(range(24)))


@pytest.mark.parametrize("is_heard", [True, False], ids=["answers", "does not"])
async def test_a_client_whose_messages_wait_can_be_closed_and_they_are_dropped(is_heard):
    hub = Hub(max_inbound_messages_per_second=0.01, close_seconds=600 if is_heard else 0.05)
    async with connections(hub, "/") as (raw, client):
        await raw.send(many(5) + (client_frame(CLOSE, close_payload(4000)) if is_heard else b""))
        await until(lambda: hub.stats()["inbound_pauses"] == 1)
        client.close(4000)
        assert await raw.read_close() == (4000, "")
        await until(lambda: hub.stats()["clients"] == 0)
        stats = hub.stats()
        assert (stats["received_messages"], stats["partial_bytes"]) == (2, 0)


async def test_what_waits_of_all_clients_has_a_bound_and_who_has_waited_for_the_longest_is_closed():
    hub = Hub(max_inbound_messages_per_second=0.01, max_message_bytes=1000, max_partial_bytes=10_000)
    frames = many(1000)     # more than the 4 KiB that are read
    async with connections(hub, *["/"] * 3) as pairs:
        for raw, _ in pairs:
            pauses = hub.stats()["inbound_pauses"]
            await raw.send(frames)
            await until(lambda pauses=pauses: hub.stats()["inbound_pauses"] > pauses)
            assert 4000 < hub.stats()["partial_bytes"] <= 10_000
        assert [client.is_open for _, client in pairs] == [False, True, True]
        assert await pairs[0][0].read_close() == (1013, "too many unfinished messages")


async def test_what_one_read_brings_may_always_wait():
    hub = Hub(max_inbound_messages_per_second=0.01, max_message_bytes=1, max_partial_bytes=1)
    async with connections(hub, "/") as (raw, client):
        await raw.send(client_frame(TEXT, b"x") * 1000)
        await until(lambda: hub.stats()["inbound_pauses"] == 1)
        assert hub.stats()["partial_bytes"] > 4000
        assert client.is_open


@pytest.mark.parametrize("first", ["inbox", "rate"])
async def test_reading_goes_on_only_when_neither_inbox_nor_rate_is_against_it(first, now):
    hub = Hub(max_inbound_messages_per_second=1, max_inbox_messages=1)
    go_on, handled = asyncio.Event(), []
    limit = hub.handlers.throttle

    @hub.on_message
    async def work(client, message):
        await go_on.wait()
        handled.append(message)

    def end_rate():
        (timer,) = limit._timers.values()
        timer.cancel()
        now[0] += 10
        limit._look(client)
        assert not limit.is_holding(client)

    async def end_inbox():
        go_on.set()
        await until(lambda: client._inbox is None)

    async def is_read_from():
        before = hub.stats()["received_messages"]
        await raw.send_frame(TEXT, b"probe")
        await pass_time(other)
        return hub.stats()["received_messages"] > before

    async with connections(hub, "/", "/") as [(raw, client), (other, _)]:
        send_at_once(raw)
        await raw.send(client_frame(TEXT, b"1") + client_frame(TEXT, b"2") + client_frame(TEXT, b"3"))
        await until(lambda: limit.is_holding(client))
        assert (len(client._inbox.events), hub.stats()["received_messages"]) == (1, 2)
        if first == "inbox":
            await end_inbox()
            assert handled == ["1", "2"]
            assert not await is_read_from()
            end_rate()
        else:
            end_rate()
            assert not await is_read_from()
            await end_inbox()
        await until(lambda: hub.stats()["received_messages"] == 4)
