"""The commands `fastbcast load` and `fastbcast bench`. Nothing heavy is imported before one of them runs."""

from __future__ import annotations

import errno
import json
import os
import signal
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from ..urls import hide_secrets_in
from .paths import UserPath
from .streams import StreamFailed, require_output
from .token_option import token_option
from .url_argument import url_argument

if TYPE_CHECKING:
    from ..load.plan import Plan

__all__ = ["bench_command", "load_command", "parse_plan"]

EXIT_WRONG = 1
EXIT_USAGE = 2
EXIT_NO_RESULT = 3
_NOT_OF_A_PLAN = ("requirements", "json_path", "html_path", "quiet")


def check_installed() -> None:
    """End the command with one line if what it needs is not here."""
    if sys.platform != "linux":
        fail("the load generator needs Linux (epoll)", EXIT_NO_RESULT)
    try:
        import hdrh
        import jinja2
        import psutil
        import rich
    except ImportError as error:
        fail(f"{error.name} is not installed: pip install 'fastbcast[load]'", EXIT_NO_RESULT)
    del hdrh, jinja2, psutil, rich


def fail(problem: str, status: int) -> NoReturn:
    click.echo(f"fastbcast: {hide_secrets_in(problem)}", err=True)
    sys.exit(status)


def _parsed(parser: str) -> Any:
    """A click callback: the value or values as plan.py reads them, imported when it is needed."""

    def parse(context: click.Context, parameter: click.Parameter, value: Any) -> Any:
        if value is None or value == ():
            return value
        check_installed()
        from ..load import plan

        try:
            if isinstance(value, tuple):
                return tuple(getattr(plan, parser)(text) for text in value)
            return getattr(plan, parser)(value)
        except ValueError as error:
            raise click.BadParameter(str(error)) from None

    return parse


def _requirements(context: click.Context, parameter: click.Parameter, texts: tuple[str, ...]) -> Any:
    if not texts:
        return ()
    check_installed()
    from ..load.require import BadRequirement, parse_requirement

    try:
        return tuple(parse_requirement(text) for text in texts)
    except BadRequirement as error:
        raise click.BadParameter(str(error)) from None


def _cores(context: click.Context, parameter: click.Parameter, text: str | None) -> tuple[int, ...]:
    try:
        return tuple(int(core) for core in text.split(",")) if text else ()
    except ValueError:
        raise click.BadParameter(f"{text!r} is not like 1 or 1,2,3") from None


@click.command("load", help="""
    Load a WebSocket server with thousands of clients, and say what it did.

    URL is ws://HOST:PORT/PATH of a server that sends each message to all clients of the URL (fastbcast serve --relay
    does), or of one that only sends (--listen).

    It connects to URL's host itself: http_proxy and the like are not obeyed. A user and password in URL are sent as
    basic Authorization, unless there is a token or a --header of that name.

    Exit status: 0; 1 if messages were missing, doubled, reordered or corrupt, connections refused or lost, a client
    late, or a --require not met, and if nothing was measured: no message came, no client of --churn left, nothing of
    --deflate was compressed; 2 usage; 3 no result.
""")
@url_argument
@click.option("--clients", type=click.IntRange(1), default=100, show_default=True, help="Subscribers.")
@click.option("--processes", type=click.IntRange(1), default=1, show_default=True, help="Processes they are in.")
@click.option("--connect-rate", type=click.FloatRange(0), default=0, show_default=True,
              help="Handshakes a second; 0: as fast as they are answered.")
@click.option("--messages", type=click.IntRange(1), help="Publish so many.")
@click.option("--duration", "duration_seconds", type=click.FloatRange(0, min_open=True), default=10, show_default=True,
              help="... or publish for so many seconds.")
@click.option("--rate", type=click.FloatRange(0), default=0,
              help="Open loop: messages a second, latency from the intended time.")
@click.option("--in-flight", type=click.IntRange(1), default=1, show_default=True,
              help="Closed loop: messages of each publisher that are under way.")
@click.option("--judge", type=click.Choice(["all", "first"]), default="all", show_default=True,
              help="... until all subscribers have them, or the first one.")
@click.option("--size", "size_bytes", default="128", show_default=True, callback=_parsed("parse_bytes"),
              help="Bytes of a message; 4KiB, 1MB are understood.")
@click.option("--payload", type=click.Choice(["letters", "ticks"]),
              help="The same letters in every message, or trade ticks: text that compresses as real text does."
                   "  [default: letters; ticks with --deflate]")
