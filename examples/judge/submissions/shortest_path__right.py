# Dijkstra, with a heap.
import sys
from heapq import heappop, heappush

n, m, s, t, *rest = map(int, sys.stdin.read().split())
edges: dict[int, list[tuple[int, int]]] = {}
for u, v, w in zip(rest[::3], rest[1::3], rest[2::3]):
    edges.setdefault(u, []).append((v, w))
distance: dict[int, int] = {}
queue = [(0, s)]
while queue:
    d, u = heappop(queue)
    if u not in distance:
        distance[u] = d
        for v, w in edges.get(u, []):
            heappush(queue, (d + w, v))
print(distance.get(t, -1))
