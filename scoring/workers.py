"""The processes that compare expressions. A reader may skip this file: POOL.map is all that others use.

A short string can make sympy crawl or eat all memory, and its own time-outs do not work in threads. So
expressions are compared in a few child processes: the system kills a pair that uses up its processor time, it
counts as not equal, and its process is replaced. The second half of this file runs in the children.
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
ROOT = Path(__file__).parent.parent


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
            while len(self.workers) < min(size, len(pairs)):
                self.workers.append(Worker())
            return self._share_out(pairs, parse_only) if pairs else []

    def _share_out(self, pairs, parse_only):
        """One thread for each worker: it sends a pair, waits for the reply, and takes the next pair."""
        results, waiting, failed_starts = [None] * len(pairs), deque(range(len(pairs))), []

        def work(worker):
            while waiting:
                worker.wait_until_ready(failed_starts)
                try:
                    i = waiting.popleft()
                except IndexError:  # another thread took the last one
                    return
                task = dict(zip(("answer", "gold", "options"), pairs[i]))
                results[i] = worker.compare({**task, "limit": self.limit, "parse_only": parse_only})

        ready_first = sorted(self.workers, key=lambda worker: not worker.ready)[:len(pairs)]
        with ThreadPoolExecutor(len(ready_first)) as threads:
            try:
                for done in [threads.submit(work, worker) for worker in ready_first]:
                    done.result()
            except BaseException:  # Ctrl-C too: the threads end when their children do
                waiting.clear()
                for worker in self.workers:
                    worker.process.kill()
                raise
        return results

    def close(self):
        if self.pid == os.getpid():
            for worker in self.workers:
                worker.stop()
            self.workers = []


class Worker:
    """A child process, and how to talk to it: one JSON task a line, one JSON reply a line. It is replaced
    when it dies, of a time limit, of memory, of anything."""

    def __init__(self):
        self.start()

    def start(self):
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(
            [sys.executable, "-m", "scoring.workers"], cwd=ROOT,  # where the package is found
            stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C is for the trainer
            bufsize=0)               # when a child dies, nothing is left to be flushed
        self.ready = self.hung = False

    def stop(self):
        self.process.kill()
        self.process.wait()
        self.process.stdin.close()
        self.process.stdout.close()

    def wait_until_ready(self, failed_starts):
        """failed_starts: a list that grows by one for each start that failed, of any worker."""
        while not self.ready:
            reply = self._reply(START_LIMIT)
            if reply is None:
                failed_starts.append(self)
                if len(failed_starts) > 3:
                    raise RuntimeError("the processes that compare answers do not start; "
                                       "`python -m scoring.workers` shows why")
                self._replace()
            elif "missing" in reply:
                raise RuntimeError(f"comparing answers needs math-verify: {reply['missing']}; "
                                   f"pip install -r requirements.txt")
            else:
                self.ready = True

    def compare(self, task):
        """(right, why, seconds)"""
        start = time.perf_counter()
        try:
            self.process.stdin.write(json.dumps(task).encode() + b"\n")
        except BrokenPipeError:
            pass  # it died while idle; the end of its output tells below
        reply = self._reply(10 * task["limit"] + 10)
        if reply is not None:
            return reply["right"], reply["why"], reply["seconds"]
        hung, code = self.hung, self._replace()
        why = "time limit" if hung or code == -signal.SIGPROF else f"the comparison died (exit {code})"
        return False, why, time.perf_counter() - start

    def _reply(self, patience):
        """The child's next line; None when it died. A child that hangs asleep, so that its own clock stands
        still, is killed after `patience` seconds of wall time."""
        timer = threading.Timer(patience, self._give_up)
        timer.start()
        line = self.process.stdout.readline()
        timer.cancel()
        return json.loads(line) if line.endswith(b"\n") else None

    def _give_up(self):
        self.hung = True
        self.process.kill()

    def _replace(self):
        """Start another child in place of a dead one; the exit code of that one."""
        code = self.process.wait()
        self.stop()
        self.start()
        return code


POOL = Pool()
atexit.register(POOL.close)


# --------------------------------------------------------------------------------------- in the child process

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
        # this fills the parser's tables, before the clock runs
        maths.same_values(read(r"\frac{1}{\sqrt{2}}+x^{2}"), read(r"\frac{\sqrt{2}}{2}+x^{2}"))
    except ImportError as error:
        print(json.dumps({"missing": str(error)}), file=replies, flush=True)
        return
    print(json.dumps({"ready": True}), file=replies, flush=True)
    for line in sys.stdin:
        task, start = json.loads(line), time.perf_counter()
        signal.setitimer(signal.ITIMER_PROF, task["limit"])  # nothing handles its signal: the process ends
        right, why = _look(task, maths)
        signal.setitimer(signal.ITIMER_PROF, 0)
        reply = {"right": right, "why": "rule" if right else why, "seconds": time.perf_counter() - start}
        print(json.dumps(reply), file=replies, flush=True)


def _look(task, maths):
    try:
        if task["parse_only"]:
            return bool(maths.readable(read(task["gold"]))), "not equal"
        return bool(equal(plain(task["answer"]), plain(task["gold"]), task["options"], maths)), "not equal"
    except (RecursionError, MemoryError) as error:
        return False, type(error).__name__


if __name__ == "__main__":
    serve()
