"""Any schedule of publishes, slow reads, arrivals and ends, compared with what was published (reference.Channel).

A schedule is a list of turns; the steps of a turn are taken without letting the loop turn, but for those that
wait for something. Sockets are small, so that sends are refused all the time; some clients have large ones, and
read all they can after each step. Everything is checked after each step; at the end all are given what they
still lack, and then every message is accounted for.
"""

import asyncio
import contextlib
from typing import Any, NamedTuple

import pytest
from conftest import LOOPS, TIMEOUT_SCALE, run_on, seconds
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from raw_client import RawClient, serving
from reference import (
    BINARY,
    CLOSE,
    PING,
    PONG,
    TEXT,
    Channel,
    Message,
    Subscriber,
    client_frame,
    close_payload,
    encode_frame,
    parse_frames,
)
from support import check, server_of, until

from fastbcast import Flushed, Hub, KeysFull, Lag, Missed

KIB = 1024
MAX_PEERS = 6
SIZES = [0, 1, 100, 118, 1000, 5000, 20_000, 70_000]
MAX_FRAME_BYTES = 70_100
MIN_FRAME_BYTES = 10        # of what is published here: its channel and seq are in it
# What a large socket takes at once, whether or not its client reads meanwhile.
LARGE_SOCKET_BYTES = 32 * KIB
PACED_MESSAGES_PER_SECOND = 400


class Step(NamedTuple):
    do: str
    who: int = 0
    channel: str = ""
    size: int = 0
    key: Any = None


OFTEN = ["publish"] * 16 + ["burst"] * 4 + ["read"] * 8 + ["read_all"] * 2
SOMETIMES = [
    "follow", "follow", "follow", "ask", "ask_too_late", "drain", "join", "join", "subscribe", "unsubscribe",
    "close", "say_goodbye", "reset", "vanish", "send", "send", "ping", "forget", "turn",
]
SETTINGS = st.fixed_dictionaries({
    "max_lag_bytes": st.sampled_from([2000, 20_000, 100_000]),
    "max_burst_bytes": st.sampled_from([0, 10_000, 200_000]),
    "max_unswept_bytes": st.sampled_from([1, 30_000, 200_000]),
    "soft_lag_bytes": st.sampled_from([1000, 10_000, 1_000_000]),
    "soft_lag_seconds": st.sampled_from([0.001, 10]),
    "max_keys": st.sampled_from([2, 100]),
    "max_snapshot_bytes": st.sampled_from([25_000, 1_000_000]),
})


class Schedule(NamedTuple):
    settings: dict
    peers: list
    turns: list


@st.composite
def schedules(draw, channels):
    """Settings of each channel, and turns; not every schedule has every kind of step."""
    kinds = OFTEN + draw(st.lists(st.sampled_from(SOMETIMES), min_size=4, max_size=20))
    steps = steps_of(kinds, draw(st.lists(st.sampled_from(channels), min_size=1, unique=True)))
    return Schedule(
        {channel: draw(SETTINGS) for channel in channels},
        draw(st.lists(steps_of(["join"], channels), min_size=1, max_size=5)),
        draw(st.lists(st.lists(steps, min_size=2, max_size=12), min_size=10, max_size=30)),
    )


def steps_of(kinds, channels):
    return st.builds(
        Step,
        st.sampled_from(kinds),
        st.integers(0, 15),
        st.sampled_from(channels),
        st.sampled_from(SIZES),
        st.sampled_from([None, None, "a", "b", b"a", 0, 70_000]),
    )


