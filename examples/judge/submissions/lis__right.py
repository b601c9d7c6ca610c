# Keeps the smallest last element of every length.
import sys
from bisect import bisect_left

last: list[int] = []
for x in map(int, sys.stdin.read().split()[1:]):
    place = bisect_left(last, x)
    last[place : place + 1] = [x]
print(len(last))
