# The system's zlib (zlib.h), as far as RFC 7692 needs it: raw deflate (RFC 1951), which is negative window bits.

cdef extern from *:
    """
    #define ZLIB_CONST  // what is read is const
    """

cdef extern from "zlib.h" nogil:
    ctypedef struct z_stream:
        const unsigned char* next_in
        unsigned int avail_in
        unsigned char* next_out
        unsigned int avail_out
        int data_type       # of an inflater: 128 right behind a block, 64 in the last one, and how many bits are left

    const int Z_OK, Z_STREAM_END, Z_BUF_ERROR, Z_MEM_ERROR
    const int Z_SYNC_FLUSH
    const int Z_DEFLATED, Z_DEFAULT_STRATEGY

    int deflateInit2(z_stream* stream, int level, int method, int window_bits, int mem_level, int strategy)
    int deflateReset(z_stream* stream)
    int deflate(z_stream* stream, int flush)
    int deflateEnd(z_stream* stream)
    unsigned long deflateBound(z_stream* stream, unsigned long source_bytes)

    int inflateInit2(z_stream* stream, int window_bits)
    int inflateReset(z_stream* stream)
    int inflateSetDictionary(z_stream* stream, const unsigned char* dictionary, unsigned int dictionary_bytes)
    int inflate(z_stream* stream, int flush)
    int inflateEnd(z_stream* stream)
