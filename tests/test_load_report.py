"""The report of a load run, in a real Chromium: what a person sees. A real run makes the result, tests change it."""

import copy
import json
import re
import subprocess
import sys
from itertools import pairwise
from operator import itemgetter

import pytest
from conftest import MILLISECONDS, ServerProcess, seconds
from playwright.sync_api import expect

if sys.platform != "linux":
    pytest.skip("the load generator stands on epoll", allow_module_level=True)

from fastbcast.load.chart import Curve, draw_chart, scale_from_zero, scale_values
from fastbcast.load.history import MOST_POINTS, find_phases, thin_out
from fastbcast.load.report import render_report
from fastbcast.load.units import write_bytes, write_milliseconds, write_number, write_share

RUN = """
import json, sys
from fastbcast.load.crew import run_load
from fastbcast.load.plan import Plan
from fastbcast.load.result import make_result
plan = Plan(url=sys.argv[1], clients=5, messages=200, server_pids=(int(sys.argv[2]),))
print(json.dumps(make_result(run_load(plan))))
"""
ATTACK = "\"'><img src=x onerror=\"document.title='owned'\"><script>document.title='owned'</script>{{ 7 * 7 }}"


@pytest.fixture(scope="module")
def measured():
    server = ServerProcess([sys.executable, "-m", "fastbcast", "serve", "--relay", "--port", "0"])
    try:
        command = [sys.executable, "-c", RUN, server.url + "x", str(server.process.pid)]
        run = subprocess.run(command, check=True, capture_output=True, timeout=seconds(60))
    finally:
        server.stop()
    return json.loads(run.stdout)


@pytest.fixture
def result(measured):
    """Of 5 clients and 200 messages. How fast they were is not what is tested here, so nothing is said about it."""
    return copy.deepcopy(measured) | {"notes": []}


@pytest.fixture
def open_report(browser, tmp_path):
    """Write a report and open it; it may ask for nothing but itself, and nothing in it may fail."""
    contexts, requests, errors = [], [], []

    def open_result(result, **options):
        path = tmp_path / f"report-{len(contexts)}.html"
        path.write_text(render_report(result), encoding="utf-8")
        context = browser.new_context(**options)
        context.set_default_timeout(seconds(20) * MILLISECONDS)
        contexts.append(context)
        page = context.new_page()
        page.on("request", lambda request: requests.append(request.url))
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("console", lambda message: errors.append(message.text))
        page.goto(path.as_uri())
        assert requests.pop(0) == path.as_uri()
        return page

    yield open_result
    for context in contexts:
        context.close()
    assert requests == []
    assert errors == []


def expect_tile(page, name, value):
    term = page.locator("dt").get_by_text(name, exact=True)
    expect(page.locator("dl div").filter(has=term).locator("dd")).to_have_text(value)


def expect_row(page, table, name, value):
    card = page.locator(".tables .card").filter(has=page.get_by_role("heading", name=table, exact=True))
    row = card.locator("tr").filter(has=page.locator("th", has_text=re.compile(rf"^\s*{name}\b")))
    expect(row.locator("td")).to_have_text(value)


def make_interval(number, phase=2, **figures):
    rates = {"published_per_second": 1.0, "deliveries_per_second": 100.0, "client_cpu_share": 0.5}
    other = {"open_clients": 5, "p50_ms": 1.0, "p99_ms": 2.0, "server_cpu_share": None, "server_rss_bytes": None}
    time = {"seconds": (number + 1) / 4, "width_seconds": 0.25, "phase": phase, "socket_bytes": 0}
    return time | rates | other | figures


def test_a_real_run_is_drawn_and_told(result, open_report):
    page = open_report(result)
    expect(page).to_have_title(f"Load run of {result['settings']['url']}")
    expect(page.locator("#verdict")).to_have_text("No message was missing, doubled, reordered or corrupt")
    expect_tile(page, "Missing", "0")
    expect_row(page, "Messages", "Deliveries", "1,000")
    expect_row(page, "Messages", "Published", "200")
    expect_row(page, "Connections", "Opened", "6")
    expect_row(page, "Settings", "in flight", "1")
    expect_row(page, "Machine", "python", result["machine"]["python"])
    expect(page.locator("#latencies tr", has_text="completion").locator("td").first).to_have_text("200")
    drawn = page.locator("figure:has(.plot)")
    expect(drawn.locator("h3")).to_have_text([
        re.compile(f"^{title}")
        for title in (
            "Latency ms", "Deliveries a second", "Delivery latency ms", "Processor time % of one processor",
            "Memory MB", "Connected subscribers connections",
        )
    ])
    expect(drawn.first.locator("path:not(.grid, .end)")).to_have_count(2)
    assert drawn.first.locator(".x").all_inner_texts() == ["0", "50", "90", "99", "99.9"]
    expect(page.locator(".phases")).to_contain_text("done")
    expect(page.get_by_text("A closed loop: each publisher has at most 1 of its messages under way")).to_be_visible()


