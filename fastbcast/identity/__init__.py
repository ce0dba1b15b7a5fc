"""Hooks that decide who may enter, and what they may do: values for `hub.authorize`.

    tokens.py       class Tokens: bearer tokens from files, with the channels that each of them opens

Applications import it as `fastbcast.tokens`. A hook gets a Request and returns a Grant (`grant.py`), or raises Reject;
it knows no hub, no server and no socket.
"""
