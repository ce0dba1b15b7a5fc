"""What the lengths of compressed messages tell (docs/compression.md): a secret, letter by letter, or nothing.

Somebody may write to a channel, may not read it, and sees how long its messages are: the example of the docs.
"""

import string
from contextlib import closing

import pytest
from deflate_client import DeflateClient
from raw_client import serving
from reference import parse_frames

from fastbcast import Hub

SECRET = '{"user": "alice", "session": "k7Qz0pVw", "balance": 1041}'
LETTERS = string.ascii_letters + string.digits


async def measure(hub, server, secret, text, number):
    """Publish `secret` and then `text` to a channel, and return how long the second is on the wire."""
    with closing(await DeflateClient.connect(server.port, f"/desk/{number}")) as somebody:
        hub.publish(f"desk/{number}", secret)
        hub.publish(f"desk/{number}", text)
        frames = []
        while len(frames) < 2:
            await somebody.receive()
            more, somebody.data = parse_frames(somebody.data)
            frames += more
        return len(frames[1].payload)


async def measure_all(compression, secret, known):
    """How long the attempt with each letter is."""
    hub = Hub()
    hub.configure("*", compression=compression)
    async with serving(hub, compression="window") as server:
        return {
            letter: await measure(
                hub, server, secret, f'{{"chat": "user": "alice", "session": "{known}{letter}"}}', letter
            )
            for letter in LETTERS
        }


@pytest.mark.parametrize(("known", "letter"), [("", "k"), ("k", "7"), ("k7Qz0", "p")])
def test_in_one_window_the_lengths_tell_the_secret_letter_by_letter(run, known, letter):
    sizes = run(measure_all("window", SECRET, known))
    assert [attempt for attempt, size in sizes.items() if size == min(sizes.values())] == [letter]


@pytest.mark.parametrize("compression", ["off", "deflate"])
def test_each_alone_or_as_it_is_they_tell_nothing_of_another_message(run, compression):
    sizes = [run(measure_all(compression, secret, "k7Q")) for secret in (SECRET, SECRET.replace("k7Q", "Xa1"))]
    assert sizes[0] == sizes[1]
