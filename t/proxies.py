"""proxies.py - real HAProxy and nginx around the proxy, and PROXY headers by hand."""
import socket
import struct
import subprocess

from moongate import free_port, wait_until

SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"


def version1(source="192.0.2.7", destination="198.51.100.8", from_port=51234, port=443):
    family = "TCP6" if ":" in source else "TCP4"
    return f"PROXY {family} {source} {destination} {from_port} {port}\r\n".encode()


def version2(source="192.0.2.7", destination="198.51.100.8", from_port=51234, port=443, tlvs=b"", command=1):
    kind, family = (socket.AF_INET6, 0x21) if ":" in source else (socket.AF_INET, 0x11)
    ends = socket.inet_pton(kind, source) + socket.inet_pton(kind, destination) + struct.pack(">HH", from_port, port)
    return SIGNATURE + bytes([0x20 | command, family]) + struct.pack(">H", len(ends + tlvs)) + ends + tlvs


def tlv(kind, value):
    return bytes([kind]) + struct.pack(">H", len(value)) + value


def is_open(port):
    with socket.socket() as sock:
        return sock.connect_ex(("127.0.0.1", port)) == 0


class Server:
    """A process that listens on a port of its own, until close()."""

    def __init__(self, directory, command, config, text):
        self.port = free_port()
        path = directory / config
        path.write_text(text.replace("$PORT", str(self.port)).replace("$DIR", str(directory)))
        self.process = subprocess.Popen([*command, str(path)], cwd=directory, stdin=subprocess.DEVNULL,
                                        stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
        wait_until(lambda: self.process.poll() is not None or is_open(self.port), what=f"{command[0]} listens")
        assert self.process.poll() is None, self.process.stdout.read().decode()

    def __str__(self):
        return f"127.0.0.1:{self.port}"

    def close(self):
        self.process.terminate()
        self.process.communicate(timeout=10)


def haproxy(directory, frontend, backend, mode="http"):
    """HAProxy with one frontend at its port and one backend, whose lines are given."""
    return Server(directory, ["haproxy", "-db", "-f"], "haproxy.cfg", f"""
global
    maxconn 100
defaults
    mode {mode}
    timeout connect 5s
    timeout client 20s
    timeout server 20s
frontend front
    bind 127.0.0.1:$PORT {frontend}
    default_backend back
backend back
    {backend}
""")


def nginx(directory, listen, location):
    """nginx with one server at its port."""
    return Server(directory, ["nginx", "-p", str(directory), "-e", "stderr", "-c"], "nginx.conf", f"""
daemon off; worker_processes 1; master_process off; pid $DIR/nginx.pid; error_log stderr warn;
events {{ worker_connections 100; }}
http {{
    access_log off;
    client_body_temp_path $DIR/body; proxy_temp_path $DIR/proxy; fastcgi_temp_path $DIR/fastcgi;
    uwsgi_temp_path $DIR/uwsgi; scgi_temp_path $DIR/scgi;
    server {{ listen 127.0.0.1:$PORT {listen}; location / {{ {location} }} }}
}}
""")


def is_whole(data):
    """How long the header is that the data begins with; 0 if more must come."""
    if data[:1] == b"P":
        return data.find(b"\r\n") + 2 if b"\r\n" in data else 0
    size = 16 + struct.unpack(">H", data[14:16])[0] if len(data) >= 16 else 0
    return size if len(data) >= size else 0
