cpdef tuple split_target(bytes target)
cpdef tuple find_fault(dict headers, str http_version)
cpdef str choose_subprotocol(dict headers, object spoken)
cpdef bytes encode_response(str key, str subprotocol=*, str extension=*)
