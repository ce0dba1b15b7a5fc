"""A server process that is frozen, as by SIGSTOP or `docker pause`, for longer than its deadlines, and goes on.

What its clients did meanwhile lies in its sockets. A client that has done its part stays; one that has not is ended.
"""

import asyncio
import json
import signal
import time
from contextlib import asynccontextmanager, closing
from pathlib import Path

import pytest
from conftest import LOOPS, seconds
from raw_client import RawClient, ask, get, handshake
from reference import CLOSE, PING, PONG, TEXT, close_payload

LIMIT = seconds(0.5)    # a busy machine needs as much longer for what the limit is not about
FROZEN = 3 * LIMIT      # seconds for which the process is frozen: the matter of these tests, no wait for anything


@pytest.fixture(params=LOOPS)
def start(request, serve_process):
    """Start `fastbcast serve` on each event loop."""
    return lambda *arguments: serve_process("--loop", request.param, *arguments)


def state_of(process):
    return Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[0]


@asynccontextmanager
async def frozen(server):
    """Freeze the process while the block runs, and for FROZEN seconds at least."""
    server.process.send_signal(signal.SIGSTOP)
    while state_of(server.process) != "T":
        await asyncio.sleep(0)
    thaw_at = time.monotonic() + FROZEN
    try:
        yield
        await asyncio.sleep(max(0.0, thaw_at - time.monotonic()))
    finally:
        server.process.send_signal(signal.SIGCONT)


def play(scenario):
    """The test's own side; it is the server's loop that matters."""
    asyncio.run(asyncio.wait_for(scenario, seconds(60)))


async def begin_handshake(server):
    """Send half of a head, which the server has accepted and read once it answers somebody who came later."""
    raw = await RawClient.connect_tcp(server.port)
    request = handshake()
    await raw.send(request[:20])
    with closing(await RawClient.connect(server.port)):
        return raw, request[20:]


def test_a_head_that_came_while_it_was_frozen_is_answered_with_101(start):
    server = start("--handshake-seconds", str(LIMIT))

    async def scenario():
        raw, rest = await begin_handshake(server)
        with closing(raw):
            async with frozen(server):
                await raw.send(rest)
            assert (await raw.read_head()).startswith("HTTP/1.1 101 ")

    play(scenario())


def test_a_head_that_does_not_come_is_answered_with_408_though_it_was_frozen(start):
    server = start("--handshake-seconds", str(LIMIT))

    async def scenario():
        raw, _ = await begin_handshake(server)
        with closing(raw):
            for _ in range(2):
                async with frozen(server):
                    pass
            assert (await raw.read_head()).startswith("HTTP/1.1 408 ")

    play(scenario())


def test_a_pong_that_came_while_it_was_frozen_counts(start):
    server = start("--ping-seconds", str(LIMIT), "--pong-seconds", str(LIMIT))

    async def scenario():
        with closing(await RawClient.connect(server.port)) as raw:
            for _ in range(2):
                assert (await raw.read_frames(1))[0].opcode == PING
                async with frozen(server):
                    await raw.send_frame(PONG)
            assert (await raw.read_frames(1))[0].opcode == PING  # no CLOSE 1011

    play(scenario())


def test_a_client_that_sends_no_pong_is_closed_with_1011_though_it_was_frozen(start):
    server = start("--ping-seconds", str(LIMIT), "--pong-seconds", str(LIMIT))

    async def scenario():
        with closing(await RawClient.connect(server.port)) as raw:
            assert (await raw.read_frames(1))[0].opcode == PING
            async with frozen(server):
                pass
            frames = await raw.read_to_close()
            assert frames[-1].payload[:2] == close_payload(1011)

    play(scenario())


async def count_listeners(server):
    """How many listen to the channel, as the server tells."""
    _, _, body = await ask(server.port, get("/x?listeners"))
    return json.loads(body)["listeners"]


async def fill_socket(server, raw):
    """Publish until `raw`, which reads nothing, is behind: until the server has more for it than it has sent."""
    with closing(await RawClient.connect(server.port, "/x")) as publisher:
        for _ in range(40):
            await publisher.send_frame(TEXT, b"x" * 10_000)
            while (await publisher.read_frames(1))[0].opcode != TEXT:
                pass


SLOW = ["--relay", "--send-buffer-bytes", "8192", "--soft-lag-bytes", "10000"]


@pytest.mark.parametrize("limit", ["--stall-seconds", "--soft-lag-seconds"])
def test_a_client_that_reads_everything_while_it_is_frozen_is_not_evicted(start, limit):
    server = start(*SLOW, limit, str(2 * LIMIT))

    async def scenario():
        with closing(await RawClient.connect(server.port, "/x", 4096)) as raw:
            await fill_socket(server, raw)
            async with frozen(server):
                with pytest.raises(asyncio.TimeoutError):   # all that the kernel has for it
                    await asyncio.wait_for(raw.read_frames(40), LIMIT)
            frames = await raw.read_frames(40)
            assert [frame.opcode for frame in frames] == [TEXT] * 40

    play(scenario())


@pytest.mark.parametrize("limit", ["--stall-seconds", "--soft-lag-seconds"])
def test_a_client_that_reads_nothing_is_evicted_though_it_was_frozen(start, limit):
    server = start(*SLOW, limit, str(LIMIT))

    async def scenario():
        with closing(await RawClient.connect(server.port, "/x", 4096)) as raw:
            await fill_socket(server, raw)
            async with frozen(server):
                pass
            while await count_listeners(server) > 0:
                pass
            frames = await raw.read_to_close()
            assert frames[-1].payload[:2] == close_payload(1013)

    play(scenario())


def test_a_drain_that_is_frozen_still_closes_its_clients_one_after_the_other(start):
    server = start("--drain-seconds", str(2 * LIMIT))

    async def scenario():
        raws = [await RawClient.connect(server.port) for _ in range(20)]
        server.process.send_signal(signal.SIGTERM)
        first = [asyncio.create_task(raw.read_frames(1)) for raw in raws]
        await asyncio.wait(first, return_when=asyncio.FIRST_COMPLETED)
        async with frozen(server):
            await asyncio.sleep(0)
            closed = [task for task in first if task.done()]
            assert len(closed) < 20
        done, _ = await asyncio.wait(first, return_when=asyncio.FIRST_COMPLETED)
        await asyncio.wait(set(first) - done, return_when=asyncio.FIRST_COMPLETED)
        assert not all(task.done() for task in first)   # the time in which it was frozen did not use up the drain's
        for raw, task in zip(raws, first, strict=True):
            (frame,) = await task
            assert (frame.opcode, frame.payload[:2]) == (CLOSE, close_payload(1012))
            await raw.send_frame(CLOSE, close_payload(1012))
            raw.close()

    play(scenario())
    assert server.process.wait(seconds(20)) == 0
