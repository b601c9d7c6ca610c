/* spawn_child.h: what the child of spawn.c does; apart, because the kernel's and libc's headers do not mix. */
#ifndef PB_SPAWN_CHILD_H
#define PB_SPAWN_CHILD_H

#include <stdbool.h>

struct pb_child {
    int image, control, application;
    bool raise_capabilities;
    volatile int step, error; /* written by the child, read by the parent once it goes on */
};

void pb_spawn_child(struct pb_child *child);

#endif
