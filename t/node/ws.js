// ws.js - a WebSocket server and a client of it by way of the proxy, both npm's ws, in one process: says where the
// server listens, reads the proxy's port from its input, talks, and says what came of it, as JSON.
const { WebSocket, WebSocketServer } = require("ws");
const readline = require("readline");

const seen = {};
const server = new WebSocketServer({ port: 0, host: "127.0.0.1" }, () =>
  console.log(JSON.stringify({ port: server.address().port })));

const closed = new Promise((resolve) => server.on("connection", (socket, request) => {
  seen.offered = request.headers["sec-websocket-extensions"] || null;
  socket.on("message", (data, binary) => socket.send(data, { binary }));
  socket.on("close", (code, reason) => resolve(Object.assign(seen, { code, reason: String(reason) })));
}));

function talk(port) {
  return new Promise((resolve, reject) => {
    const out = { got: [], pongs: [] };
    const client = new WebSocket("ws://127.0.0.1:" + port + "/chat");
    client.on("error", reject);
    client.on("message", (data, binary) => {
      out.got.push(binary ? ["binary", data.length] : ["text", data.length > 100 ? data.length : String(data)]);
      if (out.got.length === 4) client.ping("are you there");
    });
    client.on("pong", (data) => {
      out.pongs.push(String(data));
      client.close(4001, "enough");
    });
    client.on("close", (code, reason) => resolve({ ...out, code, reason: String(reason), extensions: client.extensions }));
    client.on("open", () => {
      client.send("hello");
      client.send(Buffer.alloc(300000));
      client.send("in ", { fin: false });
      client.send("two", { fin: true });
      client.send("é".repeat(70000));
    });
  });
}

readline.createInterface({ input: process.stdin }).once("line", async (port) => {
  const client = await talk(port);
  console.log(JSON.stringify({ client, server: await closed }));
  process.exit(0);
});
