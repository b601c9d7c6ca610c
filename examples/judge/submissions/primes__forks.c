/* Fills the process table, then gives up and leaves all its children behind. */
#include <stdio.h>
#include <unistd.h>

int main(void) {
    for (int i = 0; i < 1000; i++) {
        pid_t child = fork();
        if (child < 0) return 3;
        while (child == 0) pause();
    }
    puts("a thousand children");
}
