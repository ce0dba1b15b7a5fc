"""A load run as one HTML page that needs nothing else: `fastbcast load --html FILE`.

    the result (result.py) --> what to say (here) -.
                           --> charts (history.py) -+--> report.html.jinja --> the page
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from picows import WSCloseCode

from .history import MOST_POINTS, draw_latency, draw_timeline, find_phases
from .result import WRONG_COUNTS, Result
from .units import NOT_MEASURED, write_bytes, write_milliseconds, write_number, write_share
from .verdict import find_problems, judge

__all__ = ["render_report"]

LATENCIES = {
    "delivery": "from the intended time of a message until one subscriber has it",
    "completion": "until the last subscriber has it",
    "spread": "from the first subscriber to the last",
    "slow_delivery": "delivery to slow clients",
    "handshake": "from connect to the answer 101",
}
POINTS = ("p50", "p90", "p99", "p99.9", "max")


@dataclass(frozen=True)
class Figure:
    name: str
    value: str
    hint: str = ""
    is_bad: bool = False


def render_report(result: Result) -> str:
    """The page, from what result.make_result gives, or what `--json` wrote."""
    environment = Environment(
        loader=PackageLoader("fastbcast", "load"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("report.html.jinja").render(
        result=result,
        ended=f"{datetime.fromisoformat(result['ended']):%Y-%m-%d %H:%M:%S %Z}",
        verdict=judge(result),
        problems=find_problems(result),
        tiles=_choose_tiles(result),
        how=_describe_judging(result),
        latency_chart=draw_latency(result),
        points=POINTS,
        latencies=[(name, hint, _write_latency(result[f"{name}_ms"])) for name, hint in LATENCIES.items()],
        phases=find_phases(result["timeline"]),
        is_thinned=len(result["timeline"]) > MOST_POINTS,
        timeline=draw_timeline(result["timeline"]),
        tables=_make_tables(result),
        not_measured=NOT_MEASURED,
    )


def _is_listening(result: Result) -> bool:
    return result["settings"]["expect_prefix"] is not None


def _choose_tiles(result: Result) -> list[Figure]:
    delivery, completion = result["delivery_ms"], result["completion_ms"]
    client, server = result["client"], result["server"] or {}
    processes = client["processes"]
    return [
        Figure("Deliveries", write_number(result["deliveries_per_second"], "/s")),
        Figure("Delivery p50", write_milliseconds(delivery.get("p50"))),
        Figure("Delivery p99", write_milliseconds(delivery.get("p99"))),
        Figure("Delivery, slowest", write_milliseconds(delivery.get("max"))),
        Figure("Completion p99", write_milliseconds(completion.get("p99")), "until all have it"),
        _count_wrong(result, "missing"),
        Figure("Connections lost", write_number(result["lost"]), is_bad=result["lost"] > 0),
        Figure("Server, each delivery", write_number(server.get("cpu_us_per_delivery"), "µs"), "processor time"),
        Figure("Server", write_share(server.get("cpu_share")), "of one processor"),
        Figure("Server memory", write_bytes(server.get("rss_peak_bytes")), "resident, at most"),
        Figure("Clients", write_share(client["cpu_share"]),
               "of one processor" if processes == 1 else f"of one processor, {processes} processes"),
        Figure("Payload", write_number(result["payload_mb_per_second"], "MB/s"), "of the deliveries"),
    ]


def _count_wrong(result: Result, name: str, hint: str = "") -> Figure:
    return Figure(name.capitalize(), write_number(result[name]), hint, bool(result[name]))


def _describe_judging(result: Result) -> list[str]:
    settings = result["settings"]
    if settings["is_idle"]:
        return ["Nothing was published and nothing expected: connections had to stay open; messages were not judged."]
    if _is_listening(result):
        begin = f"each message had to begin with {settings['expect_prefix']!r}" if settings["expect_prefix"] else (
            "nothing was said of how a message begins (--expect-prefix)"
        )
        return [
            f"The run only listened: the server was to publish by itself, and {begin}. Latency and missing messages"
            " cannot be known."
        ]
    if settings["rate"]:
        how = (
            f"An open loop: {write_number(settings['rate'])} messages a second in all, whether or not the ones before"
            " had arrived. Latency counts from the time at which a message was to be sent, so a server that falls"
            " behind cannot hide it."
        )
    else:
        until = "all subscribers have one" if settings["judge"] == "all" else "the first subscriber has one"
        how = (
            f"A closed loop: each publisher has at most {settings['in_flight']:,} of its messages under way, and sends"
            f" the next when {until}. So the server's speed sets the rate, and latency is that of a server kept busy."
        )
    return [
        how,
        "Each message says which one it is, and every subscriber checks each. Slow clients are not in the figures of"
        " delivery and completion, and nobody waits for them.",
    ]


def _write_latency(points: dict[str, float]) -> list[str] | None:
    if not points["count"]:
        return None
    return [write_number(points["count"]), *(write_milliseconds(points[point]) for point in POINTS)]


def _make_tables(result: Result) -> list[tuple[str, list[Figure]]]:
    """[title, rows]"""
    published = None if _is_listening(result) else result["published"]
    handshakes, client, kernel = result["handshakes"], result["client"], result["kernel"]
    slow, late, server = result["slow_clients"], result["late"], result["server"]
    hints = {
        "missing": "passed over and never came",
        "doubled": "came more than once",
        "reordered": "came after a later one",
        "corrupt": "not what was published",
    }
    return [
        ("Messages", [
            Figure("Measured time", write_number(result["seconds"], "s")),
            Figure("Published", write_number(published), "in the window"),
            Figure("Deliveries", write_number(result["deliveries"]), "slow clients' are not in it"),
            *(_count_wrong(result, name, hints[name]) for name in WRONG_COUNTS),
            Figure("Skipped", write_number(result["skipped"]), "for slow clients; a server may"),
            Figure("Payload", write_number(result["payload_mb_per_second"], "MB/s")),
            Figure("Received in all", write_bytes(result["wire_bytes"]), "after the handshakes, the warm-up too"),
            Figure("Each message", write_number(result["wire_bytes_per_message"], "bytes"), "on the wire"),
            Figure("Compressed", write_number(result["messages_compressed"]),
                   f"of {write_number(result['messages_received'])} in all"),
            Figure("Share of plain", write_share(result["wire_share_of_plain"]), "of the bytes that all take plain"),
        ]),
        ("Connections", [
            Figure("Opened", write_number(handshakes["opened"])),
            Figure("Handshakes", write_number(handshakes["per_second"], "/s")),
            Figure("Refused", write_number(handshakes["refused"]), is_bad=handshakes["refused"] > 0),
            *(Figure(problem, write_number(count)) for problem, count in handshakes["problems"].items()),
            Figure("Churn", write_number(handshakes["churned"]), "left, and others came"),
            Figure("Lost", write_number(result["lost"]), "ended by the server", result["lost"] > 0),
            *(Figure(f"Close {code}", write_number(count), _name_close(code))
              for code, count in result["closes"].items()),
            Figure("Late clients", write_number(late["count"]), "everything came, but later than to the others",
                   bool(late["count"])),
            Figure("Median client", write_milliseconds(late["median_ms"]), "its mean latency"),
            Figure("Worst client", write_milliseconds(late["worst_ms"]), "its mean latency"),
        ]),
        ("Server", [Figure("Processor time and memory", NOT_MEASURED, "see --server-pid")] if server is None else [
            Figure("Processor time", write_number(server["cpu_seconds"], "s")),
            Figure("Share of a processor", write_share(server["cpu_share"])),
            Figure("Each delivery", write_number(server["cpu_us_per_delivery"], "µs")),
            Figure("Waited for a processor", write_share(server["wait_share"]), "of the measured time"),
            Figure("Memory before", write_bytes(server["rss_before_bytes"]), "resident"),
            Figure("Memory after", write_bytes(server["rss_after_bytes"])),
            Figure("Memory at most", write_bytes(server["rss_peak_bytes"])),
            Figure("Memory, settled", write_bytes(server["rss_settled_bytes"]), "after --settle"),
        ]),
        ("Clients of the load", [
            Figure("Processes", write_number(client["processes"])),
            Figure("Share of a processor", write_share(client["cpu_share"]), "all together"),
            Figure("Each delivery", write_number(client["cpu_us_per_delivery"], "µs")),
            Figure("Frames", write_number(client["frames_per_cpu_second"], "/s"), "a second of processor time"),
            Figure("Frames each read", write_number(client["frames_per_read"])),
            Figure("Waited for a processor", write_share(client["wait_share"]), "of the measured time"),
            Figure("Watching the run", write_number(client["watching_cpu_seconds"], "s"), "not part of the load"),
        ]),
        ("Slow clients", [
            Figure("In all", write_number(slow["count"])),
            *([
                Figure("Open", write_number(slow["open"]), "still clients of the server at the end"),
                Figure("Lingering", write_number(slow["lingering"]), "closed; the kernel keeps what was not taken"),
                Figure("Gone", write_number(slow["gone"])),
                Figure("Behind", write_number(slow["behind"]), "the server's end holds what their own has no room for"),
                Figure("Knew of it", write_number(slow["closes_seen"]), "without reading"),
                *(Figure(f"Close {code}", write_number(count), _name_close(code))
                  for code, count in slow["closes"].items()),
                Figure("Not read", write_bytes(slow["unread_bytes"]), "held by the kernel, at both ends"),
            ] if slow["count"] else []),
        ]),
        ("Kernel memory for TCP", [
            Figure("Idle", write_bytes(kernel["socket_bytes_idle"]), "all connected, nothing published"),
            Figure("After the run", write_bytes(kernel["socket_bytes_after"])),
            Figure("Settled", write_bytes(kernel["socket_bytes_settled"]), "after --settle"),
            Figure("At most", write_bytes(kernel["socket_bytes_peak"]), "of all processes of the machine"),
        ]),
        ("Settings", [_describe_setting(name, value) for name, value in result["settings"].items()]),
        ("Machine", [
            *(Figure(name, str(value)) for name, value in result["machine"].items()),
            Figure("fastbcast", result["fastbcast"]),
        ]),
    ]


def _name_close(code: str) -> str:
    """RFC 6455 section 7.4.1."""
    if code == "1005":
        return "without a code"
    try:
        return (WSCloseCode(int(code)).name or "").lower().replace("_", " ")  # private codes have no name
    except ValueError:
        return ""


def _describe_setting(name: str, value: Any) -> Figure:
    text, unit = name, ""
    for suffix, words in (("_seconds", "s"), ("_bytes", "bytes"), ("_per_second", "/s")):
        if name.endswith(suffix):
            text, unit = name.removesuffix(suffix), words
    if isinstance(value, bool):
        written = "yes" if value else "no"
    elif isinstance(value, (int, float)):
        written = write_number(value, unit)
    elif isinstance(value, (list, tuple)):
        written = ", ".join(map(str, value)) or "none"
    else:
        written = "none" if value is None else str(value)
    return Figure(text.replace("_", " "), written)
