def test_an_update_reaches_100_clients(benchmark, broadcast_server, prices, fleet):
    clients = fleet(100, "prices", keep_messages=False)

    def update():
        broadcast_server.call(prices.update, "BTC", 64000)
        clients.drain()

    benchmark(update)
    assert len(set(clients.counts)) == 1
