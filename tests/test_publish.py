"""`publish`: which messages it takes, the frames they become, and their sequence numbers."""

import array

import pytest
from reference import BINARY, TEXT, Frame
from support import connections, fill

from fastbcast import FastbcastError, Hub, MessageTooBig


async def test_seq_counts_from_1_for_each_channel():
    hub = Hub()
    a, b = hub.channel("a"), hub.channel("b")
    assert (a.seq, b.seq) == (0, 0)
    assert [hub.publish("a", "x") for _ in range(3)] == [1, 2, 3]
    assert [hub.publish("b", "x"), a.publish("x"), b.publish("x")] == [1, 4, 2]
    assert (a.seq, b.seq) == (4, 2)
    async with connections(hub, "/a") as (raw, _):
        assert hub.publish("a", "with a subscriber") == 5
        assert await raw.read_payloads(1) == [b"with a subscriber"]
    assert a.publish("without") == 6


MESSAGES = {
    "str": ("text ü €", None, Frame(TEXT, "text ü €".encode())),
    "latin-1 str": ("é", None, Frame(TEXT, b"\xc3\xa9")),
    "empty str": ("", None, Frame(TEXT, b"")),
    "str with NUL": ("a\x00b", None, Frame(TEXT, b"a\x00b")),
    "str, text=True": ("text", True, Frame(TEXT, b"text")),
    "bytes": (b"\x00\xff", None, Frame(BINARY, b"\x00\xff")),
    "empty bytes": (b"", None, Frame(BINARY, b"")),
    "bytes, text=False": (b"ok", False, Frame(BINARY, b"ok")),
    "bytes, text=True": ("ü".encode(), True, Frame(TEXT, "ü".encode())),
    "bytearray": (bytearray(b"abc"), None, Frame(BINARY, b"abc")),
    "bytearray, text=True": (bytearray(b"abc"), True, Frame(TEXT, b"abc")),
    "memoryview": (memoryview(b"xabcx")[1:4], None, Frame(BINARY, b"abc")),
    "read-only memoryview": (memoryview(bytearray(b"abc")).toreadonly(), None, Frame(BINARY, b"abc")),
    "array of ints": (array.array("H", [0x0101, 0x0202]), None, Frame(BINARY, b"\x01\x01\x02\x02")),
    "memoryview in two dimensions": (memoryview(b"abcd").cast("B", (2, 2)), None, Frame(BINARY, b"abcd")),
    "125 bytes": (bytes(125), None, Frame(BINARY, bytes(125))),
    "126 bytes": (bytes(126), None, Frame(BINARY, bytes(126))),
    "65535 bytes": (bytes(65535), None, Frame(BINARY, bytes(65535))),
    "65536 bytes": (bytes(65536), None, Frame(BINARY, bytes(65536))),
}


@pytest.mark.parametrize("way", ["publish", "channel", "publish_threadsafe", "send"])
@pytest.mark.parametrize(("message", "text", "frame"), MESSAGES.values(), ids=MESSAGES)
async def test_a_message_arrives_as_the_frame_it_stands_for(way, message, text, frame):
    hub = Hub()
    async with connections(hub, "/") as (raw, client):
        if way == "publish":
            assert hub.publish("default", message, text=text) == 1
        elif way == "channel":
            assert hub.channel("default").publish(message, text=text) == 1
        elif way == "publish_threadsafe":
            assert hub.publish_threadsafe("default", message, text=text) is None
        else:
            assert client.send(message, text=text) is True
        assert await raw.read_frames(1) == [frame]


BAD_MESSAGES = {
    "None": (None, None, TypeError),
    "int": (5, None, TypeError),
    "list of bytes": ([b"x"], None, TypeError),
    "str, text=False": ("x", False, TypeError),
    "lone surrogate": ("a\ud800", None, ValueError),
    "not UTF-8, text=True": (b"\xff", True, ValueError),
    "cut UTF-8, text=True": ("€".encode()[:2], True, ValueError),
    "not contiguous": (memoryview(b"abcdef")[::2], None, ValueError),
    "reversed": (memoryview(b"abcdef")[::-1], True, ValueError),
    "too big": (bytes(1001), None, MessageTooBig),
    "too big as UTF-8": ("ü" * 501, None, MessageTooBig),
    "far too big": (bytes(100_000), None, MessageTooBig),
}


@pytest.mark.parametrize("way", ["publish", "channel", "publish_threadsafe", "send"])
@pytest.mark.parametrize(("message", "text", "error"), BAD_MESSAGES.values(), ids=BAD_MESSAGES)
async def test_a_message_that_cannot_be_sent_raises_and_nothing_is_queued(way, message, text, error):
    hub = Hub(max_message_bytes=1000)
    async with connections(hub, "/") as (raw, client):
        channel = hub.channel("default")
        assert hub.publish("default", "before") == 1
        with pytest.raises(error):
            if way == "publish":
                hub.publish("default", message, text=text)
            elif way == "channel":
                channel.publish(message, text=text)
            elif way == "publish_threadsafe":
                hub.publish_threadsafe("default", message, text=text)
            else:
                client.send(message, text=text)
        assert channel.seq == 1
        assert hub.publish("default", "after") == 2
        assert await raw.read_payloads(2) == [b"before", b"after"]
        assert hub.stats()["published_messages"] == 2


async def test_a_message_of_exactly_max_message_bytes_is_sent():
    hub = Hub(max_message_bytes=1000)
    async with connections(hub, "/") as (raw, _):
        hub.publish("default", bytes(1000))
        hub.publish("default", "ü" * 500)
        assert await raw.read_payloads(2) == [bytes(1000), "ü".encode() * 500]


def test_message_too_big_carries_the_facts():
    with pytest.raises(MessageTooBig, match=r"1001.*1000") as caught:
        Hub(max_message_bytes=1000).publish("default", bytes(1001))
    assert (caught.value.message_bytes, caught.value.max_message_bytes) == (1001, 1000)
    assert isinstance(caught.value, ValueError)
    assert isinstance(caught.value, FastbcastError)


@pytest.mark.parametrize("way", ["publish", "publish_threadsafe", "send"])
@pytest.mark.parametrize("size", [10, 100_000])
async def test_scribbling_on_the_buffer_afterwards_changes_nothing(way, size):
    hub = Hub()
    async with connections(hub, "/", receive_buffer_bytes=4096) as (raw, client):
        if way == "send":  # also what waits in the Transport
            await fill(client, lambda: client.send(bytes(100_000)))
        buffer = bytearray(b"a" * size)
        {"send": client.send}.get(way, lambda message: getattr(hub, way)("default", message))(buffer)
        buffer[:] = b"b" * size
        buffer.extend(b"not exported any more")  # BufferError if somebody held it
        payloads = []
        while not payloads or payloads[-1][:1] != b"a":
            payloads += await raw.read_payloads(1)
        assert payloads[-1] == b"a" * size


def test_a_channel_name_must_be_a_str():
    hub = Hub()
    for name in (None, 5, b"default"):
        with pytest.raises(TypeError, match="name must be str"):
            hub.publish(name, "x")
        with pytest.raises(TypeError, match="name must be str"):
            hub.publish_threadsafe(name, "x")
        with pytest.raises(TypeError, match="name must be str"):
            hub.channel(name)


async def test_many_messages_of_one_turn_arrive_in_order_in_few_sends():
    hub = Hub()
    async with connections(hub, "/", "/") as pairs:
        for number in range(1000):
            hub.publish("default", str(number))
        for raw, _ in pairs:
            assert await raw.read_payloads(1000) == [b"%d" % number for number in range(1000)]
        assert hub.stats()["sends"] < 50
