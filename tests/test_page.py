"""The page in a real Chromium: what a person sees and clicks.

Nothing sleeps: Playwright's `expect` looks again until it sees what it should, or time is up.
"""

import itertools
import re
import sys

import pytest
from conftest import MILLISECONDS, seconds
from playwright.sync_api import expect
from test_foreign_clients import check_browser
from websockets.sync.client import connect


@pytest.fixture
def open_page(browser):
    """Open a URL in a window of its own; no request may go anywhere else, and no script may fail."""
    contexts, strays, errors = [], [], []

    def open_url(url, **options):
        origin = "/".join(url.split("/")[:3]) + "/"
        context = browser.new_context(**options)
        context.set_default_timeout(seconds(20) * MILLISECONDS)
        contexts.append(context)

        def is_stray(address):
            return not address.startswith((origin, origin.replace("http", "ws", 1), "data:"))

        def on_request(request):
            if is_stray(request.url):
                strays.append(request.url)

        def on_websocket(websocket):
            if is_stray(websocket.url):
                strays.append(websocket.url)

        context.on("request", on_request)
        context.route(is_stray, lambda route: route.abort())
        page = context.new_page()
        page.on("websocket", on_websocket)
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.goto(url)
        return page

    yield open_url
    for context in contexts:
        context.close()
    assert strays == []
    assert errors == []


@pytest.fixture
def relay(serve_process):
    return serve_process("--relay")


def expect_state(page, state):
    expect(page.locator("#state")).to_have_text(state)


def texts(page):
    return page.locator("#messages .text")


def test_two_people_talk_by_enter_and_by_click(relay, open_page):
    one, other = open_page(relay.http_url + "prices"), open_page(relay.http_url + "prices")
    for page in (one, other):
        expect(page).to_have_title("prices \N{EN DASH} fastbcast")
        expect(page.locator("#channel")).to_have_text("prices")
        expect_state(page, "connected")
        expect(page.get_by_role("status")).to_have_text("connected")
        expect(page.locator("#listeners")).to_have_text("2")
    expect(one.get_by_label("Message to the server")).to_be_focused()
    one.keyboard.type("by Enter")
    one.keyboard.press("Enter")
    expect(texts(other)).to_have_text(["by Enter"])
    other.get_by_label("Message to the server").fill("by click, Grüße 🎉")
    other.get_by_role("button", name="Send").click()
    for page in (one, other):
        expect(texts(page)).to_have_text(["by Enter", "by click, Grüße 🎉"])
        expect(page.locator("#message-input")).to_have_value("")
        expect(page.locator("#received")).to_have_text("2")


def test_the_count_of_listeners_falls_when_one_leaves(relay, open_page):
    one, other = open_page(relay.http_url), open_page(relay.http_url)
    expect(one.locator("#channel")).to_have_text("default")
    expect(one.locator("#listeners")).to_have_text("2")
    other.close()
    expect(one.locator("#listeners")).to_have_text("1")


@pytest.mark.parametrize(
    ("path", "channel"),
    [("a/b/", "a/b"), ("gr%C3%BC%C3%9Fe%20%25", "grüße %"), ("/elsewhere.invalid/x", "elsewhere.invalid/x")],
)
def test_the_path_names_the_channel(relay, open_page, path, channel):
    page = open_page(relay.http_url + path)
    expect(page.locator("#channel")).to_have_text(channel)
    expect_state(page, "connected")
    expect(page.locator("#listeners")).to_have_text("1")
    with connect(relay.url + path) as connection:
        connection.send("here")
        expect(texts(page)).to_have_text(["here"])


def test_markup_stays_text(relay, open_page):
    page = open_page(relay.http_url)
    expect_state(page, "connected")
    attack = "<img src=x onerror=\"document.title='owned'\"><script>document.title='owned'</script>"
    page.locator("#message-input").fill(attack)
    page.keyboard.press("Enter")
    expect(texts(page)).to_have_text([attack])
    expect(page.locator("#messages img, #messages script")).to_have_count(0)
    expect(page).to_have_title("default \N{EN DASH} fastbcast")


def test_binary_empty_and_long_messages_are_told_apart(relay, open_page):
    page = open_page(relay.http_url)
    expect_state(page, "connected")
    with connect(relay.url) as connection:
        for message in (b"\x00\x7f\xff", b"\xab" * 70_000, "", b"", "x" * 70_000):
            connection.send(message)
        expect(texts(page)).to_have_text(["00 7f ff", " ".join(["ab"] * 256) + " …", "", "", "x" * 1000 + "…"])
    notes = ["binary, 3 bytes", "binary, 70,000 bytes", "empty", "binary, 0 bytes", "70,000 characters"]
    expect(page.locator("#messages .note")).to_have_text(notes)


