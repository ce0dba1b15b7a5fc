"""The figures of a run, as one document: --json writes it, the table shows it, the report draws it."""

from __future__ import annotations

import math
import statistics
from dataclasses import asdict
from datetime import datetime, timezone
from typing import Any

from hdrh.histogram import HdrHistogram

from .._version import __version__
from ._board import HISTOGRAMS
from .crew import Run
from .endpoints import SlowEnds
from .machine import describe_machine
from .plan import Plan
from .timeline import make_histogram

__all__ = ["WRONG_COUNTS", "Result", "make_result"]

Result = dict[str, Any]

MAX_CLIENT_CPU_SHARE = 0.95
"""Of a processor, above which a load process may have been the limit."""
MIN_SERVER_CPU_SHARE = 0.95
"""Of a processor, below which a closed loop did not measure the server."""
MAX_FRAMES_PER_IN_FLIGHT = 1.5
"""In a read, above which the first subscriber's arrival did not bound how far the others were behind."""
MAX_WAIT_SHARE = 0.05
"""Of the window, above which somebody else had the processor."""
MAX_DISTRIBUTION_POINTS = 600
LATE_FACTOR = 5.0
LATE_LEAST_MS = 5.0
"""A client is late if its mean latency is so many times the median client's, and so much more."""
WRONG_COUNTS = ("missing", "doubled", "reordered", "corrupt")
_UNKNOWN_WHEN_LISTENING = ("missing", "doubled", "reordered", "skipped")


def make_result(run: Run) -> Result:
    plan, board, parts = run.plan, run.board, run.parts
    first = parts[0]
    counts = board.read()
    seconds = max(0, board.window_end_ns - board.window_start_ns) / 1e9 if board.window_start_ns else 0.0
    histograms = {name: make_histogram(board.read_histogram(name)) for name in HISTOGRAMS}
    connecting_seconds = max(part.connecting_seconds for part in parts)
    connected = plan.clients + plan.publishers
    client_cpu_seconds = counts["window_cpu_ns"] / 1e9
    result: Result = {
        "fastbcast": __version__,
        "ended": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "settings": _describe_plan(plan),
        "machine": describe_machine(),
        "was_interrupted": run.was_interrupted,
        "handshakes": {
            "opened": counts["opened"],
            "refused": counts["refused"],
            "problems": _sum_by_key(part.problems for part in parts),
            "per_second": _divide(min(connected, counts["opened"]), connecting_seconds),
            "churned": sum(part.churned for part in parts),
        },
        "seconds": seconds,
        "published": board.published_in_window,
        "deliveries": counts["measured"],
        "deliveries_per_second": _divide(counts["measured"], seconds),
        "payload_mb_per_second": _divide(counts["payload_bytes"] / 1e6, seconds),
        "wire_bytes": counts["wire_bytes"],
        "wire_bytes_per_message": _divide(counts["wire_bytes"], counts["received"]),
        "messages_received": counts["received"],
        "messages_compressed": counts["compressed"],
        "wire_share_of_plain": _divide(counts["wire_bytes"], counts["plain_bytes"]),
        **{f"{name}_ms": _describe_times(histogram) for name, histogram in histograms.items()},
        **{name: _know(plan, counts, name) for name in (*WRONG_COUNTS, "skipped")},
        "lost": counts["lost"],
        "closes": {str(code): count for code, count in sorted(_sum_by_key(part.closes for part in parts).items())},
        "stopped": first.has_stopped,
        "requirements": [],
        "late": _find_late(run),
        "client": {
            "processes": plan.processes,
            "cpu_share": _divide(client_cpu_seconds, seconds),
            "cpu_us_per_delivery": _divide(client_cpu_seconds * 1e6, counts["measured"]),
            "frames_per_cpu_second": _divide(counts["frames"], client_cpu_seconds),
            "frames_per_read": _divide(counts["frames"], counts["reads"]),
            "wait_share": _divide(max((part.wait_seconds or 0.0 for part in parts), default=0.0), seconds),
            "watching_cpu_seconds": run.own_cpu_seconds,
        },
        "server": _describe_server(run, seconds, counts["measured"]),
        "kernel": {
            "socket_bytes_idle": first.socket_bytes_idle,
            "socket_bytes_after": first.socket_bytes_after,
            "socket_bytes_settled": first.socket_bytes_settled,
            "socket_bytes_peak": max(
                (interval.socket_bytes for interval in run.timeline.intervals if interval.socket_bytes is not None),
                default=None,
            ),
        },
        "slow_clients": _describe_slow(run),
        "distribution": {name: _describe_distribution(histograms[name]) for name in ("delivery", "completion")},
        "timeline": [asdict(interval) for interval in run.timeline.intervals],
    }
    result["notes"] = _find_notes(run, result)
    return result


