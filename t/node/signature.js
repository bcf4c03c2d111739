// signature.js - signs requests with npm's http-message-signatures and sends them to the proxy: prints where it listens
// (nowhere), reads the proxy's port from its input, and says what status each request got, as JSON. KEYS is a folder
// with NAME.pem for the names below; SECRET is one.
const { httpbis: { signMessage }, createSigner } = require("http-message-signatures");
const crypto = require("node:crypto");
const fs = require("node:fs");
const http = require("node:http");
const readline = require("readline");

const names = { "rsa-pss-sha512": "rsa", "rsa-v1_5-sha256": "rsa", "ecdsa-p256-sha256": "P-256",
  "ecdsa-p384-sha384": "P-384", ed25519: "ed25519", "hmac-sha256": null };

// Its own signer of RSA-PSS takes the longest salt that fits; the RFC (section 3.3.1) wants 64 bytes.
function signerOf(key, algorithm, id) {
  const signer = createSigner(key, algorithm, id);
  if (algorithm === "rsa-pss-sha512") {
    signer.sign = async (data) => crypto.createSign("sha512").update(data).sign({ key, saltLength: 64,
      padding: crypto.constants.RSA_PKCS1_PSS_PADDING });
  }
  return signer;
}

function send(port, message) {
  return new Promise((resolve, reject) => {
    const url = new URL(message.url);
    const request = http.request({ port, host: "127.0.0.1", method: message.method, path: url.pathname + url.search,
      headers: { host: url.host, ...message.headers } }, (response) => {
      response.resume();
      response.on("end", () => resolve(response.statusCode));
    });
    request.on("error", reject);
    request.end(message.body);
  });
}

console.log(JSON.stringify({ port: 0 }));
readline.createInterface({ input: process.stdin }).once("line", async (port) => {
  const out = {};
  for (const [algorithm, name] of Object.entries(names)) {
    const key = name ? fs.readFileSync(`${process.env.KEYS}/${name}.pem`) : process.env.SECRET;
    const body = JSON.stringify({ hello: algorithm });
    const digest = crypto.createHash("sha256").update(body).digest("base64");
    const signed = await signMessage({
      key: signerOf(key, algorithm, name || "shared"),
      fields: ["@method", "@target-uri", "content-digest", "content-type"],
    }, { method: "POST", url: "http://api.example.com/pay?amount=7&to=Zo%C3%AB", body,
      headers: { "content-type": "application/json", "content-digest": `sha-256=:${digest}:`,
        "content-length": String(Buffer.byteLength(body)) } });
    out[algorithm] = await send(port, signed);
    out[algorithm + " again"] = await send(port, signed);
    out[algorithm + " changed"] = await send(port, { ...signed, url: signed.url.replace("=7", "=8") });
  }
  console.log(JSON.stringify(out));
  process.exit(0);
});
