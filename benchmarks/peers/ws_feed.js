// Node's ws publishing a feed by itself, with the broadcast of its README; what ../pace.py says holds here, too.
//
//     node benchmarks/peers/ws_feed.js --feed ticks.txt --port 8080
//
// perMessageDeflate with its defaults but for `threshold`: by default messages below 1 KiB stay uncompressed, which
// would be nearly all of these. --plain: without compression. A peer of the benchmark.

const { readFileSync } = require("fs");
const { parseArgs } = require("util");
const { WebSocket, WebSocketServer } = require("ws");

const text = (value) => ({ type: "string", default: value });
const { values: options } = parseArgs({
  options: {
    port: text("0"), feed: text(""), rate: text("100"), burst: text("8"), "await-clients": text("1"), spare: text("0"),
    plain: { type: "boolean", default: false },
  },
});
const messages = readFileSync(options.feed, "utf8").trimEnd().split("\n");
const burst = Number(options.burst);
const intervalMs = (burst / Number(options.rate)) * 1000;
const awaited = Number(options["await-clients"]);

const wss = new WebSocketServer({
  host: "127.0.0.1",
  port: Number(options.port),
  backlog: 4096,
  perMessageDeflate: options.plain ? false : { threshold: 0 },
});
wss.on("connection", (ws) => ws.on("error", console.error));

let published = 0;
let marks = [];

function cpuUs() {
  const { user, system } = process.cpuUsage();
  return user + system;
}

function publish(dueMs) {
  if (wss.clients.size < awaited - Number(options.spare)) return;
  marks.push([published, cpuUs()]);
  for (let i = 0; i < burst; i++) {
    const message = messages[published++ % messages.length];
    wss.clients.forEach((client) => {
      if (client.readyState === WebSocket.OPEN) client.send(message);
    });
  }
  const nextMs = Math.max(performance.now(), dueMs + intervalMs);
  setTimeout(publish, nextMs - performance.now(), nextMs);
}

function begin() {
  if (wss.clients.size >= awaited) publish(performance.now());
  else setTimeout(begin, 20);
}

for (const signal of ["SIGINT", "SIGTERM"]) {
  process.on(signal, () => {
    const [first, last] = [marks[0] ?? [0, 0], marks.at(-1) ?? [0, 0]];
    const count = last[0] - first[0];
    console.log(JSON.stringify({
      published: count, cpu_us_per_message: count ? (last[1] - first[1]) / count : null, publish_us_per_message: null,
    }));
    process.exit(0);
  });
}

wss.on("listening", () => {
  console.log(`listening on ws://127.0.0.1:${wss.address().port}/`);
  begin();
});
