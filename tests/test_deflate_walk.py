"""Any schedule of publishes, arrivals, ends, slow reads and direct sends, with permessage-deflate of every kind.

Clients are those of deflate_client.py, so each message is inflated strictly; it says which one it is, and is compared
byte for byte with what was published. A client gets a part of it, in order; under the policy `evict`, all of it. In the
end everybody reads everything, and who can be on a window is on it.
"""

import asyncio
import random
from contextlib import AsyncExitStack
from typing import NamedTuple

from conftest import TIMEOUT_SCALE, seconds
from deflate_client import DEFAULT_OFFER, DeflateClient
from deflate_feed import make_chained, make_odd_message, make_tick
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from raw_client import serving
from reference import CLOSE, PING, client_frame, close_payload
from support import check, end_turn, until

from fastbcast import Hub

RESET_MESSAGES = 4
MAX_PEERS = 6
WINDOW_BITS = 13
PATIENT = {"max_lag_bytes": 2**30, "soft_lag_bytes": 2**30, "max_burst_bytes": 2**30}
NARROW = {"max_lag_bytes": 20_000, "max_burst_bytes": 0}
CHANNELS = {
    "one": {**PATIENT},
    "two": {**PATIENT, "window_bits": 9, "compression_level": 1},
    "skip": {**NARROW, "policy": "skip"},
    "latest": {**NARROW, "policy": "latest"},
    "conflate": {"policy": "conflate"},
    "paced": {"policy": "conflate", "max_messages_per_second": 2000},
    "alone": {**PATIENT, "compression": "deflate"},
    "off": {**PATIENT, "compression": "off"},
}
# The others have no window: what is paced goes out from the compact log, each message alone.
WINDOWED = ["one", "two", "skip", "latest", "conflate"]
SERVERS = [
    {"compression": "window"},
    {"compression": "window", "client_no_context_takeover": False},
    {"compression": "deflate"},
    {"compression": "off"},
]
OFFERS = [
    None,
    DEFAULT_OFFER,
    DEFAULT_OFFER,
    f"{DEFAULT_OFFER}; server_no_context_takeover",
    "permessage-deflate; client_no_context_takeover",
    "permessage-deflate; server_max_window_bits=9; client_max_window_bits=9",
    "permessage-deflate; server_max_window_bits=12",
    "permessage-deflate; server_max_window_bits=13; client_max_window_bits=15",
]
KEYS = [None, "a", "b", 7]


class Step(NamedTuple):
    do: str
    who: int
    channel: str
    size: int
    key: object


KINDS = ["publish"] * 12 + ["burst"] * 3 + [
    "turn", "turn", "join", "join", "subscribe", "subscribe", "unsubscribe", "unsubscribe", "stop", "go_on",
    "fall_behind", "send", "send", "relay", "relay", "ping", "leave", "reset",
]


def schedules():
    """Not every schedule has every kind of step, nor every channel."""
    return st.builds(
        lambda kinds, channels, seed, count: make_schedule(kinds, channels, random.Random(seed), count),
        st.lists(st.sampled_from(KINDS), min_size=6, max_size=30),
        st.lists(st.sampled_from([*CHANNELS, *WINDOWED]), min_size=1, max_size=4),
        st.integers(0, 2**32),
        st.integers(5, 120),
    )


def make_schedule(kinds, channels, rng, count):
    def step(do):
        return Step(do, rng.randrange(64), rng.choice(channels), rng.randrange(4), rng.choice(KEYS))

    return [step("join"), step("join"), step("join"), *(step(rng.choice(kinds)) for _ in range(count))]


