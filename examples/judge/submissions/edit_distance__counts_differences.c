/* Wrong: compares letter by letter, and cannot insert or delete. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static char a[1000], b[1000];

int main(void) {
    if (scanf("%999s %999s", a, b) != 2) return 1;
    int n = strlen(a), m = strlen(b), distance = abs(n - m);
    for (int i = 0; i < n && i < m; i++) distance += a[i] != b[i];
    printf("%d\n", distance);
}
