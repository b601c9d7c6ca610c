# Too slow: tries to take and to leave every element.
import sys

sys.setrecursionlimit(10000)
numbers = list(map(int, sys.stdin.read().split()[1:]))


def longest(i: int, last: int) -> int:
    if i == len(numbers):
        return 0
    best = longest(i + 1, last)
    if numbers[i] > last:
        best = max(best, 1 + longest(i + 1, numbers[i]))
    return best


print(longest(0, -(10**10)))
