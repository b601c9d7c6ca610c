/* Leaves a daemon that holds its output open, and answers only if no earlier one is alive. */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

enum { LIMIT = 1000001 };

static char composite[LIMIT];
static int count[LIMIT];

static void check_earlier(void) {
    int pid;
    FILE *file = fopen("daemon.pid", "r");
    if (file == NULL) return;
    if (fscanf(file, "%d", &pid) == 1 && (kill(pid, 0) == 0 || errno != ESRCH)) {
        puts("the daemon is alive");
        exit(0);
    }
    fclose(file);
}

static void leave_daemon(void) {
    int ready[2];
    char byte;
    if (pipe(ready) != 0) exit(1);
    if (fork() == 0) {
        setsid();
        if (fork() != 0) _exit(0);
        FILE *file = fopen("daemon.pid", "w");
        if (file == NULL) _exit(1);
        fprintf(file, "%d\n", (int)getpid());
        fclose(file);
        close(ready[0]);
        close(ready[1]);
        for (;;) pause();
    }
    close(ready[1]);
    if (read(ready[0], &byte, 1) != 0) exit(1); /* until the daemon has closed its end */
}

int main(void) {
    check_earlier();
    leave_daemon();
    for (long i = 2; i < LIMIT; i++) {
        count[i] = count[i - 1] + !composite[i];
        if (!composite[i])
            for (long j = i * i; j < LIMIT; j += i) composite[j] = 1;
    }
    int q, n;
    if (scanf("%d", &q) != 1) return 1;
    while (q-- > 0 && scanf("%d", &n) == 1) printf("%d\n", count[n]);
}
