"""Token files: what they may hold, who gets in with which token, and that none is ever shown."""

import hmac
import logging
import os

import pytest
from raw_client import RawClient, ask, handshake, serving
from reference import CLOSE, TEXT, Frame, close_payload
from support import subscribed

from fastbcast import Grant, Hub, Reject, Request
from fastbcast.exceptions import BadTokenFile
from fastbcast.identity import tokens
from fastbcast.identity.tokens import MAX_TOKENS, MIN_TOKEN_CHARACTERS, Tokens

READER = "reader-0123456789abcdef"
WRITER = "writer+/~._-0123456789=="
BOTH = "both-0123456789abcdef"
STRANGER = "stranger-0123456789abcdef"
SECRETS = (READER, WRITER, BOTH, STRANGER)


@pytest.fixture
def write(tmp_path):
    def write_file(content, name="tokens", mode=0o600):
        path = tmp_path / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        path.chmod(mode)
        return path

    return write_file


def request(token=None, query="", channel="prices"):
    headers = {} if token is None else {"authorization": f"Bearer {token}"}
    return Request(f"/{channel}", query, headers, ("127.0.0.1", 1), channel)


def decide(hook, *arguments, **options):
    """What a hook decides: a status, or what may be subscribed and published."""
    try:
        grant = hook(request(*arguments, **options))
    except Reject as rejection:
        return int(rejection.status)
    return ("*",) * 2 if grant is None else (*grant.subscribe, "|", *grant.publish)


# Who gets in.


@pytest.mark.parametrize(
    ("options", "decisions"),
    [
        # nobody, reader, writer, both, stranger
        ("relay", ["* *"] * 5),
        ("", ["* |"] * 5),
        ("subscribe", [401, "prices* |", 401, "both |", 401]),
        ("subscribe relay", [401, "prices* | prices*", 401, "both | both", 401]),
        ("publish", ["* |", 401, "* | *", "* | a b", 401]),
        ("subscribe publish", [401, "prices* |", "| *", "both | a b", 401]),
    ],
)
def test_what_each_token_opens(write, options, decisions):
    subscribe_path = write(f"{READER} prices*\n{BOTH} both\n", "subscribe") if "subscribe" in options else None
    publish_path = write(f"{WRITER}\n{BOTH} a b\n", "publish") if "publish" in options else None
    hook = Tokens(subscribe_path, publish_path, relay="relay" in options)
    decided = [decide(hook, token) for token in (None, READER, WRITER, BOTH, STRANGER)]
    assert [decision if isinstance(decision, int) else " ".join(decision) for decision in decided] == decisions


def test_a_token_counts_only_as_a_whole(write):
    hook = Tokens(write(READER))
    for token in (READER[:-1], READER + "x", READER.upper(), " ", "*", READER + "\x00"):
        assert decide(hook, token) == 401
    assert decide(hook, READER) == ("*", "|")
    assert decide(hook, query=f"token={READER}") == ("*", "|")
    assert decide(hook, STRANGER, query=f"token={READER}") == 401


def test_all_tokens_are_compared_whichever_it_is_and_each_in_constant_time(write, monkeypatch):
    hook = Tokens(write("\n".join(SECRETS[:3])), write("\n".join(SECRETS[1:3]), "publish"))
    compared = []

    def compare_digest(one, other):
        compared.append((len(one), len(other)))
        return hmac.compare_digest(one, other)

    monkeypatch.setattr(tokens, "compare_digest", compare_digest)
    for token in (*SECRETS, "x", None):
        compared.clear()
        decide(hook, token)
        assert compared == [(32, 32)] * 5


# The files.


def test_comments_blank_lines_and_the_marks_of_other_systems_are_passed_over(write):
    hook = Tokens(write(f"\ufeff# who may listen\r\n\r\n  {READER}   prices* news # the desk\r\n\t{BOTH} #\n"))
    assert decide(hook, READER) == ("prices*", "news", "|")
    assert decide(hook, BOTH) == ("*", "|")
    assert decide(hook, "#") == 401


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("", "there is no token in it"),
        ("\n# only a comment\n", "there is no token in it"),
        (f"{READER}\n\n{'x' * (MIN_TOKEN_CHARACTERS - 1)} prices\n", "the token in line 3 has less than 16 characters"),
        (f"{READER}\n{READER} news\n", "the token in line 2 is there already"),
        ("0123456789abcdef,0123\n", "the token in line 1 has characters that no token has"),
        ("0123456789abcdefü\n", "the token in line 1 has characters that no token has"),
        ("0123456789abcdef\x00\n", "the token in line 1 has characters that no token has"),
        ("0123456789abcdef#no-comment\n", "the token in line 1 has characters that no token has"),
        (f"{READER} news /prices\n", "a pattern in line 1 begins or ends with a slash, as no channel of a path does"),
        (f"{READER} prices/\n", "a pattern in line 1 begins or ends with a slash, as no channel of a path does"),
        ("====================\n", "the token in line 1 has characters that no token has"),
        (b"0123456789abcdef\xff\n", "it is not UTF-8 text"),
        ("\n".join(f"0123456789-{number:05}" for number in range(MAX_TOKENS + 1)), "it has more than 1000 tokens"),
        ("#" * (1024 * 1024 + 1), "it has more than 1048576 bytes"),
    ],
    ids=lambda value: None if len(value) > 50 else value,
)
def test_a_bad_file_is_told_in_a_sentence_that_shows_no_token(write, content, reason):
    path = write(content)
    with pytest.raises(BadTokenFile) as caught:
        Tokens(path)
    assert str(caught.value) == f"token file {path}: {reason}"
    assert (caught.value.path, caught.value.reason) == (path, reason)


