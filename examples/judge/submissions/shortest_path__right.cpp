// Dijkstra, with a heap.
#include <functional>
#include <iostream>
#include <queue>
#include <utility>
#include <vector>

using Entry = std::pair<long long, int>;

int main() {
    int n, m, s, t;
    std::cin >> n >> m >> s >> t;
    std::vector<std::vector<Entry>> edges(n + 1);
    for (int u, v, w; m-- > 0 && std::cin >> u >> v >> w;) edges[u].push_back({w, v});
    std::vector<long long> distance(n + 1, -1);
    std::priority_queue<Entry, std::vector<Entry>, std::greater<Entry>> queue;
    for (queue.push({0, s}); !queue.empty();) {
        auto [d, u] = queue.top();
        queue.pop();
        if (distance[u] >= 0) continue;
        distance[u] = d;
        for (auto [w, v] : edges[u]) queue.push({d + w, v});
    }
    std::cout << distance[t] << '\n';
}
