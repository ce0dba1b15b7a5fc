"""The load generator: thousands of real WebSocket clients, and a verdict on the server they talk to.

    ../command/load.py      the commands: fastbcast load, fastbcast bench
    plan.py         what a run is to do
      -> crew.py            its processes, and who watches them
        -> part.py          what one process does, phase by phase
          -> connector.py   how a connection begins
          -> payload.py     what the messages consist of; ticks.py: text like that of a real feed
          -> _fleet.pyx     the loop without the GIL: what is published, and when
             _inbound.pyx   what they read: frames, messages
             _crowd.pyx     thousands of clients: handshakes, writing, leaving
             _strand.pyx    what comes compressed, inflated once for all that got the same
             _audit.pyx     every message accounted for; _stamp.pxd says which one it is
             _receipt.pyx   what one subscriber has of one stream
             _board.pyx     what the processes share: counts, histograms, how far each has come
             _audience.pyx  another kind of crowd: what clients got is kept, for fastbcast.testing
      -> timeline.py        the run as time passes
      -> result.py          the figures, and what makes them invalid
      -> verdict.py         what was wrong, what was right, and what nobody can know; require.py: what has to hold
           machine.py, endpoints.py     what the kernel knows
      -> table.py, progress.py              the figures, on a terminal
         report.py -> history.py, chart.py  the figures, in a browser; units.py writes them

    bench.py        the matrix, on servers that target.py starts; floor/ is a server in C that does the least there is

It works with any WebSocket server that sends what a client says to all clients of the same URL, or that only sends.
Linux only: it stands on epoll. It needs the extra `load`: pip install 'fastbcast[load]'.
"""
