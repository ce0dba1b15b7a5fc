"""What is logged: events with fields, not too many, and nothing that a client sent."""

import asyncio
import json
import logging
import re
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest
from conftest import seconds
from raw_client import RawClient, handshake, serving
from reference import TEXT
from support import raw_connections, subscribed, until

from fastbcast import Hub
from fastbcast import logging as log
from fastbcast.logging import log_event

SECRET = "Bearer-5ecre7"


def shown(record, format_name="text"):
    return log._FORMATTERS[format_name]().format(record)


def test_a_line_is_the_event_and_its_fields_which_are_attributes_of_the_record_too(caplog):
    log_event(logging.WARNING, "accept_paused", reason="Too many open files", open_files=20_000, cause=None)
    (record,) = caplog.records
    assert record.getMessage() == 'accept_paused reason="Too many open files" open_files=20000'
    assert (record.event, record.reason, record.open_files) == ("accept_paused", "Too many open files", 20_000)
    assert record.funcName == "test_a_line_is_the_event_and_its_fields_which_are_attributes_of_the_record_too"


def test_a_json_line_has_the_event_and_its_fields(caplog):
    log_event(logging.WARNING, "accept_paused", reason="Too many open files", open_files=20_000)
    line = json.loads(shown(caplog.records[0], "json"))
    assert line.pop("time")
    assert line == {
        "level": "WARNING", "logger": "fastbcast", "event": "accept_paused",
        "message": 'accept_paused reason="Too many open files" open_files=20000',
        "reason": "Too many open files", "open_files": 20_000,
    }


@pytest.mark.parametrize("format_name", log.FORMATS)
def test_no_field_breaks_the_line_or_makes_it_long(format_name, caplog):
    log_event(logging.ERROR, "queued_message_lost", channel="a\r\n2026 CRITICAL forged\x1b[2J\u2028" + "x" * 10_000)
    text = caplog.records[0].getMessage()
    assert text.isprintable()
    assert len(text) < 400
    assert len(shown(caplog.records[0], format_name).splitlines()) == 1


async def test_of_each_event_there_are_a_few_lines_and_then_one_that_counts_the_rest(monkeypatch, caplog):
    monkeypatch.setattr(log, "WINDOW_SECONDS", seconds(0.2))

    for number in range(25):
        log_event(logging.ERROR, "sweep_failed", exception=LookupError(), number=number)
    log_event(logging.ERROR, "evict_failed")
    assert [record.event for record in caplog.records] == ["sweep_failed"] * 10 + ["evict_failed"]
    await until(lambda: len(caplog.records) > 11)
    assert caplog.records[-1].getMessage() == "log_lines_dropped dropped_event=sweep_failed dropped_lines=15"
    log_event(logging.ERROR, "sweep_failed")
    assert [record.event for record in caplog.records[11:]] == ["log_lines_dropped", "sweep_failed"]


def test_without_a_loop_the_next_line_brings_what_was_dropped(monkeypatch, caplog):
    clock = SimpleNamespace(monotonic=lambda: clock.seconds, seconds=0)
    monkeypatch.setattr(log, "time", clock)
    for _ in range(12):
        log_event(logging.ERROR, "sweep_failed")
    clock.seconds = log.WINDOW_SECONDS
    caplog.clear()
    for _ in range(2):
        log_event(logging.ERROR, "sweep_failed")
    assert [record.event for record in caplog.records] == ["log_lines_dropped", "sweep_failed", "sweep_failed"]
    assert caplog.records[0].dropped_lines == 2


@pytest.mark.parametrize("format_name", log.FORMATS)
def test_a_traceback_says_what_failed_and_where_but_not_what_was_sent(run, format_name, caplog):
    async def scenario():
        hub = Hub()

        @hub.authorize
        def _(request):
            try:
                return {}[request.headers["authorization"]]
            except KeyError as error:
                raise ValueError(f"nobody has {request.query}") from error

        async with serving(hub) as server:
            raw = await RawClient.connect_tcp(server.port)
            await raw.send(handshake(f"/?token={SECRET}", Authorization=SECRET))
            assert (await raw.read_head()).startswith("HTTP/1.1 500 ")

    run(scenario())
    text = shown(caplog.records[0], format_name)
    assert SECRET not in text
    assert text.index("builtins.ValueError") < text.index("builtins.KeyError")
    assert 'raise ValueError(f"nobody has {request.query}")' in text.replace('\\"', '"')


