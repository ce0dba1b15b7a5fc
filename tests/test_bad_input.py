"""Frames from a client: what breaks RFC 6455 or a limit closes it, what is just allowed arrives.

The server is given max_message_bytes=1000 and max_fragments=4.
"""

import asyncio
import contextlib
from contextlib import closing

import pytest
from raw_client import RawClient
from reference import BINARY, CLOSE, PING, PONG, TEXT, Frame, client_frame, close_payload, encode_frame
from support import subscribed, until

from fastbcast import Hub, serve

PROTOCOL_ERROR = (1002, "protocol_error")
INVALID_TEXT = (1007, "invalid_text")
TOO_BIG = (1009, "message_too_big")
TOO_MANY = (1008, "too_many_fragments")


def fragments(opcode, *payloads):
    """A message cut into frames; the last one has FIN."""
    frames = [client_frame(opcode if n == 0 else 0, payload, fin=False) for n, payload in enumerate(payloads[:-1])]
    return b"".join(frames) + client_frame(0, payloads[-1])


BAD_INPUT = {
    "unmasked text": (encode_frame(TEXT, b"x"), PROTOCOL_ERROR),
    "unmasked ping": (encode_frame(PING, b""), PROTOCOL_ERROR),
    "unmasked close": (encode_frame(CLOSE, b""), PROTOCOL_ERROR),
    **{f"reserved bit {rsv}": (client_frame(TEXT, b"x", rsv=rsv), PROTOCOL_ERROR) for rsv in (1, 2, 4, 7)},
    "reserved bit on a ping": (client_frame(PING, b"", rsv=4), PROTOCOL_ERROR),
    "reserved bit on a close": (client_frame(CLOSE, close_payload(1000), rsv=4), PROTOCOL_ERROR),
    "reserved bit on a continuation": (
        client_frame(TEXT, b"a", fin=False) + client_frame(0, b"b", rsv=4),
        PROTOCOL_ERROR,
    ),
    **{f"opcode {n:#x}": (client_frame(n, b""), PROTOCOL_ERROR) for n in (3, 4, 5, 6, 7, 11, 12, 13, 14, 15)},
    "fragmented ping": (client_frame(PING, b"", fin=False), PROTOCOL_ERROR),
    "fragmented pong": (client_frame(PONG, b"", fin=False), PROTOCOL_ERROR),
    "fragmented close": (client_frame(CLOSE, close_payload(1000), fin=False), PROTOCOL_ERROR),
    "long ping": (client_frame(PING, bytes(126)), PROTOCOL_ERROR),
    "long pong": (client_frame(PONG, bytes(126)), PROTOCOL_ERROR),
    "long close": (client_frame(CLOSE, close_payload(1000, "x" * 124)), PROTOCOL_ERROR),
    "continuation without a start": (client_frame(0, b"x"), PROTOCOL_ERROR),
    "continuation after the end": (fragments(TEXT, b"a", b"b") + client_frame(0, b"c"), PROTOCOL_ERROR),
    "text inside fragments": (client_frame(TEXT, b"a", fin=False) + client_frame(TEXT, b"b"), PROTOCOL_ERROR),
    "binary inside fragments": (client_frame(TEXT, b"a", fin=False) + client_frame(BINARY, b"b"), PROTOCOL_ERROR),
    **{
        f"close code {code}": (client_frame(CLOSE, close_payload(code)), PROTOCOL_ERROR)
        for code in (0, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2999, 5000, 65535)
    },
    "close of one byte": (client_frame(CLOSE, b"\x03"), PROTOCOL_ERROR),
    "close reason is not UTF-8": (client_frame(CLOSE, close_payload(1000) + b"\xff"), INVALID_TEXT),
    "text is not UTF-8": (client_frame(TEXT, b"abc\xff"), INVALID_TEXT),
    "text ends inside a character": (client_frame(TEXT, b"\xe2\x82"), INVALID_TEXT),
    "text has a surrogate": (client_frame(TEXT, b"\xed\xa0\x80"), INVALID_TEXT),
    "text is overlong": (client_frame(TEXT, b"\xc0\xaf"), INVALID_TEXT),
    "text above U+10FFFF": (client_frame(TEXT, b"\xf4\x90\x80\x80"), INVALID_TEXT),
    "fragments are not UTF-8": (fragments(TEXT, b"ok", b"\xe2\x82", b"\xe2"), INVALID_TEXT),
    "message too big, announced only": (client_frame(BINARY, bytes(1001))[:8], TOO_BIG),
    "message far too big, announced only": (client_frame(BINARY, bytes(70_000))[:14], TOO_BIG),
    "message too big": (client_frame(TEXT, b"x" * 1001), TOO_BIG),
    "fragments too big": (fragments(BINARY, bytes(600), bytes(401)), TOO_BIG),
    "fragments too big before the end": (
        client_frame(BINARY, bytes(600), fin=False) + client_frame(0, bytes(600), fin=False),
        TOO_BIG,
    ),
    "too many fragments": (fragments(TEXT, b"a", b"b", b"c", b"d", b"e"), TOO_MANY),
    "too many empty fragments": (fragments(TEXT, *[b""] * 5), TOO_MANY),
}


