"""Rights: what a Grant lets a client do, and what becomes of one that does more."""

import asyncio

import pytest
from raw_client import RawClient, ask, get, handshake, serving
from reference import BINARY, CLOSE, TEXT, Frame, close_payload
from support import connections, raw_connections, say_goodbye, subscribed, until

from fastbcast import Grant, Hub

NOT_ALLOWED = (1008, "publishing is not allowed")


def granting(hub, grant):
    hub.authorize(lambda request: grant)
    hub.on_message(hub.relay)
    return hub


# Grant.


@pytest.mark.parametrize(
    ("patterns", "allowed", "refused"),
    [
        (("*",), ["prices", "a/b", ""], []),
        ((), [], ["prices", "*", ""]),
        (("prices",), ["prices"], ["Prices", "prices/x", "price"]),
        (("prices*", "news"), ["prices", "prices/btc", "news"], ["new", "newsroom"]),
        (("[ab]?",), ["ax", "b1"], ["a", "cx", "axx"]),
    ],
)
def test_the_patterns_of_a_grant_are_those_of_configure(patterns, allowed, refused):
    for grant, ask_grant in (
        (Grant(subscribe=patterns, publish=()), Grant.may_subscribe),
        (Grant(subscribe=(), publish=patterns), Grant.may_publish),
    ):
        assert [ask_grant(grant, name) for name in allowed + refused] == [True] * len(allowed) + [False] * len(refused)


@pytest.mark.parametrize("name", ["subscribe", "publish"])
@pytest.mark.parametrize("patterns", ["prices", (b"prices",), (None,), [1]])
def test_a_grant_takes_several_patterns_only(name, patterns):
    with pytest.raises(TypeError, match=name):
        Grant(**{name: patterns})


def test_a_grant_does_not_change_when_what_it_was_made_of_does():
    patterns = ["a"]
    grant = Grant("ada", subscribe=patterns)
    patterns.append("b")
    assert not grant.may_subscribe("b")
    with pytest.raises(AttributeError):
        grant.publish = ("*",)
    assert grant == Grant("ada", subscribe=("a",))
    assert hash(grant) == hash(Grant("ada", subscribe=iter(["a"])))


# The way in.


@pytest.mark.parametrize("kind", ["sync", "async"])
async def test_a_grant_sets_identity_and_rights_and_a_bare_identity_restricts_nothing(kind):
    hub = Hub()

    def decide(request):
        return Grant("ada", subscribe=["a*"], publish=["b"]) if request.channel == "a" else "grace"

    async def decide_later(request):
        await asyncio.sleep(0)
        return decide(request)

    hub.authorize(decide if kind == "sync" else decide_later)
    async with connections(hub, "/a", "/c") as [(_, ada), (_, grace)]:
        assert (ada.identity, grace.identity) == ("ada", "grace")
        assert [ada.may_subscribe(name) for name in ("a", "ab", "b")] == [True, True, False]
        assert [ada.may_publish(name) for name in ("a", "ab", "b")] == [False, False, True]
        assert grace.rights is None
        assert grace.may_subscribe("anything")
        assert grace.may_publish("anything")


async def test_without_a_hook_everything_is_allowed():
    async with connections(Hub(), "/a") as (_, client):
        assert client.may_subscribe("b")
        assert client.may_publish("b")


async def test_who_may_only_publish_is_connected_and_gets_nothing():
    hub = Hub()
    hub.authorize(lambda request: Grant(subscribe=(), publish=("prices",)) if request.query else None)
    hub.on_message(hub.relay)
    async with raw_connections(hub, "/prices?feed", "/prices") as [feed, listener]:
        await subscribed(hub, "prices", 1)
        assert len(list(hub.clients())) == 2
        await feed.send_frame(TEXT, b"64000")
        assert await listener.read_payloads(1) == [b"64000"]
        await say_goodbye(listener)
        assert await say_goodbye(feed) == (1000, "")  # and nothing before it


async def test_who_may_neither_subscribe_nor_publish_is_refused_with_403_before_the_101():
    hub = granting(Hub(), Grant(subscribe=("a",), publish=("b",)))
    connected = []
    hub.on_connect(connected.append)
    async with serving(hub) as server:
        status, _, body = await ask(server.port, handshake("/c"))
        assert (status, body) == (403, b"not this channel\n")
        assert connected == []
        assert server.responses == {403: 1}
        raws = [await RawClient.connect(server.port, path) for path in ("/a", "/b")]
        await until(lambda: len(connected) == len(raws))
        assert [client.channels for client in connected] == [("a",), ()]