class Peer:
    """A client, both ends of it, and all that it was sent."""

    def __init__(self, raw, client, has_large_socket):
        self.raw = raw
        self.client = client
        self.has_large_socket = has_large_socket
        self.unread_bytes = 0           # with a large socket: published since it last had everything
        self.was_flooded = False        # that was more than the socket takes
        self.subscribers = {}           # by name of the channel
        self.close_codes = set()        # it is closing, with one of these
        self.close = None               # the CLOSE that came
        self.is_gone = False
        self.due = []                   # what was on its way when it left channels, in messages
        self.direct = []                # messages, with what was published before them: {channel: seq}
        self.direct_received = 0
        self.published_before = {}      # the latest of those that have arrived
        self.pings = self.pong = 0

    @property
    def is_open(self):
        return not self.is_gone and not self.close_codes

    def active(self):
        return {name: subscriber for name, subscriber in self.subscribers.items() if subscriber.is_active}

    def leave(self, names, missed, messages):
        """It leaves channels, of which it has missed, and still lacks, so many: the others are on their way."""
        left = [self.subscribers[name] for name in names]
        due = sum(subscriber.published for subscriber in left) - missed - messages
        self.due.append(([(subscriber, len(subscriber.spans) - 1) for subscriber in left], due))
        for subscriber in left:
            subscriber.leave()

    def check_due(self):
        for spans, due in self.due:
            assert sum(subscriber.count_received(span) for subscriber, span in spans) >= due

    def leave_all(self):
        for subscriber in self.active().values():
            subscriber.leave()

    def read(self, size=16 * KIB):
        """Take what is there, up to `size` bytes; returns whether there was anything."""
        try:
            data = self.raw.sock.recv(size)
        except BlockingIOError:
            return False
        self.raw.is_eof = not data
        self.raw.take(data)
        frames, self.raw.data = parse_frames(self.raw.data)
        for frame in frames:
            self.receive(frame)
        return bool(data)

    def receive(self, frame):
        assert (frame.fin, frame.rsv) == (True, 0)
        assert self.close is None, "something follows a CLOSE"
        if frame.opcode == BINARY:
            name, seq, _ = frame.payload.split(b"/", 2)
            assert int(seq) > self.published_before.get(name.decode(), 0), "a direct message has overtaken it"
            self.subscribers[name.decode()].receive(int(seq), frame.payload)
        elif frame.opcode == TEXT:
            payload, self.published_before = self.direct[self.direct_received]
            self.direct_received += 1
            assert frame.payload == payload
        elif frame.opcode == PONG:
            assert self.pong < int(frame.payload) <= self.pings
            self.pong = int(frame.payload)
        else:
            assert frame.opcode == CLOSE
            self.close = int.from_bytes(frame.payload[:2], "big")


