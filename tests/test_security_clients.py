"""SECURITY.md, "Behind it": each row is what a client of a real server sees, and what is counted."""

import asyncio
import struct
from contextlib import closing
from itertools import repeat
from types import SimpleNamespace

import pytest
from raw_client import RawClient, ask, handshake, serving
from reference import BINARY, PING, PONG, TEXT, client_frame
from security_table import Evidence, check, each_row, proves
from support import (
    SMALL_BUFFERS,
    client_of,
    connections,
    fill,
    raw_connections,
    send_until_it_stalls,
    stall,
    subscribed,
    until,
)
from test_compressed_input import DEFLATE
from test_inflate import Sender

from fastbcast import Grant, Hub, TooManySubscriptions
from fastbcast import logging as log

KIB = 1024
MIB = 1024 * KIB
CONTINUATION = 0x0


async def closes(seen, hub, *floods, **options):
    """See how clients that send each of `floods` are closed, one after the other, and what is counted."""
    headers = DEFLATE if "compression" in options else {}
    async with serving(hub, **options) as server:
        for flood in floods:
            with closing(await RawClient.connect(server.port, **headers)) as client:
                await client.send(flood)
                await seen.saw_close(client)
            await until(lambda: not list(hub.clients()))
        seen.count(hub)


def announce(length, fin=True):
    """The header of a binary message."""
    return struct.pack("!BBQ", 0x80 * fin | BINARY, 0x80 | 127, length) + b"mask"


@proves("publishing without the right", elsewhere=[
    "test_cli_tokens.test_a_reader_gets_what_the_writer_publishes_and_cannot_publish",
    "test_cli.test_without_relay_a_client_that_sends_is_closed_with_1008_and_the_others_stay",
])
async def no_right(seen):
    hub = Hub()
    hub.authorize(lambda request: Grant(None, subscribe=["*"], publish=[]))
    hub.on_message(hub.relay)
    await closes(seen, hub, client_frame(TEXT, b"x"))


@proves("a frame that says it is huge, a message in endless pieces", made="huge_length")
async def huge(seen):
    hub = Hub()     # the default: 1 MiB
    first, more = (client_frame(opcode, bytes(64 * KIB), fin=False) for opcode in (BINARY, CONTINUATION))
    await closes(seen, hub, announce(MIB + 1), announce(2**62), first + more * 16)
    async with connections(hub, "/") as (raw, _):
        await raw.send(announce(MIB) + b"x" * 100)
        await until(lambda: hub.stats()["partial_bytes"] == 100)


@proves("messages that are begun and never ended, by very many; or that wait for a rate or an inbox",
        made="unfinished_messages", elsewhere=[
    "test_inbound_limits.test_what_waits_of_all_clients_has_a_bound_and_who_has_waited_for_the_longest_is_closed",
])
async def unfinished(seen):
    hub = Hub(max_message_bytes=64 * KIB, max_partial_bytes=1)
    async with connections(hub, "/", "/") as [(oldest, _), (other, client)]:
        for raw in (oldest, other):
            held = hub.stats()["partial_bytes"]
            await raw.send(announce(64 * KIB, fin=False)[:14] + b"x" * 40 * KIB)
            await until(lambda held=held: hub.stats()["partial_bytes"] != held)
        await seen.saw_close(oldest)
        oldest.close()
        await until(lambda: hub.stats()["disconnects"])
        assert client.is_open
        seen.count(hub)


@proves("a message in very many fragments", made="fragment_flood")
async def fragments(seen):
    continuations = client_frame(CONTINUATION, b"", fin=False) * 16 * KIB
    await closes(seen, Hub(), client_frame(TEXT, b"", fin=False) + continuations)


@proves("garbage, no mask, reserved bits, bad UTF-8, bad close codes", made="masked_garbage")
async def garbage(seen):
    floods = [b"\xff" * 100, b"\x81\x00", client_frame(TEXT, b"", rsv=4), client_frame(8, struct.pack("!H", 1005))]
    await closes(seen, Hub(), *floods, client_frame(TEXT, b"\xff", fin=False))


@proves("decompression bombs, broken compressed data")
async def bombs(seen):
    bomb, broken = (client_frame(BINARY, data, rsv=4) for data in (Sender(False).compress(bytes(8 * MIB)), b"garbage"))
    await closes(seen, Hub(), bomb, broken, compression="deflate")
    hub = Hub()
    async with raw_connections(hub, "/") as raw:    # the default: nothing may be compressed
        await raw.send(bomb)
        assert (await raw.read_close())[0] == 1002


