"""One client, from the 101 of its handshake to its end.

    _context.pyx      class Context: what all clients of a hub share, so that a client knows no hub and no server
    _parser.pyx       bytes that were read become messages and control frames, checked as RFC 6455 demands
    _subscriber.pyx   the channels that the client is subscribed to
    _client.pyx       the connection itself: it reads, answers control frames, sends, and closes
    handlers.py       the application's handlers: they are called in order, one at a time for each client
    throttle.py       a token bucket for each client: how many messages a second it may send
    partials.py       the bound on the unfinished messages of all clients together
    keepalive.py      pings for silent clients, and the end of those that stay silent
    paused.py         the clients whose sockets are full, and what becomes of them as time passes

A Client is made of an accepted socket whose handshake is done (`http`), and belongs to one hub.
"""
