// cache_suite.mjs - the public cache-tests suite (npm's http-cache-tests) through a proxy: says where its own server listens,
// reads the proxy's port from its input, and says what came of each test as JSON: [kind, "pass" or why not]. DIR is for its files.
import { spawn } from "node:child_process";
import { createRequire } from "node:module";
import net from "node:net";
import path from "node:path";
import readline from "node:readline";
import { pathToFileURL } from "node:url";

const need = createRequire(process.env.NODE_PATH + "/");
const root = path.dirname(need.resolve("http-cache-tests/package.json"));
const load = (file) => import(pathToFileURL(path.join(root, file)));
const { runTests, getResults } = await load("client/runner.mjs");
const { default: suites } = await load("tests/index.mjs");
const say = console.log;
console.log = console.error = () => {};

const port = await new Promise((done) => {
  const probe = net.createServer().listen(0, "127.0.0.1", () => {
    const free = probe.address().port;
    probe.close(() => done(free));
  });
});
const server = spawn(process.execPath, ["server/server.mjs"], { cwd: root, stdio: "ignore", env: { ...process.env,
  npm_config_protocol: "http", npm_config_port: String(port), npm_config_pidfile: path.join(process.env.DIR, "pid") } });

const answers = () => new Promise((done) => {
  const socket = net.connect(port, "127.0.0.1");
  socket.on("connect", () => { socket.destroy(); done(true); });
  socket.on("error", () => done(false));
});
while (!await answers()) await new Promise((done) => setTimeout(done, 20));

say(JSON.stringify({ port }));
readline.createInterface({ input: process.stdin }).once("line", async (line) => {
  const fetch = need("node-fetch");
  await runTests(suites, fetch, false, "http://127.0.0.1:" + line);
  const results = getResults(), told = {};
  for (const suite of suites) {
    for (const test of suite.tests) {
      const result = results[test.id];
      if (result !== undefined) told[test.id] = [test.kind || "required", result === true ? "pass" : result.join(": ")];
    }
  }
  say(JSON.stringify(told));
  server.kill();
  process.exit(0);
});
