/* Too slow: divides every number by every smaller one, for every question. */
#include <stdio.h>

int main(void) {
    int q, n;
    if (scanf("%d", &q) != 1) return 1;
    while (q-- > 0 && scanf("%d", &n) == 1) {
        int count = 0;
        for (int i = 2; i <= n; i++) {
            int divisors = 0;
            for (int j = 2; j < i; j++) divisors += i % j == 0;
            count += divisors == 0;
        }
        printf("%d\n", count);
    }
}
