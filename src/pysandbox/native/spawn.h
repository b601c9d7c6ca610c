/* spawn.h: starting init from the application.  See spawn.c. */
#ifndef PB_SPAWN_H
#define PB_SPAWN_H

#include <stdint.h>

enum pb_spawn_step { PB_SPAWN_MEMORY, PB_SPAWN_CLONE, PB_SPAWN_CAPABILITIES, PB_SPAWN_FDS, PB_SPAWN_EXEC };

struct pb_spawned {
    int32_t pid;
    int32_t pidfd;
    int32_t step; /* of the failure: enum pb_spawn_step */
    int32_t error; /* errno, or 0 */
};

/* capabilities: those that init is to have in a new user namespace, as the kernel's bits */
struct pb_spawned pb_spawn(int image, int control, int application, uint64_t flags, uint64_t capabilities);

#endif
