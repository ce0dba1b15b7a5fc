"""`publish_threadsafe` from any place: threads, signal handlers, `__del__`, a forked child; and logging there."""

import asyncio
import contextlib
import faulthandler
import gc
import itertools
import logging
import os
import signal
import threading
import time
import warnings

import pytest
from conftest import seconds
from support import connections, raw_connections, until

from fastbcast import Hub, PublishQueueFull, serve
from fastbcast import logging as log
from fastbcast._publish_queue import PublishQueue
from fastbcast.logging import log_event

SIGNAL_SECONDS = 0.0002
MESSAGES = 3000     # of each place


@pytest.fixture(autouse=True)
def a_deadlock_ends_the_process():
    """A thread that waits for a lock which it holds itself cannot be interrupted."""
    faulthandler.dump_traceback_later(seconds(60), exit=True)
    yield
    faulthandler.cancel_dump_traceback_later()


@contextlib.contextmanager
def often_interrupted(handler):
    """Call `handler` between the bytecodes of the main thread, again and again, but not in the middle of itself."""
    is_busy = False

    def interrupt(*_):
        nonlocal is_busy
        if not is_busy:
            is_busy = True
            handler()
            is_busy = False

    before = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, SIGNAL_SECONDS, SIGNAL_SECONDS)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


@contextlib.contextmanager
def often_collected():
    """Let the garbage collector run at every few allocations."""
    before = gc.get_threshold()
    gc.collect()
    gc.freeze()
    gc.set_threshold(5, 1, 1)
    try:
        yield
    finally:
        gc.set_threshold(*before)
        gc.unfreeze()


class Garbage:
    """A cycle, so that only the collector finds it: `at_end` is called by its `__del__`."""

    def __init__(self, at_end):
        self.at_end = at_end
        self.me = self

    def __del__(self):
        self.at_end()


class Place:
    """Publishes numbered messages, and remembers how many."""

    def __init__(self, hub, name):
        self.hub = hub
        self.name = name
        self.count = 0

    def publish(self):
        number, self.count = self.count, self.count + 1
        self.hub.publish_threadsafe("default", f"{self.name} {number}")

    def publish_some(self):
        if self.count < MESSAGES:
            self.publish()

    def publish_all(self):
        while self.count < MESSAGES:
            self.publish()


def check_order(payloads, places):
    """What each place has published is there, once and in order."""
    for place in places:
        own = [int(payload.split()[1]) for payload in payloads if payload.startswith(place.name.encode() + b" ")]
        assert own == list(range(place.count)), place.name
    assert len(payloads) == sum(place.count for place in places)


async def test_a_signal_handler_may_publish_while_the_same_thread_does():
    hub = Hub()
    main, handler = Place(hub, "main"), Place(hub, "handler")
    async with connections(hub, "/") as (raw, _):
        with often_interrupted(handler.publish_some):
            while main.count < MESSAGES or handler.count < MESSAGES:
                for _ in range(10):
                    main.publish_some()
                hub.publish("other", "and the loop's thread its own")
                await asyncio.sleep(0)
        check_order(await raw.read_payloads(main.count + handler.count), (main, handler))


async def test_a_del_that_the_collector_runs_may_publish_in_the_middle_of_a_publish():
    hub = Hub()
    main, collected = Place(hub, "main"), Place(hub, "collected")
    async with connections(hub, "/") as (raw, _):
        with often_collected():
            while main.count < MESSAGES:
                Garbage(collected.publish)
                main.publish()
                if main.count % 10 == 0:
                    await asyncio.sleep(0)
        gc.collect()
        assert collected.count >= MESSAGES
        check_order(await raw.read_payloads(main.count + collected.count), (main, collected))


async def test_many_places_at_once_lose_double_and_reorder_nothing():
    hub = Hub()
    threads = [Place(hub, f"thread-{number}") for number in range(3)]
    main, handler = Place(hub, "main"), Place(hub, "handler")
    async with connections(hub, "/") as (raw, _):
        with often_interrupted(handler.publish_some):
            publishing = asyncio.gather(*[asyncio.to_thread(place.publish_all) for place in threads])
            while main.count < MESSAGES or not publishing.done():
                main.publish_some()
                await asyncio.sleep(0)
        places = (*threads, main, handler)
        check_order(await raw.read_payloads(sum(place.count for place in places)), places)
        assert hub.stats()["published_messages"] == sum(place.count for place in places)


