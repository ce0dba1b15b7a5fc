cpdef tuple split_target(bytes target)
cpdef str find_request_fault(dict headers, str http_version)
cpdef bint is_handshake(bytes method, dict headers) except -1
cpdef tuple find_fault(dict headers, str http_version)
cpdef str choose_subprotocol(dict headers, object spoken)
cpdef bytes encode_upgrade(str key, str subprotocol=*, str extension=*)
