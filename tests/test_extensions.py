"""permessage-deflate in the handshake: what is offered, what is answered, and what clients make of the answer."""

from contextlib import closing
from itertools import product

import pytest
import websockets
from hypothesis import given
from hypothesis import strategies as st
from raw_client import RawClient, ask, handshake
from reference import TEXT, Frame
from support import until
from websockets.exceptions import InvalidHeader
from websockets.extensions.permessage_deflate import ClientPerMessageDeflateFactory
from websockets.headers import build_extension, parse_extension

from fastbcast import Hub, serve
from fastbcast.deflate.parameters import Deflate
from fastbcast.http.extensions import choose_deflate, find_offers, is_extension_list

DEFLATE = "permessage-deflate"
ASKED = "client_no_context_takeover"    # what a server may ask for though it was not offered

# Offers, and the answer of a server that asks for nothing; None: there is none.
OFFERS = [
    (DEFLATE, DEFLATE),
    (f"{DEFLATE}; client_max_window_bits", DEFLATE),    # browsers, Node
    (f"{DEFLATE}; server_no_context_takeover", f"{DEFLATE}; server_no_context_takeover"),
    (f"{DEFLATE}; client_no_context_takeover", f"{DEFLATE}; client_no_context_takeover"),
    *((f"{DEFLATE}; server_max_window_bits={bits}", f"{DEFLATE}; server_max_window_bits={bits}")
      for bits in range(9, 16)),
    *((f"{DEFLATE}; client_max_window_bits={bits}", DEFLATE) for bits in range(8, 16)),
    (
        f"{DEFLATE}; client_max_window_bits=10; server_max_window_bits=9; client_no_context_takeover; "
        "server_no_context_takeover",
        f"{DEFLATE}; server_no_context_takeover; client_no_context_takeover; server_max_window_bits=9",
    ),
    # How it may be written.
    (f'{DEFLATE}; server_max_window_bits="10"', f"{DEFLATE}; server_max_window_bits=10"),
    (rf'{DEFLATE}; server_max_window_bits="\1\0"', f"{DEFLATE}; server_max_window_bits=10"),
    (f"{DEFLATE};server_max_window_bits=10;client_max_window_bits", f"{DEFLATE}; server_max_window_bits=10"),
    (f"\t{DEFLATE} \t; server_max_window_bits =\t10 ", f"{DEFLATE}; server_max_window_bits=10"),
    (f", ,{DEFLATE},,", DEFLATE),
    # Several: the first that can be met.
    (f"{DEFLATE}; server_no_context_takeover, {DEFLATE}", f"{DEFLATE}; server_no_context_takeover"),
    (f"{DEFLATE}, {DEFLATE}; server_no_context_takeover", DEFLATE),
    (
        f"{DEFLATE}; server_max_window_bits=8, {DEFLATE}; server_max_window_bits=9",
        f"{DEFLATE}; server_max_window_bits=9",
    ),
    (f"{DEFLATE}; unknown, {DEFLATE}; server_max_window_bits=x, {DEFLATE}", DEFLATE),
    # Others that nobody here knows.
    ("permessage-bzip2", None),
    ("x-webkit-deflate-frame", None),
    (f'permessage-foo; x="10"; x; y, {DEFLATE}', DEFLATE),
    (DEFLATE.upper(), None),
    # Declined.
    (f"{DEFLATE}; unknown", None),
    (f"{DEFLATE}; unknown=10", None),
    (f"{DEFLATE}; Server_no_context_takeover", None),
    (f"{DEFLATE}; server_no_context_takeover; server_no_context_takeover", None),
    (f"{DEFLATE}; client_no_context_takeover; client_no_context_takeover", None),
    (f"{DEFLATE}; server_max_window_bits=10; server_max_window_bits=10", None),
    (f"{DEFLATE}; client_max_window_bits; client_max_window_bits=10", None),
    (f"{DEFLATE}; server_no_context_takeover=1", None),
    (f"{DEFLATE}; client_no_context_takeover=true", None),
    (f"{DEFLATE}; server_max_window_bits", None),
    *((f"{DEFLATE}; server_max_window_bits={bits}", None) for bits in ("0", "7", "8", "16", "09", "010", "+9", "1e1")),
    *((f"{DEFLATE}; client_max_window_bits={bits}", None) for bits in ("0", "7", "16", "08", "015", "-9", "x")),
]

