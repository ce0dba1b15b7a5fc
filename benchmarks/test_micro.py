"""What each step of the data path costs: `pytest benchmarks`, and `--benchmark-compare` between two commits.

Procedure: one process, sockets of the loopback device, the kernel's send included where it says "sweep", its
recv where it says "inbound". Clients are drained, and send, outside the measured part, so no socket is ever full.
Only "end to end" is another process, and there the clients' sends and reads in Python are in the figure:
`run.py` measures what a server can do. Compare ratios on one machine; single figures of a shared machine
move by tens of per cent.
"""

import functools
import itertools
import socket

import feeds
import pytest
from harness import UPGRADE, Harness, mask_frame
from servers import SUBJECT, fastbcast_command

import fastbcast
from fastbcast import _frames
from fastbcast.deflate._deflate import Deflater
from fastbcast.load.target import Server
from fastbcast.log._log import Log

SIZES = [32, 128, 1024, 65536]
INBOUND_BYTES = 64 * 1024  # what a client sends at a time: a read's worth, or one large message
READ_TIMEOUT_SECONDS = 30


def repeat_100(function, argument):
    """A single call is too short for the clock: some rounds would be of one call, others of many."""
    for _ in range(100):
        function(argument)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.benchmark(group="encode")
def test_encode_bytes(benchmark, size):
    benchmark(repeat_100, _frames.encode, b"x" * size)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.benchmark(group="encode")
def test_encode_str(benchmark, size):
    benchmark(repeat_100, _frames.encode, "x" * size)


@pytest.mark.parametrize("feed", feeds.FEEDS)
@pytest.mark.parametrize("form", ["alone", "window"])
@pytest.mark.benchmark(group="compress")
def test_compress_a_message(benchmark, feed, form):
    """100 messages of a feed, as the hub compresses short ones alone, and as a window goes on; divide by 100."""
    is_alone = form == "alone"
    deflater = Deflater(6, 12 if is_alone else 15)
    messages = feeds.take(feed, 3000)
    rounds = itertools.cycle([messages[at : at + 100] for at in range(0, len(messages), 100)])
    encode = functools.partial(deflater.encode, is_alone=is_alone)

    def compress_100():
        for message in next(rounds):
            encode(message)

    benchmark(compress_100)


@pytest.mark.parametrize("size", [128, 1024])
@pytest.mark.benchmark(group="append")
def test_append_to_the_log(benchmark, size):
    log = Log()
    message = b"x" * size

    def append_64_and_trim():
        for _ in range(64):
            log.add(message)
        log.drop_before(log.tail)

    benchmark(append_64_and_trim)


@pytest.mark.benchmark(group="publish")
def test_publish_without_subscribers(benchmark):
    hub = fastbcast.Hub()
    channel = hub.channel("x")
    benchmark(repeat_100, channel.publish, b"x" * 128)


@pytest.mark.benchmark(group="publish")
def test_publish_with_a_key_to_a_channel_that_conflates(benchmark):
    """What the compact log costs at publish: the newest of 100 keys is kept."""
    hub = fastbcast.Hub()
    hub.configure("*", policy="conflate")
    channel = hub.channel("x")
    keys = [f"key {i}" for i in range(100)]

    def publish_100():
        for key in keys:
            channel.publish(b"x" * 128, key=key)

    benchmark(publish_100)


@pytest.fixture
def make_harness():
    made = []

    def make(count, policy="evict", compression="off"):
        made.append(Harness(count, policy, compression))
        return made[-1]

    yield make
    for harness in made:
        harness.close()


