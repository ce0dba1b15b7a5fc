"""What should not happen: a Transport or a part of the hub that raises. It hurts one client, and no publisher."""

import asyncio
import functools
import logging
import weakref

import pytest
from conftest import seconds
from reference import CLOSE
from support import SMALL_BUFFERS, check, connections, end_turn, fall_behind, fill, numbered, until

from fastbcast import Flushed, Hub

CLOSE_START = bytes([0x80 | CLOSE])


@pytest.fixture
def on_log():
    """Give a function that has `act(record)` run for whatever fastbcast logs: gives the list of records."""
    added = []

    def add(act=lambda record: None):
        class Handler(logging.Handler):
            def emit(self, record):
                records.append(record)
                act(record)

        records = []
        added.append(Handler())
        logging.getLogger("fastbcast").addHandler(added[-1])
        return records

    yield add
    for handler in added:
        logging.getLogger("fastbcast").removeHandler(handler)


@pytest.fixture
def break_writes(monkeypatch):
    """Give a function that makes `write` of the Transports of these clients raise, for frames that begin so.

    Of asyncio's: uvloop's cannot be changed.
    """
    write = asyncio.selector_events._SelectorSocketTransport.write
    broken = {}

    def fail(transport, data):
        if bytes(data).startswith(broken.get(transport.get_extra_info("peername"), b"never")):
            raise RuntimeError("a Transport that raises")
        write(transport, data)

    monkeypatch.setattr(asyncio.selector_events._SelectorSocketTransport, "write", fail)
    return lambda *clients, start=b"": broken.update((client.remote_address, start) for client in clients)


def run_on_asyncio(scenario):
    asyncio.run(asyncio.wait_for(scenario(), seconds(30)))


def test_a_transport_that_raises_costs_its_own_client_though_a_logging_handler_closes_others(on_log, break_writes):
    """Those others were set aside by the same slice: they are cut in a frame, and must get the rest of it."""

    async def scenario():
        hub = Hub()
        paths = ["/x"] * 12
        async with connections(hub, *paths, **SMALL_BUFFERS) as pairs:
            clients = [client for _, client in pairs]
            records = on_log(lambda record: [client.close(4000) for client in clients])
            break_writes(*clients[::3])
            hub.publish("x", numbered(1, 1_000_000))
            await until(lambda: len(records) == 4)
            assert {client.disconnected.cause for client in clients[::3]} == {"send_failed"}
            for number, (raw, client) in enumerate(pairs):
                if number % 3:
                    frames = await raw.read_to_close()
                    assert [len(frame.payload) for frame in frames] == [1_000_000, 2]
                    assert client.disconnected.code == 4000
            assert all(record.event == "transport_failed" and record.exc_info for record in records)
            check(hub)

    run_on_asyncio(scenario)


def test_a_stalled_client_that_cannot_be_closed_does_not_keep_the_others(on_log, break_writes):
    async def scenario():
        hub = Hub(stall_seconds=0.05, close_seconds=0.1)
        async with connections(hub, "/a", "/b", **SMALL_BUFFERS) as pairs:
            records = on_log()
            break_writes(pairs[0][1], start=CLOSE_START)
            for _, client in pairs:
                await fall_behind(hub, client.channel, client)
            await until(lambda: hub.stats()["clients"] == 0)
            assert [client.disconnected.cause for _, client in pairs] == ["stalled"] * 2
            assert [record.event for record in records] == ["evict_failed"]

    run_on_asyncio(scenario)


def test_an_evicted_client_that_cannot_be_closed_does_not_stop_the_sweep(on_log, break_writes):
    async def scenario():
        hub = Hub(close_seconds=0.1)
        hub.configure("x", max_lag_bytes=1, max_burst_bytes=0)
        async with connections(hub, "/x", "/x", "/x", **SMALL_BUFFERS) as pairs:
            records = on_log()
            clients = [client for _, client in pairs]
            break_writes(clients[1], start=CLOSE_START)
            while hub.stats()["clients"]:
                hub.publish("x", numbered(0))
                await end_turn()
            assert [client.disconnected.cause for client in clients] == ["slow_consumer"] * 3
            assert [record.event for record in records] == ["evict_failed"]

    run_on_asyncio(scenario)