@proves("small messages that become large ones, without end", elsewhere=[
    "test_compressed_input.test_a_client_whose_messages_become_very_large_is_read_little_by_little_from_then_on",
])
async def small_and_large(seen):
    hub = Hub()
    async with serving(hub, compression="deflate") as server:
        with closing(await RawClient.connect(server.port, **DEFLATE)) as raw:
            await raw.send_frame(BINARY, Sender(False).compress(bytes(MIB)), rsv=4)
            await until(lambda: hub.stats()["received_messages"] == 1)
            seen.count(hub)


@proves("pings without end, pongs that nobody reads", made="ping_flood", elsewhere=[
    "test_slow_clients.test_a_flood_of_tiny_frames_is_handled_in_portions",
])
async def pings(seen):
    hub = Hub()
    async with connections(hub, "/", **SMALL_BUFFERS) as (raw, _):
        await stall(hub, "default")
        for number in range(1000):
            await raw.send_frame(PING, b"%d" % number)
        await raw.send_frame(TEXT, b"the last")
        await until(lambda: hub.stats()["received_messages"] == 1)
        pongs = []
        while not pongs or pongs[-1] != b"999":
            pongs += [frame.payload for frame in await raw.read_frames(1) if frame.opcode == PONG]
        assert pongs == [b"999"]
        seen.saw("fewer pongs")


@proves("messages without end", made="inbound_flood")
async def messages(seen):
    hub = Hub(max_inbound_messages_per_second=1)
    async with raw_connections(hub, "/") as raw:
        await send_until_it_stalls(raw, repeat(client_frame(TEXT, b"x") * 1000))
        seen.saw("a full socket")
        assert hub.stats()["received_messages"] < 40    # one a second, and the test may be slow
        assert hub.stats()["partial_bytes"] <= 4 * KIB
        seen.count(hub)


@proves("messages faster than an async handler", elsewhere=[
    "test_inbox.test_a_full_inbox_holds_the_peer_back_and_nothing_is_lost",
])
async def full_inbox(seen):
    hub = Hub(close_seconds=0.1)
    hub.on_message(lambda client, message: asyncio.Event().wait())
    async with raw_connections(hub, "/") as raw:
        await send_until_it_stalls(raw, repeat(client_frame(TEXT, b"x") * 1000))
        seen.saw("a full socket")
        assert hub.stats()["received_messages"] == 33   # and the one at work
        assert hub.stats()["partial_bytes"] <= 64 * KIB
        seen.count(hub)


@proves("not reading", made="never_reading", elsewhere=[
    "test_policies.test_a_client_that_is_above_the_soft_limit_for_too_long_is_evicted_on_an_idle_channel",
])
async def not_reading(seen):
    async def evicted(hub, publish):
        async with connections(hub, "/", **SMALL_BUFFERS) as (raw, client):
            while client.is_open:
                publish(hub, client)
                await asyncio.sleep(0)
            await seen.saw_close(raw)
            raw.close()
            await until(lambda: not list(hub.clients()))
        seen.count(hub)

    await evicted(Hub(), lambda hub, client: hub.publish("default", bytes(10_000)))
    await evicted(Hub(), lambda hub, client: client.send(bytes(10_000)))
    await evicted(
        Hub(stall_seconds=0.05),
        lambda hub, client: None if client.is_writing_paused else hub.publish("default", bytes(10_000)),
    )


@proves("very many that do not read", loops=["uvloop"])     # asyncio's Transports copy before Python 3.12
async def many_not_reading(seen):
    async def stalled(hub, size):
        async with connections(hub, "/a", "/b", "/c", **SMALL_BUFFERS) as pairs:
            for _, client in pairs:
                await fill(client, lambda client=client: hub.publish(client.channel, bytes(size)))
                hub.publish(client.channel, bytes(size))
            raw, client = next(pair for pair in pairs if not pair[1].is_open)
            if client.disconnected.cause == "log_full":
                await seen.saw_close(raw)
            else:
                await raw.read_to_end()
                assert raw.data     # the beginning of a frame
                seen.saw("cut off")
            for raw, _ in pairs:
                raw.close()
            await until(lambda: not list(hub.clients()))
        seen.count(hub)

    await stalled(Hub(max_log_bytes=512 * KIB), 200 * KIB)
    await stalled(Hub(max_pinned_bytes=512 * KIB), 400 * KIB)


