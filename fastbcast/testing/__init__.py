"""Real servers and real clients for tests, in this process; with pytest they are fixtures.

    pytest_fastbcast.py     the fixtures: nothing is imported before one is used
      -> server.py          BroadcastServer: a hub on a free port, its loop in a thread of its own
      -> fleet.py           Fleet: n clients in a thread of their own, what each of them got
      -> drain.py           when everybody has read all that was published
           load/_audience.pyx   the clients themselves, compiled (Linux)

pytest's plugin is a module of its own, beside this package: to import a part of fastbcast is to import all of it.
"""

from .server import BroadcastServer

__all__ = ["BroadcastServer"]
