"""A Client as the application uses it: subscribe, send, close, and its state."""

import asyncio

import pytest
from reference import BINARY, CLOSE, Frame
from support import connections, fill, until

from fastbcast import Hub

# subscribe and unsubscribe.


async def test_a_client_of_several_channels_gets_what_is_published_to_each():
    hub = Hub()
    async with connections(hub, "/a") as (raw, client):
        assert client.subscribe("b") is True
        assert client.subscribe("c") is True
        assert client.channels == ("a", "b", "c")
        for name in ("a", "b", "c", "d"):
            assert hub.publish(name, name) == 1
        payloads = await raw.read_payloads(3)
        assert sorted(payloads) == [b"a", b"b", b"c"]
        hub.publish("d", "not for it")
        for number in range(5):  # in turns of their own: in order across channels, too
            hub.publish("abc"[number % 3], str(number))
            await hub.flushed()
        assert await raw.read_payloads(5) == [b"0", b"1", b"2", b"3", b"4"]


async def test_a_new_subscriber_gets_what_is_published_from_then_on():
    hub = Hub()
    async with connections(hub, "/a", "/other") as [(old, _), (new, client)]:
        hub.publish("a", "before")
        client.subscribe("a")
        hub.publish("a", "after")
        assert await old.read_payloads(2) == [b"before", b"after"]
        assert await new.read_payloads(1) == [b"after"]


async def test_subscribing_twice_is_subscribing_once():
    hub = Hub()
    async with connections(hub, "/a") as (raw, client):
        assert client.subscribe("a") is True
        assert client.channels == ("a",)
        assert hub.count_subscribers("a") == 1
        hub.publish("a", "once")
        hub.publish("a", "end")
        assert await raw.read_payloads(2) == [b"once", b"end"]
        assert client.unsubscribe("a") is True
        assert hub.count_subscribers("a") == 0


async def test_after_unsubscribe_nothing_more_comes_of_that_channel():
    hub = Hub()
    async with connections(hub, "/a") as (raw, client):
        client.subscribe("b")
        hub.publish("a", "1")
        await hub.flushed()
        assert client.unsubscribe("a") is True
        assert client.unsubscribe("a") is False
        assert client.unsubscribe("never") is False
        assert client.channels == ("b",)
        hub.publish("a", "not for it")
        hub.publish("b", "2")
        assert await raw.read_payloads(2) == [b"1", b"2"]
        client.subscribe("a")
        hub.publish("a", "3")
        assert await raw.read_payloads(1) == [b"3"]


async def test_a_client_on_its_way_out_cannot_subscribe():
    hub = Hub()
    async with connections(hub, "/a") as (raw, client):
        client.close()
        assert client.is_open is False
        assert client.subscribe("b") is False
        assert client.channels == ()
        assert hub.count_subscribers("a") == 0
        assert hub.count_subscribers("b") == 0
        await raw.send_frame(CLOSE, b"\x03\xe8")
        assert await raw.read_close() == (1000, "")


# send.


async def test_send_and_publish_arrive_in_program_order():
    hub = Hub()
    async with connections(hub, "/", "/") as [(raw, client), (other, _)]:
        for number in range(0, 40, 2):
            hub.publish("default", str(number))
            assert client.send(str(number + 1)) is True
        assert await raw.read_payloads(40) == [b"%d" % number for number in range(40)]
        assert await other.read_payloads(20) == [b"%d" % number for number in range(0, 40, 2)]


async def test_send_keeps_program_order_over_several_channels():
    hub = Hub()
    async with connections(hub, "/a") as (raw, client):
        client.subscribe("b")
        hub.publish("b", "b1")
        hub.publish("a", "a1")
        client.send("direct")
        hub.publish("a", "a2")
        payloads = await raw.read_payloads(4)
        assert sorted(payloads[:2]) == [b"a1", b"b1"]
        assert payloads[2:] == [b"direct", b"a2"]


async def test_a_direct_message_to_a_slow_reader_lands_between_frames():
    hub = Hub()
    async with connections(hub, "/", receive_buffer_bytes=4096) as (raw, client):
        published = 0
        while not client.is_writing_paused:
            hub.publish("default", b"p" * 100_000)
            published += 1
            await asyncio.sleep(0)
        for _ in range(3):
            hub.publish("default", b"p" * 100_000)
            assert client.send(b"d" * 1000) is True
        payloads = await raw.read_payloads(published + 6)
        assert payloads.count(b"p" * 100_000) == published + 3
        assert payloads.count(b"d" * 1000) == 3


async def test_send_returns_false_once_the_client_is_on_its_way_out():
    hub = Hub()
    async with connections(hub, "/", "/", "/") as [(raw, closed), (_, aborted), (left, gone)]:
        closed.close()
        assert closed.send("x") is False
        aborted.abort()
        assert aborted.send("x") is False
        left.close()
        await until(lambda: not gone.is_open)
        assert gone.send("x") is False
        with pytest.raises(TypeError):
            closed.send(None)
        await raw.send_frame(CLOSE, b"\x03\xe8")
        assert await raw.read_close() == (1000, "")