def test_figures_have_their_units(result, open_report):
    result["deliveries_per_second"] = 1_234_567.8
    result["delivery_ms"] |= {"p50": 0.25, "p99": 12.34, "max": 4321.0}
    result["completion_ms"]["p99"] = 23.45
    result["server"] |= {"cpu_us_per_delivery": 0.9876, "cpu_share": 0.987, "rss_peak_bytes": 43_210_000}
    result["client"]["cpu_share"] = 0.456
    page = open_report(result)
    for name, value in {
        "Deliveries": "1,234,568 /s",
        "Delivery p50": "250 µs",
        "Delivery p99": "12.3 ms",
        "Delivery, slowest": "4.32 s",
        "Completion p99": "23.4 ms until all have it",
        "Server, each delivery": "0.988 µs processor time",
        "Server": "98.7 % of one processor",
        "Server memory": "43.2 MB resident, at most",
        "Clients": "45.6 % of one processor",
    }.items():
        expect_tile(page, name, value)


def test_what_went_wrong_comes_first(result, open_report):
    result |= {"missing": 1234, "lost": 3, "closes": {"1001": 2, "4321": 1}}
    result["notes"] = ["INVALID: the clients were busy"]
    page = open_report(result)
    expect(page.locator("#verdict")).to_have_text("Something went wrong")
    problems = ["1,234 messages missing", "3 connections ended by the server (1001: 2, 4321: 1)"]
    expect(page.locator(".verdict li")).to_have_text([*problems, "INVALID: the clients were busy"])
    expect_tile(page, "Missing", "1,234")
    expect(page.locator("dd.bad")).to_have_text(["1,234", "3"])
    expect_row(page, "Connections", "Close 1001 going away", "2")
    expect_row(page, "Connections", "Close 4321", "1")


def test_what_was_required_is_shown_whether_it_is_met_or_not(result, open_report):
    result["requirements"] = [
        {"text": "p99<50ms", "is_met": True, "found": "it is 12.3 ms"},
        {"text": "server_cpu_share<1", "is_met": False, "found": "it could not be measured"},
    ]
    page = open_report(result)
    expect(page.locator("#verdict")).to_have_text("Something went wrong")
    expect(page.locator(".verdict li")).to_have_text(
        ["not met: server_cpu_share<1: it could not be measured", "met: p99<50ms: it is 12.3 ms"]
    )


def test_figures_that_are_not_valid_are_no_success(result, open_report):
    result["notes"] = ["INVALID: this measured the clients"]
    page = open_report(result)
    expect(page.locator("#verdict")).to_have_text("The messages were right, but the figures are not valid")
    expect(page.locator(".verdict li")).to_have_text(["INVALID: this measured the clients"])


def test_markup_stays_text(result, open_report):
    result["settings"] |= {"url": f"ws://h/{ATTACK}", "headers": [ATTACK], "slow": [ATTACK], "expect_prefix": ATTACK}
    result["machine"]["processor"] = ATTACK
    result["notes"] = [ATTACK]
    result |= {"lost": 1, "closes": {ATTACK: 1}}
    result["handshakes"] |= {"refused": 1, "problems": {ATTACK: 1}}
    page = open_report(result)
    expect(page).to_have_title(f"Load run of ws://h/{ATTACK}")
    expect(page.locator("h1")).to_have_text(f"Load run of ws://h/{ATTACK}")
    assert page.get_by_text(ATTACK).count() >= 9
    expect(page.locator("img, body script")).to_have_count(1)


