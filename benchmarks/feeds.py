"""Feeds that look like real ones, from a seed: what compression is measured with.

    python benchmarks/feeds.py ticks --seed 1 --messages 3     # one message a line

Each is an endless generator of JSON messages (bytes). Names and sizes are like those of public feeds; prices, scores
and sensors are random walks; ids, sequence numbers and times only grow. Nothing but the seed is random: the same seed
gives the same bytes, in every Python. How well a feed is compressed depends on what differs from one message to the
next, so nothing in them is padding, and nothing comes again but what does in a real one.

    ticks       a trade, some 140 bytes (fastbcast/load/ticks.py, which the load generator sends, too)
    book        changes of an order book, one to five prices on each side
    scores      the state of a match after something has happened in it
    chat        what people write; one of them in a hundred is asked for a link
    telemetry   one reading of a machine with eight sensors
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from random import Random
from typing import Any

from fastbcast.load.ticks import SYMBOLS, make_ticks, write_time

TEAMS = (
    "Lakers", "Celtics", "Warriors", "Bulls", "Heat", "Knicks", "Nuggets", "Suns", "Bucks", "Mavericks", "Sixers",
    "Clippers", "Kings", "Pelicans", "Hawks", "Raptors", "Spurs", "Jazz", "Magic", "Pacers",
)
PLAYERS = ("Tatum", "Curry", "Doncic", "Jokic", "Brown", "Adebayo", "Young", "Fox", "Brunson", "Haliburton", "Murray")
PLAYS = ("two_points", "three_points", "free_throw", "foul", "rebound", "turnover", "timeout", "substitution")
POINTS = {"two_points": 2, "three_points": 3, "free_throw": 1}
WORDS = (
    "the", "you", "that", "this", "is", "it", "lol", "what", "a", "I", "to", "and", "not", "was", "just", "so", "he",
    "no", "yes", "they", "we", "good", "game", "play", "why", "how", "again", "never", "really", "nice", "wait",
    "please", "team", "chat", "stream", "anyone", "know", "think", "time", "today", "first", "last", "best", "wow",
    "gg", "hello", "from", "Berlin", "Brazil", "watching", "music", "song", "clip", "insane", "clutch", "lag",
    "again?", "!!", ":)", "same",
)
NAMES = ("mia", "leo", "noah", "emma", "kai", "zoe", "finn", "luna", "max", "ida", "ben", "eva", "tom", "ana", "jon",
         "lea")
BADGES = ((), (), (), ("subscriber",), ("subscriber", "premium"), ("moderator",))
SITES = ("rotterdam-1", "rotterdam-2", "hamburg-1", "antwerp-3")
SENSORS = {  # the first value, the greatest step, decimals
    "temperature_c": (71.3, 0.2, 2), "pressure_kpa": (402.0, 1.5, 1), "vibration_mm_s": (1.73, 0.05, 3),
    "flow_l_min": (118.0, 0.8, 1), "rpm": (1480.0, 4.0, 0), "voltage_v": (398.4, 0.3, 1), "current_a": (21.7, 0.2, 2),
    "bearing_c": (58.9, 0.1, 2),
}
MACHINES = 200
USERS = 500
MATCHES = 8


def pack(message: dict[str, Any]) -> bytes:
    return json.dumps(message, separators=(",", ":")).encode()


class Dice:
    """What the feeds need of chance, made of `random()` alone: see fastbcast/load/ticks.py."""

    def __init__(self, seed: int) -> None:
        self.random = Random(seed).random

    def below(self, end: int) -> int:
        return int(self.random() * end)

    def pick(self, things: Sequence[Any], skew: float = 1.0) -> Any:
        """`skew` above 1: the first ones more often."""
        return things[int(len(things) * self.random() ** skew)]


def make_book(seed: int) -> Iterator[bytes]:
    dice = Dice(seed)
    middle = dict(SYMBOLS)
    sequences = {symbol: 1_000_000 + dice.below(10_000_000) for symbol in middle}
    microseconds = 0

    def change_side(symbol: str, direction: int) -> list[list[Any]]:
        levels = sorted({1 + int(dice.random() ** 2 * 25) for _ in range(1 + dice.below(5))})
        return [
            [f"{(middle[symbol] + direction * level) / 100:.2f}", size]
            for level in levels
            for size in [0 if dice.random() < 0.2 else 100 * (1 + dice.below(40))]
        ]

    while True:
        symbol = dice.pick(list(middle), 2)
        middle[symbol] = max(1000, middle[symbol] + dice.below(3) - 1)
        sequences[symbol] += 1
        microseconds += 1 + dice.below(8000)
        yield pack({
            "type": "book", "symbol": symbol, "sequence": sequences[symbol], "time": write_time(microseconds),
            "bids": change_side(symbol, -1), "asks": change_side(symbol, 1),
        })


def make_scores(seed: int) -> Iterator[bytes]:
    dice = Dice(seed)
    matches = [
        {"match": 220_341 + number, "teams": (TEAMS[2 * number], TEAMS[2 * number + 1]), "score": [0, 0], "left": 2880}
        for number in range(MATCHES)
    ]
    microseconds, number = 0, 0
    while True:
        match = dice.pick(matches)
        match["left"] -= 1 + dice.below(20)
        if match["left"] <= 0:  # the next one on this court
            match |= {"match": match["match"] + MATCHES, "score": [0, 0], "left": 2880}
        microseconds += 1 + dice.below(4_000_000)
        number += 1
        side, play = dice.below(2), dice.pick(PLAYS)
        match["score"][side] += POINTS.get(play, 0)
        quarter = 4 - match["left"] // 720 if match["left"] < 2880 else 1
        clock = match["left"] % 720
        yield pack({
            "type": "score", "league": "NBA", "match": match["match"], "event": number, "play": play,
            "player": dice.pick(PLAYERS), "team": match["teams"][side], "quarter": quarter,
            "clock": f"{clock // 60:02}:{clock % 60:02}",
            "home": {"team": match["teams"][0], "score": match["score"][0]},
            "away": {"team": match["teams"][1], "score": match["score"][1]},
            "time": write_time(microseconds),
        })


def make_chat(seed: int) -> Iterator[bytes]:
    dice = Dice(seed)
    users = [
        {"id": 10_000 + dice.below(90_000_000), "name": f"{dice.pick(NAMES)}_{dice.pick(NAMES)}{dice.below(1000)}",
         "badges": dice.pick(BADGES)}
        for _ in range(USERS)
    ]
    microseconds, number = 0, 7_700_000_000
    while True:
        microseconds += 1 + dice.below(900_000)
        number += 1 + dice.below(50)
        text = " ".join(dice.pick(WORDS, 1.7) for _ in range(1 + int(dice.random() ** 2 * 24)))
        if dice.random() < 0.01:
            text += f" https://clips.example/{dice.below(2**40):x}"
        yield pack({
            "type": "message", "room": "main", "id": number, "user": dice.pick(users, 2.5), "text": text,
            "time": write_time(microseconds),
        })


def make_telemetry(seed: int) -> Iterator[bytes]:
    dice = Dice(seed)
    readings = [{name: first for name, (first, _, _) in SENSORS.items()} for _ in range(MACHINES)]
    sequences = [dice.below(1_000_000) for _ in range(MACHINES)]
    microseconds = 0
    while True:
        machine = dice.below(MACHINES)
        microseconds += 1 + dice.below(10_000)
        sequences[machine] += 1
        values = {}
        for name, (first, step, decimals) in SENSORS.items():
            walked = readings[machine][name] + (2 * dice.random() - 1) * step
            readings[machine][name] = walked + 0.02 * (first - walked)  # what is measured returns to normal
            values[name] = round(readings[machine][name], decimals) if decimals else int(readings[machine][name])
        yield pack({
            "type": "reading", "site": SITES[machine % len(SITES)], "machine": f"pump-{machine:04}",
            "sequence": sequences[machine], "time": write_time(microseconds), **values,
            "status": "ok" if dice.random() < 0.98 else "warning",
        })


FEEDS: dict[str, Callable[[int], Iterator[bytes]]] = {
    "ticks": make_ticks, "book": make_book, "scores": make_scores, "chat": make_chat, "telemetry": make_telemetry,
}


def take(feed: str, messages: int, seed: int = 1) -> list[bytes]:
    return list(islice(FEEDS[feed](seed), messages))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("feed", choices=FEEDS)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--messages", type=int, default=10)
    arguments = parser.parse_args()
    for message in take(arguments.feed, arguments.messages, arguments.seed):
        sys.stdout.buffer.write(message + b"\n")


if __name__ == "__main__":
    main()
