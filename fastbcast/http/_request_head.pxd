cdef class RequestHead:
    cdef readonly str fault             # why it is malformed, or None
    cdef readonly bytes method
    cdef readonly bytes url             # the request target as it came
    cdef readonly str http_version      # "1.1"
    cdef readonly dict headers          # values by lower-case name


cdef class HeadParser:
    cdef readonly RequestHead head
    cdef object parser

    cpdef bint feed(self, bytes data) except -1
