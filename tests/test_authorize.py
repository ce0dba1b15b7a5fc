"""The authorize hook: who may come in, and who the client is."""

import asyncio
import logging
from contextlib import closing

import pytest
from raw_client import RawClient, answer_of, ask, handshake
from reference import BINARY, client_frame
from support import authorize_for_ever, end_turn, until

from fastbcast import Hub, Reject, serve


@pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
async def test_what_authorize_returns_is_the_identity(is_async):
    hub = Hub()
    requests = []

    def decide(request):
        requests.append(request)
        return {"user": request.headers["x-user"]}

    async def decide_later(request):
        await asyncio.sleep(0)
        return decide(request)

    hub.authorize(decide_later if is_async else decide)
    connected = asyncio.get_running_loop().create_future()
    hub.on_connect(connected.set_result)
    async with serve(hub) as server:
        with closing(await RawClient.connect(server.port, "/%C3%BCber?token=%41", X_User="ada")) as raw:
            client = await connected
            assert client.identity == {"user": "ada"}
            assert client.channel == "über"
            assert client.remote_address == raw.sock.getsockname()
            (request,) = requests
            assert request.path == "/über"
            assert request.query == "token=%41"
            assert request.channel == "über"
            assert request.remote_address == raw.sock.getsockname()
            assert request.headers["upgrade"] == "websocket"


@pytest.mark.parametrize("values", [("a", "b"), ("same", "same"), ("a", "a"), ("", "")])
async def test_header_lines_of_the_same_name_reach_authorize_joined(values):
    hub = Hub()
    seen = []
    hub.authorize(lambda request: seen.append(request.headers["x-role"]))
    async with serve(hub) as server:
        with closing(await RawClient.connect_tcp(server.port)) as client:
            await client.send(handshake(X_Role="{}\r\nx-role: {}".format(*values)))
            assert (await client.read_head()).startswith("HTTP/1.1 101 ")
    assert seen == [", ".join(values)]


@pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
@pytest.mark.parametrize(
    ("rejection", "status", "body"),
    [(Reject(), 403, b"Forbidden\n"), (Reject(401, "who are you?"), 401, b"who are you?\n"), (Reject(503), 503, None)],
)
def test_reject_answers_with_its_status_and_reason(run, is_async, rejection, status, body, caplog):
    async def scenario():
        hub = Hub()

        def refuse(request):
            raise rejection

        async def refuse_later(request):
            await asyncio.sleep(0)
            raise rejection

        hub.authorize(refuse_later if is_async else refuse)
        async with serve(hub) as server:
            answered, _, answered_body = await ask(server.port, handshake())
            assert answered == status
            assert body is None or answered_body == body
            assert hub.stats()["clients"] == 0

    run(scenario())
    assert caplog.records == []


@pytest.mark.parametrize("status", [200, 399, 600])
def test_reject_takes_an_error_status_only(status):
    with pytest.raises(ValueError, match=str(status)):
        Reject(status)


@pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
def test_an_authorize_hook_that_fails_is_answered_with_500_and_logged(run, is_async, caplog):
    async def scenario():
        hub = Hub()

        def fail(request):
            raise LookupError("the user database is down")

        async def fail_later(request):
            await asyncio.sleep(0)
            fail(request)

        hub.authorize(fail_later if is_async else fail)
        async with serve(hub) as server:
            status, _, body = await ask(server.port, handshake())
            assert status == 500
            assert b"database" not in body

    run(scenario())
    (record,) = caplog.records
    assert (record.event, record.levelno) == ("authorize_failed", logging.ERROR)
    assert isinstance(record.exc_info[1], LookupError)


@pytest.mark.parametrize("kind", [GeneratorExit, KeyError, pytest.fail.Exception], ids=lambda kind: kind.__name__)
@pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
def test_whatever_an_authorize_hook_raises_is_answered_with_500_and_logged(run, is_async, kind, caplog):
    async def scenario():
        hub = Hub()

        def fail(request):
            raise kind("it is no Exception, perhaps")

        async def fail_later(request):
            await asyncio.sleep(0)
            fail(request)

        hub.authorize(fail_later if is_async else fail)
        async with serve(hub) as server:
            status, _, _ = await ask(server.port, handshake())
            assert status == 500
            assert server.stats()["responses"] == {500: 1}

    run(scenario())
    (record,) = caplog.records
    assert (record.event, record.levelno) == ("authorize_failed", logging.ERROR)
    assert isinstance(record.exc_info[1], kind)
    assert record.exc_info[2] is not None


@pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
def test_an_authorize_hook_that_meets_a_cancelled_future_is_answered_with_500_too(run, is_async, caplog):
    async def scenario():
        hub = Hub()
        look_up = asyncio.get_running_loop().create_future()
        look_up.cancel()

        async def decide_later(request):
            await look_up

        hub.authorize(decide_later if is_async else lambda request: look_up.result())
        async with serve(hub) as server:
            status, _, _ = await ask(server.port, handshake())
            assert status == 500
            assert server.stats()["refused"] == {}      # and not after authorize_seconds

    run(scenario())
    (record,) = caplog.records
    assert record.event == "authorize_failed"
    assert isinstance(record.exc_info[1], asyncio.CancelledError)


async def test_a_future_that_several_hooks_return_outlives_the_client_that_leaves():
    hub = Hub()
    look_up = asyncio.get_running_loop().create_future()
    requests = []

    @hub.authorize
    def decide(request):
        requests.append(request)
        return look_up

    async with serve(hub) as server:
        with closing(await RawClient.connect_tcp(server.port)) as leaving:
            await leaving.send(handshake())
            await until(lambda: requests)
        await until(lambda: server.stats()["handshakes"] == 0)
        with closing(await RawClient.connect_tcp(server.port)) as staying:
            await staying.send(handshake())
            await until(lambda: len(requests) == 2)
            look_up.set_result("somebody")
            assert (await staying.read_head()).startswith("HTTP/1.1 101 ")


