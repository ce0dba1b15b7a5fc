"""Trusted proxies: whom X-Forwarded-For and Forwarded make a connection's address, and whom not."""

import asyncio
from contextlib import closing

import pytest
from hypothesis import given
from hypothesis import strategies as st
from raw_client import RawClient, ask, get
from support import subscribed, until

from fastbcast import Hub, serve
from fastbcast.http.proxies import MAX_ELEMENT_CHARACTERS, MAX_HOPS, TrustedProxies

FORWARDED_FOR = "x-forwarded-for"
FORWARDED = "forwarded"


@pytest.mark.parametrize(
    ("names", "peer", "is_trusted"),
    [
        ([], ("127.0.0.1", 1), False),
        ([], "", False),
        (["127.0.0.1"], ("127.0.0.1", 1), True),
        (["127.0.0.1"], ("127.0.0.2", 1), False),
        (["10.0.0.0/8"], ("10.255.0.1", 1), True),
        (["10.0.0.0/8"], ("::ffff:10.255.0.1", 1, 0, 0), True),
        (["10.0.0.0/8"], ("11.0.0.1", 1), False),
        (["fd00::/8"], ("fd12::1", 1, 0, 0), True),
        (["fe80::/10"], ("fe80::1%eth0", 1, 0, 2), True),
        (["fd00::/8"], ("10.0.0.1", 1), False),
        (["unix"], "", True),
        (["unix"], ("127.0.0.1", 1), False),
        (["127.0.0.1"], "", False),
        (["FE80::/10"], ("fe80::1%eth0", 1, 0, 2), True),
        # IPv4 in IPv6, as a socket of both families writes it.
        (["::ffff:10.0.0.1"], ("10.0.0.1", 1), True),
        (["::FFFF:0A00:1"], ("::ffff:10.0.0.1", 1, 0, 0), True),
        (["::ffff:10.0.0.1"], ("10.0.0.2", 1), False),
        (["::ffff:10.0.0.0/104"], ("10.255.0.1", 1), True),
        (["::ffff:0:0/96"], ("192.0.2.1", 1), True),
        # As it may be written in a list with commas.
        ([" 10.0.0.1"], ("10.0.0.1", 1), True),
        (["10.0.0.1", " unix "], "", True),
        (["10.0.0.0/255.0.0.0"], ("10.255.0.1", 1), True),
        (["0.0.0.0/0"], ("192.0.2.1", 1), True),
        (["*"], ("192.0.2.1", 1), True),
        (["*"], "", True),
        (["10.0.0.0/8", "127.0.0.1"], ("127.0.0.1", 1), True),
    ],
)
def test_who_is_trusted(names, peer, is_trusted):
    assert TrustedProxies(names).trust(peer) == is_trusted


@pytest.mark.parametrize("name", ["", "localhost", "10.0.0.0/33", "10.0.0.1/8", "UNIX", "1.2.3", "**"])
def test_what_is_no_address_is_refused_when_it_is_set(name):
    with pytest.raises(ValueError, match="forwarded_allow_ips"):
        serve(Hub(), forwarded_allow_ips=[name])


@pytest.mark.parametrize(
    ("name", "advice"),
    [
        ("10.0.0.1/8", "write 10.0.0.0/8"),
        ("fd00::1/8", "write fd00::/8"),
        ("unix:", "`unix`"),
        ("UNIX", "`unix`"),
        ("unix:/run/proxy.sock", "`unix`"),
        ("[::1]", "without brackets"),
        ("fe80::1%eth0", "zone"),
        ("0.0.0.0", "0.0.0.0/0, or `*`"),
        ("::", "::/0, or `*`"),
    ],
)
def test_a_spelling_that_would_match_nobody_is_refused_and_the_right_one_told(name, advice):
    with pytest.raises(ValueError, match="forwarded_allow_ips") as caught:
        serve(Hub(), forwarded_allow_ips=[name])
    assert advice in str(caught.value)


PROXIES = ["10.0.0.0/8", "fd00::/8"]