def test_a_flood_is_bounded_and_follows_the_newest_unless_somebody_scrolled_up(relay, open_page):
    page = open_page(relay.http_url)
    expect_state(page, "connected")
    numbers = itertools.count(1)
    with connect(relay.url) as connection:

        def flood(messages):
            for _ in range(messages):
                connection.send(f"message {next(numbers)}")
                connection.recv(timeout=seconds(10))  # the relay sends it here, too

        flood(3000)
        expect(page.locator("#received")).to_have_text("3,000")
        expect(texts(page)).to_have_count(500)
        expect(texts(page).last).to_have_text("message 3000")
        expect(texts(page).last).to_be_in_viewport()
        expect(page.locator("#rate")).not_to_have_text("0")
        page.locator("#messages").focus()
        page.keyboard.press("PageUp")
        newest = page.get_by_role("button", name="Newest")
        expect(texts(page).last).not_to_be_in_viewport()
        flood(10)
        expect(texts(page).last).to_have_text("message 3010")
        expect(texts(page).last).not_to_be_in_viewport()
        newest.click()
        expect(texts(page).last).to_be_in_viewport()
        expect(newest).to_be_hidden()
        flood(10)
        expect(texts(page).last).to_have_text("message 3020")
        expect(texts(page).last).to_be_in_viewport()


def test_the_page_reconnects_after_the_server_came_back(relay, open_page, serve_process):
    page = open_page(relay.http_url)
    expect_state(page, "connected")
    page.locator("#message-input").fill("before")
    page.keyboard.press("Enter")
    expect(texts(page)).to_have_text(["before"])
    page.locator("#message-input").fill("not sent yet")
    relay.stop()
    expect_state(page, "disconnected")
    expect(page.locator("#closed")).to_have_text("Closed with 1001: going away.")
    expect(page.locator("#retry")).to_have_text(re.compile(r"^Next try in \d+ s\.$"))
    expect(page.locator("#message-input")).to_be_disabled()
    expect(page.locator("#send")).to_be_disabled()
    expect(page.locator("#listeners")).to_have_text("\N{EN DASH}")
    serve_process("--relay", "--port", str(relay.port))
    expect_state(page, "connected")
    expect(page.locator("#closed")).to_have_text("")
    expect(page.locator("#listeners")).to_have_text("1")
    expect(page.locator("#message-input")).to_be_focused()
    expect(page.locator("#message-input")).to_have_value("not sent yet")
    page.keyboard.press("Enter")
    expect(texts(page)).to_have_text(["before", "not sent yet"])


def test_the_delays_grow_and_stay_bounded(relay, open_page):
    page = open_page(relay.http_url)
    expect_state(page, "connected")
    # From here on no try succeeds and no delay is waited for. The page's own policy forbids wait_for_function.
    page.evaluate("""() => {
        const delays = [];
        window.WebSocket = class { constructor() { setTimeout(() => this.onclose({ code: 1006, reason: "" })); } };
        const wait = window.setTimeout;
        window.tried = new Promise((resolve) => {
            window.setTimeout = (run, delay) => {
                if (run !== connect) return wait(run, delay);
                if (delays.push(delay) < 12) return wait(run, 0);
                resolve(delays);
            };
        });
    }""")
    relay.stop()
    delays = page.evaluate("window.tried")
    assert len(delays) == 12
    for attempt, delay in enumerate(delays):
        full = min(30_000, 500 * 2**attempt)
        assert full / 2 <= delay <= full
    assert len({delay / min(30_000, 500 * 2**attempt) for attempt, delay in enumerate(delays)}) > 1


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_a_phone(relay, open_page, scheme):
    page = open_page(
        relay.http_url + "x" * 100, color_scheme=scheme, viewport={"width": 390, "height": 700}, is_mobile=True
    )
    expect_state(page, "connected")
    with connect(relay.url + "x" * 100) as connection:
        connection.send("a_long_word_" * 50)
        expect(texts(page)).to_have_count(1)
    expect(page.locator("#send")).to_be_in_viewport(ratio=1)
    assert page.evaluate("document.documentElement.scrollWidth") == 390
    red, _, _ = page.evaluate("getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)")
    assert (red > 127) == (scheme == "light")


def test_the_demo_feeds_the_page(start_process, open_page):
    demo = start_process([sys.executable, "-m", "fastbcast", "demo", "--port", "0"])
    page = open_page(demo.http_url)
    expect(texts(page).first).to_contain_text("BTC")
    expect(texts(page).nth(1)).to_contain_text("BTC")


def test_chromium_as_a_foreign_client(relay, open_page):
    page = open_page(relay.http_url)
    expect_state(page, "connected")
    check_browser(relay, page.evaluate)


def test_the_page_over_tls(serve_process, open_page, authority, tmp_path):
    cert, key = str(tmp_path / "cert.pem"), str(tmp_path / "key.pem")
    certificate = authority.issue_cert("127.0.0.1")
    certificate.cert_chain_pems[0].write_to_path(cert)
    certificate.private_key_pem.write_to_path(key)
    relay = serve_process("--relay", "--cert", cert, "--key", key)
    pages = [open_page(relay.http_url, ignore_https_errors=True) for _ in range(2)]
    for page in pages:
        expect_state(page, "connected")
    for message in ("over TLS", "x" * 100_000):
        pages[0].get_by_label("Message to the server").fill(message)
        pages[0].keyboard.press("Enter")
    for page in pages:
        expect(page.locator("#received")).to_have_text("2")
        expect(texts(page).first).to_have_text("over TLS")