@pytest.mark.parametrize(("sent", "expected"), BAD_INPUT.values(), ids=BAD_INPUT)
def test_bad_input_closes_that_client_with_its_code_and_nobody_else(run, sent, expected, caplog):
    async def scenario():
        hub = Hub(max_message_bytes=1000, max_fragments=4)
        received, ended = [], []
        hub.on_message(lambda client, message: received.append(message))
        hub.on_disconnect(lambda client, disconnect: ended.append(disconnect))
        published = []

        def publish():
            published.append(b"%d" % len(published))
            hub.publish("prices", published[-1])

        async with serve(hub) as server:
            async with contextlib.AsyncExitStack() as stack:
                bad = stack.enter_context(closing(await RawClient.connect(server.port, "/prices")))
                healthy = stack.enter_context(closing(await RawClient.connect(server.port, "/prices")))
                await subscribed(hub, "prices", 2)
                publish()
                await bad.send(sent)
                while hub.count_subscribers("prices") == 2:
                    publish()
                    await asyncio.sleep(0)
                for _ in range(3):
                    publish()
                    await asyncio.sleep(0)
                got = []
                while not got or got[-1].opcode != CLOSE:
                    frames = await bad.read_frames(1)
                    assert frames, "the connection ended without a CLOSE"
                    got += frames
                publish()
                # What comes now is of no interest to it, and nothing may come of it.
                with contextlib.suppress(ConnectionError):
                    await bad.send(client_frame(TEXT, b"late") + client_frame(PING, b"late"))
                    await bad.send_frame(CLOSE, got[-1].payload[:2])
                assert await bad.read_to_end() == []
                bad.close()
                await until(lambda: ended)
                publish()

                code, cause = expected
                assert int.from_bytes(got[-1].payload[:2], "big") == code
                got[-1].payload[2:].decode()
                assert [frame.payload for frame in got[:-1]] == published[: len(got) - 1]
                assert await healthy.read_payloads(len(published)) == published
                assert "late" not in received
                assert [(end.code, end.by, end.cause) for end in ended] == [(code, "server", cause)]
                assert hub.stats()["disconnects"] == {cause: 1}

    run(scenario())
    assert caplog.records == []


@pytest.mark.parametrize(
    ("sent", "message"),
    [
        pytest.param(client_frame(BINARY, bytes(1000)), bytes(1000), id="exactly max_message_bytes"),
        pytest.param(fragments(BINARY, bytes(600), bytes(400)), bytes(1000), id="exactly that in fragments"),
        pytest.param(fragments(TEXT, b"a", b"b", b"c", b"d"), "abcd", id="exactly max_fragments"),
        pytest.param(fragments(TEXT, b"\xe2", b"\x82", b"\xac"), "€", id="a character across fragments"),
        pytest.param(fragments(TEXT, b"", b"", b""), "", id="an empty message in fragments"),
        pytest.param(
            client_frame(TEXT, b"a", fin=False)
            + client_frame(PING, b"")
            + client_frame(PONG, b"")
            + client_frame(0, b"b"),
            "ab",
            id="control frames between fragments",
        ),
    ],
)
async def test_what_is_just_allowed_arrives(sent, message):
    hub = Hub(max_message_bytes=1000, max_fragments=4)
    received = []
    hub.on_message(lambda client, message: received.append(message))
    async with serve(hub) as server:
        with closing(await RawClient.connect(server.port)) as client:
            await client.send(sent * 2)
            await until(lambda: len(received) == 2)
            assert received == [message, message]
            assert hub.stats()["received_messages"] == 2
            assert hub.stats()["disconnects"] == {}


