# Fills the process table; the fork that is refused ends it with an exception.
import os
import time

for _ in range(1000):
    if os.fork() == 0:
        time.sleep(3600)
print("a thousand children")