MALFORMED = [
    "", ",", " , ,", ";", "=", DEFLATE + ";", f"{DEFLATE}; ", f"; {DEFLATE}", f"{DEFLATE};; client_max_window_bits",
    f"{DEFLATE}=1", f"{DEFLATE}; server_max_window_bits=", f"{DEFLATE}; =10", f"{DEFLATE} client_max_window_bits",
    f"{DEFLATE}; server_max_window_bits=9=9", f"{DEFLATE}; server_max_window_bits=1 0", f'{DEFLATE}; x=""',
    f'{DEFLATE}; server_max_window_bits="10', f'{DEFLATE}; server_max_window_bits=10"', f'"{DEFLATE}"',
    f'{DEFLATE}; "x"', f'{DEFLATE}; x="1,0"', f'{DEFLATE}; x="1;0"', f'{DEFLATE}; x=" 10"', f'{DEFLATE}; x="10\\"',
    f'{DEFLATE}; x="10"1', f"{DEFLATE}; x=(10)", f"{DEFLATE}; x=ü", f"{DEFLATE}, ü", f"other/1, {DEFLATE}",
]

PARAMETERS = (
    "server_no_context_takeover", "client_no_context_takeover", "server_max_window_bits", "client_max_window_bits",
)
names = st.sampled_from([*PARAMETERS, DEFLATE, "x"]) | st.text("!#$%&'*+-.^_`|~09azAZ", min_size=1)
values = st.none() | st.integers(0, 17).map(str) | names
extension_lists = st.lists(
    st.tuples(st.just(DEFLATE) | names, st.lists(st.tuples(names, values), max_size=4)), min_size=1
)
headers = (
    st.lists(
        st.sampled_from([*PARAMETERS, DEFLATE, "x", "9", "10", *'=;,"\\', ";", ",", " ", "\t", "ü", "\x00"])
    ).map("".join)
    | st.text(st.characters(max_codepoint=255))
    | extension_lists.map(build_extension)
)


def answer_to(header, *, asks=False):
    assert is_extension_list(header)
    deflate = choose_deflate(header, client_no_context_takeover=asks)
    return None if deflate is None else str(deflate)


@pytest.mark.parametrize(("offer", "answer"), OFFERS)
def test_the_first_offer_that_can_be_met_is_answered_with_what_it_names(offer, answer):
    assert answer_to(offer) == answer


@pytest.mark.parametrize(("offer", "answer"), OFFERS)
def test_a_server_may_ask_for_client_no_context_takeover_unasked_and_for_nothing_else(offer, answer):
    asked = answer_to(offer, asks=True)
    if answer is None:
        assert asked is None
    else:
        assert set(asked.split("; ")) == set(answer.split("; ")) | {ASKED}


@pytest.mark.parametrize("header", MALFORMED)
def test_what_is_no_list_of_extensions_is_known(header):
    assert not is_extension_list(header)


def test_clients_that_settle_on_the_same_share_it():
    offer = f"{DEFLATE}; server_max_window_bits=9"
    assert choose_deflate(offer, client_no_context_takeover=True) is choose_deflate(
        f"other, {offer}", client_no_context_takeover=True
    )


