cdef class Head:
    cdef readonly str fault             # why it is malformed, or None
    cdef readonly bytes method
    cdef readonly bytes url             # the request target as it came
    cdef readonly str http_version      # "1.1"
    cdef readonly dict headers          # values by lower-case name

cpdef Head read_head(bytes data)
