// A client of a relay, for Node `ws` and, unchanged, for the WebSocket of a browser: tests/test_foreign_clients.py.
//
// It says "ready", takes `count` messages of a peer, sends them back as they came (text as text, binary as
// binary), takes its own again from the relay, and closes with 4001. The peer compares what came back.

function isSame(one, other) {
  if (typeof one === "string" || typeof other === "string") return one === other;
  const [bytes, others] = [new Uint8Array(one), new Uint8Array(other)];
  return bytes.length === others.length && bytes.every((byte, index) => byte === others[index]);
}

function relayBack(WebSocket, url, count) {
  return new Promise((resolve, reject) => {
    const socket = new WebSocket(url);
    const taken = [];  // "ready", `count` of the peer's, `count` of its own
    const result = { extensions: null, pong: null, sameAgain: null };
    socket.binaryType = "arraybuffer";
    socket.onopen = () => {
      result.extensions = socket.extensions;
      socket.send("ready");
    };
    socket.onerror = (event) => reject(new Error(event.message || "the connection failed"));
    socket.onmessage = (event) => {
      taken.push(event.data);
      if (taken.length === 1 + count) taken.slice(1).forEach((message) => socket.send(message));
      if (taken.length === 1 + 2 * count) {
        const [peers, own] = [taken.slice(1, 1 + count), taken.slice(1 + count)];
        result.sameAgain = peers.every((message, index) => isSame(message, own[index]));
        finish();
      }
    };
    socket.onclose = (event) => resolve({ ...result, code: event.code, isClean: event.wasClean });

    function finish() {
      if (!socket.ping) return socket.close(4001, "done");  // a browser's WebSocket has no ping
      socket.on("pong", (data) => {
        result.pong = data.toString();
        socket.close(4001, "done");
      });
      socket.ping("are you there?");
    }
  });
}

// Node: `node client.js URL COUNT` prints the result as JSON. In a browser relayBack() is called by the test.
if (typeof module !== "undefined") {
  const [url, count] = process.argv.slice(2);
  relayBack(require("ws"), url, Number(count)).then(
    (result) => console.log(JSON.stringify(result)),
    (error) => { console.error(error); process.exitCode = 1; },
  );
}