@pytest.mark.parametrize(("clients", "messages"), [(1, 1), (100, 1), (100, 64), (1000, 1), (1000, 64)])
@pytest.mark.benchmark(group="sweep")
def test_publish_and_sweep(benchmark, make_harness, clients, messages):
    """One turn: `messages` of 128 bytes to `clients`; divide by clients for the cost of a send."""
    harness = make_harness(clients)
    benchmark.pedantic(
        harness.publish_and_flush,
        args=(messages, b"x" * 128),
        setup=harness.drain,
        rounds=max(20, 5000 // clients),
        warmup_rounds=3,
    )


@pytest.mark.parametrize("policy", ["evict", "conflate"])
@pytest.mark.benchmark(group="sweep by policy")
def test_clients_that_keep_up_cost_the_same_under_every_policy(benchmark, make_harness, policy):
    """64 messages with keys to 300 clients that keep up."""
    harness = make_harness(300, policy)
    benchmark.pedantic(
        harness.publish_and_flush, args=(64, b"x" * 128), setup=harness.drain, rounds=100, warmup_rounds=3
    )


@pytest.mark.parametrize("clients", [1, 300])
@pytest.mark.parametrize("compression", ["off", "deflate", "window"])
@pytest.mark.benchmark(group="sweep by compression")
def test_compression_is_paid_once_for_all_clients(benchmark, make_harness, compression, clients):
    """One turn with 8 trade ticks. What a form takes above "off" does not grow with the clients."""
    harness = make_harness(clients, compression=compression)
    ticks = iter(feeds.FEEDS["ticks"](1))

    def next_ticks():
        harness.drain()
        return (list(itertools.islice(ticks, 8)),), {}

    benchmark.pedantic(harness.publish_all_and_flush, setup=next_ticks, rounds=200, warmup_rounds=10)


def inbound(benchmark, harness, message):
    """64 KiB of what a client has sent, from the socket to the handler; divide by the number of messages."""
    messages = max(1, INBOUND_BYTES // len(message))
    frames = mask_frame(message) * messages
    benchmark.pedantic(
        harness.receive_messages,
        args=(messages,),
        setup=lambda: harness.send_frames(frames),
        rounds=200,
        warmup_rounds=10,
    )


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.benchmark(group="inbound")
def test_inbound_bytes(benchmark, make_harness, size):
    inbound(benchmark, make_harness(1), b"x" * size)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.benchmark(group="inbound")
def test_inbound_str(benchmark, make_harness, size):
    """The same, and UTF-8 is checked."""
    inbound(benchmark, make_harness(1), "x" * size)


class Clients:
    """Plain sockets in this process, connected to a relay in another one. The first is the publisher."""

    def __init__(self, port, count):
        self.sockets = [self._connect(port) for _ in range(count)]

    def _connect(self, port):
        sock = socket.create_connection(("127.0.0.1", port), READ_TIMEOUT_SECONDS)
        sock.sendall(UPGRADE)
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            head += self._read(sock, 4096)
        return sock

    def _read(self, sock, max_bytes):
        received = sock.recv(max_bytes)
        if not received:
            raise ConnectionError("the server has closed a connection")
        return received

    def relay(self, frames, expected_bytes):
        """Send `frames`, and read what comes of them from every client."""
        self.sockets[0].sendall(frames)
        for sock in self.sockets:
            missing = expected_bytes
            while missing:
                missing -= len(self._read(sock, missing))

    def close(self):
        for sock in self.sockets:
            sock.close()


@pytest.fixture(scope="module")
def relay_port():
    """The port of `fastbcast serve --relay`, a process of its own."""
    with Server(SUBJECT, fastbcast_command()) as server:
        yield int(server.url.rstrip("/").rpartition(":")[2])


@pytest.mark.parametrize(("clients", "messages"), [(1, 1), (100, 1), (100, 64)])
@pytest.mark.benchmark(group="end to end")
def test_relay(benchmark, relay_port, clients, messages):
    """`messages` of 128 bytes at once, until every client has them."""
    connected = Clients(relay_port, clients)
    message = b"x" * 128
    expected_bytes = messages * len(_frames.encode(message))
    benchmark.pedantic(
        connected.relay, args=(mask_frame(message) * messages, expected_bytes), rounds=200, warmup_rounds=10
    )
    connected.close()