def test_a_run_without_messages_says_so(result, open_report):
    nothing = {"count": 0}
    names = ("handshake", "delivery", "slow_delivery", "completion", "spread")
    result |= {f"{name}_ms": nothing for name in names}
    result |= dict.fromkeys(("deliveries_per_second", "payload_mb_per_second", "wire_bytes_per_message"))
    result |= {"seconds": 0.0, "published": 0, "deliveries": 0, "wire_bytes": 0, "server": None, "timeline": []}
    result["distribution"] = {"delivery": [], "completion": []}
    result["handshakes"]["per_second"] = None
    result |= dict.fromkeys(("missing", "doubled", "reordered", "corrupt", "skipped"))
    result["late"] = dict.fromkeys(("count", "worst_ms", "median_ms"))
    result["client"] |= dict.fromkeys(("cpu_share", "cpu_us_per_delivery", "frames_per_cpu_second", "frames_per_read"))
    result["kernel"] = dict.fromkeys(result["kernel"])
    page = open_report(result)
    expect(page.locator("#verdict")).to_have_text("No verdict: nothing was measured")
    for name in ("Missing", "Doubled", "Reordered", "Corrupt"):
        expect_row(page, "Messages", name, "not measured")
    for name in ("Deliveries", "Delivery p50", "Delivery p99", "Delivery, slowest"):
        expect_tile(page, name, "not measured")
    expect_tile(page, "Server", "not measured of one processor")
    expect(page.locator("#latencies td")).to_have_text(["not measured"] * len(names))
    expect(page.locator("figure")).to_have_count(0)
    expect(page.get_by_text("None", exact=True)).to_have_count(0)


def test_what_a_listener_cannot_know_is_not_called_zero(result, open_report):
    result["settings"]["expect_prefix"] = "BTC"
    result |= {"published": 0, "delivery_ms": {"count": 0}, "distribution": {"delivery": [], "completion": []}}
    result |= dict.fromkeys(("missing", "doubled", "reordered", "skipped"))
    result["timeline"] = [make_interval(0, p50_ms=None, p99_ms=None)]
    page = open_report(result)
    expect(page.locator("#verdict")).to_have_text(
        "Nothing wrong was seen: no message was corrupt, no connection was lost. Not known: what is missing, doubled or"
        " reordered"
    )
    expect(page.get_by_text("each message had to begin with 'BTC'")).to_be_visible()
    expect_tile(page, "Missing", "not measured")
    for name in ("Missing", "Doubled", "Reordered", "Published"):
        expect_row(page, "Messages", name, "not measured")
    expect_row(page, "Messages", "Corrupt", "0")
    figure = page.locator("figure").filter(has=page.get_by_role("heading", name="Delivery latency"))
    expect(figure).to_contain_text("p50: not measured")
    expect(figure.locator(".plot")).to_have_count(0)


def test_pointing_at_a_chart_shows_its_values_and_those_of_the_same_time(result, open_report):
    result["timeline"] = [make_interval(number, p99_ms=number + 1.0, socket_bytes=1_500_000) for number in range(4)]
    page = open_report(result, viewport={"width": 1000, "height": 2000})
    deliveries, latency, processor, memory, _ = page.locator("figure[data-group=time]").all()
    box = deliveries.locator(".plot").bounding_box()
    deliveries.locator(".plot").hover(position={"x": box["width"] * 0.7, "y": 20})
    expect(deliveries.locator(".where")).to_have_text("0.75 s, measuring")
    expect(deliveries.locator("output")).to_have_text("100 /s")
    expect(latency.locator("output")).to_have_text(["1 ms", "3 ms"])
    expect(processor.locator("output")).to_have_text("50 %")
    expect(memory.locator("output")).to_have_text("1.5 MB")
    page.locator("h1").hover()
    expect(latency.locator("output")).to_have_text(["", ""])
    expect(deliveries.locator(".rule")).to_be_hidden()


def test_a_curve_ends_with_the_maximum_where_one_of_its_messages_is(result, open_report):
    result["distribution"] = {"delivery": [[0.0, 1.0], [90.0, 2.0], [100.0, 7.0]], "completion": []}
    result["delivery_ms"]["count"] = 1000
    page = open_report(result)
    figure = page.locator("figure[data-group=latency]")
    expect(figure).to_contain_text("completion: not measured")
    expect(figure.locator("path.line-1").first).to_have_attribute("d", "M0 875h0L333 750L1000 125")
    assert figure.locator(".x").all_inner_texts() == ["0", "50", "90", "99", "99.9"]


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_a_phone(result, open_report, scheme):
    result["settings"]["url"] += "x" * 300
    result["delivery_ms"]["count"] = 90_000_000
    result["distribution"]["delivery"] = [[0.0, 0.02], [99.9, 5.0], [100.0, 8000.0]]
    result["timeline"] = [make_interval(number, deliveries_per_second=1e7 + number) for number in range(3000)]
    page = open_report(result, color_scheme=scheme, viewport={"width": 390, "height": 700}, is_mobile=True)
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    red, _, _ = page.evaluate("getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)")
    assert (red > 127) == (scheme == "light")
    for plot in page.locator(".plot").all():
        for axis, start, size in ((".x", "x", "width"), (".y", "y", "height")):
            boxes = [label.bounding_box() for label in plot.locator(axis).all() if label.is_visible()]
            boxes.sort(key=itemgetter(start))
            assert len(boxes) >= 2
            assert all(box["x"] > 0 and box["x"] + box["width"] < 390 for box in boxes)
            assert all(one[start] + one[size] < following[start] for one, following in pairwise(boxes))


