from cpython.object cimport PyObject
from libc.stdint cimport uint32_t, uint64_t

from fastbcast._frames cimport Payload
from fastbcast.fanout._policy cimport Policy
from fastbcast.fanout._roster cimport Roster, Subscription
from fastbcast.fanout._slot cimport Slot, Socket
from fastbcast.fanout._wire cimport Wire
from fastbcast.log._lanes cimport Lanes
from fastbcast.log._log cimport Form, Lane


cdef struct FormsState:
    uint32_t misplaced              # subscribers that are not in the form that they should get
    bint moves_due                  # some of those may have become able to change since that was last tried


cdef class Forms(Roster):
    cdef Policy policy              # set once
    cdef Lanes lanes                # None: no subscriber has come yet that could be sent anything compressed
    cdef FormsState forms

    cdef uint64_t append(self, Payload* payload) except 0
    cdef Subscription admit(self, Wire wire)
    cdef int dismiss(self, Subscription subscription) except -1
    cdef int reconsider(self, Subscription subscription) except -1
    cdef bint _may_share(self, Socket* socket) noexcept nogil
    cdef int change(self, Slot* slot, Lane* lane, uint64_t cursor) noexcept nogil
    cdef int move_if_possible(self, Slot* slot) noexcept
    cdef int move_to_tail(self, Slot* slot) noexcept
    cdef int trim_lanes(self) except -1
    cdef PyObject* compacted_frame(self, Slot* slot, uint32_t index) except NULL
    cdef uint64_t oldest_plain_needed(self, uint64_t oldest_seq) noexcept
    cdef int join_window(self) except -1
    cdef Py_ssize_t lanes_bytes(self) noexcept
    cdef bint _may_change(self, Slot* slot) noexcept
    cdef bint _may_compress(self, Socket* socket) noexcept nogil
    cdef Form _wanted_form(self, Socket* socket) noexcept nogil
    cdef int _count(self, Slot* slot, int added) noexcept nogil
    cdef Lane* _lane_of(self, Form form) noexcept