@pytest.mark.parametrize(
    ("header", "value", "expected"),
    [
        # The right-most that is not trusted.
        (FORWARDED_FOR, "203.0.113.7", "203.0.113.7"),
        (FORWARDED_FOR, "203.0.113.7, 10.0.0.2", "203.0.113.7"),
        (FORWARDED_FOR, "6.6.6.6, 203.0.113.7, 10.0.0.2, 10.0.0.3", "203.0.113.7"),
        (FORWARDED_FOR, "10.6.6.6, 203.0.113.7", "203.0.113.7"),
        # All are trusted: the first.
        (FORWARDED_FOR, "10.0.0.9, 10.0.0.2", "10.0.0.9"),
        # As some write it.
        (FORWARDED_FOR, "203.0.113.7:4711", "203.0.113.7"),
        (FORWARDED_FOR, "  203.0.113.7\t,10.0.0.2", "203.0.113.7"),
        (FORWARDED_FOR, "2001:db8::7", "2001:db8::7"),
        (FORWARDED_FOR, "[2001:db8::7]:443", "2001:db8::7"),
        (FORWARDED_FOR, "2001:DB8:0:0::7", "2001:db8::7"),
        (FORWARDED_FOR, "::ffff:203.0.113.7", "203.0.113.7"),
        (FORWARDED_FOR, "203.0.113.7, fd00::1", "203.0.113.7"),
        # What cannot be read hides what is left of it; the proxy before it is known.
        (FORWARDED_FOR, "6.6.6.6, unknown", None),
        (FORWARDED_FOR, "6.6.6.6, unknown, 10.0.0.2", "10.0.0.2"),
        (FORWARDED_FOR, "6.6.6.6, , 10.0.0.2", "10.0.0.2"),
        (FORWARDED_FOR, "", None),
        (FORWARDED_FOR, ",", None),
        (FORWARDED_FOR, "203.0.113.700", None),
        (FORWARDED_FOR, "203.0.113.7 6.6.6.6", None),
        (FORWARDED_FOR, "ü", None),
        (FORWARDED, "for=203.0.113.7", "203.0.113.7"),
        (FORWARDED, "For=203.0.113.7;proto=https;by=10.0.0.1", "203.0.113.7"),
        (FORWARDED, 'proto=https; host="a.example" ; for="203.0.113.7:4711"', "203.0.113.7"),
        (FORWARDED, 'for="[2001:db8::7]:4711"', "2001:db8::7"),
        (FORWARDED, 'for="[2001:db8::7]"', "2001:db8::7"),
        (FORWARDED, "for=6.6.6.6, for=203.0.113.7, for=10.0.0.2", "203.0.113.7"),
        (FORWARDED, 'for=203.0.113.7;host="a, for=10.6.6.6", for=10.0.0.2', "203.0.113.7"),
        (FORWARDED, "for=6.6.6.6, for=unknown, for=10.0.0.2", "10.0.0.2"),
        (FORWARDED, "for=6.6.6.6, for=_hidden", None),
        (FORWARDED, "for=6.6.6.6, proto=https", None),
        (FORWARDED, "for=6.6.6.6, x-for=6.6.6.6", None),
        (FORWARDED, "", None),
        (FORWARDED, "for=", None),
        # What a client leaves open does not swallow what a proxy appends.
        (FORWARDED, 'for="6.6.6.6, for=203.0.113.7', "203.0.113.7"),
        (FORWARDED, 'for=6.6.6.6;x=", for="[2001:db8::7]"', "2001:db8::7"),
        (FORWARDED, 'for=6.6.6.6;x="\\, for="[2001:db8::7]"', "2001:db8::7"),
        (FORWARDED, 'host="a, for=6.6.6.6";for=203.0.113.7', "203.0.113.7"),
        (FORWARDED, 'host="a;for=6.6.6.6"', None),
    ],
)
def test_whom_a_header_names(header, value, expected):
    found = TrustedProxies(PROXIES).find_client({header: value})
    assert (found and found[0]) == expected
    if expected is not None:
        assert found[1:] == ((0, 0, 0) if ":" in expected else (0,))


def test_of_two_headers_that_disagree_neither_is_believed():
    proxies = TrustedProxies(PROXIES)
    assert proxies.find_client({FORWARDED_FOR: "203.0.113.7", FORWARDED: "for=203.0.113.7"}) == ("203.0.113.7", 0)
    assert proxies.find_client({FORWARDED_FOR: "203.0.113.7", FORWARDED: "for=6.6.6.6"}) is None
    assert proxies.find_client({FORWARDED_FOR: "203.0.113.7", FORWARDED: "x"}) is None