@pytest.mark.parametrize("format_name", log.FORMATS)
def test_a_logger_at_debug_shows_what_the_exception_says(format_name, caplog):
    with caplog.at_level(logging.DEBUG, "fastbcast"):
        log_event(logging.ERROR, "handler_failed", exception=KeyError("what it says"))
    assert "KeyError: 'what it says'" in shown(caplog.records[0], format_name)


def test_a_payload_that_a_handler_chokes_on_is_not_logged(run, caplog):
    async def scenario():
        hub = Hub()
        hub.on_message(lambda client, message: int(message))
        async with raw_connections(hub, "/") as raw:
            await subscribed(hub, "default")
            await raw.send_frame(TEXT, SECRET.encode())
            assert (await raw.read_to_close())[0].payload[2:] == b"internal error"

    run(scenario())
    assert "ValueError" in caplog.text
    assert SECRET not in caplog.text


async def test_what_the_loop_reports_is_logged_without_the_arguments_of_its_callbacks(caplog):
    def fail(payload):
        raise LookupError(payload)

    loop = asyncio.get_running_loop()
    loop.set_exception_handler(log.handle_loop_error)
    loop.call_soon(fail, SECRET)
    await until(lambda: caplog.records)
    assert caplog.records[0].event == "event_loop_error"
    assert "LookupError" in caplog.text
    assert SECRET not in caplog.text


def test_that_a_connection_has_failed_is_no_news(caplog):
    context = {"message": "Fatal read error", "exception": TimeoutError(110, "timed out"), "transport": object()}
    log.handle_loop_error(None, context)
    assert caplog.records == []
    log.handle_loop_error(None, context | {"exception": LookupError()})
    assert [record.event for record in caplog.records] == ["event_loop_error"]


def test_the_command_writes_json_lines(start_process):
    command = f"ulimit -n 30; exec {sys.executable} -m fastbcast serve --port 0 --log-format json"
    server = start_process(["sh", "-c", command])

    async def use_up():
        raws = [await RawClient.connect_tcp(server.port) for _ in range(40)]
        line = await asyncio.to_thread(server.process.stderr.readline)
        for raw in raws:
            raw.close()
        return json.loads(line)

    line = asyncio.run(use_up())
    assert (line["event"], line["level"], line["reason"]) == ("accept_paused", "WARNING", "Too many open files")


ROOT = Path(__file__).parent.parent


def read_documented():
    """docs/logging.md: {event: (level, fields)}; where the events of a row differ in level, it has one for each."""
    events = {}
    for line in (ROOT / "docs" / "logging.md").read_text().splitlines():
        if line.startswith("| `"):
            names, levels, fields, _ = [cell.strip() for cell in line.strip("|").split("|")]
            names, levels = re.findall(r"`(\w+)`", names), levels.split(", ")
            for name, level in zip(names, levels if len(levels) > 1 else levels * len(names), strict=True):
                events[name] = level, set(re.findall(r"\w+", re.sub(r" or |`|,", " ", fields)))
    return events


def read_logged():
    """The same of the source: of all places where an event is logged."""
    events = {"log_lines_dropped": ("warning", {"dropped_event", "dropped_lines"})}
    paths = [path for path in (ROOT / "fastbcast").rglob("*.py*") if path.suffix in (".py", ".pyx")]
    sources = "".join(path.read_text() for path in paths)
    for level, name, rest in re.findall(r'log_event\(\s*logging\.(\w+), "(\w+)"(.*)\)\n', sources):
        fields = {"traceback" if field == "exception" else field for field in re.findall(r", (\w+)=", rest)}
        events[name] = level.lower(), events.get(name, ("", set()))[1] | fields
    for name in re.findall(r'\.report\("(\w+)", ', sources):     # _sweeper.pyx
        events[name] = "error", events.get(name, ("", set()))[1] | {"channel", "traceback"}
    return events


def test_every_event_is_documented_with_its_level_and_its_fields():
    documented, logged = read_documented(), read_logged()
    assert set(documented) == set(logged)
    for name, (level, fields) in logged.items():
        assert documented[name][0] == level, name
        assert fields <= documented[name][1], name
        # Those that are bugs share a row, and say where it was if it is known.
        assert documented[name][1] - fields <= ({"channel", "where"} if "traceback" in fields else set()), name
