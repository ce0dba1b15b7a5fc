"""A chat: what one client sends, all get. Run it, and open http://127.0.0.1:8080/ in two browser windows.

    python examples/chat.py [--port PORT]
"""

import argparse
import asyncio
import contextlib

from fastbcast import Hub, serve

hub = Hub()


@hub.on_connect
def welcome(client):
    print("Client connected")
    client.send("Welcome to the chat!")


@hub.on_message
def broadcast(client, message):
    print(f"Received: {message!r:.80}")
    text = message if isinstance(message, str) else message.decode(errors="replace")
    hub.publish(client.channel, f"Broadcast: {text}")


@hub.on_disconnect
def farewell(client, disconnect):
    print(f"Client disconnected: {disconnect.code} {disconnect.reason}".rstrip())


@hub.on_error
def report(client, error):
    print(f"Error: {error}")


async def main(port):
    async with serve(hub, "127.0.0.1", port, page=True) as server:
        print(f"listening on ws://127.0.0.1:{server.port}/", flush=True)
        await server.serve_forever()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="A chat on WebSocket.")
    parser.add_argument("--port", type=int, default=8080)
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(main(parser.parse_args().port))
