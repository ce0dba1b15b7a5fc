"""What each step of the data path costs: `pytest benchmarks`, and `--benchmark-compare` between two commits.

Procedure: one process, sockets of the loopback device, the kernel's send included where it says "sweep".
Clients are drained outside the measured part, so no socket is ever full. Compare ratios on one machine;
single figures of a shared machine move by tens of per cent.
"""

import pytest
from harness import Harness

import fastbcast
from fastbcast import _frames
from fastbcast._log import Log

SIZES = [32, 128, 1024, 65536]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.benchmark(group="encode")
def test_encode_bytes(benchmark, size):
    benchmark(_frames.encode, b"x" * size)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.benchmark(group="encode")
def test_encode_str(benchmark, size):
    benchmark(_frames.encode, "x" * size)


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
    benchmark(channel.publish, b"x" * 128)


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

    def make(count, policy="evict"):
        made.append(Harness(count, policy))
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
