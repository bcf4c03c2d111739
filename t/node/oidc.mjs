// oidc.mjs - a real OpenID provider, npm's oidc-provider: says where it listens, as JSON, and runs until its input ends.
// CLIENT is the client's metadata, TTL seconds of an access token. Whoever logs in is who they say, by its own pages.
import http from "node:http";
import { createRequire } from "node:module";
import { pathToFileURL } from "node:url";

const found = createRequire(process.env.NODE_PATH + "/").resolve("oidc-provider");
const { default: Provider } = await import(pathToFileURL(found));
console.info = console.warn = () => {};

let answer;
const server = http.createServer((request, response) => answer(request, response));
server.listen(0, "127.0.0.1", () => {
  const issuer = "http://127.0.0.1:" + server.address().port;
  const provider = new Provider(issuer, {
    clients: [JSON.parse(process.env.CLIENT)],
    claims: { profile: ["name", "padding"], email: ["email"] },
    conformIdTokenClaims: false,
    cookies: { keys: ["for tests alone"] },
    features: { introspection: { enabled: true, allowedPolicy: () => true }, revocation: { enabled: true } },
    findAccount: (context, id) => ({
      accountId: id,
      claims: () => ({ sub: id, name: "Name of " + id, email: id + "@example.test", padding: "x".repeat(id === "large" ? 9000 : 1) }),
    }),
    pkce: { required: () => true },
    rotateRefreshToken: true,
    ttl: { AccessToken: Number(process.env.TTL), IdToken: 3600, RefreshToken: 3600, Grant: 3600, Session: 3600,
      Interaction: 600, AuthorizationCode: 60 },
  });
  answer = provider.callback();
  console.log(JSON.stringify({ port: server.address().port }));
});
process.stdin.resume();
process.stdin.on("end", () => process.exit(0));