def test_a_fifo_that_nobody_writes_to_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "tokens", 0o600)
    with pytest.raises(BadTokenFile, match="there is no token in it"):
        Tokens(tmp_path / "tokens")


def test_a_file_may_be_named_by_a_str(write):
    assert decide(Tokens(str(write(READER))), READER) == ("*", "|")


@pytest.mark.parametrize(("name", "reason"), [("absent", "No such file or directory"), ("", "Is a directory")])
def test_a_file_that_cannot_be_read_is_told(tmp_path, name, reason):
    with pytest.raises(BadTokenFile, match=reason):
        Tokens(tmp_path / name)


def test_as_many_tokens_as_there_may_be_are_taken(write):
    hook = Tokens(write("\n".join(f"0123456789-{number:05}" for number in range(MAX_TOKENS))))
    assert decide(hook, f"0123456789-{MAX_TOKENS - 1:05}") == ("*", "|")


@pytest.mark.parametrize(("mode", "is_warned"), [(0o600, False), (0o640, False), (0o644, True), (0o602, True)])
def test_a_file_that_everybody_can_open_is_warned_of(write, caplog, mode, is_warned):
    path = write(READER, mode=mode)
    Tokens(path)
    assert [record.levelname for record in caplog.records] == ["WARNING"] * is_warned
    assert (str(path) in caplog.text) == is_warned


# Reloading.


async def test_a_reload_takes_the_new_tokens_and_those_who_are_connected_stay(write):
    path = write(f"{READER}\n{BOTH}\n")
    hub, hook = Hub(), Tokens(path, relay=True)
    hub.authorize(hook)
    hub.on_message(hub.relay)
    async with serving(hub) as server:
        old = await RawClient.connect(server.port, Authorization=f"Bearer {BOTH}")
        write(f"{READER}\n{WRITER}\n")
        assert hook.reload()
        assert (await ask(server.port, handshake(Authorization=f"Bearer {BOTH}")))[0] == 401
        new = await RawClient.connect(server.port, Authorization=f"Bearer {WRITER}")
        await subscribed(hub, "default", 2)
        await old.send_frame(TEXT, b"still here")
        for raw in (old, new):
            assert await raw.read_payloads(1) == [b"still here"]


@pytest.mark.parametrize("is_gone", [False, True])
def test_a_bad_file_keeps_the_tokens_of_both_files_and_logs_one_error(write, caplog, is_gone):
    subscribe_path, publish_path = write(READER), write(WRITER, "publish")
    hook = Tokens(subscribe_path, publish_path)
    write(STRANGER)
    if is_gone:
        publish_path.unlink()
    else:
        write("short", "publish")
    assert not hook.reload()
    (record,) = caplog.records
    assert record.levelno == logging.ERROR
    assert str(publish_path) in record.getMessage()
    assert decide(hook, READER) == ("*", "|")
    assert decide(hook, WRITER) == ("|", "*")
    assert decide(hook, STRANGER) == 401


# On the wire.


def test_the_answers_to_a_wrong_token_and_to_a_wrong_channel(run, write, caplog):
    async def scenario():
        hub = Hub()
        hub.authorize(Tokens(write(f"{READER} prices*\n")))
        hub.on_message(hub.relay)
        async with serving(hub) as server:
            for path, headers, expected, body in (
                ("/prices", {}, 401, b"a token is needed\n"),
                ("/prices", {"Authorization": f"Bearer {STRANGER}"}, 401, b"not a token of this server\n"),
                ("/prices", {"Authorization": f"Basic {READER}"}, 401, b"a token is needed\n"),
                (f"/prices?token={STRANGER}", {}, 401, b"not a token of this server\n"),
                ("/news", {"Authorization": f"Bearer {READER}"}, 403, b"not this channel\n"),
                (f"/news?token={READER}", {}, 403, b"not this channel\n"),
            ):
                status, answered, text = await ask(server.port, handshake(path, **headers))
                assert (status, text) == (expected, body)
                assert answered.get("www-authenticate") == ("Bearer" if status == 401 else None)
            for path, headers in (
                ("/prices", {"Authorization": f"Bearer {READER}"}),
                (f"/prices?x&token={READER.replace('-', '%2D')}", {}),
            ):
                raw = await RawClient.connect(server.port, path, **headers)
                await subscribed(hub, "prices")
                await raw.send_frame(TEXT, b"x")
                (close,) = await raw.read_to_close()
                assert close == Frame(CLOSE, close_payload(1008, "publishing is not allowed"))
                raw.close()
                await subscribed(hub, "prices", 0)

    run(scenario())
    assert caplog.records == []


def test_no_repr_shows_a_token(write):
    hook = Tokens(write("\n".join(SECRETS)), write("\n".join(SECRETS), "publish"))
    grant = hook(request(READER))
    assert isinstance(grant, Grant)
    shown = f"{hook!r} {vars(hook)!r} {grant!r} {request(READER)!r}"
    assert not any(secret in shown for secret in SECRETS)
    assert os.fspath(hook._subscribe_path) in shown