@click.option("--binary", "is_binary", is_flag=True, help="Binary messages instead of text.")
@click.option("--publishers", type=click.IntRange(1), help="Connections that publish.  [default: one per channel]")
@click.option("--channels", type=click.IntRange(1), default=1, show_default=True,
              help="Spread the clients over so many URLs: {channel} in the URL is the number, else it is added.")
@click.option("--slow", multiple=True, metavar="N:HOW", callback=_parsed("parse_slow"),
              help="10%:stall, 10%:1KB/s or 5:bursts: clients that read late. They are not judged. May be repeated.")
@click.option("--churn", "churn_per_second", type=click.FloatRange(0), default=0, metavar="N",
              help="N clients leave every second, and others come.")
@click.option("--deflate", "has_deflate", is_flag=True, help="Offer permessage-deflate, inflate and check.")
@click.option("--warmup", "warmup_messages", type=click.IntRange(0), default=20, show_default=True,
              help="Messages that are not measured, first.")
@click.option("--source-addresses", callback=_parsed("parse_sources"), metavar="LIST",
              help="Connect from these in turn: 127.0.0.2,127.0.0.3 or 127.0.0.1-8. One has some 28,000 ports.")
@click.option("--listen", is_flag=True, help="Publish nothing: count what the server sends by itself.")
@click.option("--idle", "is_idle", is_flag=True,
              help="Publish nothing and expect nothing: only hold the connections open.")
@click.option("--expect-prefix", metavar="TEXT", help="... and check that each message begins with this.")
@click.option("--header", "headers", multiple=True, metavar="'NAME: VALUE'",
              callback=_parsed("parse_header"),
              help="A header of each handshake; Host and Authorization stand in for ours. May be repeated.")
@token_option
@click.option("--server-pid", "server_pids", multiple=True, type=click.IntRange(1),
              help="Measure this process and its children, too. May be repeated.")
@click.option("--cores", metavar="LIST", callback=_cores, help="Processors for the processes of the load: 1 or 1,2.")
@click.option("--connect-timeout", "connect_timeout_seconds", type=click.FloatRange(0, min_open=True), default=30,
              show_default=True, help="Seconds without an answer, and a handshake counts as refused.")
@click.option("--stall", "stall_seconds", type=click.FloatRange(0, min_open=True), default=5, show_default=True,
              help="Seconds without any progress, and what is under way counts as missing.")
@click.option("--settle", "settle_seconds", type=click.FloatRange(0), default=0, show_default=True,
              help="Seconds to wait before slow clients are counted.")
@click.option("--require", "requirements", multiple=True, metavar="EXPRESSION", callback=_requirements,
              help="p99<50ms, missing=0, deliveries_per_second>1M: else the exit status is 1. May be repeated.")
@click.option("--json", "json_path", type=UserPath(dir_okay=False, path_type=Path), help="Write all figures.")
@click.option("--html", "html_path", type=UserPath(dir_okay=False, path_type=Path),
              help="Write a report for a browser, one file.")
@click.option("--quiet", is_flag=True, help="No progress display. Without a terminal there is none.")
def load_command(
    requirements: tuple[Any, ...], json_path: Path | None, html_path: Path | None, quiet: bool, **options: Any
) -> None:
    check_installed()
    from ..load.crew import LoadFailed, run_load
    from ..load.progress import Progress
    from ..load.report import render_report
    from ..load.result import make_result
    from ..load.table import print_result
    from ..load.verdict import find_problems, judge

    try:
        plan = _make_plan(**options)
    except ValueError as error:
        fail(str(error), EXIT_USAGE)
    _check_output(json_path, html_path)
    try:
        with Progress(plan, is_quiet=quiet) as progress:
            result = make_result(run_load(plan, progress.show))
    except LoadFailed as error:
        fail(str(error), EXIT_NO_RESULT)
    result["requirements"] = [requirement.check(result) for requirement in requirements]
    result |= {"problems": find_problems(result), "verdict": vars(judge(result))}
    contents = {json_path: lambda: json.dumps(result, indent=1) + "\n", html_path: lambda: render_report(result)}
    _hand_out(contents, lambda: print_result(result), EXIT_WRONG if result["problems"] else 0)


def parse_plan(arguments: list[str]) -> Plan:
    """What `fastbcast load` would run with these arguments. Raises click.UsageError, or ValueError as Plan does."""
    with load_command.make_context("load", list(arguments)) as context:
        return _make_plan(**{name: value for name, value in context.params.items() if name not in _NOT_OF_A_PLAN})


