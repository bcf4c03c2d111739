"""slow_server.py - a server of HTTP in a process of its own, to be stopped and killed: prints its port, and answers each
request with its method after some milliseconds."""
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

MILLISECONDS = float(sys.argv[1])


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1                       # head and body leave in one piece

    def answer(self):
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        time.sleep(MILLISECONDS / 1000)
        body = self.command.encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_POST = answer

    def log_message(self, *words):
        pass


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 256


server = Server(("127.0.0.1", 0), Handler)
print(server.server_port, flush=True)
server.serve_forever()
