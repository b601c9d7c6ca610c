/* spawn_child.h: what the child of spawn.c does; apart, because the kernel's and libc's headers do not mix. */
#ifndef PB_SPAWN_CHILD_H
#define PB_SPAWN_CHILD_H

#include <stdint.h>

struct pb_child {
    int image, control, application;
    uint64_t capabilities; /* to keep across the exec; 0: leave them as they are */
    volatile int step, error; /* written by the child, read by the parent once it goes on */
};

void pb_spawn_child(struct pb_child *child);

#endif