def _know(plan: Plan, counts: dict[str, int], name: str) -> int | None:
    """How many messages were so; None if nobody can know, which is not the same as 0."""
    if counts[name]:
        return counts[name]
    if name == "skipped":  # only those of slow clients are
        return None if plan.is_listening or not plan.slow_clients else 0
    if not counts["measured"] or (plan.is_listening and name in _UNKNOWN_WHEN_LISTENING):
        return None
    # A message that the server makes has only its beginning to be recognized by.
    return None if name == "corrupt" and (plan.is_idle or plan.expect_prefix == b"") else 0


def _describe_plan(plan: Plan) -> dict[str, Any]:
    settings = {name: value for name, value in vars(plan).items() if name not in ("target", "slow", "headers", "token")}
    settings["url"] = plan.shown_url
    settings["slow"] = [slow.text for slow in plan.slow]
    settings["headers"] = [name for name, _ in plan.headers]  # their values may be secrets
    settings["expect_prefix"] = plan.expect_prefix.decode(errors="replace") if plan.expect_prefix is not None else None
    settings["guests"] = plan.guests
    settings["steady_clients"] = len(plan.steady())
    return settings


def _divide(part: float, whole: float) -> float | None:
    return part / whole if whole > 0 else None


def _sum_by_key(counts: Any) -> dict[Any, int]:
    sums: dict[Any, int] = {}
    for one in counts:
        for key, count in one.items():
            sums[key] = sums.get(key, 0) + count
    return sums


def _describe_times(histogram: HdrHistogram) -> dict[str, Any]:
    points: dict[str, Any] = {"count": histogram.total_count}
    if histogram.total_count:
        for percent in (50, 90, 99, 99.9):
            points[f"p{percent:g}"] = histogram.get_value_at_percentile(percent) / 1e6
        points["max"] = histogram.get_max_value() / 1e6
    return points


def _describe_distribution(histogram: HdrHistogram) -> list[list[float]]:
    """[percentile, ms] along the curve that a latency plot draws: the closer to 100 the denser."""
    if not histogram.total_count:
        return []
    points: list[list[float]] = []
    percent, step = 0.0, 2.5
    while len(points) < MAX_DISTRIBUTION_POINTS and (100 - percent) / 100 * histogram.total_count >= 1:
        points.append([percent, histogram.get_value_at_percentile(percent) / 1e6])
        if 100 - percent <= 20 * step:
            step /= 2
        percent += step
    points.append([100.0, histogram.get_max_value() / 1e6])
    return points


def _find_late(run: Run) -> dict[str, Any]:
    """Clients that get everything, but later than the others. Of one client alone, or of no latency, nobody knows."""
    means = [mean_ns / 1e6 for part in run.parts for _, mean_ns in part.lateness]
    if len(means) < 2:
        return {"count": None, "worst_ms": None, "median_ms": None}
    median = statistics.median(means)
    late = [mean for mean in means if mean > LATE_FACTOR * median and mean > median + LATE_LEAST_MS]
    return {"count": len(late), "worst_ms": max(means), "median_ms": median}