@pytest.mark.parametrize("start", ["", "a;a=", 'a;a="'])
@pytest.mark.parametrize("length", [1, 2, 3, 4])
def test_a_head_full_of_separators_is_read_in_no_time(start, length):
    """With one blank that two parts of the rule may take, the first of them takes longer than anybody waits."""
    for piece in map("".join, product('a;,="\\ ', repeat=length)):
        assert not is_extension_list(start + piece * (16_000 // length) + "ü")


@given(headers)
def test_any_header_is_read_as_the_websockets_library_reads_it(header):
    try:
        extensions = parse_extension(header.strip(" \t"))
    except InvalidHeader:
        assert not is_extension_list(header)
    else:
        assert is_extension_list(header)
        assert list(find_offers(header)) == [parameters for name, parameters in extensions if name == DEFLATE]


@given(extension_lists, st.data())
def test_what_was_written_is_read_however_it_was_written(extensions, data):
    blanks = st.sampled_from(["", "", " ", "\t"])

    def write_value(value):
        form = data.draw(st.sampled_from(["token", "quoted", "escaped"]))
        return value if form == "token" else f'"{value}"' if form == "quoted" else '"\\' + "\\".join(value) + '"'

    def write(name, value=None):
        pieces = [name] if value is None else [name, "=", write_value(value)]
        return "".join(data.draw(blanks) + piece for piece in pieces) + data.draw(blanks)

    header = ",".join(
        ";".join([write(name), *(write(*parameter) for parameter in parameters)]) for name, parameters in extensions
    )
    assert is_extension_list(header)
    assert list(find_offers(header)) == [parameters for name, parameters in extensions if name == DEFLATE]


@given(extension_lists, st.booleans())
def test_an_answer_is_what_one_of_the_offers_allows(extensions, asks):
    answer = answer_to(build_extension(extensions), asks=asks)
    offers = [dict(parameters) for name, parameters in extensions if name == DEFLATE]
    if answer is None:
        assert {} not in offers     # whoever offers it plainly gets it
        return
    ((name, parameters),) = parse_extension(answer)
    answered = dict(parameters)
    assert name == DEFLATE
    if asks:
        answered.pop(ASKED)
    # Section 7.1: what limits the server must come back; of what limits the client this answers no window.
    assert any(
        answered.items() <= offer.items() and not (set(offer) - {ASKED, "client_max_window_bits"} - set(answered))
        for offer in offers
    )


# On a connection.


async def negotiated(port, *lines):
    """Send a handshake with these lines of the header; what the 101 says of it."""
    head = handshake("/prices")[:-2] + b"".join(b"%b\r\n" % line.encode("latin-1") for line in lines) + b"\r\n"
    with closing(await RawClient.connect_tcp(port)) as client:
        await client.send(head)
        status, *answered = (await client.read_head()).split("\r\n")
        assert status.startswith("HTTP/1.1 101 ")
        return [line for line in answered if line.lower().startswith("sec-websocket-ext")]


@pytest.mark.parametrize(
    ("lines", "answer"),
    [
        ([], []),
        (["Sec-WebSocket-Extensions: permessage-deflate"], ["permessage-deflate"]),
        (
            ["Sec-WebSocket-Extensions: permessage-deflate; unknown", "sec-websocket-extensions:permessage-deflate"],
            ["permessage-deflate"],
        ),
        (
            ["Sec-WebSocket-Extensions: permessage-foo", "Host-Header: x",
             'SEC-WEBSOCKET-EXTENSIONS: permessage-deflate; server_max_window_bits="1\\0"'],
            ["permessage-deflate; server_max_window_bits=10"],
        ),
        (["Sec-WebSocket-Extensions: permessage-deflate; server_max_window_bits=8"], []),
    ],
    ids=["none", "one", "two lines", "three lines", "declined"],
)
async def test_the_header_may_come_in_several_lines(lines, answer):
    async with serve(Hub(), compression="deflate", client_no_context_takeover=False) as server:
        expected = [f"Sec-WebSocket-Extensions: {value}" for value in answer]
        assert await negotiated(server.port, *lines) == expected


@pytest.mark.parametrize("compression", ["off", "deflate", "window"])
@pytest.mark.parametrize("header", ["", "permessage-deflate;", 'x; y="', "a b"])
async def test_a_malformed_header_is_refused_with_400_whatever_the_server_compresses(header, compression):
    async with serve(Hub(), compression=compression) as server:
        status, _, body = await ask(server.port, handshake(Sec_WebSocket_Extensions=header))
        assert status == 400
        assert body == b"Sec-WebSocket-Extensions must be a list of extensions and their parameters\n"
        assert server.stats()["responses"] == {400: 1}


@pytest.mark.parametrize("asks", [False, True])
@pytest.mark.parametrize("compression", ["off", "deflate", "window"])
async def test_the_client_knows_what_was_negotiated_and_the_server_counts_it(compression, asks):
    expected = {
        None: "off",
        "permessage-foo": "off",
        "permessage-deflate": compression,
        "permessage-deflate; server_max_window_bits=12": compression,
        "permessage-deflate; server_no_context_takeover": "off" if compression == "off" else "deflate",
    }

    hub = Hub()
    connected = []
    hub.on_connect(connected.append)
    counted = {"off": 0, "deflate": 0, "window": 0}
    async with serve(hub, compression=compression, client_no_context_takeover=asks) as server:
        assert server.stats()["compression"] == counted
        for header, form in expected.items():
            client = await RawClient.connect(server.port, Sec_WebSocket_Extensions=header)
            client.close()
            counted[form] += 1
            assert server.stats()["compression"] == counted
        await until(lambda: not hub.stats()["clients"])
        assert server.stats()["compression"] == counted     # a counter: nobody has been taken away
    offered = [Deflate(False, asks, None), Deflate(False, asks, 12), Deflate(True, asks, None)]
    assert [client.deflate for client in connected] == [None, None, *(
        [None] * 3 if compression == "off" else offered
    )]


async def test_a_response_may_name_a_subprotocol_and_an_extension():
    hub = Hub()
    async with serve(hub, subprotocols=["chat"], compression="window") as server:
        with closing(await RawClient.connect_tcp(server.port)) as client:
            await client.send(
                handshake("/prices", Sec_WebSocket_Protocol="chat", Sec_WebSocket_Extensions=DEFLATE)
            )
            lines = (await client.read_head()).split("\r\n")
            assert lines.count("Sec-WebSocket-Protocol: chat") == 1
            assert lines.count(f"Sec-WebSocket-Extensions: {DEFLATE}; {ASKED}") == 1
            hub.publish("prices", "hi")     # too small to compress
            assert await client.read_frames(1) == [Frame(TEXT, b"hi")]


@pytest.mark.parametrize("asks", [False, True])
async def test_the_websockets_library_takes_the_answer_to_whatever_it_offers(asks):
    """Its client ends a handshake whose answer its offer does not allow."""
    offers = [
        ClientPerMessageDeflateFactory(*parameters)
        for parameters in product([False, True], [False, True], [None, 8, 9, 12, 15], [None, True, 9, 15])
    ]

    async def settle(url, hub, offers):
        async with websockets.connect(url, compression=None, extensions=offers) as connection:
            (client,) = (client for client in hub.clients() if client.remote_address == connection.local_address)
            return client.deflate, connection.protocol.extensions

    hub = Hub()
    async with serve(hub, compression="window", client_no_context_takeover=asks) as server:
        url = f"ws://127.0.0.1:{server.port}/prices"
        for offer in offers:
            deflate, extensions = await settle(url, hub, [offer])
            if offer.server_max_window_bits == 8:
                assert (deflate, extensions) == (None, [])
                continue
            (extension,) = extensions
            assert extension.remote_no_context_takeover == deflate.server_no_context_takeover
            assert extension.local_no_context_takeover == deflate.client_no_context_takeover
            assert extension.remote_max_window_bits == (deflate.server_max_window_bits or 15)
        # And several: the one with a window of 256 bytes is passed over.
        deflate, (extension,) = await settle(url, hub, [
            ClientPerMessageDeflateFactory(server_max_window_bits=8),
            ClientPerMessageDeflateFactory(server_max_window_bits=11, server_no_context_takeover=True),
            ClientPerMessageDeflateFactory(),
        ])
        assert deflate == Deflate(True, asks, 11)
        assert extension.remote_max_window_bits == 11
        # A default client is left with what a default server gives.
        deflate, extensions = await settle(url, hub, [ClientPerMessageDeflateFactory()])
        assert deflate == Deflate(False, asks, None)
