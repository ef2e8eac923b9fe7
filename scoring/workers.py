"""The processes that compare expressions: POOL.map is all that others use.

A short string can make sympy crawl or eat all memory, and its own time-outs do not work in threads. So child
processes compare: the system kills one that uses up its processor time, the pair counts as not equal, and the
process is replaced. (multiprocessing, and pebble on top of it, would import the program that is running, and
torch with it, into each child.) `serve` runs in the children.
"""
import json
import os
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from scoring.rule import equal
from scoring.spelling import plain

TIME_LIMIT = 2.0         # seconds for a pair; of processor time: a busy machine must not change a verdict
PATIENCE = 120           # seconds of wall time: a child that hangs asleep, so that its own clock stands still
MEMORY_LIMIT = 4 << 30   # bytes of address space for one child


class Pool:
    """A few threads. Each has a child, to which it writes one JSON task a line, and reads one JSON reply a
    line. A child starts when the first hard pair comes, and ends with its input."""

    def __init__(self):
        size = max(1, min(8, (os.cpu_count() or 1) // int(os.environ.get("LOCAL_WORLD_SIZE", 1))))
        self.threads, self.own = ThreadPoolExecutor(size), threading.local()

    def map(self, pairs):
        """[(answer, gold, options)] -> [(right, why)] in order, from any thread"""
        return list(self.threads.map(self.compare, pairs))

    def compare(self, pair):
        child = getattr(self.own, "child", None)
        if not child or child.poll() is not None:  # it died, of a time limit, of memory, of anything
            child = self.own.child = subprocess.Popen(
                [sys.executable, "-m", "scoring.workers"], cwd=Path(__file__).parent.parent,
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                start_new_session=True, bufsize=0)  # Ctrl-C is for the trainer; nothing is left to be flushed
        try:
            child.stdin.write(json.dumps(pair).encode() + b"\n")
            line = child.stdout.readline()
        except BrokenPipeError:
            line = b""
        if line.endswith(b"\n"):
            return tuple(json.loads(line))
        code = child.wait()
        if code > 0:  # no signal: Python has stopped with an error
            raise RuntimeError("`python -m scoring.workers` ends with an error: is math-verify installed?")
        return False, "time limit" if code == -signal.SIGPROF else f"the comparison died (exit {code})"


POOL = Pool()
os.register_at_fork(after_in_child=POOL.__init__)  # its parent's children would mix up the replies


def serve():
    """Read tasks, write replies. A task that uses up its time ends this process by a signal."""
    import logging
    import resource

    from scoring import maths
    logging.disable(logging.CRITICAL)
    if sys.platform == "linux":  # macOS refuses this one
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY_LIMIT, MEMORY_LIMIT))
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever a library prints is not a reply
    maths.parse(r"\frac{1}{\sqrt{2}}+x^{2}")  # this fills the parser's tables, before the clock runs
    for line in sys.stdin:
        answer, gold, options = json.loads(line)
        signal.setitimer(signal.ITIMER_PROF, TIME_LIMIT)
        signal.alarm(PATIENCE)
        try:
            right = equal(plain(answer), plain(gold), options, maths)
            why = "rule" if right else "not equal"
        except (RecursionError, MemoryError) as error:
            right, why = False, type(error).__name__
        signal.alarm(0)  # the other clock stands still between tasks
        print(json.dumps([bool(right), why]), file=replies, flush=True)


if __name__ == "__main__":
    serve()
