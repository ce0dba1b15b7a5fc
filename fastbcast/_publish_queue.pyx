"""What is published from any place: it waits, with a bound, until the loop's thread takes it.

    put, from any place --> deque --> take, in the loop: a slice of time each turn --> publish(channel, frame, key)

A place is a thread, or what interrupts one: a signal handler, or a `__del__` that the garbage collector runs. A place
may interrupt `put`, `take` or a publish in its own thread, so nothing here may wait for another place, and there is no
lock.

Invariants

1. What one place has put is published in that order.
2. A `take` is scheduled whenever something is queued and a loop is bound: the `put` that finds none scheduled schedules
   it, and `take` says that it is no longer scheduled before it looks at the queue. What was put before `bind` is taken
   by `bind`.
3. What is queued is at most `max_bytes`: frames, keys, and QUEUED_MESSAGE_BYTES for each message. A message is counted
   before it is appended, and no longer once it is taken.

It is compiled because compiled code that calls no Python function is atomic: CPython switches threads, and calls signal
handlers, between two bytecodes only. The collector may run where an object is made, so `put` is right also if another
`put` runs in the middle of it.
"""

import logging
from collections import deque

from fastbcast._clock cimport now_ns
from fastbcast.log._compact cimport key_len

from fastbcast.exceptions import FastbcastError, PublishQueueFull
from fastbcast.logging import log_event

QUEUED_MESSAGE_BYTES = 128
"""What a message takes here beside its frame and its key."""
cdef Py_ssize_t _QUEUED_MESSAGE_BYTES = QUEUED_MESSAGE_BYTES


cdef class PublishQueue:
    """The messages of `hub.publish_threadsafe` that have not been published yet."""

    def __init__(self, Py_ssize_t max_bytes, double slice_seconds, publish):
        self.max_bytes = max_bytes
        self.slice_seconds = slice_seconds
        self.publish = publish
        self.messages = deque()

    def bind(self, loop):
        """From now on `loop`, which is running, takes what is put."""
        self.loop = loop
        if self.messages:
            self.take()

    def put(self, str channel not None, bytes frame not None, key):
        """Queue a message, from any place; drop it if the loop is closed, since then nobody is there to get it.

        Raises PublishQueueFull, and TypeError if `key` cannot be one.
        """
        cdef Py_ssize_t size = measure(frame, key)
        cdef tuple message = (channel, frame, key)
        if self.loop is not None and self.loop.is_closed():
            return
        if size > self.max_bytes - self.queued_bytes:
            raise PublishQueueFull(self.queued_bytes, self.max_bytes)
        self.queued_bytes += size
        try:
            self.messages.append(message)
        except MemoryError:
            self.queued_bytes -= size
            raise
        self.schedule_take()

    cdef int schedule_take(self) except -1:
        if self.loop is None or self.is_take_scheduled:
            return 0
        self.is_take_scheduled = True
        try:
            self.loop.call_soon_threadsafe(self.take)
        except BaseException as error:  # the loop is closed, or a signal handler raised: the next put tries again
            self.is_take_scheduled = False
            if not (isinstance(error, RuntimeError) and self.loop.is_closed()):
                raise
        return 0

    def take(self, seconds=None):
        """Publish what is queued by now, for `seconds` or a slice of time; the rest in the next turn.

        Not what is queued meanwhile: another thread that never stops would keep the loop here for ever.
        """
        cdef double end = now_ns() / 1e9 + (self.slice_seconds if seconds is None else <double>seconds)
        cdef Py_ssize_t left = len(self.messages)
        cdef tuple message
        self.is_take_scheduled = False
        try:
            while left and self.messages and now_ns() / 1e9 < end:
                left -= 1
                message = self.messages.popleft()
                channel, frame, key = message
                self.queued_bytes -= measure(frame, key)
                try:
                    self.publish(channel, frame, key)
                except (FastbcastError, MemoryError) as error:
                    log_event(logging.ERROR, "queued_message_lost", channel=channel, reason=str(error) or "no memory")
        finally:
            if self.messages:
                self.schedule_take()


cdef Py_ssize_t measure(bytes frame, object key) except -1:
    return _QUEUED_MESSAGE_BYTES + len(frame) + (0 if key is None else key_len(key))
