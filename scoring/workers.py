"""The processes that compare expressions. A reader may skip this file: POOL.map is all that others use.

A short string can make sympy crawl or eat all memory, and its own time-outs do not work in threads. So
expressions are compared in a few child processes: the system kills a pair that uses up its processor time, it
counts as not equal, and its process is replaced. (multiprocessing, and pebble on top of it, would import the
program that is running, and torch with it, into each child.) `serve` runs in the children.
"""
import json
import os
import queue
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
MEMORY_LIMIT = 4 << 30   # bytes of address space for one worker


class Pool:
    """The workers of this process. They start when the first hard pair comes, and end with their input."""

    def __init__(self):
        self.workers, self.pid, self.lock, self.limit = [], None, threading.Lock(), TIME_LIMIT

    def map(self, pairs):
        """[(answer, gold, options)] -> [(right, why)] in order, from any thread"""
        with self.lock:
            if self.pid != os.getpid():  # first use; or this is a fork: its parent's workers are not ours
                processes = int(os.environ.get("LOCAL_WORLD_SIZE", 1))
                size = max(1, min(8, (os.cpu_count() or 1) // processes))
                self.workers, self.pid = [Worker() for _ in range(size)], os.getpid()
            idle = queue.LifoQueue()  # few pairs go to those that run already
            for worker in self.workers[::-1]:
                idle.put(worker)

            def compare(pair):
                worker = idle.get()
                try:
                    return worker.compare([*pair, self.limit])
                finally:
                    idle.put(worker)

            with ThreadPoolExecutor(len(self.workers)) as threads:
                try:
                    return list(threads.map(compare, pairs))
                except BaseException:  # Ctrl-C too: the threads end when their children do
                    threads.shutdown(wait=False, cancel_futures=True)
                    for worker in self.workers:
                        worker.kill()
                    raise


class Worker:
    """A child process, and how to talk to it: one JSON task a line, one JSON reply a line. It is replaced
    when it dies, of a time limit, of memory, of anything."""
    process = None

    def kill(self):
        if self.process:
            self.process.kill()
            self.process.wait()

    def compare(self, task):
        """task: [answer, gold, options, limit] -> (right, why)"""
        if not self.process or self.process.poll() is not None:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "scoring.workers"], cwd=Path(__file__).parent.parent,
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
                start_new_session=True,  # Ctrl-C is for the trainer
                bufsize=0)               # when a child dies, nothing is left to be flushed
        timer = threading.Timer(PATIENCE, self.kill)
        timer.start()
        try:
            self.process.stdin.write(json.dumps(task).encode() + b"\n")
            line = self.process.stdout.readline()
        except BrokenPipeError:
            line = b""
        timer.cancel()
        if line.endswith(b"\n"):
            return tuple(json.loads(line))
        code = self.process.wait()
        if code > 0:  # no signal: Python has stopped with an error
            raise RuntimeError("the processes that compare answers do not start (is math-verify installed?); "
                               "`python -m scoring.workers` shows why")
        return False, "time limit" if code == -signal.SIGPROF else f"the comparison died (exit {code})"


POOL = Pool()


def serve():
    """Read tasks, write replies. A task that uses up its processor time kills this process."""
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
        answer, gold, options, limit = json.loads(line)
        signal.setitimer(signal.ITIMER_PROF, limit)  # nothing handles its signal: the process ends
        try:
            right = equal(plain(answer), plain(gold), options, maths)
            why = "rule" if right else "not equal"
        except (RecursionError, MemoryError) as error:
            right, why = False, type(error).__name__
        signal.setitimer(signal.ITIMER_PROF, 0)
        print(json.dumps([bool(right), why]), file=replies, flush=True)


if __name__ == "__main__":
    serve()