class Peer:
    """A client, both ends of it, and what it has received."""

    def __init__(self, raw, client, server, channel):
        self.raw = raw
        self.client = client
        self.server = server
        self.channel = channel
        self.is_reading = True
        self.spans = {}             # channel -> [first seq, seq after the last one or None], of each time it was on it
        self.received = {}          # channel -> [(seq, form)]
        self.direct = []            # sent to it
        self.direct_received = 0
        self.relayed = []           # sent by it
        self.arrived = []           # of those, at the server

    def active(self):
        return {channel for channel, spans in self.spans.items() if spans[-1][1] is None}

    def may_window(self, channel):
        parameters = self.raw.parameters
        bits = CHANNELS[channel].get("window_bits", WINDOW_BITS)
        return (
            parameters is not None
            and self.server["compression"] == "window"
            and not parameters.server_no_context_takeover
            and parameters.server_max_window_bits >= bits
        )

    def read(self):
        """Take what is there; returns whether there was anything."""
        try:
            data = self.raw.sock.recv(65536)
        except BlockingIOError:
            return False
        self.raw.is_eof = not data
        self.raw.take(data)
        for message in self.raw.take_messages():
            self.receive(message)
        return bool(data)

    def receive(self, message):
        payload = message.payload.encode() if isinstance(message.payload, str) else message.payload
        channel, seq, _ = payload.split(b"/", 2)
        if channel == b"direct":
            assert int(seq) == self.direct_received
            assert message == (self.direct[int(seq)], "plain")
            self.direct_received += 1
            return
        channel, seq = channel.decode(), int(seq)
        assert message.payload == self.play.published[channel][seq - 1], "other bytes than were published"
        received = self.received.setdefault(channel, [])
        assert not received or received[-1][0] < seq, "twice, or out of order"
        assert any(first <= seq and (after is None or seq < after) for first, after in self.spans[channel])
        received.append((seq, message.form))
        self.check_form(channel, message.form)

    def check_form(self, channel, form):
        most = min(self.server["compression"], CHANNELS[channel].get("compression", "window"), key=FORMS.index)
        if self.raw.parameters is None or most == "off":
            assert form == "plain"
        if form == "windowed":
            assert most == "window"
            assert channel in WINDOWED
            assert self.may_window(channel)

    def check_complete(self):
        """Everything has been read: nothing is missing but what the policy allows."""
        assert self.direct_received == len(self.direct)
        assert self.arrived == self.relayed
        for channel, spans in self.spans.items():
            seqs = [seq for seq, _ in self.received.get(channel, [])]
            last = len(self.play.published[channel])
            if channel in self.active():
                assert seqs[-1:] == [last], channel
            if CHANNELS[channel].get("policy", "evict") != "evict":
                continue
            for first, after in spans:      # of one that it has left, what was on its way may be lacking
                of_span = [seq for seq in seqs if first <= seq < (after or last + 1)]
                assert of_span == list(range(first, first + len(of_span))), f"a gap in {channel}"
                assert after or of_span[0] == first


FORMS = ["off", "deflate", "window"]


