// A client that sends back all that it gets, for Node `ws` and, unchanged, for the WebSocket of a browser:
// tests/test_deflate_clients.py.
//
// It takes messages up to the text `last`, sends them back as they came (text as text, binary as binary), and waits to
// be closed. What was negotiated is in `extensions`; `pong` says what came back of a ping (Node only).

function returnAll(WebSocket, url, last, options) {
  return new Promise((resolve, reject) => {
    const socket = options ? new WebSocket(url, options) : new WebSocket(url);
    const taken = [];
    let pong = null;
    socket.binaryType = "arraybuffer";
    socket.onopen = () => {
      if (!socket.ping) return;  // a browser's WebSocket has no ping
      socket.on("pong", (data) => { pong = data.toString(); });
      socket.ping("are you there?");
    };
    socket.onmessage = (event) => {
      taken.push(event.data);
      if (event.data === last) taken.forEach((message) => socket.send(message));
    };
    socket.onerror = (event) => reject(new Error(event.message || "the connection failed"));
    socket.onclose = (event) => resolve({ url, code: event.code, extensions: socket.extensions, pong });
  });
}

// Node: a line of JSON on standard input ({url, last, options}) starts a client; its result is a line of the output.
if (typeof module !== "undefined") {
  const WebSocket = require("ws");
  require("readline").createInterface({ input: process.stdin }).on("line", (line) => {
    const { url, last, options } = JSON.parse(line);
    returnAll(WebSocket, url, last, options).then(
      (result) => console.log(JSON.stringify(result)),
      (error) => { console.error(error); process.exit(1); },
    );
  });
}
