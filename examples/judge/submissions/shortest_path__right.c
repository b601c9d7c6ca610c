/* Bellman and Ford: relaxes every edge until nothing changes. */
#include <stdio.h>

static int from[3000], to[3000];
static long long length[3000], distance[1001];

int main(void) {
    int n, m, s, t, changed = 1;
    if (scanf("%d %d %d %d", &n, &m, &s, &t) != 4) return 1;
    for (int i = 0; i < m; i++)
        if (scanf("%d %d %lld", &from[i], &to[i], &length[i]) != 3) return 1;
    for (int i = 1; i <= n; i++) distance[i] = -1;
    distance[s] = 0;
    while (changed) {
        changed = 0;
        for (int i = 0; i < m; i++) {
            if (distance[from[i]] < 0) continue;
            long long through = distance[from[i]] + length[i];
            if (distance[to[i]] < 0 || through < distance[to[i]]) {
                distance[to[i]] = through;
                changed = 1;
            }
        }
    }
    printf("%lld\n", distance[t]);
}
