// Node's ws, with the broadcast of its README: a loop over wss.clients. A peer of the benchmark.
//
//     node benchmarks/peers/ws_broadcast.js --port 8080
//
// Every client gets every message, the sender included; one channel, whatever the path. No limit on what
// waits for a client: that is left to the application, which may look at bufferedAmount.

const { WebSocket, WebSocketServer } = require("ws");

const at = process.argv.indexOf("--port");

const wss = new WebSocketServer({ host: "127.0.0.1", port: at < 0 ? 0 : Number(process.argv[at + 1]), backlog: 4096 });

wss.on("connection", (ws) => {
  ws.on("error", console.error);
  ws.on("message", (data, isBinary) => {
    wss.clients.forEach((client) => {
      if (client.readyState === WebSocket.OPEN) client.send(data, { binary: isBinary });
    });
  });
});

for (const signal of ["SIGINT", "SIGTERM"]) process.on(signal, () => process.exit(0));

wss.on("listening", () => console.log(`listening on ws://127.0.0.1:${wss.address().port}/`));
