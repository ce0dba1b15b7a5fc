"""socketify, Python's face of uWebSockets, with its own broadcast: `ws.subscribe()`, `ws.publish()`.

    python benchmarks/peers/socketify_publish.py --port 8080

Every client gets every message, the sender included (`ws.publish` is the application's publish in this version); one
channel, whatever the path. `idle_timeout` is 0, since subscribers send nothing and would be closed after two
minutes; the rest is the default: no compression, 64 KiB of backpressure per client, beyond which it drops messages. It
runs an event loop of its own, which polls without a pause while there is something to do: its CPU share is near 1
even when it waits.

A peer of the benchmark, not an example.
"""

import argparse
import signal

from socketify import App, AppListenOptions, OpCode, WebSocket

HOST = "127.0.0.1"
TOPIC = "broadcast"


def relay(ws: WebSocket, message: str | bytes, opcode: OpCode) -> None:
    ws.publish(TOPIC, message, opcode)


def main(port: int) -> None:
    app = App()
    app.ws("/*", {"open": lambda ws: ws.subscribe(TOPIC), "message": relay, "idle_timeout": 0})
    app.listen(
        AppListenOptions(port=port, host=HOST),
        lambda config: print(f"listening on ws://{HOST}:{config.port}/", flush=True),
    )
    signal.signal(signal.SIGTERM, lambda *_: app.close())
    app.run()  # handles SIGINT


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="relay server: socketify's publish")
    parser.add_argument("--port", type=int, default=0)
    main(parser.parse_args().port)
