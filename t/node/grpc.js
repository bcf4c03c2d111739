// grpc.js - a gRPC server and a client of it by way of the proxy, in one process: says where the server listens, reads
// the proxy's port from its input, makes each kind of call, and says what came of it, as JSON.
const grpc = require("@grpc/grpc-js");
const readline = require("readline");

const plain = { requestSerialize: (v) => Buffer.from(v), requestDeserialize: String,
                responseSerialize: (v) => Buffer.from(v), responseDeserialize: String };
const method = (name, requestStream, responseStream) =>
  ({ path: "/test.Echo/" + name, requestStream, responseStream, ...plain });
const service = { one: method("One", false, false), many: method("Many", false, true),
                  sum: method("Sum", true, false), chat: method("Chat", true, true),
                  fails: method("Fails", false, false) };

const server = new grpc.Server();
server.addService(service, {
  one: (call, done) => {
    const trailer = new grpc.Metadata();
    trailer.set("x-trailer", "behind");
    done(null, "one " + call.request + " " + (call.metadata.get("x-asked")[0] || ""), trailer);
  },
  many: (call) => {
    for (let i = 0; i < 100; i++) call.write(call.request + i);
    call.end();
  },
  sum: (call, done) => {
    let bytes = 0;
    call.on("data", (piece) => { bytes += piece.length; });
    call.on("end", () => done(null, String(bytes)));
  },
  chat: (call) => {
    call.on("data", (piece) => call.write(piece.toUpperCase()));
    call.on("end", () => call.end());
  },
  fails: (call, done) => done({ code: grpc.status.NOT_FOUND, details: "no such thing" }),
});

const Client = grpc.makeGenericClientConstructor(service, "Echo");

function unary(client, name, what) {
  return new Promise((resolve) => {
    const metadata = new grpc.Metadata();
    metadata.set("x-asked", "yes");
    let trailer = null;
    const call = client[name](what, metadata, { deadline: Date.now() + 10000 }, (error, value) =>
      setImmediate(() => resolve({ code: error ? error.code : 0, details: error && error.details, value, trailer })));
    call.on("status", (status) => { trailer = status.metadata.get("x-trailer")[0] || null; });
  });
}

function many(client) {
  return new Promise((resolve) => {
    const got = [], call = client.many("n");
    call.on("data", (value) => got.push(value));
    call.on("error", () => {});
    call.on("status", (status) => resolve({ code: status.code, count: got.length, last: got[got.length - 1] }));
  });
}

function sum(client) {
  return new Promise((resolve) => {
    const call = client.sum((error, value) => resolve({ code: error ? error.code : 0, value }));
    for (let i = 0; i < 50; i++) call.write("x".repeat(20000));
    call.end();
  });
}

// Each word is sent when the one before it has come back: nothing may wait for more.
function chat(client) {
  return new Promise((resolve) => {
    const words = ["a", "b", "c"], got = [], call = client.chat();
    call.on("data", (value) => {
      got.push(value);
      if (got.length < words.length) call.write(words[got.length]);
      else call.end();
    });
    call.on("error", () => {});
    call.on("status", (status) => resolve({ code: status.code, got }));
    call.write(words[0]);
  });
}

server.bindAsync("127.0.0.1:0", grpc.ServerCredentials.createInsecure(), (error, port) => {
  if (error) throw error;
  console.log(JSON.stringify({ port }));
  readline.createInterface({ input: process.stdin }).once("line", async (line) => {
    const client = new Client("127.0.0.1:" + line, grpc.credentials.createInsecure());
    const out = {};
    out.unary = await unary(client, "one", "hello");
    out.fails = await unary(client, "fails", "what");
    out.many = await many(client);
    out.sum = await sum(client);
    out.chat = await chat(client);
    out.together = (await Promise.all([...Array(200).keys()].map((i) => unary(client, "one", String(i)))))
      .filter((r, i) => r.code === 0 && r.value === "one " + i + " yes").length;
    server.forceShutdown();
    out.down = await unary(client, "one", "hello");
    console.log(JSON.stringify(out));
    client.close();
    process.exit(0);
  });
});
