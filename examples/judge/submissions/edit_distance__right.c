/* One row of the table at a time. */
#include <stdio.h>
#include <string.h>

static char a[1000], b[1000];
static int row[1001];

int main(void) {
    if (scanf("%999s %999s", a, b) != 2) return 1;
    int n = strlen(a), m = strlen(b);
    for (int j = 0; j <= m; j++) row[j] = j;
    for (int i = 1; i <= n; i++) {
        int diagonal = row[0]++;
        for (int j = 1; j <= m; j++) {
            int best = diagonal + (a[i - 1] != b[j - 1]);
            if (row[j] + 1 < best) best = row[j] + 1;
            if (row[j - 1] + 1 < best) best = row[j - 1] + 1;
            diagonal = row[j];
            row[j] = best;
        }
    }
    printf("%d\n", row[m]);
}
