"""What the pages of docs/ say of options, statuses and counters is what the code has, and a running server does."""

import re
from contextlib import closing

import pytest
from raw_client import RawClient, get, handshake, serving
from security_table import DEFAULTS, ROOT, UNITS, read_rows

from fastbcast import Hub, Reject
from fastbcast.command.cli import main

PAGES = [*sorted((ROOT / "docs").glob("*.md")), ROOT / "README.md"]
OF_SERVE = [ROOT / "SECURITY.md", *(ROOT / "docs" / f"{name}.md" for name in ("deploy", "entering", "handshakes"))]


def rows_of(page):
    """The cells of every row of a page's tables."""
    return [
        [cell.strip() for cell in line.strip()[1:-1].split("|")]
        for line in page.read_text().splitlines() if line.startswith("|")
    ]


def stated_defaults():
    """(page, option, text) for every row whose first cell is names of options, and whose second begins like a value."""
    for page in PAGES:
        for names, text, *_ in rows_of(page):
            options = re.findall(r"`(\w+)`", names)
            if set(options) & set(DEFAULTS) and re.match(r"\d|all|the kernel|`\[", text):
                yield from zip([page.name] * len(options), options, text.split(", "), strict=True)


@pytest.mark.parametrize(("page", "option", "text"), list(stated_defaults()))
def test_a_default_in_a_table_is_that_of_the_option(page, option, text):
    default = DEFAULTS[option]
    number = re.match(r"([\d,]*\d)( KiB| MiB|)", text)
    if number:
        assert int(number[1].replace(",", "")) * UNITS[number[2]] == default
    else:
        assert text.startswith({(): "all", 0: "the kernel's"}.get(default, f"`{default}`"))


def test_tables_of_three_pages_have_defaults():
    assert {page for page, _, _ in stated_defaults()} == {"entering.md", "handshakes.md", "slow-consumers.md"}


@pytest.mark.parametrize("page", OF_SERVE, ids=lambda page: page.name)
def test_options_of_the_command_are_there_and_have_the_defaults_that_are_given(page):
    options = {name: option for command in main.commands.values() for option in command.params
               for name in [*option.opts, *option.secondary_opts]}
    named = set(re.findall(r"(?<![-\w])--[a-z][a-z-]+", page.read_text()))
    assert named
    assert named <= set(options)
    for name, value in stated_values(page):
        assert options[name].default == float(value)


def stated_values(page):
    """(option, value) where a page gives a value of the command's options."""
    return re.findall(r"`(--[a-z-]+)` \((\d+)\)", page.read_text())


def test_a_page_gives_values_of_the_commands_options():
    assert [page.name for page in OF_SERVE if stated_values(page)] == ["deploy.md"]


@pytest.mark.parametrize("unit", sorted((ROOT / "examples" / "deploy").glob("*.service")), ids=lambda unit: unit.name)
def test_a_unit_of_the_examples_gives_the_process_time_and_no_signal_that_ends_it(unit):
    settings = dict(re.findall(r"^(\w+)=(.*)$", unit.read_text(), re.MULTILINE))
    assert "ExecReload" not in settings     # there is nothing to read again, and SIGHUP would end it
    drain_seconds = float(re.search(r"--drain-seconds (\d+)", settings["ExecStart"])[1])
    assert float(settings["TimeoutStopSec"]) > drain_seconds + DEFAULTS["close_seconds"]


# docs/handshakes.md.

HANDSHAKES = rows_of(ROOT / "docs" / "handshakes.md")
MEANINGS = {int(status): row[1] for row in HANDSHAKES if row[0][:3].isdecimal() for status in row[0].split(", ")}
REQUESTS = {
    101: handshake(), 200: get(), 400: handshake("*"), 401: handshake("/401"), 403: handshake("/403"),
    404: get("/favicon.ico"), 405: get(method="POST"), 408: handshake()[:-2], 426: handshake(Sec_WebSocket_Version="8"),
    429: handshake(X_Forwarded_For="203.0.113.7"), 431: handshake(Padding="x" * 16384), 500: handshake("/500"),
    503: handshake("/another"), 505: b"GET / HTTP/2.0\r\nHost: a\r\n\r\n",
}


def decide(request):
    name = request.path.strip("/")
    if name == "500":
        raise LookupError
    if name.isdecimal():
        raise Reject(int(name))


@pytest.mark.parametrize("status", REQUESTS)
async def test_an_answer_of_the_table_is_given_with_the_header_that_it_names(status):
    hub = Hub(max_channels=1)
    hub.authorize(decide)
    async with serving(
        hub, page=True, max_connections_per_address=1, forwarded_allow_ips=["127.0.0.1"],
        handshake_seconds=0.05 if status == 408 else 60,
    ) as server:
        with closing(await RawClient.connect(server.port, X_Forwarded_For="203.0.113.7")):
            with closing(await RawClient.connect_tcp(server.port)) as client:
                await client.send(REQUESTS[status])
                head = await client.read_head()
    assert head.startswith(f"HTTP/1.1 {status} ")
    for header in re.findall(r"`([\w-]+: [^`]+)`", MEANINGS[status]):
        assert header in head.split("\r\n")


def test_every_answer_of_the_table_is_tried():
    assert set(MEANINGS) == set(REQUESTS)


def test_what_the_page_says_is_counted_is_what_is_counted_as_refused():
    named = {name for name in re.findall(r"`(\w+)`", " ".join(row[3] for row in HANDSHAKES if len(row) == 4))}
    counted = {
        name for row in read_rows("Before the 101") for group, name in row.counters if group == "refused"
    }
    text = (ROOT / "docs" / "handshakes.md").read_text()
    assert named
    assert named <= counted
    assert all(f"`{name}`" in text for name in counted)
