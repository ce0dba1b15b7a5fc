"""A channel's messages, each stored once; a subscriber is a position in them.

    _log.pyx        the log: segments of frames, addressed by offsets that only grow, with an index from seq to offset
    _lanes.pyx      one log for each wire form that the channel's subscribers read: plain, deflated, windowed
    _compact.pyx    the compact log of a conflating channel: of each key only the newest message

All logs of a hub share one bound (`max_log_bytes`), counted in the Ledger of `_log.pyx`. The folder knows nothing of
sockets or subscribers: `fanout` writes what is stored here.
"""
