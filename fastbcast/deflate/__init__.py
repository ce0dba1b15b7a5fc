"""permessage-deflate (RFC 7692) in both directions; with `load`, the only place that links zlib.

    parameters.py   class Deflate: what one connection has agreed on
    _deflate.pyx    sending: a message becomes one compressed frame, once for all subscribers that read the same form
    _inflate.pyx    receiving: a compressed message is inflated with a bound
    _zlib.pxd       the declarations of zlib's functions

Which subscribers read which form is decided in `fanout/_forms.pyx`. What is offered and answered in a handshake is
`http/extensions.py`. The folder takes only the ground floor: frames and the clock.
"""
