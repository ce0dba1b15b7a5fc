"""`Hub.stats`: the counts of what happened."""

from reference import CLOSE, TEXT
from support import connections, fill, until

from fastbcast import Hub


async def test_stats_count_what_happened():
    hub = Hub()
    hub.on_message(lambda client, message: None)
    empty = hub.stats()
    assert empty.pop("disconnects") == empty.pop("refused") == {}
    assert not any(empty.pop("lag").pop("subscriptions_by_bytes").values())
    assert not any(empty.pop("compression").pop("subscriptions").values())
    assert set(empty.values()) == {0}
    async with connections(hub, "/a", "/a", "/b") as [(one, _), (two, _), (three, _)]:
        hub.publish("a", bytes(100))
        hub.publish("a", bytes(200))
        hub.publish("b", "x")
        await hub.flushed()
        for raw in (one, two, three):
            await raw.send_frame(TEXT, b"hello")
        await until(lambda: hub.stats()["received_messages"] == 3)
        stats = hub.stats()
        assert stats["clients"] == 3
        assert stats["channels"] == 2
        assert stats["subscriptions"] == 3
        assert stats["published_messages"] == 3
        assert stats["published_bytes"] == 102 + 204 + 3
        assert stats["delivered_messages"] == 5
        assert stats["sent_bytes"] == 2 * 306 + 3
        assert stats["sends"] == 3
        assert stats["refused_sends"] == stats["failed_sends"] == 0
        assert stats["sweeps"] == 2
        assert stats["slices"] >= 1
        await one.send_frame(CLOSE, b"\x03\xe8")
        assert await one.read_payloads(3) == [bytes(100), bytes(200), b"\x03\xe8"]
        await until(lambda: hub.stats()["clients"] == 2)
        assert hub.stats()["disconnects"] == {"client": 1}
        assert hub.stats()["subscriptions"] == 2


async def test_stats_of_a_slow_reader():
    hub = Hub()
    async with connections(hub, "/", receive_buffer_bytes=4096) as (raw, client):
        await fill(client, lambda: hub.publish("default", bytes(100_000)))
        published = hub.channel("default").seq
        hub.publish("default", bytes(100_000))
        stats = hub.stats()
        assert stats["refused_sends"] == 1
        assert stats["log_bytes"] >= 100_000
        await raw.read_payloads(published + 1)
        await hub.flushed()
        assert hub.stats()["delivered_messages"] == published + 1