class Bug(Exception):
    pass


def raises():
    raise Bug


async def test_a_sweep_that_fails_is_reported_and_tried_again(on_log):
    hub = Hub()
    async with connections(hub, "/x") as (raw, _):
        records = on_log()
        channel = hub.channel("x")

        def publish_and_raise():
            channel.publish("2")
            raise Bug

        channel.publish("1")
        flush = channel._flush(None, publish_and_raise)
        assert await raw.read_payloads(2) == [b"1", b"2"]
        assert [record.exc_info[0] for record in records] == [Bug]
        channel.publish("3")
        assert await raw.read_payloads(1) == [b"3"]
        assert channel._finish_flush(flush)[0] == 1


async def test_a_publish_that_sweeps_at_once_does_not_raise_for_what_fails_there(on_log):
    hub = Hub()
    hub.configure("x", max_unswept_bytes=1)
    async with connections(hub, "/x") as (raw, _):
        records = on_log()
        channel = hub.channel("x")
        flush = channel._flush(None, raises)    # waits for nothing: called by the next sweep
        assert channel.publish("1") == 1
        assert await raw.read_payloads(1) == [b"1"]
        await until(lambda: records)
        assert [record.exc_info[0] for record in records] == [Bug]
        assert channel._finish_flush(flush)[0] == 0


async def test_a_publish_does_not_raise_when_memory_cannot_be_freed(on_log, monkeypatch):
    monkeypatch.setattr(Hub, "_relieve_logs", lambda hub: raises())

    hub = Hub(max_log_bytes=1000)
    async with connections(hub, "/x") as (raw, _):
        records = on_log()
        assert hub.publish("x", bytes(2000)) == 1
        assert await raw.read_payloads(1) == [bytes(2000)]
        await until(lambda: records)
        assert [record.exc_info[0] for record in records] == [Bug]


# What `flushed` leaves behind.


async def test_flushes_may_be_dropped_by_what_another_one_does_when_it_is_done():
    hub = Hub()
    async with connections(hub, "/x") as (raw, _):
        channel = hub.channel("x")
        channel.publish("1")
        flushes, done = [], []

        def finish(number):
            done.append(number)
            if flushes[number] is not None:
                channel._finish_flush(flushes[number])
            if number == 10:
                flushes.clear()
                flushes.extend([None] * 20)

        flushes += [channel._flush(None, functools.partial(finish, number)) for number in range(20)]
        channel._check_flushed()
        assert done == []
        assert await raw.read_payloads(1) == [b"1"]
        assert sorted(done) == [*range(20)]
        assert await channel.flushed() == Flushed(written=1)
        check(hub)


async def test_flushed_that_nobody_awaits_keeps_nothing():
    hub = Hub()
    async with connections(hub, "/x", **SMALL_BUFFERS) as (_, client):
        await fill(client, lambda: hub.publish("x", numbered(1)))
        channel = weakref.ref(hub.channel("x"))
        asked = channel().flushed()
        asked.close()
        del asked
        client.unsubscribe("x")
        await end_turn()
        assert channel() is None  # no cycle: no collector was needed


async def test_what_is_flushed_by_a_publish_that_sweeps_at_once_adds_up():
    hub = Hub()
    hub.configure("x", max_unswept_bytes=1, max_lag_bytes=1, max_burst_bytes=0)
    async with connections(hub, "/x", "/x", "/x", **SMALL_BUFFERS) as pairs:
        channel = hub.channel("x")
        asked = []
        for number in range(300):
            channel.publish(numbered(number))
            asked.append(channel.flushed())
            if number % 50 == 49:
                await end_turn()
        results = [await flushed for flushed in asked]
        assert all(sum(flushed) == 3 or flushed == Flushed() for flushed in results)
        assert results[0] == Flushed(written=3)
        assert sum(flushed.evicted for flushed in results) > 0
        written = sum(flushed.written for flushed in results)
        received = 0
        for raw, _ in pairs:
            received += sum(frame.opcode != CLOSE for frame in await raw.read_to_close())
        assert 0 <= received - written <= 3  # the one in hand when it was evicted came all the same
