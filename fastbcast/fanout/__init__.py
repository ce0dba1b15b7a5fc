"""One channel: its subscribers, and the sweep that writes to each of them what it lacks.

    _slot.pxd       the struct that a sweep reads for each subscriber: lane, cursor, seq, socket
    _wire.pyx       the one ordered writer of a client: its socket by send(2), or its Transport
      _send.pxd     the declarations of sendmsg(2)
    _policy.pyx     the limits of lag, and what happens to a subscriber that is beyond them
    _sweeper.pyx    which channels are swept at the end of a turn of the loop, and for how long

    one channel is one C structure, in layers from the bottom up:

    _roster.pyx     its subscribers, and how far behind each of them is
    _forms.pyx      which wire form each subscriber reads, and how it changes to another
    _tally.pyx      what became of each message: written, conflated, skipped, evicted, left, pending
    _delivery.pyx   one subscriber's turn with the GIL: what a sweep could not finish
    _round.pyx      the sweep without the GIL: each slot is visited once
    _fanout.pyx     what the others call: publish, subscribe, catch up

A message comes from `hub.py` and `channel.py`, is stored in `log`, and leaves here for the socket. No code of an
application runs inside a sweep.
"""
