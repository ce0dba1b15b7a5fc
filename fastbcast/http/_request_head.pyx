"""The head of one HTTP request, as httptools (llhttp) reads it.

    bytes up to the empty line --HeadParser.feed--> HttpRequestParser --on_url, on_header--> RequestHead

A head may come in parts: what cannot be a request is found with the byte that makes it so.

It is compiled because llhttp calls back for each header line: in Python these calls are most of what a handshake's
head costs.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from cpython.unicode cimport PyUnicode_DecodeLatin1

from httptools import HttpParserError, HttpParserUpgrade, HttpRequestParser


cdef inline bint _is_blank(char character) noexcept:
    return character == c" " or character == c"\t"


cdef str _decode_stripped(bytes value):
    """Return the value without the blanks around it (RFC 9110 section 5.5); llhttp leaves those behind it."""
    cdef const char* start = PyBytes_AS_STRING(value)
    cdef Py_ssize_t size = PyBytes_GET_SIZE(value)
    while size and _is_blank(start[size - 1]):
        size -= 1
    while size and _is_blank(start[0]):
        start += 1
        size -= 1
    return PyUnicode_DecodeLatin1(start, size, NULL)


cdef class RequestHead:
    """A request's method, target, HTTP version and headers."""

    # httptools asks for each of these; what a class lacks costs it an exception.
    on_message_begin = on_headers_complete = on_body = on_message_complete = None
    on_chunk_header = on_chunk_complete = on_status = None

    def __cinit__(self):
        self.method = self.url = b""
        self.http_version = ""
        self.headers = {}

    def on_url(self, bytes url):
        """Called with the request target, perhaps in pieces."""
        self.url += url

    def on_header(self, bytes name, bytes value):
        """Join header lines of the same name (RFC 9110 section 5.3)."""
        cdef str key = PyUnicode_DecodeLatin1(PyBytes_AS_STRING(name), PyBytes_GET_SIZE(name), NULL).lower()
        cdef str text = _decode_stripped(value)
        if key in self.headers:
            text = f"{self.headers[key]}, {text}"
        self.headers[key] = text


cdef class HeadParser:
    """Reads one head, in as many parts as it comes in."""

    def __cinit__(self):
        self.head = RequestHead()
        # The parser knows the head, and not the other way round, or each would wait for the garbage collector.
        self.parser = HttpRequestParser(self.head)

    cpdef bint feed(self, bytes data) except -1:
        """Read on, at most to the empty line; False from the first fault on: `head.fault` says what it is."""
        cdef RequestHead head = self.head
        try:
            self.parser.feed_data(data)
        except HttpParserUpgrade:   # llhttp stops behind such a head, and so does every caller
            pass
        except HttpParserError as error:
            head.fault = str(error)
        head.method = self.parser.get_method()
        head.http_version = self.parser.get_http_version()
        return head.fault is None
