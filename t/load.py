"""load.py - clients that ask and ask again while a test does something to the proxy."""
import threading

from moongate import wait_until


class Load:
    """Requests on a kept connection, and on a new one each, until it is told to stop.

    counts: requests by kind; connections: how many were kept. expected: the body of each answer, None: whatever. renews:
    a kept one may be told that it was the last, and another takes its place; else it must last. kinds: what is done;
    "ask" puts questions to the control socket."""

    def __init__(self, gate, expected=b"ok", target="/", kinds=("kept", "new"), renews=False):
        self.gate, self.expected, self.target, self.renews = gate, expected, target, renews
        self.counts, self.connections, self.problems = {}, 0, []
        self.over = threading.Event()
        works = [getattr(self, kind) for kind in kinds]
        self.threads = [threading.Thread(target=self.run, args=(work,)) for work in works]
        for thread in self.threads:
            thread.start()
        wait_until(lambda: len(self.counts) == len(works) or self.problems)

    def run(self, work):
        try:
            while not self.over.is_set():
                work()
        except Exception as problem:
            self.problems.append(f"{work.__name__}: {problem!r}")

    def count(self, kind):
        self.counts[kind] = self.counts.get(kind, 0) + 1

    def check(self, answer):
        assert answer.status == 200 and self.expected in (None, answer.body), answer

    def kept(self):
        client, ends = self.gate.raw(), False
        self.connections += 1
        while not self.over.is_set() and not ends:
            answer = client.get(self.target)
            self.check(answer)
            self.count("kept")
            ends = answer["Connection"] == "close"
            assert self.renews or not ends, "the connection was to end"
        client.close()

    def new(self):
        self.check(self.gate.get(self.target))
        self.count("new")

    def ask(self):
        answer = self.gate.status()
        assert "workers" in answer or "another status" in answer["error"], answer
        self.count("ask")

    def stop(self):
        self.over.set()
        for thread in self.threads:
            thread.join(10)
        assert not self.problems, self.problems
        return self.counts
