"""Methods that an event loop calls, guarded: what one raises goes to its object's `_fail` instead of to the loop.

uvloop logs whatever a Protocol's method raises, and closes the connection: of a signal handler's `sys.exit()`, which may
interrupt any of them, nothing else would be left.

It is compiled because CPython runs signal handlers at the entry of a Python function, too: before a `try` in it has begun.
"""

from functools import wraps


def guarded(method):
    """Give what `method` raises to `self._fail`, and return None then."""
    def call(self, *arguments):
        try:
            return method(self, *arguments)
        except BaseException as error:
            self._fail(error)
    return wraps(method)(call)


def lending(storage):
    """Return a `get_buffer` that lends `storage.received`, and that no signal handler can interrupt."""
    def get_buffer(self, size_hint):
        return storage.received
    return get_buffer
