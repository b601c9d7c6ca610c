# Fails with RecursionError on a long word.
from functools import lru_cache

a, b = input().strip(), input().strip()


@lru_cache(maxsize=None)
def distance(i: int, j: int) -> int:
    if i == len(a) or j == len(b):
        return len(a) - i + len(b) - j
    if a[i] == b[j]:
        return distance(i + 1, j + 1)
    return 1 + min(distance(i + 1, j), distance(i, j + 1), distance(i + 1, j + 1))


print(distance(0, 0))
