import asyncio

from prices import Prices

import fastbcast


async def feed():
    for price in (64000, 64050):
        yield "BTC", price
        await asyncio.sleep(0)


async def test_an_async_feed_on_the_fixtures_loop(broadcast_server, prices, fleet):
    clients = fleet(10, "prices")  # blocks this loop for a moment; the server's is another one
    broadcast_server.call(prices.follow, feed())
    clients.drain()
    assert clients.counts == [3] * 10


async def test_a_server_on_this_loop(fleet):
    hub = fastbcast.Hub()
    prices = Prices(hub)
    async with fastbcast.serve(hub) as server:
        # Whatever waits for this server waits in a thread of its own.
        clients = await asyncio.to_thread(fleet, 10, url=f"ws://127.0.0.1:{server.port}/prices")
        await prices.follow(feed())
        await hub.flushed()
        await asyncio.to_thread(clients.drain)
        assert clients.messages == [["{}", '{"BTC": 64000}', '{"BTC": 64050}']] * 10
        await asyncio.to_thread(clients.close)
