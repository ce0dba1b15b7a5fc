"""Clients that read badly or not at all, under each policy: a healthy one beside them gets every message."""

import contextlib
import socket
import struct
import sys

import pytest
from conftest import missing
from raw_client import RawClient, serving
from support import check, subscribed, until

from fastbcast import Disconnect, Hub

KIB = 1024
MESSAGE_BYTES = 4 * KIB
FRAME_BYTES = MESSAGE_BYTES + 4
LAG_MESSAGES = 8
KEYS = 4
COUNT = 100
# What the log may hold: the lag, and a segment at each end that is not full.
LOG_BYTES = LAG_MESSAGES * FRAME_BYTES + 2 * 64 * KIB
# Small enough for a client that does not read to be behind after some messages.
BUFFERS = {"send_buffer_bytes": 16 * KIB, "notsent_lowat_bytes": 4 * KIB}
SLOW = Disconnect(1013, "slow consumer", "server", "slow_consumer")
STALLED = SLOW._replace(cause="stalled")

pytestmark = pytest.mark.parametrize("policy", ["evict", "skip", "latest", "conflate"])


class Scene:
    """A channel, and two of its clients: the healthy one reads each message before the next is published."""

    def __init__(self, hub, bad, client, healthy):
        self.hub = hub
        self.bad = bad
        self.client = client    # the bad one's
        self.healthy = healthy
        self.published = 0

    async def publish(self, count=1):
        for _ in range(count):
            payload = self.published.to_bytes(4, "big") * (MESSAGE_BYTES // 4)
            self.hub.publish("x", payload, key=self.published % KEYS)
            self.published += 1
            assert await self.healthy.read_payloads(1) == [payload]
            assert self.hub.stats()["log_bytes"] <= LOG_BYTES
            check(self.hub)

    async def publish_until_the_bad_one_is_in_a_frame(self):
        while not self.client.is_writing_paused:
            await self.publish()

    async def read_to_newest(self):
        """Read all there is for the bad client: the numbers of its messages, which must be whole."""
        numbers = []
        while not numbers or numbers[-1] != self.published - 1:
            (payload,) = await self.bad.read_payloads(1)
            assert payload == payload[:4] * (MESSAGE_BYTES // 4)
            numbers.append(int.from_bytes(payload[:4], "big"))
        return numbers

    def bad_one_is_gone(self):
        return until(lambda: self.hub.stats()["clients"] == 1)


@contextlib.asynccontextmanager
async def scene(policy, **options):
    hub = Hub(close_seconds=0.1, **options)
    hub.configure("x", policy=policy, max_lag_bytes=LAG_MESSAGES * FRAME_BYTES, max_burst_bytes=0)
    async with serving(hub, **BUFFERS) as server:
        bad = await RawClient.connect(server.port, "/x", receive_buffer_bytes=4096)
        await subscribed(hub, "x")
        (client,) = hub.clients()
        healthy = await RawClient.connect(server.port, "/x")
        await subscribed(hub, "x", 2)
        this = Scene(hub, bad, client, healthy)
        yield this
        await this.publish(COUNT)  # whatever has happened
        bad.close()
        await this.bad_one_is_gone()
        healthy.close()
        await until(lambda: hub.stats()["clients"] == 0)
        assert (hub.stats()["log_bytes"], hub.stats()["pinned_bytes"]) == (0, 0)


@pytest.mark.parametrize("read_bytes", [0, 1, MESSAGE_BYTES // 8], ids=["nothing", "a byte", "an eighth"])
async def test_a_client_that_reads_too_little_of_each_message_is_evicted_or_loses_the_rest(policy, read_bytes):
    async with scene(policy) as this:
        for _ in range(COUNT):
            await this.publish()
            if read_bytes:
                await this.bad.receive(read_bytes)
        if policy == "evict":
            await this.bad_one_is_gone()
            assert this.client.disconnected == SLOW
            return
        numbers = await this.read_to_newest()
        assert numbers == sorted(set(numbers))
        lost = this.published - len(numbers)
        assert lost > COUNT // 2
        if policy == "conflate":
            assert this.client.missed == (0, lost)
            assert numbers[-KEYS:] == list(range(this.published - KEYS, this.published))
        else:
            assert this.client.missed == (lost, 0)
        await until(lambda: this.client.lag == (0, 0, 0))


async def test_a_client_that_reads_in_bursts_stays_and_loses_only_what_is_conflated(policy):
    async with scene(policy) as this:
        numbers = []
        for _ in range(COUNT // LAG_MESSAGES):
            await this.publish(LAG_MESSAGES)
            numbers += await this.read_to_newest()
        assert this.client.is_open
        assert numbers == sorted(set(numbers))
        lost = this.published - len(numbers)
        if policy == "conflate":
            assert this.client.missed == (0, lost)
            assert lost > 0
        else:
            assert (this.client.missed, lost) == ((0, 0), 0)


async def test_a_client_that_resets_the_connection_in_the_middle_of_a_frame_is_forgotten(policy):
    async with scene(policy) as this:
        await this.publish_until_the_bad_one_is_in_a_frame()
        await this.publish(2)
        await this.bad.receive(MESSAGE_BYTES // 2)
        this.bad.reset()
        await this.publish(COUNT)
        await this.bad_one_is_gone()
        assert this.client.disconnected.cause in ("connection_lost", "send_failed")


async def test_a_client_that_closes_its_side_and_reads_nothing_is_gone_after_close_seconds(policy):
    async with scene(policy) as this:
        await this.publish_until_the_bad_one_is_in_a_frame()
        await this.publish(2)
        this.bad.sock.shutdown(socket.SHUT_WR)
        await until(lambda: this.hub.stats()["subscriptions"] == 1)  # what comes now is not for it
        await this.publish(COUNT)
        await this.bad_one_is_gone()
        assert this.client.disconnected == (1006, "", "network", "connection_lost")


def vanish(sock):
    """From now on neither end gets a packet of the other, or answers one: as if the cable were cut.

    `sock` asks for signatures (RFC 2385) that the server knows nothing of: both kernels drop what comes, silently.
    That takes no privilege, as a firewall's rule would.
    """
    if sys.platform != "linux":
        missing("only Linux signs TCP segments")
    tcp_md5sig = 14  # linux/tcp.h, as is the struct
    host, port = sock.getpeername()
    peer = struct.pack("=H", socket.AF_INET) + struct.pack("!H4s", port, socket.inet_aton(host))
    signature = struct.pack("128sBBHi80s", peer, 0, 0, 3, 0, b"key")
    try:
        sock.setsockopt(socket.IPPROTO_TCP, tcp_md5sig, signature)
    except OSError:
        missing("this kernel signs no TCP segments (CONFIG_TCP_MD5SIG)")


async def test_a_client_that_vanishes_without_a_word_is_closed_all_the_same(policy):
    """Neither FIN nor RST: the kernel would try for a quarter of an hour, the hub does not."""

    async with scene(policy, stall_seconds=0.1) as this:
        vanish(this.bad.sock)
        await this.publish_until_the_bad_one_is_in_a_frame()
        await this.publish(COUNT)
        await this.bad_one_is_gone()
        assert this.client.disconnected == (SLOW if policy == "evict" else STALLED)
        with pytest.raises(BlockingIOError):  # it was told nothing of all that
            this.bad.sock.recv(1)


async def test_all_of_them_at_once_are_ended_and_delay_nobody(policy):
    async with scene(policy, stall_seconds=0.2) as this:
        port = this.bad.sock.getpeername()[1]
        others = [await RawClient.connect(port, "/x", receive_buffer_bytes=4096) for _ in range(10)]
        await subscribed(this.hub, "x", 2 + len(others))
        for other in others[:2]:
            vanish(other.sock)
        await this.publish_until_the_bad_one_is_in_a_frame()
        for other in others[2:4]:
            other.reset()
        for other in others[4:6]:
            other.sock.shutdown(socket.SHUT_WR)
        for _ in range(COUNT):
            await this.publish()
            for other in others[6:8]:
                await other.receive(1)
        for other in others[2:]:
            other.close()
        this.bad.close()
        await this.bad_one_is_gone()
        assert sum(this.hub.stats()["disconnects"].values()) == 1 + len(others)