async def test_an_authorize_hook_that_never_ends_is_answered_with_503_and_cancelled():
    hub = Hub()
    _, cancelled = authorize_for_ever(hub)
    async with serve(hub, authorize_seconds=0.05) as server:
        status, _, _ = await ask(server.port, handshake())
        assert status == 503
        await cancelled.wait()
        assert hub.stats()["clients"] == 0


@pytest.mark.parametrize("leave", [RawClient.close, RawClient.reset], ids=["fin", "rst"])
def test_the_hook_of_a_client_that_leaves_is_cancelled(run, leave, caplog):
    async def scenario():
        hub = Hub()
        entered, cancelled = authorize_for_ever(hub)
        async with serve(hub, handshake_seconds=3) as server:
            client = await RawClient.connect_tcp(server.port)
            await client.send(handshake())
            await entered.wait()
            leave(client)
            await cancelled.wait()
            # Not by the deadline, which answers first.
            assert server.responses == {}

    run(scenario())
    assert caplog.records == []


@pytest.mark.parametrize("is_asked", [True, False], ids=["while it decides", "with the request"])
async def test_too_much_before_the_answer_is_refused_and_kept_nowhere(is_asked):
    hub = Hub()
    entered, cancelled = authorize_for_ever(hub)
    async with serve(hub, max_head_bytes=1000) as server:
        with closing(await RawClient.connect_tcp(server.port)) as client:
            if is_asked:
                await client.send(handshake())
                await entered.wait()
                await client.send(bytes(1001))
                await cancelled.wait()
            else:
                await client.send(handshake() + bytes(1001))
            status, _, body = await answer_of(client)
            assert (status, body) == (400, b"too much was sent before the answer\n")
        assert entered.is_set() == is_asked
        assert server.stats()["refused"] == {"max_head_bytes": 1}


async def test_a_hook_that_had_not_begun_when_too_much_came_leaves_no_warning(tls):
    hub = Hub()
    entered, _ = authorize_for_ever(hub)
    async with serve(hub, ssl=tls[0], max_head_bytes=1000) as server:
        with closing(await RawClient.connect_tcp(server.port)) as client:
            # Two TLS records that are read at once: the second comes before a Task can begin.
            records = client._encrypt(handshake()) + client._encrypt(bytes(1001))
            await asyncio.get_running_loop().sock_sendall(client.sock, records)
            assert (await answer_of(client))[0] == 400
    assert not entered.is_set()


@pytest.mark.parametrize("is_async", [False, True], ids=["sync", "async"])
async def test_as_much_as_a_head_may_come_before_the_answer(is_async):
    hub = Hub()
    received = []
    hub.on_message(lambda client, message: received.append(message))

    async def decide(request):
        await asyncio.sleep(0)

    hub.authorize(decide if is_async else lambda request: None)
    async with serve(hub, max_head_bytes=1000) as server:
        with closing(await RawClient.connect_tcp(server.port)) as client:
            await client.send(handshake() + client_frame(BINARY, bytes(1000 - 8)))
            await until(lambda: received)
    assert received == [bytes(1000 - 8)]


async def test_a_server_that_closes_cancels_the_hooks_at_work():
    hub = Hub()
    entered, cancelled = authorize_for_ever(hub)
    server = await serve(hub)
    with closing(await RawClient.connect_tcp(server.port)) as client:
        await client.send(handshake())
        await entered.wait()
        await server.close()
        await cancelled.wait()
        assert await client.receive() is False


@pytest.mark.parametrize("is_late", [False, True], ids=["gone", "late"])
@pytest.mark.parametrize("kind", [LookupError, pytest.fail.Exception, Reject, asyncio.CancelledError])
def test_what_a_cancelled_hook_raises_is_logged_unless_it_is_its_cancellation_or_a_reject(run, is_late, kind, caplog):
    async def scenario():
        hub = Hub()
        entered, ended = asyncio.Event(), asyncio.Event()

        @hub.authorize
        async def _(request):
            entered.set()
            try:
                await asyncio.Event().wait()
            finally:
                ended.set()
                raise kind

        async with serve(hub, **{"authorize_seconds": 0.2} if is_late else {}) as server:
            with closing(await RawClient.connect_tcp(server.port)) as client:
                await client.send(handshake())
                await entered.wait()
                if is_late:
                    assert (await answer_of(client))[0] == 503
            await ended.wait()
            await end_turn()

    run(scenario())
    is_silent = kind in (Reject, asyncio.CancelledError)
    assert [record.event for record in caplog.records] == ([] if is_silent else ["authorize_failed"])
    assert all(record.exc_info[0] is kind for record in caplog.records)


def test_a_second_authorize_hook_is_refused():
    hub = Hub()
    hub.authorize(lambda request: None)
    with pytest.raises(ValueError, match="already"):
        hub.authorize(lambda request: None)


def test_who_is_refused_and_gone_already_is_no_news(run, caplog):
    """The answer meets a reset: what follows it, a shutdown(2), fails."""

    async def scenario():
        hub = Hub()

        @hub.authorize
        def _(request):
            raw.close()
            raise Reject(403)

        async with serve(hub) as server:
            raw = await RawClient.connect_tcp(server.port)
            await raw.send(handshake())
            await until(lambda: server.responses[403] and not server.handshakes)

    run(scenario())
    assert caplog.records == []
