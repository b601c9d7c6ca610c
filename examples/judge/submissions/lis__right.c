/* Keeps the smallest last element of every length; a binary search places each number. */
#include <stdio.h>

static int last[4001];

int main(void) {
    int n, x, length = 0;
    if (scanf("%d", &n) != 1) return 1;
    while (n-- > 0 && scanf("%d", &x) == 1) {
        int low = 0, high = length;
        while (low < high) {
            int middle = (low + high) / 2;
            if (last[middle] < x) low = middle + 1;
            else high = middle;
        }
        last[low] = x;
        if (low == length) length++;
    }
    printf("%d\n", length);
}