def _make_plan(*, listen: bool, expect_prefix: str | None, token: str | None, **options: Any) -> Plan:
    from ..load.plan import Plan

    if options["is_idle"] and expect_prefix is not None:
        raise ValueError("--idle expects no message, --expect-prefix does")
    if listen or options["is_idle"] or expect_prefix is not None:
        options["expect_prefix"] = os.fsencode(expect_prefix or "")
    options["publishers"] = options["publishers"] or 0
    options["payload"] = options["payload"] or ""
    options["source_addresses"] = options["source_addresses"] or ()
    return Plan(token=token, **options)


@click.command("bench", help="""
    Measure this fastbcast on this machine: 100 to 15,000 clients, beside a C program that does the least there is.

    Server and clients have a processor each. Prints the table that benchmarks/README.md shows.

    Exit status: 0; 1 if messages were missing or wrong; 2 usage; 3 no result.
""")
@click.option("--quick", is_flag=True, help="A small part of it, in under a minute. Its figures mean little.")
@click.option("--rounds", type=click.IntRange(1), help="Measure each row so often.  [default: 3; 1 with --quick]")
@click.option("--clients", metavar="LIST", help="Only these numbers of clients: 100,1000")
@click.option("--json", "json_path", type=UserPath(dir_okay=False, path_type=Path), help="Write all figures.")
@click.option("--quiet", is_flag=True, help="No progress display. Without a terminal there is none.")
def bench_command(quick: bool, rounds: int | None, clients: str | None, json_path: Path | None, quiet: bool) -> None:
    check_installed()
    from ..load.bench import FULL, QUICK, describe, estimate_seconds, measure_matrix, why_left_out
    from ..load.machine import describe_machine
    from ..load.table import print_bench
    from ..load.target import ServerUnavailable

    matrix, rounds = (QUICK, rounds or 1) if quick else (FULL, rounds or 3)
    if clients is not None:
        try:
            matrix = replace(matrix, clients=tuple(int(count) for count in clients.split(",")))
        except ValueError:
            fail(f"{clients!r} is not like 100,1000", EXIT_USAGE)
        if min(matrix.clients) < 1:
            fail("there must be a client", EXIT_USAGE)
    _check_output(json_path)
    if len(os.sched_getaffinity(0)) < 2:
        click.echo("one processor only: server and clients share it, and no figure is valid", err=True)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(EXIT_NO_RESULT))  # or the server would stay behind
    minutes = round(estimate_seconds(matrix, rounds) / 60)
    click.echo("about a minute" if minutes <= 1 else f"about {minutes} minutes", err=True)
    for cell in matrix.cells():
        if why := why_left_out(cell):
            click.echo(f"left out: {describe(cell)}: {why}", err=True)
    try:
        rows = measure_matrix(matrix, rounds, is_quiet=quiet)
    except ServerUnavailable as unavailable:
        fail(str(unavailable), EXIT_NO_RESULT)
    if not rows:
        fail("nothing was measured: each load of the matrix is left out, see above", EXIT_NO_RESULT)

    def make_json() -> str:
        document = {"machine": describe_machine(), "rows": [{**vars(row), "cell": vars(row.cell)} for row in rows]}
        return json.dumps(document, indent=1) + "\n"

    _hand_out({json_path: make_json}, lambda: print_bench(rows), EXIT_WRONG if any(row.problems for row in rows) else 0)


def _check_output(*paths: Path | None) -> None:
    """Before the run, since its result is lost if it can be neither written nor printed."""
    for path in paths:
        if path is not None and not os.access(path if path.exists() else path.parent, os.W_OK):
            fail(f"{path} cannot be written", EXIT_USAGE)
    if not any(paths):
        try:
            require_output()
        except StreamFailed as failed:
            sys.exit(failed.tell(EXIT_USAGE))


def _hand_out(contents: dict[Path | None, Callable[[], str]], show: Callable[[], None], status: int) -> NoReturn:
    """Write each file, print, and end: with `status`, unless one of them failed, which costs none of the others.

    The files come first: nobody may read the other end of the pipe any more. Where there is one, standard output may
    have been closed.
    """
    for path, make_text in contents.items():
        if path is None:
            continue
        try:
            path.write_text(make_text(), encoding="utf-8")
        except OSError as error:
            click.echo(f"fastbcast: {path}: {error.strerror}", err=True)
            status = EXIT_NO_RESULT
    try:
        show()
        sys.stdout.flush()
    except StreamFailed as failed:
        if failed.errno != errno.EBADF:
            status = failed.tell(EXIT_NO_RESULT)
    sys.exit(status)
