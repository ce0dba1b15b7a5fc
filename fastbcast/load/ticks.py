"""Trade ticks as JSON, some 140 bytes each: what a feed looks like that many people watch. The same for the same seed.

Only `Random.random()` is used: of the generators of random.py it alone gives the same numbers in every Python.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import datetime, timedelta
from random import Random

__all__ = ["START", "SYMBOLS", "make_ticks", "write_time"]

START = datetime(2026, 11, 26, 14, 30)
EXCHANGES = ("NASDAQ", "NYSE", "ARCA", "BATS", "IEX")
SYMBOLS = {
    "AAPL": 18943, "MSFT": 37812, "NVDA": 48122, "AMZN": 15133, "GOOG": 13955, "META": 34987, "TSLA": 24811,
    "AVGO": 111623, "JPM": 17040, "LLY": 58292, "V": 26045, "XOM": 10228, "UNH": 52647, "MA": 42651, "PG": 14654,
    "COST": 66038, "HD": 34655, "JNJ": 15674, "ABBV": 15497, "WMT": 15765, "NFLX": 48688, "BAC": 3367, "KO": 5893,
    "CRM": 26314, "AMD": 14741, "PEP": 16984, "INTC": 5025, "CSCO": 5052, "DIS": 9029, "PFE": 2879,
}
"""What is traded, the most traded first, and its first price in cents."""


def write_time(microseconds: int) -> str:
    """RFC 3339, so long after START."""
    return f"{(START + timedelta(microseconds=microseconds)).isoformat(timespec='microseconds')}Z"


def make_ticks(seed: int) -> Iterator[bytes]:
    """Without an end: prices are random walks, ids and times only grow."""
    random = Random(seed).random
    cents = dict(SYMBOLS)
    symbols = list(cents)
    number, microseconds = 480_000_000 + int(random() * 1e6), 0
    while True:
        symbol = symbols[int(len(symbols) * random() ** 2)]
        cents[symbol] = max(100, cents[symbol] + int(random() * 7) - 3)
        microseconds += 1 + int(random() ** 2 * 40_000)
        number += 1 + int(random() ** 2 * 3000)  # the exchange's other trades have numbers, too
        tick = {
            "type": "trade",
            "symbol": symbol,
            "price": cents[symbol] / 100,
            "size": 100 * (1 + int(random() ** 4 * 20)) if random() < 0.5 else 1 + int(random() * 99),
            "side": "buy" if random() < 0.5 else "sell",
            "exchange": EXCHANGES[int(len(EXCHANGES) * random() ** 1.5)],
            "time": write_time(microseconds),
            "id": number,
        }
        yield json.dumps(tick, separators=(",", ":")).encode()
