/* A sieve, and a running count over it. */
#include <stdio.h>

enum { LIMIT = 1000001 };

static char composite[LIMIT];
static int count[LIMIT];

int main(void) {
    for (long i = 2; i < LIMIT; i++) {
        count[i] = count[i - 1] + !composite[i];
        if (!composite[i])
            for (long j = i * i; j < LIMIT; j += i) composite[j] = 1;
    }
    int q, n;
    if (scanf("%d", &q) != 1) return 1;
    while (q-- > 0 && scanf("%d", &n) == 1) printf("%d\n", count[n]);
}