async def test_a_loop_that_sleeps_is_woken_by_a_signal_handler():
    hub = Hub()
    async with connections(hub, "/") as (raw, _):
        before = signal.signal(signal.SIGUSR1, lambda *_: hub.publish_threadsafe("default", "wake up"))
        try:
            reading = asyncio.create_task(raw.read_payloads(1))
            # In a thread: by then the loop waits for the socket, with nothing else to do.
            killing = threading.Thread(target=os.kill, args=(os.getpid(), signal.SIGUSR1))
            killing.start()
            assert await reading == [b"wake up"]
            killing.join()
        finally:
            signal.signal(signal.SIGUSR1, before)


async def test_a_publish_that_is_interrupted_by_an_exception_leaves_the_rest_to_be_published():
    published, errors = [], []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda loop, context: errors.append(context["exception"]))

    def publish(channel, frame, key):
        if frame == b"1":
            raise LookupError("of a signal handler, say")
        published.append(frame)

    queue = PublishQueue(1_000_000, 1.0, publish)
    queue.bind(loop)
    for frame in (b"0", b"1", b"2", b"3"):
        queue.put("default", frame, None)
    await until(lambda: len(published) == 3)
    assert published == [b"0", b"2", b"3"]
    assert [type(error) for error in errors] == [LookupError]


def test_what_is_published_when_the_loop_is_closed_is_dropped_and_fills_nothing():
    hub = Hub(max_threadsafe_bytes=1000)

    async def serve_once():
        async with serve(hub):
            pass

    asyncio.run(serve_once())
    for _ in range(100):
        hub.publish_threadsafe("default", "nobody is there")


async def test_a_forked_child_never_waits_for_a_thread_that_it_does_not_have():
    hub = Hub()
    places = [Place(hub, f"thread-{number}") for number in range(2)]
    is_over = threading.Event()

    def publish(place):
        while not is_over.is_set():
            with contextlib.suppress(PublishQueueFull):
                hub.publish_threadsafe("default", place.name)
            log_event(logging.DEBUG, "from_a_thread")

    with often_logged():
        publishing = asyncio.gather(*[asyncio.to_thread(publish, place) for place in places])
        async with raw_connections(hub):
            for _ in range(20):
                await asyncio.sleep(0)
                assert wait_for_child(fork(hub)) == 0
        is_over.set()
        await publishing


@contextlib.contextmanager
def often_logged():
    """Let what is logged at DEBUG be counted, and go nowhere."""
    level, propagate = log.logger.level, log.logger.propagate
    nowhere = logging.NullHandler()
    log.logger.addHandler(nowhere)
    log.logger.setLevel(logging.DEBUG)
    log.logger.propagate = False
    try:
        yield
    finally:
        log.logger.setLevel(level)
        log.logger.propagate = propagate
        log.logger.removeHandler(nowhere)


def fork(hub):
    """Fork a child that publishes and logs; return its pid."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)     # of Python 3.12: there are threads
        pid = os.fork()
    if pid == 0:
        status = 1
        try:
            with contextlib.suppress(PublishQueueFull):
                hub.publish_threadsafe("default", "of a child")
            log_event(logging.DEBUG, "from_a_thread")
            status = 0
        finally:
            os._exit(status)
    return pid


def wait_for_child(pid):
    """Return the exit status of the child, None if it does not end."""
    end = time.monotonic() + seconds(10)
    while time.monotonic() < end:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.001)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    return None


def test_a_line_may_be_logged_by_a_signal_handler_in_the_middle_of_another(monkeypatch):
    monkeypatch.setattr(log, "WINDOW_SECONDS", 0.001)   # or nearly all would be counted only
    counts = itertools.count()
    with often_logged(), often_interrupted(lambda: log_event(logging.DEBUG, "of_all", number=next(counts))):
        while next(counts) < 10_000:
            log_event(logging.DEBUG, "of_all", number=0)
