"""Sockets and the process: a hub on a port.

    server.py       class Server and serve(): what runs between the first connection and the last
      listeners.py    the listening sockets: addresses, a Unix socket, inherited descriptors
      acceptor.py     accepts connections, and pauses when descriptors run out
      tls.py          TLS between a socket's Transport and the protocol above it
      drain.py        closes the clients one after the other, spread over some seconds
    process.py      the life of a server's process: signals, reload, drain, end
      handover.py     a new process takes the listening sockets over from the one that serves

An accepted connection becomes a Handshake of `http`. A hub works without any of this.
"""
