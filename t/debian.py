"""debian.py - a Debian of the test's own: made once with debootstrap, booted with systemd in namespaces, thrown away."""
import ctypes
import fcntl
import hashlib
import http.client
import os
import shutil
import signal
import subprocess
import tempfile
import threading
import time
from contextlib import contextmanager
from pathlib import Path

import moongate

CACHE = moongate.ROOT / "build" / "package"
INCLUDE = "ca-certificates,systemd,systemd-sysv"
NSPAWN = ["systemd-nspawn", "--quiet", "--register=no", "--keep-unit", "--link-journal=no", "--timezone=off"]


def call(*command, timeout, **options):
    done = subprocess.run([str(word) for word in command], capture_output=True, text=True, timeout=timeout,
                          stdin=options.pop("stdin", subprocess.DEVNULL if "input" not in options else None), **options)
    assert done.returncode == 0, f"{command}: status {done.returncode}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@contextmanager
def alone(what, where=CACHE):
    """Only one test at a time does this, of all that run on this tree."""
    where.mkdir(parents=True, exist_ok=True)
    with open(where / f".{what}.lock", "w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def alone_with_machines():
    """Of all that run here: control groups of machines have the same names."""
    return alone("moongate-machine", Path(tempfile.gettempdir()))


def package(directory):
    """A copy of the package, built by `make deb`."""
    plain = {name: value for name, value in os.environ.items() if name not in ("SANITIZE", "MAKEFLAGS", "MAKELEVEL")}
    with alone("deb"):
        call("make", "-s", "-C", moongate.ROOT, "deb", timeout=300, env=plain)
        path, = CACHE.parent.glob("moongate_*.deb")
        return Path(shutil.copy(path, directory))


def field(path, name):
    return call("dpkg-deb", "--field", path, name, timeout=10).strip()


def base(deb):
    """A minimal Debian as this machine's, with systemd, and with what the package depends on at hand, not installed."""
    suite = call("sh", "-c", '. /etc/os-release; echo "$VERSION_CODENAME"', timeout=5).strip()
    key = hashlib.sha256(f"{suite} {INCLUDE} {field(deb, 'Depends')}".encode()).hexdigest()[:12]
    root = CACHE / f"root-{key}"
    with alone("root"):
        if not root.exists():
            for old in CACHE.glob("root-*"):
                shutil.rmtree(old)
            made = CACHE / "root-new"
            call("debootstrap", "--variant=minbase", f"--include={INCLUDE}", suite, made, timeout=300)
            configure_apt(made)
            shutil.copy(deb, made / "root/moongate.deb")
            fetch = "apt-get -q update && apt-get -qy --no-install-recommends --download-only install /root/moongate.deb"
            call(*NSPAWN, "--console=pipe", "-D", made, "sh", "-c", fetch, timeout=200)
            made.rename(root)
    return root


def configure_apt(root):
    """As here."""
    for old in [*root.glob("etc/apt/sources.list"), *root.glob("etc/apt/sources.list.d/*")]:
        old.unlink()
    for each in [*Path("/etc/apt").glob("sources.list"), *Path("/etc/apt/sources.list.d").glob("*.list"),
                 *Path("/etc/apt/sources.list.d").glob("*.sources")]:
        shutil.copy(each, root / each.relative_to("/"))
    (root / "etc/apt/apt.conf.d/99machine").write_text(call("apt-config", "dump", "Acquire", timeout=10))
    shutil.copy("/etc/ssl/certs/ca-certificates.crt", root / "etc/ssl/certs/ca-certificates.crt")
    shutil.copy("/etc/resolv.conf", root / "etc/resolv.conf")


def forget_groups():
    """The control groups of a machine that has ended."""
    for group in [each for name in ("supervisor", "payload") for each in Path("/sys/fs/cgroup").glob(f"*/{name}")]:
        for folder, _, _ in os.walk(group, topdown=False):
            moongate.wait_until(lambda folder=folder: remove(folder), 20, what=f"an empty {folder}")


def remove(folder):
    try:
        os.rmdir(folder)
    except OSError:
        return False
    return True


def is_gone(pid):
    """Has this process ended? Where orphans are ours (moongate.become_reaper), it is ours to wait for, too."""
    try:
        os.waitpid(pid, os.WNOHANG)
    except ChildProcessError:
        pass
    return not os.path.exists(f"/proc/{pid}")


class Machine:
    """It is booted, has a loopback interface and no other, and whatever it writes is gone with it."""

    def __init__(self, root, directory, *files):
        for name in ("upper/root", "work", "root"):
            (directory / name).mkdir(parents=True)
        for file in files:
            shutil.copy(file, directory / "upper/root")
        (directory / "upper/etc").mkdir()
        (directory / "upper/etc/machine-id").touch()
        # The mount is in a namespace of its own, and ends with it.
        script = 'mount -t overlay overlay -o "lowerdir=$1,upperdir=$2/upper,workdir=$2/work" "$2/root" && shift 2 && exec "$@"'
        self.name = f"moongate-{os.getpid()}-{time.monotonic_ns()}"
        with open(directory / "console", "wb") as console:
            self.process = subprocess.Popen(
                ["unshare", "--mount", "--propagation=private", "sh", "-c", script, "sh", root, directory, *NSPAWN,
                 "--console=read-only", "--private-network", "--resolv-conf=off", f"--machine={self.name}", "-D",
                 directory / "root", "--boot"], stdin=subprocess.DEVNULL, stdout=console, stderr=console)
        self.console, self.leader = directory / "console", None
        try:
            self.leader = moongate.wait_until(self._find_leader, 20, what="systemd as the first process")
            moongate.wait_until(self._is_up, 40, 0.1, what="a booted system")
        except AssertionError as problem:
            self.end()
            raise AssertionError(f"{problem}\n{self.console.read_text('utf-8', 'replace')}") from None

    def _find_leader(self):
        """The child that is the first process of its own namespace."""
        assert self.process.poll() is None, self.console.read_text("utf-8", "replace")
        for pid in Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split():
            try:
                status = Path(f"/proc/{pid}/status").read_text()
            except FileNotFoundError:
                continue
            if "\tsystemd\n" in status and "\t1\n" in status.split("NSpid:")[1][:40]:
                return int(pid)
        return None

    def _is_up(self):
        return self.try_to("systemctl", "is-system-running").stdout.strip() in ("running", "degraded")

    def try_to(self, *command, timeout=60, input=None):
        """A command in the machine; its outcome."""
        into = ["nsenter", f"--target={self.leader}", "--mount", "--uts", "--ipc", "--net", "--pid", "--cgroup", "--root",
                "--wd=/", "env", "-i", "PATH=/usr/sbin:/usr/bin:/sbin:/bin", "DEBIAN_FRONTEND=noninteractive", "LC_ALL=C"]
        return subprocess.run([*into, *map(str, command)], capture_output=True, text=True, timeout=timeout,
                              input=input if input is not None else "")

    def run(self, *command, **options):
        """One that must go well; what it prints."""
        done = self.try_to(*command, **options)
        assert done.returncode == 0, f"{command}: status {done.returncode}\n{done.stdout}\n{done.stderr}\n{self.journal()}"
        return done.stdout

    def write(self, path, text):
        self.run("sh", "-c", 'cat > "$1"', "sh", path, input=text)

    def shows(self, unit, name):
        """A property of a unit."""
        return self.run("systemctl", "show", "--value", f"--property={name}", unit).strip()

    def journal(self):
        """Without the access log's lines."""
        lines = self.try_to("journalctl", "--no-pager", "-u", "moongate").stdout.splitlines()
        return "\n".join(line for line in lines if "]: {" not in line)

    def curl(self, url, *options):
        """This machine's curl on that one's network."""
        return call("nsenter", f"--target={self.leader}", "--net", "curl", "-sS", "--max-time", "10", *options, url, timeout=15)

    def ask_all_the_time(self, port):
        return Asker(f"/proc/{self.leader}/ns/net", port)

    def end(self):
        """With its first process all the others go."""
        for pid in (self.leader, self.process.pid):
            try:
                os.kill(pid or self.process.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        self.process.wait(20)
        moongate.wait_until(lambda: not self.leader or is_gone(self.leader), 20)
        remove(f"/run/systemd/nspawn/propagate/{self.name}")
        forget_groups()


class Asker:
    """Asks a machine for / on a new connection and on a kept one, by turns; finish() tells how often, and what went wrong."""

    def __init__(self, namespace, port):
        self.port, self.asked, self.wrong, self.stop = port, 0, [], threading.Event()
        self.namespace = os.open(namespace, os.O_RDONLY)
        self.thread = threading.Thread(target=self._work, daemon=True)
        self.thread.start()
        moongate.wait_until(lambda: self.asked > 10 or self.wrong)

    def _work(self):
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.setns(self.namespace, 0) != 0:      # of this thread alone
            self.wrong.append(os.strerror(ctypes.get_errno()))
        kept = self._connection()
        while not self.stop.is_set() and len(self.wrong) < 10:
            for connection in (kept, self._connection()):
                try:
                    connection.request("GET", "/")
                    answer = connection.getresponse()
                    answer.read()
                    self.asked += 1
                    if answer.status != 200:
                        self.wrong.append(answer.status)
                except (OSError, http.client.HTTPException) as problem:
                    self.wrong.append(repr(problem))
                if connection is not kept or answer.will_close:
                    connection.close()              # asked for by the gateway; the next request opens it again
            time.sleep(0.002)
        kept.close()

    def _connection(self):
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)

    def finish(self):
        self.stop.set()
        self.thread.join(15)
        os.close(self.namespace)
        return self.asked, self.wrong