def test_if_everybody_is_trusted_it_is_the_first():
    assert TrustedProxies(["*"]).find_client({FORWARDED_FOR: "6.6.6.6, 203.0.113.7"}) == ("6.6.6.6", 0)


def test_an_element_that_is_too_long_is_a_hop_that_cannot_be_read():
    proxies = TrustedProxies(PROXIES)
    start = ",for=203.0.113.7;by="
    for length, expected in ((MAX_ELEMENT_CHARACTERS, ("203.0.113.7", 0)), (MAX_ELEMENT_CHARACTERS + 1, None)):
        assert proxies.find_client({FORWARDED: "for=6.6.6.6" + start.ljust(length, "x")}) == expected


def test_a_long_list_is_read_only_so_far():
    proxies = TrustedProxies(PROXIES)
    for header, prefix in ((FORWARDED_FOR, ""), (FORWARDED, "for=")):
        hops = [f"{prefix}203.0.113.7", *[f"{prefix}10.0.0.1"] * (MAX_HOPS - 1)]
        assert proxies.find_client({header: ", ".join(hops)}) == ("203.0.113.7", 0)
        hops.append(f"{prefix}10.0.0.2")
        assert proxies.find_client({header: ", ".join(hops)}) == ("10.0.0.1", 0)


@given(
    header=st.sampled_from([FORWARDED_FOR, FORWARDED]),
    junk=st.text(alphabet=st.sampled_from('for=",;\\ []:.0123456789abx_\t'), max_size=40) | st.text(max_size=20),
)
def test_whatever_a_client_sends_before_what_a_proxy_appends_changes_nothing(header, junk):
    for appended in ("203.0.113.7", "[2001:db8::7]"):
        hop = appended if header == FORWARDED_FOR else f'for="{appended}"'
        found = TrustedProxies(PROXIES).find_client({header: f"{junk}, {hop}"})
        assert found[0] == appended.strip("[]")


# On a server.


async def test_a_client_behind_a_trusted_proxy_has_the_address_that_the_proxy_names():
    hub = Hub()
    seen, gone = [], []

    @hub.authorize
    async def look(request):
        await asyncio.sleep(0)
        seen.append(request.remote_address)

    hub.on_disconnect(lambda client, _: gone.append(client.remote_address))
    async with serve(hub, forwarded_allow_ips=["127.0.0.1"]) as server:
        with closing(await RawClient.connect(server.port, X_Forwarded_For="6.6.6.6, 203.0.113.7")):
            await subscribed(hub, "default")
            assert next(hub.clients()).remote_address == ("203.0.113.7", 0)
        await until(lambda: gone)
        assert seen == gone == [("203.0.113.7", 0)]
        with closing(await RawClient.connect(server.port)) as direct:
            assert seen[1] == direct.sock.getsockname()
        with closing(await RawClient.connect(server.port, X_Forwarded_For="nonsense")) as direct:
            assert seen[2] == direct.sock.getsockname()


@pytest.mark.parametrize("allowed", [[], ["10.0.0.0/8"], ["unix"]], ids=str)
async def test_a_peer_that_is_not_trusted_cannot_name_another_address(allowed):
    hub = Hub()
    async with serve(hub, forwarded_allow_ips=allowed) as server:
        headers = {"X_Forwarded_For": "6.6.6.6", "Forwarded": "for=6.6.6.6"}
        with closing(await RawClient.connect(server.port, **headers)) as raw:
            await subscribed(hub, "default")
            assert next(hub.clients()).remote_address == raw.sock.getsockname()
        assert server.stats()["addresses"] == 0


async def test_plain_requests_are_from_whom_the_proxy_names_too():
    hub = Hub()
    seen = []
    hub.authorize(lambda request: seen.append(request.remote_address))
    async with serve(hub, page=True, forwarded_allow_ips=["*"]) as server:
        status, _, _ = await ask(server.port, get("/?listeners", Forwarded='for="[2001:db8::7]:1"'))
        assert status == 200
    assert seen == [("2001:db8::7", 0, 0, 0)]
