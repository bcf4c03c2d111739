// health.js - a gRPC server with grpc.health.v1 of its own: says where it listens, and reads what is to be its status from
// its input, a line each: "SERVING", "NOT_SERVING", "users NOT_SERVING", "UNIMPLEMENTED", "silent".
const grpc = require("@grpc/grpc-js");
const readline = require("readline");

const NUMBERS = { UNKNOWN: 0, SERVING: 1, NOT_SERVING: 2 };
const statuses = { "": "SERVING" };

const service = { check: { path: "/grpc.health.v1.Health/Check", requestStream: false, responseStream: false,
                           requestSerialize: (v) => v, requestDeserialize: (v) => v,
                           responseSerialize: (v) => v, responseDeserialize: (v) => v } };

const server = new grpc.Server();
server.addService(service, {
  check: (call, done) => {
    const asked = call.request.length > 2 ? call.request.subarray(2).toString() : "";   // field 1, its length, its text
    const status = statuses[asked];
    if (status === "silent") return;
    if (status === "UNIMPLEMENTED") return done({ code: grpc.status.UNIMPLEMENTED });
    if (status === undefined) return done({ code: grpc.status.NOT_FOUND });
    done(null, Buffer.from([8, NUMBERS[status]]));
  },
});

server.bindAsync("127.0.0.1:0", grpc.ServerCredentials.createInsecure(), (error, port) => {
  if (error) throw error;
  console.log(JSON.stringify({ port }));
  readline.createInterface({ input: process.stdin }).on("line", (line) => {
    const words = line.split(" ");
    statuses[words.length > 1 ? words[0] : ""] = words[words.length - 1];
    console.log(line);
  }).on("close", () => process.exit(0));
});
