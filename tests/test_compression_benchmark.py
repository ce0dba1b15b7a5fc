"""benchmarks/deflate.py and its servers: what is counted is what was published, every form is measured."""

import asyncio
import json
import os
import sys
from pathlib import Path

import deflate
import feeds
import pytest
from conftest import seconds
from websockets.asyncio.client import connect

from fastbcast.load.target import Server

BENCHMARKS = Path(deflate.__file__).parent
SERVERS = {
    "fastbcast": [sys.executable, str(BENCHMARKS / "feed_server.py")],
    "websockets": [sys.executable, str(BENCHMARKS / "peers" / "websockets_feed.py")],
}


@pytest.fixture
def feed_file(tmp_path):
    path = tmp_path / "feed.txt"
    path.write_bytes(b"\n".join(feeds.take("book", 40)) + b"\n")
    return path


@pytest.mark.parametrize("name", SERVERS)
def test_a_feed_is_published_from_its_first_message_when_all_are_there(name, feed_file):
    clients, messages = 3, 100     # more than the file has: it begins again
    command = [*SERVERS[name], "--feed", str(feed_file), "--await-clients", str(clients), "--rate", "2000"]

    async def read(url):
        async with connect(f"{url}benchmark") as client:
            return [await client.recv() for _ in range(messages)]

    async def read_all(url):
        return await asyncio.wait_for(asyncio.gather(*(read(url) for _ in range(clients))), seconds(20))

    with Server(name, command) as server:
        received = asyncio.run(read_all(server.url))
    feed = feed_file.read_text().splitlines()
    assert received == [(feed * 3)[:messages]] * clients
    assert server.report["published"] >= messages - 2 * 8
    assert server.report["cpu_us_per_message"] >= server.report["publish_us_per_message"] > 0


def test_every_row_is_measured_and_in_the_tables(monkeypatch, tmp_path, capsys):
    monkeypatch.delenv("BENCHMARK_PEERS_PYTHON", raising=False)
    path = tmp_path / "compression.json"
    monkeypatch.setattr("sys.argv", [
        "deflate.py", "--feeds", "ticks", "--clients", "5", "--servers", "fastbcast,websockets", "--rounds", "1",
        "--seconds", "0.5", "--rate", "400", "--memory-clients", "20", "--json", str(path),
    ])
    monkeypatch.setattr(deflate, "JOINERS_SECONDS", 1.5)
    status = deflate.main()
    printed = capsys.readouterr().out
    rows = json.loads(path.read_text())["rows"]
    assert status == 0, [row["notes"] for row in rows]
    assert [(row["server"], row["form"], row["has_joiners"], row["is_memory"]) for row in rows] == [
        ("fastbcast", "plain", False, False), ("fastbcast", "deflate", False, False),
        ("fastbcast", "window", False, False), ("fastbcast", "window", True, False),
        ("websockets", "plain", False, False), ("websockets", "deflate", False, False),
        ("fastbcast", "plain", False, True), ("fastbcast", "deflate", False, True),
        ("fastbcast", "window", False, True),
        ("websockets", "plain", False, True), ("websockets", "deflate", False, True),
    ]
    assert all(row["results"][0]["corrupt"] == 0 for row in rows)
    assert printed.count("| fastbcast window | ") == 3   # the figures, what compression takes, memory
    plain, compressed = rows[4]["results"][0], rows[5]["results"][0]
    assert plain["messages_compressed"] == 0
    assert compressed["messages_compressed"] == compressed["messages_received"] > 0
    assert compressed["wire_bytes_per_message"] < 0.5 * plain["wire_bytes_per_message"]


def test_a_server_that_publishes_nothing_is_no_result(monkeypatch, tmp_path):
    path = tmp_path / "ticks.txt"
    path.write_bytes(b"\n".join(feeds.take("ticks", 10)) + b"\n")
    monkeypatch.setattr("sys.argv", ["deflate.py", "--seconds", "0.2"])
    arguments = deflate.parse_arguments()
    row = deflate.Row("fastbcast", "plain", "ticks", 2)
    monkeypatch.setattr(deflate, "rate_of", lambda clients: 0.001)   # the second burst never comes
    cores = sorted(os.sched_getaffinity(0))
    problem = deflate.measure(row, arguments, tmp_path, cores)["problem"]
    assert "published nothing" in problem or problem.startswith("no message arrived")


def test_what_a_server_has_not_delivered_is_what_it_is_behind():
    assert deflate.behind({"deliveries": 300, "settings": {"clients": 4}, "published": 100}) == 0.25