def _describe_server(run: Run, seconds: float, deliveries: int) -> dict[str, Any] | None:
    first = run.parts[0]
    before, after, settled = first.server_before, first.server_after, first.server_settled
    if before is None or after is None:
        return None
    cpu_seconds = after.cpu_seconds - before.cpu_seconds
    peak = max((interval.server_rss_bytes or 0 for interval in run.timeline.intervals), default=0)
    return {
        "cpu_seconds": cpu_seconds,
        "cpu_share": _divide(cpu_seconds, seconds),
        "cpu_us_per_delivery": _divide(cpu_seconds * 1e6, deliveries),
        "wait_share": None if first.server_wait_seconds is None else _divide(first.server_wait_seconds, seconds),
        "rss_start_bytes": None if first.server_start is None else first.server_start.rss_bytes,
        "rss_before_bytes": before.rss_bytes,
        "rss_after_bytes": after.rss_bytes,
        "rss_peak_bytes": max(peak, before.rss_bytes, after.rss_bytes, first.server_peak_bytes or 0),
        "rss_settled_bytes": None if settled is None else settled.rss_bytes,
    }


def _describe_slow(run: Run) -> dict[str, Any]:
    ends = SlowEnds()
    for part in run.parts:
        ends.add(part.slow_ends)
    closes = _sum_by_key(part.slow_closes for part in run.parts)
    ends.gone += sum(closes.values())  # these have read it, and have no socket any more
    by_code = {str(code): count for code, count in sorted(closes.items())}
    described = {"count": run.plan.slow_clients, **asdict(ends), "closes": by_code}
    if not ends.is_known:
        described |= dict.fromkeys(("open", "lingering", "gone", "behind", "unread_bytes"))
    return described


def _find_notes(run: Run, result: Result) -> list[str]:
    """What a reader must know before a figure is believed."""
    plan, notes = run.plan, []
    client, server = result["client"], result["server"]
    share = (client["cpu_share"] or 0) / plan.processes
    if share > MAX_CLIENT_CPU_SHARE:
        notes.append(
            f"INVALID: the clients used {share:.0%} of their processors: this measured the clients, not the server"
            " (more --processes on more cores, or less load)"
        )
    if (client["wait_share"] or 0) > MAX_WAIT_SHARE:
        notes.append(
            f"the clients waited {client['wait_share']:.0%} of the time for a processor that something else had:"
            " latency is partly theirs"
        )
    if server is not None and plan.rate and (server["wait_share"] or 0) > MAX_WAIT_SHARE:
        notes.append(
            f"the server waited {server['wait_share']:.0%} of the time for a processor that something else had:"
            " latency is partly of that"
        )
    if server is None:
        notes.append("the server's processor time is not known (--server-pid): whether it was the limit is not either")
    elif not plan.rate and not plan.is_listening and (server["cpu_share"] or 0) < MIN_SERVER_CPU_SHARE:
        notes.append(
            f"INVALID as a limit of the server: it used {server['cpu_share'] or 0:.0%} of a processor;"
            " the clients, the scheduler or the load were the limit"
        )
    if run.parts[0].was_throttled:
        notes.append("the server was so far behind that publishing had to wait; latency counts from the intended time")
    is_deeper = (client["frames_per_read"] or 0) > MAX_FRAMES_PER_IN_FLIGHT * plan.in_flight
    if not plan.rate and plan.judge == "first" and is_deeper:
        notes.append(
            "NOT COMPARABLE: judged by the first subscriber, others were further behind than --in-flight;"
            " compare with --judge all only"
        )
    if plan.has_deflate and plan.payload == "letters" and not plan.is_listening:
        notes.append("all messages are nearly the same (--payload letters): no real feed is compressed so well")
    slow = result["slow_clients"]
    never_behind = slow["behind"] == 0 and not (slow["lingering"] or slow["gone"] or result["skipped"])
    if plan.slow and all(math.isinf(one.every_seconds) for one in plan.slow) and never_behind:
        notes.append(
            "the slow clients were never behind: their sockets took all there was, so nothing is known of how the"
            " server treats them (a longer run, or larger messages)"
        )
    if run.was_interrupted:
        notes.append("interrupted: the figures are of what was published by then")
    return notes
