"""What an authorize hook is given, and may answer: the token of a request, and the headers of a rejection."""

from contextlib import closing

import pytest
from raw_client import RawClient, ask, handshake

from fastbcast import Hub, Reject, Request, serve


def request_of(query="", **headers):
    return Request("/prices", query, headers, ("127.0.0.1", 1), "prices")


@pytest.mark.parametrize(
    ("request_", "token"),
    [
        (request_of(), None),
        (request_of(authorization="Bearer abc"), "abc"),
        (request_of(authorization="bearer  abc="), "abc="),
        (request_of(authorization="Bearer"), None),
        (request_of(authorization="Basic YTpi"), None),
        (request_of("token=abc"), "abc"),
        (request_of("last=3&token=a%2Bb+c&x"), "a+b+c"),
        (request_of("token="), None),
        (request_of("mytoken=abc&tokens=abc"), None),
        (request_of("token=query", authorization="Bearer header"), "header"),
        (request_of("token=query", authorization="Basic YTpi"), "query"),
    ],
)
def test_a_request_has_the_token_of_its_header_or_its_query(request_, token):
    assert request_.token == token


def test_the_repr_of_a_request_shows_no_secret():
    request = request_of("token=s3cret", authorization="Bearer s3cret", cookie="session=s3cret")
    assert "s3cret" not in f"{request!r} {request} {[request]}"
    assert "'/prices'" in repr(request)


@pytest.mark.parametrize(
    ("rejection", "challenge"),
    [
        (Reject(401), "Bearer"),
        (Reject(401, headers={"WWW-Authenticate": 'Basic realm="prices"'}), 'Basic realm="prices"'),
        (Reject(403), None),
    ],
)
async def test_a_401_says_which_scheme_it_wants(rejection, challenge):
    hub = Hub()

    @hub.authorize
    def refuse(request):
        raise rejection

    async with serve(hub) as server:
        status, headers, _ = await ask(server.port, handshake())
        assert (status, headers.get("www-authenticate")) == (rejection.status, challenge)


async def test_the_headers_of_a_rejection_are_sent():
    hub = Hub()

    @hub.authorize
    def refuse(request):
        raise Reject(503, headers={"Retry-After": "30"})

    async with serve(hub) as server:
        with closing(await RawClient.connect_tcp(server.port)) as client:
            await client.send(handshake())
            assert "Retry-After: 30\r\n" in (await client.read_head()) + "\r\n"
