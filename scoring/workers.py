"""The processes that compare expressions. A reader may skip this file: POOL.map is all that others use.

A short string can make sympy crawl or eat all memory, and its own time-outs do not work in threads. So
expressions are compared in a few child processes: the system kills a pair that uses up its processor time, it
counts as not equal, and its process is replaced. (multiprocessing, and pebble on top of it, would import the
program that is running, and torch with it, into each child.) `serve` runs in the children.
"""
import atexit
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from scoring.rule import equal
from scoring.spelling import plain
from scoring.values import read

TIME_LIMIT = 2.0         # seconds for a pair; of processor time: a busy machine must not change a verdict
MEMORY_LIMIT = 4 << 30   # bytes of address space for one worker
START_LIMIT = 120        # seconds of wall time until a worker is ready


class Pool:
    """The workers of this process. They start when the first hard pair comes."""

    def __init__(self):
        self.workers, self.pid, self.lock = [], None, threading.Lock()
        self.size, self.limit = None, TIME_LIMIT

    def map(self, pairs, parse_only=False):
        """[(answer, gold, options)] -> [(right, why, seconds)] in order, from any thread."""
        with self.lock:
            if self.pid != os.getpid():  # first use; or this is a fork: its parent's workers are not ours
                self.workers, self.pid = [], os.getpid()
            processes = int(os.environ.get("LOCAL_WORLD_SIZE", 1))
            size = self.size or max(1, min(8, (os.cpu_count() or 1) // processes))
            self.workers += [Worker() for _ in range(min(size, len(pairs)) - len(self.workers))]
            results, waiting = [None] * len(pairs), deque(range(len(pairs)))

            def work(worker):  # a thread for each: it sends a pair, waits for the reply, takes the next pair
                while waiting:
                    worker.wait_until_ready()
                    try:
                        i = waiting.popleft()
                    except IndexError:  # another thread took the last one
                        return
                    results[i] = worker.compare([*pairs[i], self.limit, parse_only])

            chosen = sorted(self.workers, key=lambda worker: not worker.ready)[:len(pairs)]
            with ThreadPoolExecutor(max(1, len(chosen))) as threads:
                try:
                    for done in [threads.submit(work, worker) for worker in chosen]:
                        done.result()
                except BaseException:  # Ctrl-C too: the threads end when their children do
                    waiting.clear()
                    for worker in self.workers:
                        worker.process.kill()
                    raise
            return results

    def close(self):
        while self.workers and self.pid == os.getpid():
            self.workers.pop().stop()


class Worker:
    """A child process, and how to talk to it: one JSON task a line, one JSON reply a line. It is replaced
    when it dies, of a time limit, of memory, of anything."""

    def __init__(self):
        self.process = subprocess.Popen(
            [sys.executable, "-m", "scoring.workers"], cwd=Path(__file__).parent.parent,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C is for the trainer
            bufsize=0)               # when a child dies, nothing is left to be flushed
        self.ready = self.hung = False

    def stop(self):
        self.process.kill()
        self.process.wait()
        self.process.stdin.close()
        self.process.stdout.close()

    def wait_until_ready(self):
        for _ in range(3):
            reply = self.ready or self._reply(START_LIMIT)
            if reply:
                if reply is not True and reply != "ready":
                    raise RuntimeError(f"comparing answers needs math-verify: {reply}; "
                                       f"pip install -r requirements.txt")
                self.ready = True
                return
            self.stop()
            self.__init__()
        raise RuntimeError("the processes that compare answers do not start; "
                           "`python -m scoring.workers` shows why")

    def compare(self, task):
        """task: [answer, gold, options, limit, parse_only] -> (right, why, seconds)"""
        start = time.perf_counter()
        try:
            self.process.stdin.write(json.dumps(task).encode() + b"\n")
        except BrokenPipeError:
            pass  # it died while idle; the end of its output tells below
        if reply := self._reply(10 * task[3] + 10):
            return *reply, time.perf_counter() - start
        self.process.wait()
        late = self.hung or self.process.returncode == -signal.SIGPROF
        why = "time limit" if late else f"the comparison died (exit {self.process.returncode})"
        self.stop()
        self.__init__()
        return False, why, time.perf_counter() - start

    def _reply(self, patience):
        """The child's next line; None when it died. A child that hangs asleep, so that its own clock stands
        still, is killed after `patience` seconds of wall time."""
        def give_up():
            self.hung = True
            self.process.kill()
        timer = threading.Timer(patience, give_up)
        timer.start()
        line = self.process.stdout.readline()
        timer.cancel()
        return json.loads(line) if line.endswith(b"\n") else None


POOL = Pool()
atexit.register(POOL.close)


def serve():
    """Read tasks, write replies. A task that uses up its processor time kills this process."""
    import logging
    import resource
    logging.disable(logging.CRITICAL)
    if sys.platform == "linux":  # macOS refuses this one
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY_LIMIT, MEMORY_LIMIT))
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever a library prints is not a reply
    try:
        from scoring import maths
        maths.parse(r"\frac{1}{\sqrt{2}}+x^{2}")  # this fills the parser's tables, before the clock runs
        print(json.dumps("ready"), file=replies, flush=True)
    except ImportError as error:
        print(json.dumps(str(error)), file=replies, flush=True)
    for line in sys.stdin:
        answer, gold, options, limit, parse_only = json.loads(line)
        signal.setitimer(signal.ITIMER_PROF, limit)  # nothing handles its signal: the process ends
        try:
            right = (maths.readable(read(gold)) if parse_only else
                     equal(plain(answer), plain(gold), options, maths))
            why = "rule" if right else "not equal"
        except (RecursionError, MemoryError) as error:
            right, why = False, type(error).__name__
        signal.setitimer(signal.ITIMER_PROF, 0)
        print(json.dumps([bool(right), why]), file=replies, flush=True)


if __name__ == "__main__":
    serve()