class Play:
    """One schedule, played."""

    def __init__(self, hub, ports):
        self.hub = hub
        self.ports = ports
        self.peers = []
        self.published = {channel: [] for channel in CHANNELS}
        self.channels = {channel: hub.channel(channel) for channel in CHANNELS}     # kept: with them lives their seq
        hub.on_message(self.on_message)

    def on_message(self, client, message):
        peer = next(peer for peer in self.peers if peer.client is client)
        peer.arrived.append(message)
        self.hub.relay(client, message)
        self.published[client.channel].append(message)

    async def run(self, schedule):
        for step in schedule:
            await getattr(self, step.do)(step)
            check(self.hub)
            self.let_read()
        await self.finish()

    def let_read(self):
        for peer in self.peers:
            while peer.is_reading and peer.read():
                pass

    def choose(self, step):
        return self.peers[step.who % len(self.peers)] if self.peers else None

    # Steps of a channel.

    def make_message(self, channel, size):
        """It says where it belongs, and is made of that."""
        number = len(self.published[channel]) + 1
        rng = random.Random(f"{channel}{number}{size}")
        body = make_odd_message(rng, number, 10_000) if size == 0 else make_tick(rng, number)
        return self.tag(f"{channel}/{number}/", body)

    @staticmethod
    def tag(prefix, body):
        return prefix + body if isinstance(body, str) else prefix.encode() + body

    def publish_message(self, channel, message, key=None):
        self.published[channel].append(message)
        assert self.channels[channel].publish(message, key=key) == len(self.published[channel])

    async def publish(self, step):
        self.publish_message(step.channel, self.make_message(step.channel, step.size), step.key)

    async def burst(self, step):
        for _ in range(step.who // 4):
            await self.publish(step)

    async def turn(self, step):
        await end_turn()

    # Steps of a client.

    async def join(self, step):
        if len(self.peers) == MAX_PEERS:
            return
        number = step.who % len(SERVERS) if step.size == 0 else step.who % 2
        offer = OFFERS[step.who % len(OFFERS)] if step.size < 2 else DEFAULT_OFFER
        raw = await DeflateClient.connect(
            self.ports[number], f"/{step.channel}", 4096 if step.who & 1 else None, offer=offer
        )
        # Connections to two servers may have one address on our side.
        known = {peer.client for peer in self.peers}
        client = next(
            client for client in self.hub.clients()
            if client.remote_address == raw.sock.getsockname() and client not in known
        )
        peer = Peer(raw, client, SERVERS[number], step.channel)
        peer.play = self
        self.peers.append(peer)
        self.subscribe_to(peer, step.channel)

    def subscribe_to(self, peer, channel):
        assert peer.client.subscribe(channel)
        if channel not in peer.active():
            peer.spans.setdefault(channel, []).append([len(self.published[channel]) + 1, None])

    async def subscribe(self, step):
        if peer := self.choose(step):
            self.subscribe_to(peer, step.channel)

    async def unsubscribe(self, step):
        peer = self.choose(step)
        if peer and peer.client.unsubscribe(step.channel):
            peer.spans[step.channel][-1][1] = len(self.published[step.channel]) + 1

    async def stop(self, step):
        if peer := self.choose(step):
            peer.is_reading = False

    async def go_on(self, step):
        if peer := self.choose(step):
            peer.is_reading = True

    async def fall_behind(self, step):
        """Let its socket become full, and then more than a narrow limit wait for it."""
        peer = self.choose(step)
        if peer is None or step.channel not in peer.active():
            return
        peer.is_reading = False
        more = 8
        while more:
            more -= peer.client.is_writing_paused
            number = len(self.published[step.channel]) + 1
            self.publish_message(step.channel, self.tag(f"{step.channel}/{number}/", make_chained(0, number)))
            await end_turn()
            self.let_read()

    async def send(self, step):
        if peer := self.choose(step):
            body = make_odd_message(random.Random(step.who), step.who, 5000) if step.size == 0 else make_tick(
                random.Random(step.who), step.who
            )
            message = self.tag(f"direct/{len(peer.direct)}/", body)
            message = message if step.size < 2 or isinstance(message, bytes) else message.encode()
            assert peer.client.send(message)
            peer.direct.append(message)

    async def relay(self, step):
        """It publishes, compressed or not."""
        peer = self.choose(step)
        if peer is None:
            return
        message = self.make_message(peer.channel, step.size)
        is_compressed = peer.raw.parameters is not None and step.who % 4 > 0
        peer.relayed.append(message)
        await peer.raw.send_message(message, is_compressed=is_compressed)
        await until(lambda: len(peer.arrived) == len(peer.relayed))

    async def ping(self, step):
        if peer := self.choose(step):
            await peer.raw.send(client_frame(PING, b"%d" % step.who))

    async def leave(self, step):
        """With a closing handshake."""
        if peer := self.choose(step):
            await peer.raw.send_frame(CLOSE, close_payload(3000))
            while not peer.raw.is_eof:
                peer.read()
                await asyncio.sleep(0)
            assert peer.raw.reader.close_payload == close_payload(3000)
            self.peers.remove(peer)

    async def reset(self, step):
        if peer := self.choose(step):
            peer.raw.reset()
            self.peers.remove(peer)
            await until(lambda: not peer.client.is_open)

    # The end.

    async def finish(self):
        """Everybody reads; then so much is published that whoever can be on a window is on it."""
        for peer in self.peers:
            peer.is_reading = True
        await self.drain()
        most = 4 * RESET_MESSAGES
        for number in range(most + 1):
            for channel in CHANNELS:
                if channel != "paced" or number in (0, most):   # it takes its time
                    await self.publish(Step("publish", number, channel, 1, None))
                    await end_turn()
            await self.drain()
            check(self.hub)
        for peer in self.peers:
            peer.check_complete()
            windows = [channel for channel in peer.active() if channel in WINDOWED and peer.may_window(channel)]
            last = {channel: received[-1][1] for channel, received in peer.received.items()}
            if len(windows) == 1:
                assert last.pop(windows[0]) == "windowed", "it has not joined the window again"
                assert {last[channel] for channel in peer.active() - {*windows}} <= {"plain"}, "RSV1 beside a window"
            else:
                assert {last[channel] for channel in peer.active()} <= {"plain", "alone"}

    async def drain(self):
        def is_drained():
            self.let_read()
            return all(not peer.client.lag.messages and not peer.client.is_writing_paused for peer in self.peers)

        await until(is_drained)
        for peer in self.peers:     # what the kernel has: a PONG comes behind it
            payload = b"drained %d" % len(peer.raw.reader.pongs)
            await peer.raw.send_frame(PING, payload)
            while payload not in peer.raw.reader.pongs:
                peer.read()
                await asyncio.sleep(0)
                assert peer.client.is_open


async def play(schedule):
    hub = Hub(close_seconds=seconds(20))
    for channel, options in CHANNELS.items():
        hub.configure(channel, **{"reset_messages": RESET_MESSAGES, **options})
    async with AsyncExitStack() as stack:
        servers = [
            await stack.enter_async_context(
                serving(hub, subscribe_path=False, send_buffer_bytes=4096, notsent_lowat_bytes=4096, **options)
            )
            for options in SERVERS
        ]
        await Play(hub, [server.port for server in servers]).run(schedule)


@settings(
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    max_examples=max(1, round(25 / TIMEOUT_SCALE)),
)
@given(schedule=schedules())
def test_any_schedule_leaves_each_client_with_what_was_published_byte_for_byte(run, schedule):
    run(play(schedule))
