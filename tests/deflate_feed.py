"""What a channel may carry, made from a seed: mostly ticks, and between them whatever a compressor may trip over."""

import json
import random

KIB = 1024
SYMBOLS = ["BTC-EUR", "ETH-EUR", "XRP-EUR", "ADA-EUR"]
LAST = "that was all"


def make_tick(rng, number):
    return json.dumps({
        "type": "trade", "id": number, "symbol": rng.choice(SYMBOLS), "price": f"{rng.uniform(1, 90_000):.2f}",
        "size": f"{rng.expovariate(1):.4f}", "side": rng.choice(["buy", "sell"]),
        "time": 1_700_000_000_000 + number * 37,
    })


def make_ticks(seed, count):
    """Text of about 140 bytes each, as like one another as messages of a feed are."""
    rng = random.Random(seed)
    return [make_tick(rng, number) for number in range(count)]


def make_odd_message(rng, number, most_bytes):
    """One that is not like the rest."""
    tick = make_tick(rng, number)
    size = min(most_bytes, rng.choice([33, 125, 126, 127, 1000, 5000, 70_000]))
    return rng.choice([
        lambda: "",
        lambda: b"",
        lambda: tick[: rng.randrange(1, 32)],               # below compress_min_bytes
        lambda: tick[: rng.randrange(1, 32)].encode(),
        lambda: rng.randbytes(size),                        # does not shrink
        lambda: rng.randbytes(rng.randrange(1, 40)),
        lambda: bytes(range(256)) * (size // 256),
        lambda: "\N{PARTY POPPER} Grüße, 世界 " * (size // 30),
        lambda: "x" * size,
        lambda: tick.encode(),
        lambda: b"\x00\x00\xff\xff" * (size // 4),         # what ends a compressed message
        lambda: (tick * (size // len(tick) + 1))[:size],
        # Begins and ends alike: further apart than a small window reaches.
        lambda: "".join([tick, *(make_tick(rng, number + i) for i in range(size // len(tick))), tick]),
    ])()


def make_chained(seed, number, size=3000):
    """Its first half is the second half of the message before: a window refers to that, and the rest does not shrink."""
    return b"".join(random.Random(f"{seed} {half}").randbytes(size) for half in (number - 1, number))


def make_messages(seed, count, most_bytes=70_000):
    """`count` messages, a quarter of them odd, and then LAST. No message but the last is LAST."""
    rng = random.Random(seed)
    return [
        make_odd_message(rng, number, most_bytes) if rng.random() < 0.25 else make_tick(rng, number)
        for number in range(count)
    ] + [LAST]
