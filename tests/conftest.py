"""What every test file may use: time-outs, programs, and fixtures.

A test that is an `async def` is run on each event loop, for at most 30 s. `run` does that with a coroutine that a plain
test made. `serve_process` starts the real command in a process of its own.
FASTBCAST_TEST_TIMEOUT_SCALE (a number) stretches every time-out, for slow builds and machines.
"""

import asyncio
import inspect
import os
import re
import shutil
import signal
import ssl
import subprocess
import sys
from functools import partial

import hypothesis
import pytest
import trustme
import uvloop
from raw_client import RawClient

import fastbcast.logging

# A build's folder (make asan) has no entry points; where there is one this changes nothing.
pytest_plugins = ["pytest_fastbcast"]

# Where SIGINT is ignored (a job in the background of a script) the processes that are started here would
# inherit that, and could not be interrupted.
signal.signal(signal.SIGINT, signal.default_int_handler)

# What CI says depends on the change alone; the search for new examples goes on wherever people work. A slow build or a
# busy machine is no failure.
hypothesis.settings.register_profile("tests", deadline=None)
hypothesis.settings.register_profile("ci", deadline=None, derandomize=True)
hypothesis.settings.load_profile("ci" if os.environ.get("CI") == "true" else "tests")


def pytest_configure(config):
    # Before Python 3.11 a TLS transport of asyncio (the clients of `websockets`) says so though its peer has closed it.
    if sys.version_info < (3, 11):
        config.addinivalue_line("filterwarnings", "ignore:unclosed transport <asyncio.sslproto:ResourceWarning")


def pytest_pycollect_makeitem(collector, name, obj):
    if collector.istestfunction(obj, name) and inspect.iscoroutinefunction(obj):
        pytest.mark.usefixtures("run")(obj)


@pytest.hookimpl(tryfirst=True)
def pytest_pyfunc_call(pyfuncitem):
    """Run an asynchronous test by the fixture `run`, which makes one of it for each event loop."""
    if not inspect.iscoroutinefunction(pyfuncitem.obj):
        return None
    arguments = {name: pyfuncitem.funcargs[name] for name in pyfuncitem._fixtureinfo.argnames}
    pyfuncitem.funcargs["run"](pyfuncitem.obj(**arguments))
    return True


TIMEOUT_SCALE = float(os.environ.get("FASTBCAST_TEST_TIMEOUT_SCALE", "1"))
MILLISECONDS = 1000  # Playwright counts in them


def seconds(value):
    """A time-out, scaled: it bounds a hang, it is never what a test waits for."""
    return value * TIMEOUT_SCALE


def missing(what):
    """Fail in CI, where nothing may be skipped; skip elsewhere."""
    if os.environ.get("CI") == "true":
        pytest.fail(f"{what}, and CI skips nothing")
    pytest.skip(what)


def find_program(*names):
    for name in names:
        if found := shutil.which(name):
            return found
    return missing(f"no {' or '.join(names)} on PATH")


@pytest.fixture(autouse=True)
def log_lines_are_not_limited_by_the_test_before():
    fastbcast.logging.rate_limit.clear()


LOOPS = {"uvloop": uvloop.run, "asyncio": asyncio.run}


def run_on(loop, coroutine):
    """Run a coroutine to its end on the event loop of this name, for at most 30 s."""

    async def bounded():
        return await asyncio.wait_for(coroutine, seconds(30))

    return LOOPS[loop](bounded())


@pytest.fixture(params=LOOPS)
def run(request):
    """Run a coroutine to its end, for at most 30 s; the test is made for each event loop."""
    return partial(run_on, request.param)


@pytest.fixture(scope="session")
def authority():
    """A certificate authority of our own."""
    return trustme.CA()


@pytest.fixture
def tls(authority, monkeypatch):
    """Let servers and RawClients speak TLS."""
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost", "127.0.0.1").configure_cert(server)
    client = ssl.create_default_context()
    authority.configure_trust(client)
    monkeypatch.setattr(RawClient, "server_tls", server)
    monkeypatch.setattr(RawClient, "client_tls", client)
    return server, client


@pytest.fixture(scope="module")
def browser():
    """A real Chromium. Only as long as a module: Playwright's own event loop runs in this thread meanwhile."""
    from playwright.sync_api import expect, sync_playwright

    program = find_program("chromium", "chromium-browser", "google-chrome")
    expect.set_options(timeout=seconds(20) * MILLISECONDS)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, headless=True, chromium_sandbox=False)
        yield browser
        browser.close()


class ServerProcess:
    """A `fastbcast serve` or `demo` (or another program that prints `listening on ws://...`)."""

    def __init__(self, command):
        self.process = subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,  # or what follows the first line is lost in a buffer that communicate() does not know
            env=os.environ | {"PYTHONUNBUFFERED": "1"},
        )
        line = self.process.stdout.readline().decode()
        match = re.search(r"(ws|wss)://\S+:(\d+)/|unix:", line)
        if match is None:
            self.process.kill()
            raise AssertionError(f"{command} printed {line!r}, then {self.process.communicate()}")
        self.port = int(match[2] or 0)
        self.url = f"{match[1]}://127.0.0.1:{self.port}/"
        self.http_url = self.url.replace("ws", "http", 1)

    def stop(self, number=signal.SIGINT):
        """End it by a signal; return (exit status, rest of standard output, standard error)."""
        if self.process.poll() is None:
            self.process.send_signal(number)
        try:
            output, errors = self.process.communicate(timeout=seconds(20))
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.communicate()
            raise
        return self.process.returncode, output.decode(), errors.decode()


@pytest.fixture
def start_process():
    """Start ServerProcesses that are stopped at the end of the test."""
    started = []

    def start(command):
        started.append(ServerProcess(command))
        return started[-1]

    yield start
    for server in started:
        server.stop(signal.SIGKILL)


@pytest.fixture
def serve_process(start_process):
    """Start `fastbcast serve --port 0` with more arguments."""

    def start(*arguments):
        return start_process([sys.executable, "-m", "fastbcast", "serve", "--port", "0", *arguments])

    return start
