"""The examples, started as a person would, with clients of another library."""

import sys
from pathlib import Path

import pytest
from conftest import seconds
from websockets.exceptions import ConnectionClosed, ConnectionClosedError
from websockets.sync.client import connect

EXAMPLES = Path(__file__).parent.parent / "examples"


@pytest.fixture
def chat(start_process):
    return start_process([sys.executable, str(EXAMPLES / "chat.py"), "--port", "0"])


def recv(connection):
    return connection.recv(timeout=seconds(10))


def log_of(chat):
    status, output, errors = chat.stop()
    assert status == 0, errors
    return output.splitlines(), errors


def test_chat_welcomes_broadcasts_and_logs(chat):
    with connect(chat.url) as one, connect(chat.url) as other:
        assert [recv(one), recv(other)] == ["Welcome to the chat!"] * 2
        one.send("hello")
        assert [recv(one), recv(other)] == ["Broadcast: hello"] * 2
        other.send("Grüße 🎉")
        assert [recv(one), recv(other)] == ["Broadcast: Grüße 🎉"] * 2
        other.send(b"as bytes")
        assert [recv(one), recv(other)] == ["Broadcast: as bytes"] * 2
        one.close(1000, "bye")
        other.send("anybody?")
        assert recv(other) == "Broadcast: anybody?"
    log, errors = log_of(chat)
    assert log[:5] == [
        "Client connected",
        "Client connected",
        "Received: 'hello'",
        "Received: 'Grüße 🎉'",
        "Received: b'as bytes'",
    ]
    # The end of one connection and what comes on another may be seen in either order.
    assert sorted(log[5:]) == ["Client disconnected: 1000", "Client disconnected: 1000 bye", "Received: 'anybody?'"]
    assert errors == ""


def test_chat_says_goodbye_when_it_is_stopped(chat):
    with connect(chat.url) as connection:
        recv(connection)
        log, errors = log_of(chat)
        with pytest.raises(ConnectionClosed) as closed:
            recv(connection)
    assert closed.value.rcvd.code == 1001
    assert log == ["Client connected", "Client disconnected: 1001 going away"]
    assert errors == ""


def test_chat_logs_an_error_and_keeps_serving_the_others(chat):
    with connect(chat.url) as other:
        recv(other)
        with connect(chat.url) as one:
            recv(one)
            one.send("x" * 2**20)  # with "Broadcast: " in front it is above what may be published
            with pytest.raises(ConnectionClosedError) as closed:
                recv(one)
            assert closed.value.rcvd.code == 1011
        other.send("still here?")
        assert recv(other) == "Broadcast: still here?"
    log, errors = log_of(chat)
    assert log[2] == "Received: '" + "x" * 79
    assert log[3] == f"Error: message of {2**20 + len('Broadcast: ')} bytes is above max_message_bytes={2**20}"
    assert sorted(log[4:]) == [
        "Client disconnected: 1000",
        "Client disconnected: 1011 internal error",
        "Received: 'still here?'",
    ]
    assert "MessageTooBig" in errors
