# Wrong: a breadth-first search finds the path of fewest edges, not the shortest.
import sys
from collections import deque

n, m, s, t, *rest = map(int, sys.stdin.read().split())
edges: dict[int, list[tuple[int, int]]] = {}
for u, v, w in zip(rest[::3], rest[1::3], rest[2::3]):
    edges.setdefault(u, []).append((v, w))
distance = {s: 0}
queue = deque([s])
while queue:
    u = queue.popleft()
    for v, w in edges.get(u, []):
        if v not in distance:
            distance[v] = distance[u] + w
            queue.append(v)
print(distance.get(t, -1))
