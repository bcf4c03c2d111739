"""Upgrade and CONNECT: how an exchange becomes a tunnel, and when it does not (RFC 9110 7.8, 9.3.6)."""
import asyncio

import websockets

from client import request



def upgrade(target="/", protocol="echo"):
    return request("GET", target, "Connection: Upgrade", f"Upgrade: {protocol}")


def test_an_agreed_upgrade_becomes_a_tunnel(proxy, origin):
    def script(connection):
        asked = connection.request()
        assert asked["Upgrade"] == "echo" and "upgrade" in asked["Connection"].lower()
        connection.send(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\nearly")
        while data := connection.sock.recv(65536):
            connection.send(data.upper())
        connection.send(b"bye")
    server = origin.plays(script)
    client = proxy(server).raw()

    client.send(upgrade())
    answer = client.head()
    early = client.exactly(5)
    client.send(b"\x00\xffhello\r\n\r\n")
    echoed = client.exactly(11)
    client.shutdown()

    assert (answer.status, answer["Upgrade"], "upgrade" in answer["Connection"].lower()) == (101, "echo", True)
    assert (early, echoed) == (b"early", b"\x00\xffHELLO\r\n\r\n")
    assert client.ended() == b"bye"


def test_an_origin_that_upgrades_unasked_is_a_bad_origin(proxy, origin):
    server = origin.plays(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")

    assert proxy(server).get("/").status == 502


def test_an_origin_that_upgrades_to_something_else_is_a_bad_origin(proxy, origin):
    server = origin.plays(b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: other\r\n\r\n")
    client = proxy(server).raw()

    client.send(upgrade())

    assert client.response().status == 502


def test_an_upgrade_that_the_origin_declines_goes_on_as_http(proxy, origin):
    server = origin.answers(200, b"plain")
    client = proxy(server).raw()

    client.send(upgrade())

    assert (client.response().body, client.get("/").body) == (b"plain", b"plain")


def test_an_upgrade_of_an_http_1_0_client_is_not_passed_on(proxy, origin):
    server = origin.answers(200, b"plain")

    answer = proxy(server).request("GET", "/", "Connection: Upgrade", "Upgrade: echo", version="1.0")

    assert answer.body == b"plain"
    assert "Upgrade" not in server.last.fields


def test_an_upgrade_not_named_by_connection_is_not_passed_on(proxy, origin):
    server = origin.answers(200, b"plain")

    proxy(server).get("/", "Upgrade: echo")

    assert "Upgrade" not in server.last.fields


def test_websocket_messages_pass_both_ways(proxy):
    async def scenario():
        async def serve(socket):
            async for message in socket:
                await socket.send(message[::-1])

        async with websockets.serve(serve, "127.0.0.1", 0, max_size=None, compression=None) as server:
            port = server.sockets[0].getsockname()[1]
            gate = await asyncio.to_thread(proxy, f"127.0.0.1:{port}")
            async with websockets.connect(f"ws://127.0.0.1:{gate.port}/chat", max_size=None,
                                          compression=None) as client:
                for message in ["hello", b"\x00\x01", "x" * 70000, b"y" * 5_000_000]:
                    await client.send(message)
                    assert await client.recv() == message[::-1]
                await asyncio.gather(*(client.send("abc") for _ in range(100)))
                assert [await client.recv() for _ in range(100)] == ["cba"] * 100
            return gate

    asyncio.run(asyncio.wait_for(scenario(), 20))


def test_connect_becomes_a_tunnel_where_a_route_allows_it(proxy, origin):
    def script(connection):
        asked = connection.request()
        assert (asked.method, asked.target) == ("CONNECT", "inside.test:443")
        connection.send(b"HTTP/1.1 200 Connected\r\n\r\n")
        while data := connection.sock.recv(65536):
            connection.send(data[::-1])
    server = origin.plays(script)
    client = proxy(server, route='methods = { "CONNECT" }').raw()

    client.send(b"CONNECT inside.test:443 HTTP/1.1\r\nHost: inside.test:443\r\n\r\n")
    answer = client.response("CONNECT")
    client.send(b"abc")

    assert answer.status == 200
    assert not set(answer.fields.names()) & {"content-length", "transfer-encoding"}
    assert client.exactly(3) == b"cba"


def test_a_connect_that_the_origin_refuses_is_plain_http(proxy, origin):
    server = origin.answers(403, b"not there")
    client = proxy(server, route='methods = { "CONNECT" }').raw()

    client.send(b"CONNECT inside.test:443 HTTP/1.1\r\nHost: inside.test:443\r\n\r\n")

    answer = client.response("CONNECT")
    assert (answer.status, answer.body) == (403, b"not there")