def test_on_paper_it_is_dark_on_light(result, open_report):
    page = open_report(result, color_scheme="dark")
    page.emulate_media(media="print")
    for name, is_light in (("color", False), ("backgroundColor", True)):
        red, _, _ = page.evaluate(f"getComputedStyle(document.body).{name}.match(/\\d+/g).map(Number)")
        assert (red > 127) == is_light


# What the page is made of.


@pytest.mark.parametrize(
    ("text", "written"),
    [
        (write_number(1234567), "1,234,567"),
        (write_number(1234567.8, "/s"), "1,234,568 /s"),
        (write_number(0.12345, "µs"), "0.123 µs"),
        (write_number(99.97), "100"),
        (write_number(None, "/s"), "not measured"),
        (write_milliseconds(0.0005), "0.5 µs"),
        (write_milliseconds(0.9994), "999 µs"),
        (write_milliseconds(0.9996), "1 ms"),
        (write_milliseconds(999.6), "1 s"),
        (write_milliseconds(0), "0 ms"),
        (write_milliseconds(None), "not measured"),
        (write_bytes(999), "999 bytes"),
        (write_bytes(43_210_000), "43.2 MB"),
        (write_bytes(5e12), "5,000 GB"),
        (write_share(0.0123), "1.23 %"),
    ],
)
def test_three_digits_and_a_unit(text, written):
    assert text == written


def test_a_scale_begins_at_0_and_ends_at_a_tick():
    scale = scale_values([3.0, 7.0, 41.0])
    assert (scale.low, scale.high, scale.is_logarithmic) == (0, 50, False)
    assert [text for _, text in scale.ticks] == ["0", "10", "20", "30", "40", "50"]
    assert [scale.place(value) for value in (0, 25, 50)] == [0, 500, 1000]


def test_a_scale_is_logarithmic_if_the_largest_is_far_from_the_others():
    scale = scale_values([0.5, 1.0, 1.0, 900.0])
    assert scale.is_logarithmic
    assert scale.low <= 0.5
    assert scale.high >= 900
    assert [scale.place(value) for value in (0, scale.low, scale.high)] == [0, 0, 1000]


@pytest.mark.parametrize("values", [[], [0.0], [1e-9], [0.3], [1e15], [1e-9, 1e15, 1e-9], [1.0, 1.0, 1e3]])
def test_every_scale_holds_its_values_and_has_few_ticks(values):
    scale = scale_values(values)
    assert 0 <= scale.low < scale.high
    assert all(value <= scale.high for value in values)
    assert 2 <= len(scale.ticks) <= 8


def test_what_was_not_measured_is_a_gap_in_the_line():
    curve = Curve("p50", [(0, 4.0), (1, None), (2, 4.0), (4, 2.0)], str)
    chart = draw_chart("Latency", "ms", [curve, Curve("p99", [(0, None)], str)], scale_from_zero(4), "s", str)
    (line,) = chart.lines
    assert line.path == "M0 0h0M500 0h0L1000 500"
    assert line.hover == [(0, "0", "4.0"), (500, "2", "4.0"), (1000, "4", "2.0")]
    assert chart.not_measured == ["p99"]


def test_phases_follow_each_other():
    intervals = [make_interval(number, phase) for number, phase in enumerate((0, 1, 1, 2, 2, 3, 4))]
    assert find_phases(intervals) == [
        ("connecting", 0.0, 0.25), ("warming", 0.25, 0.75), ("measuring", 0.75, 1.25), ("draining", 1.25, 1.5),
        ("done", 1.5, 1.75),
    ]


def test_of_many_intervals_rates_are_the_mean_and_times_the_highest():
    intervals = [make_interval(number) for number in range(2 * MOST_POINTS)]
    intervals[0] |= {"deliveries_per_second": 400.0, "width_seconds": 0.75, "p99_ms": 9.0, "server_cpu_share": 0.5}
    points = thin_out(intervals)
    assert len(points) == MOST_POINTS
    assert points[0]["deliveries_per_second"] == 325
    assert (points[0]["seconds"], points[0]["p99_ms"], points[0]["server_cpu_share"]) == (0.5, 9.0, 0.5)
    assert (points[1]["server_cpu_share"], points[1]["server_rss_bytes"]) == (None, None)
    assert thin_out(intervals[:5]) == intervals[:5]
