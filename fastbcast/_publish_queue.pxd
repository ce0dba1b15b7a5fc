cdef class PublishQueue:
    # Set once.
    cdef Py_ssize_t max_bytes
    cdef double slice_seconds
    cdef object publish                 # called in the loop's thread: channel, frame, key
    cdef object loop                    # None before `bind`

    # Changed from any place, and only where no Python code runs in between.
    cdef object messages                # deque of (channel, frame, key)
    cdef Py_ssize_t queued_bytes        # of the messages, and of those that are about to be appended
    cdef bint is_take_scheduled         # the loop will call `take`, which will find whatever is queued now

    cdef int schedule_take(self) except -1


cdef Py_ssize_t measure(bytes frame, object key) except -1