async def test_a_message_of_one_mib_may_come_in_frames_of_64_bytes():
    """The defaults, as much of one as of the other; Autobahn's smallest frames of a large message."""

    hub = Hub()
    received = []
    hub.on_message(lambda client, message: received.append(message))
    size, piece = hub.options.max_message_bytes, bytes(range(64))
    async with serve(hub) as server:
        with closing(await RawClient.connect(server.port)) as client:
            await client.send(fragments(BINARY, *[piece] * (size // 64)))
            await until(lambda: received)
            assert received == [piece * (size // 64)]
            assert size // 64 == hub.options.max_fragments


@pytest.mark.parametrize(
    "code", [1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014, 3000, 3999, 4000, 4999]
)
async def test_a_close_code_that_may_be_sent_is_echoed(code):
    async with serve(Hub()) as server:
        with closing(await RawClient.connect(server.port)) as client:
            await client.send_frame(CLOSE, close_payload(code, "x" * 123))
            assert await client.read_close() == (code, "")


@pytest.mark.parametrize("payload", [b"", b"x", bytes(range(125))], ids=["empty", "one byte", "125 bytes"])
async def test_a_ping_is_answered_with_its_payload(payload):
    async with serve(Hub()) as server:
        with closing(await RawClient.connect(server.port)) as client:
            await client.send_frame(PING, payload)
            assert await client.read_frames(1) == [Frame(PONG, payload)]


async def test_pings_of_one_read_are_all_answered_and_in_the_order_of_what_else_it_brought():
    hub = Hub()
    hub.on_message(lambda client, message: client.send(message))
    async with serve(hub) as server:
        with closing(await RawClient.connect(server.port)) as client:
            sent = [(PING, b"1"), (PING, b"2"), (TEXT, b"3"), (PING, b"4"), (CLOSE, close_payload(1000))]
            await client.send(b"".join(client_frame(opcode, payload) for opcode, payload in sent))
            answers = [Frame(PONG if opcode == PING else opcode, payload) for opcode, payload in sent]
            assert await client.read_to_end() == answers


@pytest.mark.parametrize("cut", [1, 3, 100], ids=["in the header", "in the mask", "in the payload"])
@pytest.mark.parametrize("vanish", [RawClient.close, RawClient.reset], ids=["fin", "rst"])
def test_a_client_that_vanishes_in_a_frame_is_forgotten(run, cut, vanish, caplog):
    async def scenario():
        hub = Hub()
        ended = []
        hub.on_disconnect(lambda client, disconnect: ended.append(disconnect))
        async with serve(hub) as server:
            vanishing = await RawClient.connect(server.port)
            with closing(await RawClient.connect(server.port)) as healthy:
                await subscribed(hub, "default", 2)
                await vanishing.send(client_frame(BINARY, bytes(500))[:cut])
                vanish(vanishing)
                await until(lambda: ended)
                assert ended == [(1006, "", "network", "connection_lost")]
                assert hub.count_subscribers("default") == 1
                hub.publish("default", "hello")
                assert await healthy.read_payloads(1) == [b"hello"]

    run(scenario())
    assert caplog.records == []


async def test_a_client_that_goes_on_sending_after_its_error_gets_the_close_and_is_cut_off():
    hub = Hub(close_seconds=0.3)
    ended = []
    hub.on_disconnect(lambda client, disconnect: ended.append(disconnect))
    async with serve(hub) as server:
        with closing(await RawClient.connect(server.port)) as client:
            await client.send(client_frame(3, b""))
            with contextlib.suppress(ConnectionError):
                while not ended:    # a socket closed with unread input would be reset, and take the CLOSE with it
                    await client.send(bytes(65536))
            assert (await client.read_frames(1))[0].payload[:2] == (1002).to_bytes(2, "big")
            assert [(end.code, end.by) for end in ended] == [(1002, "server")]


async def test_what_came_before_an_error_in_the_same_read_is_handled():
    hub = Hub()
    hub.on_message(lambda client, message: client.send(message))
    async with serve(hub) as server:
        with closing(await RawClient.connect(server.port)) as client:
            await client.send(client_frame(TEXT, b"before") + client_frame(PING, b"p") + client_frame(3, b""))
            frames = await client.read_to_end()
            assert frames[:2] == [Frame(TEXT, b"before"), Frame(PONG, b"p")]
            assert [frame.opcode for frame in frames[2:]] == [CLOSE]


async def test_of_two_closes_in_one_read_the_first_is_answered():
    async with serve(Hub()) as server:
        with closing(await RawClient.connect(server.port)) as client:
            await client.send(client_frame(CLOSE, close_payload(1000)) + client_frame(CLOSE, close_payload(1001)))
            assert await client.read_close() == (1000, "")


async def test_text_fails_with_the_byte_that_is_wrong_not_at_the_end_of_the_frame():
    async with serve(Hub()) as server:
        with closing(await RawClient.connect(server.port)) as client:
            await client.send(client_frame(TEXT, b"\xce\xba\xf4\x90" + b"x" * 1000)[:-1000])
            assert (await client.read_close())[0] == 1007


def test_who_breaks_the_protocol_and_is_gone_already_is_no_news(run, caplog):
    """The CLOSE meets a reset: what follows it, a shutdown(2), fails."""

    async def scenario():
        hub = Hub()
        ended = []
        hub.on_disconnect(lambda client, disconnect: ended.append(disconnect.cause))
        async with serve(hub) as server:
            bad = await RawClient.connect(server.port)
            await bad.send(encode_frame(TEXT, b"unmasked"))
            bad.close()
            await until(lambda: ended)
            assert ended == ["protocol_error"]

    run(scenario())
    assert caplog.records == []
