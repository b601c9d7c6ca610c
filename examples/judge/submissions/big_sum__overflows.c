/* Wrong: 64 bits are not enough. */
#include <stdio.h>

int main(void) {
    unsigned long long a, b;
    if (scanf("%llu %llu", &a, &b) != 2) return 1;
    printf("%llu\n", a + b);
}
