import json

import pytest


def read(messages):
    return [json.loads(message) for message in messages]


def test_who_connects_is_sent_all_prices_and_then_the_changes(broadcast_server, prices, fleet):
    broadcast_server.call(prices.update, "BTC", 64000)
    clients = fleet(100, "prices")
    broadcast_server.call(prices.update, "ETH", 3000)
    clients.drain()
    assert all(read(client.messages) == [{"BTC": 64000}, {"ETH": 3000}] for client in clients)


def test_another_channel_hears_nothing_of_it(broadcast_server, prices, fleet):
    others = fleet(3, "news")
    broadcast_server.call(prices.update, "BTC", 64000)
    others.drain()
    assert others.messages == [["{}"]] * 3  # the welcome


def test_a_slow_client_holds_nobody_up_and_ends_with_the_newest_prices(broadcast_server, prices, fleet, slow_client):
    clients = fleet(10, "prices")
    slow = slow_client("stall", "prices")
    for number in range(2000):
        broadcast_server.call(prices.update, f"{number % 2}" * 1000, number)
    clients.drain()
    assert slow.count <= 1  # the welcome may have come with the answer to its handshake
    assert [read(messages)[-1] for messages in clients.messages] == [{"1" * 1000: 1999}] * 10
    slow.read_freely()
    slow.fleet.drain()
    assert read(slow.messages)[-2:] == [{"0" * 1000: 1998}, {"1" * 1000: 1999}]
    assert slow.count < 2000


@pytest.mark.broadcast_server(max_message_bytes=1000)
def test_a_client_that_sends_too_much_is_closed(fleet, prices):
    clients = fleet(2)
    clients[0].send("x" * 1001)
    clients.drain()
    assert clients[0].close_code == 1009
    assert clients.closes == {1009: 1}
    assert clients.open_count == 1
