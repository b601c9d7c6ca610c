/* signals.h: holding signals back from the calling thread.  See signals.c. */
#ifndef PB_SIGNALS_H
#define PB_SIGNALS_H

#include <stdint.h>

struct pb_held {
    int32_t held;
    int32_t aside; /* the process's handlers are put aside too */
    uint64_t before[16]; /* the thread's mask, a sigset_t */
};

void pb_hold_signals(struct pb_held *held);
void pb_release_signals(struct pb_held *held);

#endif
