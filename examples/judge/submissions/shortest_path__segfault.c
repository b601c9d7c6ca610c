/* Follows a pointer to nowhere. */
#include <stdio.h>

struct edge {
    int to, length;
    struct edge *next;
};

static struct edge *volatile first[1001];

int main(void) {
    int n, m, s, t;
    if (scanf("%d %d %d %d", &n, &m, &s, &t) != 4) return 1;
    printf("%d\n", first[s]->length);
}
