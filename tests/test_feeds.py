"""benchmarks/feeds.py: the same for the same seed, and like the feeds that it stands for."""

import hashlib
import json
import zlib

import feeds
import pytest

SIZES = {  # least, mean, greatest
    "ticks": (130, 141, 150), "book": (100, 187, 300), "scores": (220, 249, 280), "chat": (120, 195, 360),
    "telemetry": (260, 279, 300),
}
DIGESTS = {
    "ticks": "6dfce858d7684204", "book": "3ef21f14298c7ef2", "scores": "fc7cea84b2e666f0", "chat": "dd4faae055d7404e",
    "telemetry": "1968c1dc0718fb1e",
}


@pytest.mark.parametrize("feed", feeds.FEEDS)
def test_the_same_seed_gives_the_same_bytes_in_every_python(feed):
    digest = hashlib.sha256(b"\n".join(feeds.take(feed, 1000, seed=7))).hexdigest()
    assert digest[:16] == DIGESTS[feed]
    assert feeds.take(feed, 20, seed=7) != feeds.take(feed, 20, seed=8)


@pytest.mark.parametrize("feed", feeds.FEEDS)
def test_messages_are_json_of_the_size_that_it_says(feed):
    messages = feeds.take(feed, 3000)
    sizes = [len(message) for message in messages]
    least, mean, greatest = SIZES[feed]
    assert least <= min(sizes)
    assert max(sizes) <= greatest
    assert sum(sizes) / len(sizes) == pytest.approx(mean, rel=0.03)
    assert all(b"\n" not in message for message in messages)    # the servers read one a line
    times = [json.loads(message)["time"] for message in messages]
    assert times == sorted(times)
    assert len(set(messages)) == len(messages)


@pytest.mark.parametrize("feed", feeds.FEEDS)
def test_a_feed_is_no_noise_and_no_padding(feed):
    """What a window takes of a message is well below half, and still more than a few bytes."""
    messages = feeds.take(feed, 2000)
    deflater = zlib.compressobj(wbits=-15)
    sizes = [len(deflater.compress(message) + deflater.flush(zlib.Z_SYNC_FLUSH)) - 4 for message in messages]
    assert 15 < sum(sizes) / len(sizes) < 0.4 * sum(map(len, messages)) / len(messages)


def test_prices_walk():
    last = {}
    for message in feeds.take("ticks", 3000):
        tick = json.loads(message)
        assert abs(tick["price"] - last.get(tick["symbol"], tick["price"])) < 0.035
        last[tick["symbol"]] = tick["price"]


def test_a_seed_on_the_command_line(capsysbinary, monkeypatch):
    monkeypatch.setattr("sys.argv", ["feeds.py", "chat", "--seed", "5", "--messages", "4"])
    feeds.main()
    assert capsysbinary.readouterr().out.splitlines() == feeds.take("chat", 4, seed=5)
