# send(2) and sendmsg(2), as a sweep needs them. A header only: there is no module of this name.

from fastbcast.log._log cimport iovec

cdef extern from *:
    """
    #include <sys/types.h>
    #include <sys/socket.h>
    #ifndef MSG_NOSIGNAL
    #define MSG_NOSIGNAL 0      /* macOS: CPython ignores SIGPIPE anyway */
    #endif
    """
    struct msghdr:
        iovec* msg_iov
        size_t msg_iovlen
    int MSG_DONTWAIT
    int MSG_NOSIGNAL
    ssize_t send(int fd, const void* data, size_t size, int flags) nogil
    ssize_t sendmsg(int fd, const msghdr* message, int flags) nogil

cdef enum:
    IOVEC_COUNT = 16            # pieces of one send; a lane with more segments takes several