@proves("peers that have vanished", elsewhere=[
    "test_stalls.test_a_close_that_is_not_taken_becomes_an_abort_after_close_seconds",
])
async def vanished(seen):
    await closes(seen, Hub(), b"", ping_seconds=0.05, pong_seconds=0.05)


@proves("channels without end", elsewhere=[
    "test_channel_limits.test_nothing_keeps_a_channel_whose_last_client_has_gone",
    "test_channel_names.test_length_and_alphabet_may_be_set",
])
async def channels(seen):
    hub = Hub(max_channels=1, max_subscriptions=1)
    hub.on_message(hub.relay)
    hub.authorize(lambda request: Grant(None, subscribe=["one"], publish=["*"]))
    async with serving(hub) as server:
        with closing(await RawClient.connect(server.port, "/one")):
            with pytest.raises(TooManySubscriptions):
                client_of(hub, "one").subscribe("two")
            for path in ("/two", "/" + "x" * 256, "/%07"):
                with closing(await RawClient.connect_tcp(server.port)) as refused:
                    await refused.send(handshake(path))
                    await seen.saw_answer(refused)
            seen.count(server, hub)
    hub = Hub(max_channels=1)
    hub.on_message(hub.relay)
    async with serving(hub, subscribe_path=False) as server:
        one = hub.channel("one")
        with closing(await RawClient.connect(server.port, "/two")) as raw:
            await raw.send_frame(TEXT, b"x")
            await seen.saw_close(raw)
        await until(lambda: not list(hub.clients()))
        seen.count(hub)
        del one


@proves("connections that end at once, in every way", made="close_storm", elsewhere=[
    "test_soak.test_a_server_holds_nothing_of_the_connections_that_ended",
])
async def ending(seen):
    hub = Hub()
    async with serving(hub) as server:
        for end in (RawClient.close, RawClient.reset):
            for path in ("/a", "/b"):
                end(await RawClient.connect(server.port, path))
        await until(lambda: server.stats()["connections"] == 0)
        stats = hub.stats()
        assert (stats["clients"], stats["channels"], stats["log_bytes"], stats["partial_bytes"]) == (0, 0, 0, 0)


@proves("filling the log, or forging lines in it", elsewhere=[
    "test_logging.test_no_field_breaks_the_line_or_makes_it_long",
])
async def full_log(seen):
    seen.monkeypatch.setattr(log, "WINDOW_SECONDS", 0.05)
    seen.monkeypatch.setattr(log, "time", SimpleNamespace(monotonic=lambda: 0.0))   # all within it
    hub = Hub()

    @hub.authorize
    def fail(request):
        raise LookupError

    async with serving(hub) as server:
        for _ in range(11):
            assert (await ask(server.port, handshake()))[0] == 500
        await until(lambda: len(seen.caplog.records) == 11)
        assert [record.event for record in seen.caplog.records] == ["authorize_failed"] * 10 + ["log_lines_dropped"]
        seen.read_log()


@proves("reading secrets in the log", elsewhere=[
    "test_logging.test_a_traceback_says_what_failed_and_where_but_not_what_was_sent",
    "test_logging.test_a_payload_that_a_handler_chokes_on_is_not_logged",
    "test_attacks.test_an_attack_costs_healthy_clients_no_message_and_the_server_no_memory",
])
@proves("secrets guessed by the sizes of compressed messages", elsewhere=[
    "test_deflate_side_channel.test_each_alone_or_as_it_is_they_tell_nothing_of_another_message",
    "test_deflate_window.test_what_else_a_client_on_a_window_receives_is_not_compressed",
])
async def elsewhere(seen):
    """No limit is hit."""


@proves("compressors without end")
async def compressors(seen):
    hub = Hub(max_window_bytes=80_000)      # room for one
    async with serving(hub, compression="window") as server:
        with (
            closing(await RawClient.connect(server.port, "/one", **DEFLATE)) as one,
            closing(await RawClient.connect(server.port, "/two", **DEFLATE)) as two,
        ):
            await subscribed(hub, "two")
            for channel in ("one", "two"):
                hub.publish(channel, b"a message that is compressed " * 10)
                await hub.flushed()
            await one.read_frames(1)
            await two.read_frames(1)
            assert hub.stats()["compression"]["subscriptions"] == {"off": 0, "deflate": 1, "window": 1}
            seen.saw("each message alone")
            seen.count(hub)


@each_row("Behind it")
def test_a_row_is_what_a_client_sees_and_what_is_counted(loop, row, authority, monkeypatch, caplog, tmp_path):
    check(loop, row, Evidence(authority, monkeypatch, caplog, tmp_path))
