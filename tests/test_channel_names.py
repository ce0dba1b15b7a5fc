"""Which names channels may have: what the application asks for raises, what a client's path asks for gets 400."""

from contextlib import closing
from urllib.parse import quote

import pytest
from raw_client import RawClient, ask, handshake, serving
from support import connections

from fastbcast import Hub, InvalidChannelName

PERSIAN = "می\u200cروم"
GOOD = ["prices", "a/b", "grüße %", "日本語", "a b", "x" * 255, "ü" * 127, "/", "%2F",
        PERSIAN, "क्\u200dष", "👩\u200d💻", "é", "e\u0301"]
BAD = ["", "a\nb", "a\x00", "tab\t", "\x7f",
       "\u200b", "\u200d", "\u200c\u200d", "\u200e", "\u202ea", "\u2028", "\ud800", "a?b", "a#b", "x" * 256, "ü" * 128]


@pytest.mark.parametrize("name", GOOD)
def test_a_printable_name_within_the_limit_is_taken(name):
    hub = Hub()
    assert hub.channel(name).name == name
    assert hub.publish(name, "x") == 1


@pytest.mark.parametrize("name", BAD)
def test_another_name_raises_and_makes_no_channel(name):
    hub = Hub()
    for ask_for in (hub.channel, lambda name: hub.publish(name, "x")):
        with pytest.raises(InvalidChannelName) as caught:
            ask_for(name)
        assert isinstance(caught.value, ValueError)
        assert caught.value.name == name
        assert caught.value.reason in str(caught.value)
        assert str(caught.value).isprintable()
        assert len(str(caught.value)) < 400
    assert hub.channels() == []
    assert hub.stats()["refused"] == {"channel_name": 2}


def test_another_thread_is_told_at_once():
    hub = Hub()
    with pytest.raises(InvalidChannelName):
        hub.publish_threadsafe("a\nb", "x")


@pytest.mark.parametrize("name", ["a\x01", "a?b", "x" * 256])
async def test_a_path_that_no_channel_may_be_called_is_answered_with_400(name):
    hub = Hub()
    async with serving(hub) as server:
        status, _, body = await ask(server.port, handshake("/" + quote(name)))
        assert status == 400
        assert body.startswith(b"not a channel's name: ")
        assert name.encode() not in body
        assert hub.stats()["refused"] == {"channel_name": 1}
        assert hub.channels() == []


async def test_a_client_is_not_subscribed_to_a_name_that_cannot_be():
    hub = Hub()
    async with connections(hub, "/a") as (_, client):
        with pytest.raises(InvalidChannelName):
            client.subscribe("a\nb")
        assert client.channels == ("a",)


async def test_length_and_alphabet_may_be_set():
    hub = Hub(max_channel_name_bytes=4, channel_name_pattern="[a-z]+")
    for name in ("A", "a1", "a/b", "abcde", "abc\n", "a?"):
        with pytest.raises(InvalidChannelName):
            hub.channel(name)
    hub.channel("abcd")
    async with serving(hub) as server:
        assert (await ask(server.port, handshake("/Abc")))[0] == 400
        with closing(await RawClient.connect(server.port, "/abc")):
            pass


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"channel_name_pattern": "[a-"}, ValueError),
        ({"channel_name_pattern": ""}, ValueError),
        ({"channel_name_pattern": None}, TypeError),
        ({"channel_name_pattern": b"a"}, TypeError),
        ({"max_channel_name_bytes": 0}, ValueError),
        ({"max_subscriptions": 0}, ValueError),
        ({"max_inbound_messages_per_second": -1}, ValueError),
        ({"max_inbound_messages_per_second": float("nan")}, ValueError),
        ({"max_inbound_messages_per_second": "10"}, TypeError),
    ],
)
def test_a_bad_limit_raises_at_once(options, error):
    with pytest.raises(error, match=next(iter(options))):
        Hub(**options)


async def test_joiners_in_a_path_name_the_channel_of_the_same_spelling():
    hub = Hub()
    name = f"{PERSIAN}/👩\u200d💻"
    async with serving(hub) as server:
        with closing(await RawClient.connect(server.port, "/" + quote(name))) as client:
            assert hub.publish(name.replace("\u200d", ""), "another") == 1
            hub.publish(name, "hello")
            assert await client.read_payloads(1) == [b"hello"]


async def test_two_spellings_in_unicode_of_one_word_are_two_channels():
    hub = Hub()
    async with serving(hub) as server:
        with closing(await RawClient.connect(server.port, "/prix-d%C3%A9part")) as client:
            hub.publish("prix-de\u0301part", "decomposed")
            hub.publish("prix-d%C3%A9part", "not decoded")
            hub.publish("prix-départ", "composed")
            assert await client.read_payloads(1) == [b"composed"]
