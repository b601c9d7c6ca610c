# Waits, and uses no processor while it does.
import time

time.sleep(3600)
