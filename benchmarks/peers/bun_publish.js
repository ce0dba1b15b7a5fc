// Bun's own broadcast: ws.subscribe(), server.publish(). A peer of the benchmark.
//
//     bun benchmarks/peers/bun_publish.js --port 8080
//
// server.publish() reaches every subscriber of the topic, the sender included, which is what Bun's
// documentation shows for a broadcast; ws.publish() would leave the sender out unless publishToSelf
// is set. The path names the topic. A string is a text message and a Buffer a binary one, so the
// opcode stays what it was. Everything else is Bun's default: no compression, 16 MB of backpressure
// per client, beyond which Bun drops messages.

const at = process.argv.indexOf("--port");

const server = Bun.serve({
  hostname: "127.0.0.1",
  port: at < 0 ? 0 : Number(process.argv[at + 1]),
  fetch(request, server) {
    const topic = new URL(request.url).pathname;
    if (server.upgrade(request, { data: { topic } })) return;
    return new Response("this is a WebSocket server", { status: 426 });
  },
  websocket: {
    open(ws) {
      ws.subscribe(ws.data.topic);
    },
    message(ws, message) {
      server.publish(ws.data.topic, message);
    },
  },
});

for (const signal of ["SIGINT", "SIGTERM"]) process.on(signal, () => process.exit(0));

console.log(`listening on ws://127.0.0.1:${server.port}/`);
