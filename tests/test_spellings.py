"""The spellings of a place to listen at: each has its effect, or is refused with the right one."""

import asyncio
import errno
import logging
import os
import socket
from contextlib import closing
from pathlib import Path

import pytest
from raw_client import RawClient
from test_cli import assert_one_line, fastbcast_command

from fastbcast import Hub, serve

ABSENT = "192.0.2.1"
"""An address of a network for documents (RFC 5737), which no machine has."""


def resolve_to(monkeypatch, *hosts):
    """Let the running loop resolve every name to `hosts`, as /etc/hosts might: that file is the machine's."""

    async def getaddrinfo(host, port, **options):
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (host, port)) for host in hosts]

    monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", getaddrinfo, raising=False)


@pytest.mark.parametrize("hosts", [(ABSENT, "127.0.0.1"), ("127.0.0.1", ABSENT)], ids=["first", "last"])
def test_an_address_of_a_name_that_this_machine_does_not_have_is_skipped(run, monkeypatch, caplog, hosts):
    caplog.set_level(logging.INFO)

    async def scenario():
        with monkeypatch.context() as patch:
            resolve_to(patch, *hosts)
            server = await serve(Hub(), "localhost")
        assert [listener.getsockname() for listener in server.sockets] == [("127.0.0.1", server.port)]
        with closing(await RawClient.connect(server.port)):
            pass
        await server.close()

    run(scenario())
    assert [record.getMessage() for record in caplog.records] == [
        f"address_skipped address={ABSENT} reason=\"{os.strerror(errno.EADDRNOTAVAIL)}\""
    ]


async def test_a_name_of_which_this_machine_has_no_address_is_an_error(monkeypatch):
    reason = os.strerror(errno.EADDRNOTAVAIL)
    with monkeypatch.context() as patch, pytest.raises(OSError, match=reason):
        resolve_to(patch, ABSENT, "198.51.100.1")
        await serve(Hub(), "localhost")


async def test_an_address_that_is_in_use_is_an_error_though_another_of_the_name_is_free(monkeypatch):
    with socket.socket() as taken:
        taken.bind(("127.0.0.2", 0))
        taken.listen()
        reason = os.strerror(errno.EADDRINUSE)
        with monkeypatch.context() as patch, pytest.raises(OSError, match=reason):
            resolve_to(patch, "127.0.0.1", "127.0.0.2")
            await serve(Hub(), "localhost", taken.getsockname()[1])


async def test_an_address_may_have_the_brackets_of_a_url():
    async with serve(Hub(), "[127.0.0.1]") as server:
        assert server.host == "127.0.0.1"
        with closing(await RawClient.connect(server.port)):
            pass


async def test_a_socket_file_may_be_named_by_a_path_object(tmp_path):
    async with serve(Hub(), uds=Path(tmp_path) / "server") as server:
        assert server.sockets[0].getsockname() == str(tmp_path / "server")


WRONG_PATHS = {
    "": "is empty",
    "unix:/run/fastbcast.sock": "'/run/fastbcast.sock'",
    "@fastbcast": "abstract",
    "\0fastbcast": "abstract",
    "/run/fast\0bcast": "abstract",
}


@pytest.mark.parametrize(("path", "advice"), WRONG_PATHS.items())
def test_what_is_no_path_of_a_socket_file_is_refused_and_the_right_one_told(path, advice):
    with pytest.raises(ValueError, match="uds") as caught:
        serve(Hub(), uds=path)
    assert advice in str(caught.value)


def test_bytes_are_no_path_of_a_socket_file():
    with pytest.raises(TypeError, match="uds"):
        serve(Hub(), uds=b"/run/fastbcast.sock")


@pytest.mark.parametrize("option", ["--uds", "--handover"])
@pytest.mark.parametrize("path", ["", "unix:server", "@server"])
def test_the_command_says_so_in_one_line(option, path, tmp_path):
    status, output, errors = fastbcast_command("serve", option, path, cwd=tmp_path)
    assert (status, output) == (2, "")
    assert_one_line(errors, option.strip("-"))
    assert list(tmp_path.iterdir()) == []


def test_a_path_that_is_too_long_for_a_socket_is_named(tmp_path):
    path = str(tmp_path / ("x" * 120))
    status, output, errors = fastbcast_command("serve", "--uds", path)
    assert (status, output) == (1, "")
    assert_one_line(errors, f"cannot listen on {path}: too long")


@pytest.mark.parametrize(
    "places",
    [("--uds", "server", "--host", "::1"), ("--uds", "server", "--port", "80"), ("--fd", "3", "--port", "80"),
     ("--uds", "server", "--fd", "3")],
    ids=" ".join,
)
def test_two_places_to_listen_at_are_refused(places):
    status, output, errors = fastbcast_command("serve", *places)
    assert (status, output) == (2, "")
    assert f"{places[0]} and {places[2]} are two places" in errors.splitlines()[-1]
