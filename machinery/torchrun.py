"""What torchrun does not do: end its processes when it is killed itself, and give a refusal the last word. No
torch here. A reader of the recipe may skip this file.
"""
import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

# waits until a process has ended (a zombie has), for at most two minutes, and prints a text
LAST = """
import os, sys, time
def runs(pid):
    try:
        os.kill(pid, 0)
        return open(f"/proc/{pid}/stat").read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:  # no Linux
        return True
    except OSError:
        return False
end = time.time() + 120
while runs(int(sys.argv[1])) and time.time() < end:
    time.sleep(0.05)
print(sys.argv[2], file=sys.stderr)
"""


def follow_parent(every=1.0):
    """End this process when its parent has ended: a torchrun that is killed (kill -9, out of memory) would
    leave processes that go on training."""
    parent = os.getppid()

    def watch():
        while os.getppid() == parent:
            time.sleep(every)
        os._exit(1)
    threading.Thread(target=watch, daemon=True).start()


def refuse(message):
    """End with a sentence. torchrun prints forty lines about a process that failed, so the first process that
    is refused has its sentence printed behind them, and the others say nothing."""
    error_file = os.environ.get("TORCHELASTIC_ERROR_FILE")
    if not error_file:
        sys.exit(f"\n{message}")
    try:
        open(Path(error_file).parent.parent / "refused", "x").close()
    except FileExistsError:
        sys.exit(1)
    except OSError:
        sys.exit(f"\n{message}")
    about = {"message": message, "extraInfo": {"py_callstack": message, "timestamp": str(int(time.time()))}}
    Path(error_file).write_text(json.dumps({"message": about}))  # torchrun's report shows it, too
    subprocess.Popen([sys.executable, "-c", LAST, str(os.getppid()), f"\n{message}"],
                     start_new_session=True, stdin=subprocess.DEVNULL)
    sys.exit(1)
