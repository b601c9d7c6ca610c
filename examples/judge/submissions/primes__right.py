# A sieve by slices, and a binary search in the list of primes.
import sys
from bisect import bisect_right
from itertools import compress

LIMIT = 1000001
sieve = bytearray([1]) * LIMIT
sieve[:2] = b"\0\0"
for i in range(2, 1001):
    if sieve[i]:
        sieve[i * i :: i] = bytes(len(range(i * i, LIMIT, i)))
primes = list(compress(range(LIMIT), sieve))
for n in map(int, sys.stdin.read().split()[1:]):
    print(bisect_right(primes, n))
