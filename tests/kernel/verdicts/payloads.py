"""Payloads that are longer than a line."""

from __future__ import annotations

from pysandbox.box import ENDED, REPLY, STARTED

DAEMON = """
import os, time
def daemon(work):
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            work()
        os._exit(0)
    os.wait()
"""

TOUCH = """
for at in range(0, len(m), 4096):
    m[at] = 1
"""

PIPES = """
import fcntl, os
for _ in range(48):
    _, end = os.pipe()
    fcntl.fcntl(end, 1031, 1 << 20)  # F_SETPIPE_SZ
    os.set_blocking(end, False)
    try:
        while True:
            os.write(end, bytes(1 << 16))
    except BlockingIOError:
        pass
"""

IGNORE_ALL = """
import signal
for number in signal.valid_signals():
    try:
        signal.signal(number, signal.SIG_IGN)
    except OSError:
        pass
"""

#: burns CPU time in processes of which each has ended before the next starts; {born} is how one comes to be
ONE_BY_ONE = """
import os, signal, time
def burn():
    end = time.process_time() + 0.02
    while time.process_time() < end:
        pass
    os._exit(0)
{before}
while True:
    ours, theirs = os.pipe()
    if os.fork() == 0:
        {child}
    os.close(theirs)
    os.read(ours, 1)  # until the last holder of the other end is gone
    os.close(ours)
    {after}
"""

DEADLOCK = """
import threading
one, other, both = threading.Lock(), threading.Lock(), threading.Barrier(2)
def work(first, second):
    with first:
        both.wait()
        with second:
            pass
threads = [threading.Thread(target=work, args=locks) for locks in ((one, other), (other, one))]
for thread in threads: thread.start()
for thread in threads: thread.join()
"""

FORK_BOMB = """
import os, time
while True:
    try:
        os.fork()
    except OSError:
        time.sleep(0.02)
"""

FORK_UNTIL_REFUSED = """
import os, time
while True:
    if os.fork() == 0:
        time.sleep(100)
        os._exit(0)
"""

THREADS_UNTIL_REFUSED = """
import threading, time
while True:
    threading.Thread(target=time.sleep, args=(100,), daemon=True).start()
"""

#: what init tells the application at a run's end: here that all is well, and that it has been killed
FORGED = [REPLY.pack(kind, 0, 0, status, 1, 7, *[0] * 10) for kind in (ENDED, STARTED) for status in (0, 9)]
FORGE = f"""
import glob, os
forged = {FORGED!r}
def send(fd):
    for message in forged:
        try: os.write(fd, message)
        except OSError: pass
for fd in range(256):
    send(fd)
for path in glob.glob("/proc/[0-9]*/fd/*") + glob.glob("/proc/[0-9]*/task/*/fd/*") + glob.glob("/dev/*"):
    try: fd = os.open(path, os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY)
    except OSError: continue
    send(fd)
    os.close(fd)
os._exit(3)
"""

KILLED_BY_ITS_CHILD = """
import os, time
parent = os.getpid()
if os.fork() == 0:
    os.kill(parent, 9)
    os._exit(0)
time.sleep(100)
"""

KILL_ALL = """
import os, time
for _ in range(4):
    if os.fork() == 0:
        time.sleep(100)
try:
    os.kill(-1, 9)  # all but itself and init: kill(2)
except OSError:
    pass
print(sorted(os.waitstatus_to_exitcode(os.wait()[1]) for _ in range(4)))
"""

KILLED_WITH_ALL = """
import os, time
if os.fork() == 0:
    os.kill(-1, 9)
    os._exit(0)
time.sleep(100)
"""