async def test_how_many_listen_is_told_to_those_who_may_do_something_there():
    hub = granting(Hub(), Grant(subscribe=("a",), publish=("b",)))
    async with serving(hub, page=True) as server:
        for path, expected in (("/a", 200), ("/b", 200), ("/c", 403)):
            assert (await ask(server.port, get(f"{path}?listeners")))[0] == expected


async def test_where_the_path_names_no_channel_it_is_not_asked_for():
    hub = granting(Hub(), Grant(subscribe=("a",), publish=()))
    hub.on_connect(lambda client: client.subscribe("b"))
    async with raw_connections(hub, "/endpoint", subscribe_path=False) as raw:
        await subscribed(hub, "b")
        hub.publish("b", "the application decided it")
        assert await raw.read_payloads(1) == [b"the application decided it"]


# Hub.relay.


async def test_relay_publishes_to_the_channel_of_the_client_itself_included():
    hub = Hub()
    hub.on_message(hub.relay)
    async with raw_connections(hub, "/a", "/a", "/b") as [one, other, stranger]:
        await subscribed(hub, "a", 2)
        await one.send_frame(TEXT, "grüße".encode())
        await one.send_frame(BINARY, b"\x00\xff")
        for raw in (one, other):
            assert await raw.read_frames(2) == [Frame(TEXT, "grüße".encode()), Frame(BINARY, b"\x00\xff")]
        assert await say_goodbye(stranger) == (1000, "")
        assert hub.stats()["refused"] == {}


def test_a_publish_without_the_right_is_answered_counted_and_harms_nobody(run, caplog):
    async def scenario():
        hub = Hub()
        hub.authorize(lambda request: Grant(publish=("x",) if request.query == "editor" else ()))
        hub.on_message(hub.relay)
        told = []
        hub.on_disconnect(lambda client, disconnect: told.append(disconnect))
        async with raw_connections(hub, "/x", "/x", "/x?editor") as [intruder, listener, editor]:
            await subscribed(hub, "x", 3)
            await editor.send_frame(TEXT, b"before")
            assert await listener.read_payloads(1) == [b"before"]
            for message in (b"one", b"two", b"three"):
                await intruder.send_frame(TEXT, message)
            frames = await intruder.read_to_close()
            assert frames == [Frame(TEXT, b"before"), Frame(CLOSE, close_payload(*NOT_ALLOWED))]
            await intruder.send_frame(CLOSE, close_payload(1008))
            await until(lambda: told)
            await editor.send_frame(TEXT, b"after")
            assert await listener.read_payloads(1) == [b"after"]
            assert await editor.read_payloads(2) == [b"before", b"after"]
            (disconnect,) = told
            assert (disconnect.code, disconnect.reason) == NOT_ALLOWED
            assert (disconnect.by, disconnect.cause) == ("server", "not_allowed")
            stats = hub.stats()
            assert stats["refused"] == {"publish": 1}
            assert stats["disconnects"] == {"not_allowed": 1}
            assert stats["clients"] == 2
            assert stats["published_messages"] == 2

    run(scenario())
    assert caplog.records == []


def test_relay_asks_a_client_to_come_back_when_there_is_no_room_for_its_channel(run, caplog):
    async def scenario():
        hub = Hub(max_channels=1)
        # One that only publishes has no channel as long as it has not published.
        hub.authorize(lambda request: Grant(subscribe=("other",)))
        hub.on_message(hub.relay)
        async with raw_connections(hub, "/feed", "/other") as [feed, other]:
            await subscribed(hub, "other")
            await feed.send_frame(TEXT, b"news")
            assert await feed.read_to_close() == [Frame(CLOSE, close_payload(1013, "too many channels"))]
            await feed.send_frame(CLOSE, close_payload(1013))
            await until(lambda: hub.stats()["disconnects"] == {"too_many_channels": 1})
            assert hub.stats()["refused"] == {"max_channels": 1}
            hub.publish("other", "still served")
            assert await other.read_payloads(1) == [b"still served"]

    run(scenario())
    assert caplog.records == []
