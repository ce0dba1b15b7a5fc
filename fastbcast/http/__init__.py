"""The one HTTP request that a connection begins with, and what it becomes: a client, or one response.

    _handshake.pyx      class Handshake: one connection before its 101; reads the request, asks the hook, answers
      _request_head.pyx   the head of the request, as httptools reads it
      _rules.pyx          what a handshake must be (RFC 6455 section 4.2), and its response
      authority.py        what a Host header may say
      extensions.py       permessage-deflate: what was offered, and what is chosen
      origins.py          the allow-list of origins
      proxies.py          which address a connection is from, when trusted proxies stand between
    routes.py           which answer a request gets that is no handshake: one table
    responses.py        HTTP responses, and their bytes
    handshake_server.py what a Handshake needs of the server that accepted its connection
    pending.py          class PendingHandshakes: all connections before their 101, with their deadlines
    admission.py        how many connections there may be, in all and from one address

A request that is right becomes a Client of `connection`. The sockets come from `server`.
"""