class Play:
    """One schedule, played."""

    def __init__(self, hub, small_port, large_port, channels, models):
        self.hub = hub
        self.ports = {False: small_port, True: large_port}
        self.channels = channels        # by name, and kept: with them lives their seq
        self.models = models
        self.settings = {}
        self.peers = []
        self.flushes = []               # (task, its time-out, model of the channel, message)
        self.evicted = 0

    async def run(self, schedule):
        for turn in [schedule.peers, *schedule.turns]:
            for step in turn:
                await self.take(step)
                self.check()
            await asyncio.sleep(0)
            for peer in self.peers:
                while peer.has_large_socket and not peer.is_gone and peer.read():
                    pass
            self.check()
        await self.finish()

    async def take(self, step):
        if step.do in ("publish", "burst", "follow", "ask", "ask_too_late", "forget", "join", "turn"):
            return await getattr(self, step.do)(step)
        peers = [peer for peer in self.peers if not peer.is_gone]
        if peers:
            peer = peers[step.who % len(peers)]
            if peer.is_open or step.do in ("read", "read_all", "reset", "vanish"):
                return await getattr(self, step.do)(peer, step)

    # Steps of a channel.

    async def turn(self, step):
        await asyncio.sleep(0)

    async def publish(self, step):
        name, model, channel = step.channel, self.models[step.channel], self.channels[step.channel]
        seq = len(model.messages) + 1
        payload = b"%s/%d/" % (name.encode(), seq) + bytes([seq % 256]) * step.size
        frame_bytes = len(encode_frame(BINARY, payload))
        message = Message(seq, payload, frame_bytes, step.key, channel.subscribers)
        if not model.admits(message):
            with pytest.raises(KeysFull):
                channel.publish(payload, key=step.key)
            return
        assert channel.publish(payload, key=step.key) == seq
        model.publish(message)
        for peer in self.peers:
            if name in peer.active():
                peer.unread_bytes += frame_bytes
                peer.was_flooded |= peer.unread_bytes > LARGE_SOCKET_BYTES

    async def burst(self, step):
        for _ in range(2 + step.who // 2):
            await self.publish(step)

    async def forget(self, step):
        if step.key is not None:
            assert self.hub.forget(step.channel, step.key) is self.models[step.channel].forget(step.key)

    async def follow(self, step):
        """Ask what becomes of the newest message, however long it takes; or what has become of it a little later."""
        model = self.models[step.channel]
        if model.messages:
            timeout = 0.001 if step.size % 100 == 0 else None
            asked = self.channels[step.channel].flushed(len(model.messages), timeout=timeout)
            self.flushes.append((asyncio.ensure_future(asked), timeout, model, model.messages[-1]))

    async def ask(self, step):
        """Ask what has become of it so far."""
        model = self.models[step.channel]
        newest = [model.messages[-1] for model in self.models.values() if model.messages]
        assert sum(await self.hub.flushed(timeout=0)) == sum(message.subscribers for message in newest)
        flushed = await self.channels[step.channel].flushed(timeout=0)
        self.check()
        if model.messages:
            self.check_fates(flushed, model, model.messages[-1])
            self.check_stayed(flushed, model, model.messages[-1])
        else:
            assert flushed == Flushed()

    async def ask_too_late(self, step):
        with pytest.raises(ValueError, match="is not the newest message"):
            self.channels[step.channel].flushed(len(self.models[step.channel].messages) - 1)

    # Steps of a client.

    async def join(self, step):
        if sum(not peer.is_gone for peer in self.peers) == MAX_PEERS:
            return
        has_large_socket = step.size <= 1
        port = self.ports[has_large_socket]
        raw = await RawClient.connect(port, receive_buffer_bytes=None if has_large_socket else 4 * KIB)
        address = raw.sock.getsockname()    # of two clients of two servers it may be the same
        (client,) = [
            client for client in self.hub.clients()
            if client.remote_address == address and server_of(client).port == port
        ]
        self.peers.append(Peer(raw, client, has_large_socket))
        for name in [name for i, name in enumerate(self.channels) if step.who >> i & 1] or [step.channel]:
            self.subscribe_to(self.peers[-1], name)

    def subscribe_to(self, peer, name):
        assert peer.client.subscribe(name)
        subscriber = peer.subscribers.setdefault(name, Subscriber(self.models[name]))
        if not subscriber.is_active:
            subscriber.join()

    async def subscribe(self, peer, step):
        self.subscribe_to(peer, step.channel)

    async def unsubscribe(self, peer, step):
        client, is_subscribed = peer.client, step.channel in peer.active()
        missed, messages = sum(client.missed), client.lag.messages
        assert peer.client.unsubscribe(step.channel) is is_subscribed
        if is_subscribed:
            peer.leave([step.channel], missed - sum(client.missed), messages - client.lag.messages)

    async def read(self, peer, step):
        peer.read(step.size + 1)

    async def read_all(self, peer, step):
        while peer.read():
            await asyncio.sleep(0)

    async def drain(self, peer, step):
        """Have it read until nothing waits for it; then every message is accounted for."""
        client = peer.client

        async def read():
            while client.is_open and (client.lag.messages or client.is_writing_paused or peer.pong < peer.pings):
                peer.read()
                await asyncio.sleep(0)
            if not client.is_open:
                return
            await self.send(peer, step)
            while peer.direct_received < len(peer.direct):
                peer.read()
                await asyncio.sleep(0)

        await asyncio.wait_for(read(), seconds(3))
        if not client.is_open:
            return
        assert client.lag == Lag(0, 0, 0.0)
        missed = [subscriber.missed() for subscriber in peer.active().values()]
        assert client.missed == Missed(sum(skipped for skipped, _ in missed), sum(conflated for _, conflated in missed))
        peer.check_due()
        peer.unread_bytes = 0

    async def send(self, peer, step):
        payload = b"%d" % len(peer.direct) + b"d" * (step.size // 4)
        if peer.client.send(payload, text=True):
            before = {}
            if not peer.client.is_writing_paused:
                before = {name: len(self.models[name].messages) for name in peer.active() if name != "paced"}
            peer.direct.append((payload, before))
            peer.unread_bytes += len(payload)
            peer.was_flooded |= peer.unread_bytes > LARGE_SOCKET_BYTES
        else:
            assert not peer.client.is_open

    async def ping(self, peer, step):
        peer.pings += 1
        with contextlib.suppress(BlockingIOError):
            peer.raw.send_now(client_frame(PING, b"%d" % peer.pings))

    async def close(self, peer, step):
        missed, messages = sum(peer.client.missed), peer.client.lag.messages
        peer.client.close(4000, "done")
        peer.close_codes = {peer.client.disconnected.code}
        assert peer.close_codes <= {4000, 1013}
        peer.leave(peer.active(), missed, messages)

    async def say_goodbye(self, peer, step):
        peer.raw.send_now(client_frame(CLOSE, close_payload(3000)))
        peer.close_codes = {3000, 1013}     # it leaves once the CLOSE has arrived

    async def reset(self, peer, step):
        peer.raw.reset()
        peer.is_gone = True
        peer.leave_all()

    async def vanish(self, peer, step):
        peer.raw.close()
        peer.is_gone = True
        peer.leave_all()

    # What must hold at any time.

    def check(self):
        check(self.hub)
        assert self.hub.stats()["log_bytes"] == sum(channel.log_bytes for channel in self.channels.values())
        for name, channel in self.channels.items():
            assert channel.seq == len(self.models[name].messages)
            self.check_bounds(channel, self.models[name], self.settings[name])
        lags = [client.lag[:2] for client in self.hub.slowest(MAX_PEERS)]
        assert lags == sorted(lags, reverse=True)
        for peer in self.peers:
            if peer.is_open and not peer.client.is_open:
                self.check_eviction(peer)
            elif peer.is_open:
                self.check_counts(peer)
            elif not peer.client.is_open:
                peer.leave_all()

    def check_bounds(self, channel, model, settings):
        unswept_bytes = settings["max_unswept_bytes"] + MAX_FRAME_BYTES
        held_bytes, kept_bytes = 2 * unswept_bytes, model.kept_bytes()
        if model.policy == "conflate":
            kept_bytes += settings["max_lag_bytes"]
            kept_bytes += unswept_bytes // MIN_FRAME_BYTES * (MIN_FRAME_BYTES + model.ENTRY_BYTES)
        else:
            # Who is refused in a sweep is not judged before the next one.
            held_bytes = unswept_bytes + max(unswept_bytes, settings["max_lag_bytes"] + settings["max_burst_bytes"])
            assert channel._sum_lag().max_bytes <= held_bytes
        # Frames do not straddle segments, and the index (16 bytes a frame) doubles: both may be half empty.
        index_bytes = 2 * 16 * held_bytes // MIN_FRAME_BYTES
        assert channel.log_bytes <= 2 * held_bytes + 2 * MAX_FRAME_BYTES + index_bytes + kept_bytes

    def check_counts(self, peer):
        active = peer.active().values()
        published = sum(subscriber.published for subscriber in active)
        received = sum(subscriber.count_received() for subscriber in active)
        missed = peer.client.missed
        # While the socket is full, one message is in the Transport, or has been read though nobody knows here yet.
        waiting = peer.client.lag.messages - peer.client.is_writing_paused
        assert received + sum(missed) + waiting <= published
        if all(subscriber.channel.policy == "evict" for subscriber in active):
            assert missed == Missed(0, 0)
        if peer.has_large_socket and not peer.was_flooded and "paced" not in peer.active():
            assert not peer.client.is_writing_paused
            assert missed == Missed(0, 0)

    def check_eviction(self, peer):
        """It was closed by the hub: was it too slow?"""
        disconnect = peer.client.disconnected
        assert (disconnect.code, disconnect.reason, disconnect.by) == (1013, "slow consumer", "server")
        if disconnect.cause == "slow_consumer":
            self.evicted += 1
            assert peer.was_flooded or not peer.has_large_socket
            assert any(
                subscriber.channel.bytes_from(max([subscriber.spans[-1][0], *(seq + 1 for seq in subscriber.received)]))
                > subscriber.channel.least_limit
                for subscriber in peer.active().values() if subscriber.channel.policy == "evict"
            )
        else:
            assert disconnect.cause == "direct_overflow"
            waiting_bytes = sum(len(payload) + 4 for payload, _ in peer.direct[peer.direct_received :])
            assert waiting_bytes + max(SIZES) // 4 + 10 > self.hub.options.max_direct_bytes
        peer.close_codes = {1013}
        peer.leave_all()

    def check_fates(self, flushed, model, message):
        assert sum(flushed) == message.subscribers
        assert min(flushed) >= 0
        if model.policy == "conflate":
            assert (flushed.conflated if message.key is None else flushed.skipped) == 0
        else:
            assert flushed.conflated == 0
        if model.policy == "evict":
            assert flushed.skipped == 0

    def check_stayed(self, flushed, model, message, *, is_final=False):
        """What those tell who were there and still are; what became of the others is less certain."""
        stayed = [
            message.seq in subscriber.received
            for peer in self.peers if peer.is_open for subscriber in peer.active().values()
            if subscriber.channel is model and subscriber.spans[-1][0] <= message.seq
        ]
        gone = message.subscribers - len(stayed)
        assert flushed.written >= sum(stayed)
        assert flushed.evicted + flushed.left <= gone
        if is_final:
            assert flushed.pending == 0
            assert flushed.written <= sum(stayed) + gone
            assert flushed.skipped + flushed.conflated <= len(stayed) - sum(stayed) + gone

    # The end.

    async def finish(self):
        for peer in self.peers:
            if peer.is_open:
                await self.drain(peer, Step("drain"))
                self.check()
        await asyncio.wait_for(asyncio.gather(*(task for task, *_ in self.flushes)), seconds(3))
        for task, timeout, model, message in self.flushes:
            self.check_fates(task.result(), model, message)
            if timeout is None:
                self.check_stayed(task.result(), model, message, is_final=True)
        for peer in self.peers:
            if peer.close_codes and not peer.is_gone:
                await asyncio.wait_for(self.read_to_the_end(peer), seconds(3))
        await asyncio.wait_for(until(self.is_empty), seconds(3))
        self.check()

    async def read_to_the_end(self, peer):
        while peer.close is None:
            assert peer.read() or not peer.raw.is_eof
            await asyncio.sleep(0)
        assert peer.close in peer.close_codes
        assert peer.direct_received == len(peer.direct)
        peer.check_due()
        if peer.close != 3000:
            peer.raw.send_now(client_frame(CLOSE, close_payload(peer.close)))
        while not peer.raw.is_eof:
            peer.read()
            await asyncio.sleep(0)

    def is_empty(self):
        """Whether the logs hold nothing but the newest message of every key."""
        return self.hub.stats()["pinned_bytes"] == 0 and all(
            channel.log_bytes == self.models[name].kept_bytes()
            for name, channel in self.channels.items()
        )


async def play(schedule):
    hub = Hub(slice_seconds=0.0001, max_direct_bytes=60_000, close_seconds=seconds(20))
    models = {}
    for name, options in schedule.settings.items():
        policy, rate = ("conflate", PACED_MESSAGES_PER_SECOND) if name == "paced" else (name, 0)
        hub.configure(name, policy=policy, max_messages_per_second=rate, **options)
        known = ("max_lag_bytes", "soft_lag_bytes", "max_keys", "max_snapshot_bytes")
        models[name] = Channel(policy, **{option: options[option] for option in known})
    async with serving(hub, subscribe_path=False, send_buffer_bytes=4 * KIB, notsent_lowat_bytes=4 * KIB) as small:
        async with serving(hub, subscribe_path=False) as large:
            channels = {name: hub.channel(name) for name in models}
            play = Play(hub, small.port, large.port, channels, models)
            play.settings = schedule.settings
            await play.run(schedule)


RANDOMLY = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])


def play_on_each_loop(schedule):
    """Here, not by a parameter of the tests: to draw a schedule takes as long as to play it."""
    for loop in LOOPS:
        run_on(loop, play(schedule))


@settings(RANDOMLY, max_examples=round(250 / TIMEOUT_SCALE))
@given(schedule=schedules(["evict", "skip", "latest", "conflate"]))
def test_any_schedule_leaves_each_client_with_what_the_policies_promise(schedule):
    play_on_each_loop(schedule)


@settings(RANDOMLY, max_examples=round(25 / TIMEOUT_SCALE))
@given(schedule=schedules(["paced", "skip"]))
def test_any_schedule_keeps_the_promises_under_a_limit_of_the_rate(schedule):
    play_on_each_loop(schedule)
