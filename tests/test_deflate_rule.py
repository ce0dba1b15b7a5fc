"""Whatever else a client on a window receives goes uncompressed: what happens to it otherwise, and that it is so.

A client's inflater takes every compressed message of its connection into its window (RFC 7692 section 7.2.2). One that
was compressed alone can be inflated by itself, but it moves the window: what the shared compressor refers to later is
then somewhere else, and the client reads other bytes there. Nothing fails.

    the server's compressor     | tick 1 | tick 2 | tick 3 | <- "140 bytes back" is in tick 2
    this client's inflater      | tick 1 | tick 2 | tick 3 | alone | <- and here in tick 3

The frames here are the real server's, as two clients got them; the inflater is zlib's.
"""

import zlib
from contextlib import closing

import pytest
from deflate_client import DEFAULT_OFFER, RSV1, TAIL, DeflateClient
from deflate_feed import make_ticks
from raw_client import serving
from reference import TEXT, parse_frames
from support import end_turn

from fastbcast import Hub

COUNT = 60
ALONE_OFFER = f"{DEFAULT_OFFER}; server_no_context_takeover"


async def read_raw(client, count):
    """The next `count` frames of text, as they are on the wire."""
    frames = []
    while len(frames) < count and not client.is_eof:
        new, client.data = parse_frames(client.data)
        frames += new
        if len(frames) < count:
            await client.receive()
    assert {frame.opcode for frame in frames} == {TEXT}
    return frames


async def capture():
    """Publish ticks. For a client on the window and one that gets each alone: the frames, and what was published.

    Behind every tenth message something is sent to the client on the window by itself.
    """
    hub, ticks, direct = Hub(), make_ticks(1, COUNT), make_ticks(2, COUNT)[::10]
    hub.configure("feed", reset_messages=8)
    async with serving(hub, compression="window") as server:
        with (
            closing(await DeflateClient.connect(server.port, "/feed")) as windowed,
            closing(await DeflateClient.connect(server.port, "/feed", offer=ALONE_OFFER)) as alone,
        ):
            client = next(client for client in hub.clients() if client.remote_address == windowed.sock.getsockname())
            for number, tick in enumerate(ticks):
                hub.publish("feed", tick)
                if number % 10 == 0:
                    client.send(direct[number // 10])
                await end_turn()
            return (
                await read_raw(windowed, COUNT + len(direct)),
                await read_raw(alone, COUNT),
                ticks,
                direct,
            )


class Client:
    """What a WebSocket library does: one inflater, from the first message to the last."""

    def __init__(self):
        self.inflater = zlib.decompressobj(-15)

    def read(self, frame):
        if frame.rsv == 0:
            return frame.payload
        assert frame.rsv == RSV1
        return self.inflater.decompress(frame.payload + TAIL)


@pytest.fixture
def captured(run):
    return run(capture())


def expect(ticks, direct):
    """What the client on the window is to read."""
    expected = []
    for number, tick in enumerate(ticks):
        expected.append(tick.encode())
        if number % 10 == 0:
            expected.append(direct[number // 10].encode())
    return expected


def test_the_real_servers_frames_inflate_to_what_was_published(captured):
    windowed, alone, ticks, direct = captured
    for frames, expected in ((windowed, expect(ticks, direct)), (alone, [tick.encode() for tick in ticks])):
        client = Client()
        assert [client.read(frame) for frame in frames] == expected
    assert {frame.rsv for frame in alone} == {RSV1}
    assert [frame.payload for frame in windowed if frame.rsv == 0] == [text.encode() for text in direct]


@pytest.mark.parametrize("place", range(20, 60, 10))
def test_one_frame_compressed_alone_among_them_makes_the_next_ones_wrong_and_nothing_fails(captured, place):
    windowed, alone, ticks, direct = captured
    expected = expect(ticks, direct)
    stranger = alone[place]     # another client's, of the same server: right by itself
    assert Client().read(stranger) == ticks[place].encode()
    client = Client()
    before = [client.read(frame) for frame in windowed[:place]]
    assert before == expected[:place]
    assert client.read(stranger) == ticks[place].encode()   # and the client reads this one rightly, too
    after = [client.read(frame) for frame in windowed[place:]]      # no zlib.error
    wrong = [number for number, payload in enumerate(after) if payload != expected[place + number]]
    assert wrong, "the frame that was slipped in has done no harm"
    assert windowed[place + wrong[0]].rsv == RSV1


@pytest.mark.parametrize("place", range(20, 60, 10))
def test_the_same_frame_uncompressed_does_no_harm(captured, place):
    windowed, _, ticks, direct = captured
    client = Client()
    read = [client.read(frame) for frame in [*windowed[:place], windowed[1]._replace(rsv=0), *windowed[place:]]]
    del read[place]
    assert read == expect(ticks, direct)
