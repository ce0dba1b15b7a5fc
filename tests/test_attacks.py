"""A server under attack: who listened before has every message, and the process is as large as it was.

The server is a process of its own, the attackers are a thread of this one, and the healthy clients its event loop. An
attack is made several times. The first rounds may leave the process larger: an allocator keeps what it got. A leak
grows in every round.
"""

import asyncio
import contextlib
import os
from contextlib import closing

import attacks
import psutil
import pytest
from conftest import seconds
from raw_client import RawClient
from reference import PING, PONG, TEXT

HEALTHY = 5
ROUNDS = 6
TOLERATED_BYTES = 1024 * 1024
"""What the process may grow by in a round that shows no leak: 100 bytes for each of 10,000 connections."""
FEED_SECONDS = 0.005
"""Between two messages that the healthy clients listen to."""


class Feed:
    """Numbered messages to healthy clients of a relay: one of them sends, all listen."""

    def __init__(self, raws):
        self.raws = raws
        self.sent = 0
        self.received = [[] for _ in raws]

    @classmethod
    @contextlib.asynccontextmanager
    async def running(cls, port):
        async with contextlib.AsyncExitStack() as stack:
            raws = [stack.enter_context(closing(await RawClient.connect(port, "/healthy"))) for _ in range(HEALTHY)]
            feed = cls(raws)
            tasks = [asyncio.create_task(feed._listen(*pair)) for pair in zip(raws, feed.received, strict=True)]
            sending = asyncio.create_task(feed._send())
            yield feed
            sending.cancel()
            while not all(len(numbers) >= feed.sent for numbers in feed.received):
                assert not any(task.done() for task in tasks), "a healthy client was disconnected"
                await asyncio.sleep(FEED_SECONDS)
            for task in tasks:
                task.cancel()
            assert feed.received == [list(range(1, feed.sent + 1))] * HEALTHY

    async def _send(self):
        while True:
            self.sent += 1
            await self.raws[0].send_frame(TEXT, b"%d" % self.sent)
            await asyncio.sleep(FEED_SECONDS)

    async def _listen(self, raw, numbers):
        while frames := await raw.read_frames(1):
            if frames[0].opcode == TEXT:
                numbers.append(int(frames[0].payload))
            elif frames[0].opcode == PING:
                await raw.send_frame(PONG)


async def as_large_as_before(process, open_files):
    """Wait until the attackers' descriptors are closed; give the process' size."""
    while process.num_fds() != open_files:
        await asyncio.sleep(0.01)
    return process.memory_info().rss


async def endure(server, attack):
    process = psutil.Process(server.process.pid)
    async with Feed.running(server.port) as feed:
        open_files = process.num_fds()
        sizes = []
        for _ in range(ROUNDS):
            sent = feed.sent
            await asyncio.to_thread(attack, server.port)
            sizes.append(await as_large_as_before(process, open_files))
            assert feed.sent > sent
            if len(sizes) > 2 and (sizes[-1] - sizes[-2] <= TOLERATED_BYTES or "FASTBCAST_SANITIZERS" in os.environ):
                return      # sanitizers' allocator keeps what is freed
        pytest.fail(f"the server grew with every round: {sizes}")


@pytest.mark.parametrize("attack", attacks.ATTACKS, ids=lambda attack: attack.__name__)
def test_an_attack_costs_healthy_clients_no_message_and_the_server_no_memory(serve_process, attack):
    server = serve_process("--relay", "--handshake-seconds", "0.5")
    asyncio.run(asyncio.wait_for(endure(server, attack), seconds(60)))
    status, _, errors = server.stop()
    assert status == 0
    assert errors == ""


@pytest.mark.parametrize("loop", ["uvloop", "asyncio"])
def test_a_storm_of_tls_connections_costs_no_more(serve_process, authority, tls, tmp_path, loop):
    issued = authority.issue_cert("localhost")
    issued.cert_chain_pems[0].write_to_path(tmp_path / "cert")
    issued.private_key_pem.write_to_path(tmp_path / "key")
    server = serve_process("--relay", "--cert", tmp_path / "cert", "--key", tmp_path / "key", "--loop", loop)
    asyncio.run(asyncio.wait_for(endure(server, attacks.tls_storm), seconds(60)))
    status, _, errors = server.stop()
    assert (status, errors) == (0, "")