async def test_who_lets_too_much_direct_wait_is_closed_with_1013_after_what_was_taken():
    hub = Hub(max_direct_bytes=50_000)
    async with connections(hub, "/", "/", receive_buffer_bytes=4096) as [(raw, client), (healthy, _)]:
        sent = []
        while client.send(b"%09d" % len(sent) + bytes(4000)):
            sent.append(len(sent))
        assert client.disconnected == (1013, "slow consumer", "server", "direct_overflow")
        assert client.channels == ()
        await raw.send_frame(CLOSE, (1013).to_bytes(2, "big"))
        frames = await raw.read_to_end()
        assert [int(frame.payload[:9]) for frame in frames[:-1]] == sent
        assert frames[-1] == Frame(CLOSE, (1013).to_bytes(2, "big") + b"slow consumer")
        hub.publish("default", "hello")
        assert await healthy.read_payloads(1) == [b"hello"]
        assert hub.stats()["disconnects"] == {"direct_overflow": 1}


async def test_direct_messages_that_were_written_do_not_count_against_the_bound():
    hub = Hub(max_direct_bytes=50_000)
    async with connections(hub, "/", receive_buffer_bytes=4096) as (raw, client):
        total = 0
        for _ in range(5):
            while not client.is_writing_paused:
                assert client.send(bytes(4000))
                total += 1
            for _ in range(10):
                assert client.send(bytes(4000))
                total += 1
            await raw.read_payloads(total - 1)
            total = 1
            await until(lambda: not client.is_writing_paused)
        assert client.is_open


# close and abort.


@pytest.mark.parametrize("code", [0, 1, 999, 1004, 1005, 1006, 1015, 1016, 2999, 5000, 65536, -1, 2**31, 2**64])
async def test_a_close_code_that_may_not_be_sent_is_refused(code):
    hub = Hub()
    async with connections(hub, "/") as (raw, client):
        with pytest.raises(ValueError, match="close code"):
            client.close(code)
        assert client.is_open
        assert client.channels == ("default",)
        hub.publish("default", "still here")
        assert await raw.read_payloads(1) == [b"still here"]


@pytest.mark.parametrize("reason", ["x" * 124, "ü" * 62, "\ud800"], ids=["124 bytes", "as UTF-8", "surrogate"])
async def test_a_close_reason_that_does_not_fit_is_refused(reason):
    hub = Hub()
    async with connections(hub, "/") as (raw, client):
        with pytest.raises(ValueError, match=r"125|surrogate"):
            client.close(1000, reason)
        assert client.is_open
        hub.publish("default", "still here")
        assert await raw.read_payloads(1) == [b"still here"]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ((), (1000, "")),
        ((1001,), (1001, "")),
        ((3000, "x" * 123), (3000, "x" * 123)),
        ((4999, "bye ü"), (4999, "bye ü")),
    ],
)
async def test_close_sends_code_and_reason(arguments, expected):
    hub = Hub()
    async with connections(hub, "/") as (raw, client):
        client.close(*arguments)
        client.close(4000, "a second time does nothing")
        assert client.disconnected == (*expected, "server", "application")
        hub.publish("default", "not for it")
        await raw.send_frame(CLOSE, b"\x03\xe8")
        assert await raw.read_close() == expected
        await until(lambda: hub.stats()["clients"] == 0)
        client.close()  # nor after the end
        assert hub.stats()["disconnects"] == {"application": 1}


async def test_a_peer_that_does_not_answer_the_close_is_aborted_after_close_seconds():
    hub = Hub(close_seconds=0.05)
    async with connections(hub, "/") as (raw, client):
        client.close(4000, "bye")
        assert await raw.read_close() == (4000, "bye")
        await until(lambda: hub.stats()["clients"] == 0)
        assert client.disconnected == (4000, "bye", "server", "application")


async def test_a_peer_that_does_not_even_read_the_close_is_aborted_too():
    hub = Hub(close_seconds=0.05)
    async with connections(hub, "/", receive_buffer_bytes=4096) as (_, client):
        await fill(client, lambda: hub.publish("default", bytes(100_000)))
        client.close()
        await until(lambda: hub.stats()["clients"] == 0)


async def test_the_close_of_a_slow_reader_comes_after_the_frame_it_is_in():
    hub = Hub()
    async with connections(hub, "/", receive_buffer_bytes=4096) as (raw, client):
        hub.publish("default", b"x" * 1_000_000)
        await until(lambda: client.is_writing_paused)
        client.close(4000)
        hub.publish("default", "not for it")
        await raw.send_frame(CLOSE, b"\x03\xe8")
        frames = await raw.read_to_end()
        assert frames == [Frame(BINARY, b"x" * 1_000_000), Frame(CLOSE, (4000).to_bytes(2, "big"))]


async def test_abort_ends_the_connection_without_a_close():
    hub = Hub()
    async with connections(hub, "/") as (raw, client):
        client.abort()
        client.abort()
        client.close()
        assert await raw.read_close() == (None, "")
        await until(lambda: hub.stats()["clients"] == 0)
        assert client.disconnected == (1006, "", "server", "aborted")


# What is the application's own.


async def test_state_is_the_applications_own():
    hub = Hub()
    async with connections(hub, "/", "/") as [(_, one), (_, other)]:
        assert one.state == {}
        one.state["name"] = "ada"
        assert one.state == {"name": "ada"}
        assert other.state == {}
        one.identity = "set later"
        assert (one.identity, other.identity) == ("set later", None)
