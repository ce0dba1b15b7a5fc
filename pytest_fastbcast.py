"""pytest's plugin: the fixtures broadcast_server, fleet and slow_client. See docs/testing.md.

It is beside the package, not in it: to import a part of fastbcast is to import all of it, and every pytest run of
whoever has fastbcast installed would pay for that. So fastbcast is imported when a fixture is used.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from types import ModuleType
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from fastbcast.testing import BroadcastServer
    from fastbcast.testing.fleet import Fleet, FleetClient

MARKER = "broadcast_server(relay=False, **settings): settings of the fixture: HubOptions, ChannelOptions, serve()"


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", MARKER)


@pytest.fixture
def broadcast_server(request: pytest.FixtureRequest) -> Iterator[BroadcastServer]:
    """A real server on a free port, its event loop in a thread of its own: url, url_of, publish, call, drain, hub.

    @pytest.mark.broadcast_server(policy="conflate", relay=True) sets options.
    """
    from fastbcast.testing import BroadcastServer

    settings: dict[str, object] = {}
    for mark in reversed(list(request.node.iter_markers("broadcast_server"))):  # the nearest one has the last word
        if mark.args:
            pytest.fail(f"broadcast_server: settings are given by name, not {mark.args!r}", pytrace=False)
        settings |= mark.kwargs
    try:
        server = BroadcastServer(**settings)  # type: ignore[arg-type]
    except (TypeError, ValueError) as error:
        pytest.fail(f"broadcast_server: {error}", pytrace=False)
    with server:
        yield server


@pytest.fixture
def fleet(request: pytest.FixtureRequest) -> Iterator[Callable[..., Fleet]]:
    """Make n real clients: fleet(100, "prices") -> counts, messages, drain(), closes; url=... for another server.

    fleet(count, channel="default", *, server=None, url=None, keep_messages=True)
    """
    fleets = _import_fleets()
    with ExitStack() as stack:

        def connect(
            count: int,
            channel: str | None = None,
            *,
            server: BroadcastServer | None = None,
            url: str | None = None,
            keep_messages: bool = True,
        ) -> Fleet:
            server, url = _find_server(request, channel, server, url)
            fleet: Fleet = fleets.Fleet(count, url, server=server, keep_messages=keep_messages)
            return stack.enter_context(fleet)

        yield connect


@pytest.fixture
def slow_client(request: pytest.FixtureRequest) -> Iterator[Callable[..., FleetClient]]:
    """Make a client that does not keep up: slow_client("stall"), "1KB/s", "bursts", or a number of bytes a second.

    slow_client(rate="stall", channel="default", *, server=None, url=None, receive_buffer_bytes=4096)
    """
    fleets = _import_fleets()
    with ExitStack() as stack:

        def connect(
            rate: str | float = "stall",
            channel: str | None = None,
            *,
            server: BroadcastServer | None = None,
            url: str | None = None,
            receive_buffer_bytes: int = fleets.SLOW_RECEIVE_BUFFER_BYTES,
        ) -> FleetClient:
            slow = fleets.parse_rate(rate)
            server, url = _find_server(request, channel, server, url)
            fleet: Fleet = fleets.Fleet(1, url, server=server, slow=slow, receive_buffer_bytes=receive_buffer_bytes)
            return stack.enter_context(fleet)[0]

        yield connect


def _import_fleets() -> ModuleType:
    try:
        from fastbcast.testing import fleet
    except ImportError as error:
        reason = str(error)
    else:
        return fleet
    pytest.fail(reason, pytrace=False)


def _find_server(
    request: pytest.FixtureRequest, channel: str | None, server: BroadcastServer | None, url: str | None
) -> tuple[BroadcastServer | None, str]:
    """The server and the URL of a channel: of `url`, of `server`, or of the fixture."""
    if url is not None:
        if channel is not None or server is not None:
            raise ValueError("a url says which server and channel: give nothing beside it")
        return None, url
    if server is None:
        server = request.getfixturevalue("broadcast_server")
    return server, server.url_of(channel or "default")
