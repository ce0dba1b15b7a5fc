"""What things cost, told to everybody who listens on the channel "prices". Run it: python prices.py"""

import asyncio
import json
import random

import fastbcast


class Prices:
    """Who connects is sent all prices, and from then on each that changes."""

    def __init__(self, hub):
        self.hub = hub
        self.known = {}
        hub.configure("prices", policy="conflate")
        hub.on_connect(self.welcome)

    def welcome(self, client):
        client.send(json.dumps(self.known))

    def update(self, name, price):
        self.known[name] = price
        self.hub.publish("prices", json.dumps({name: price}), key=name)

    async def follow(self, feed):
        async for name, price in feed:
            self.update(name, price)


async def wander(seconds=1.0):
    price = 64_000.0
    while True:
        price += random.gauss(0, 50)
        yield "BTC", round(price, 2)
        await asyncio.sleep(seconds)


async def main():
    hub = fastbcast.Hub()
    async with fastbcast.serve(hub, port=8080, page=True):
        await Prices(hub).follow(wander())


if __name__ == "__main__":
    asyncio.run(main())
