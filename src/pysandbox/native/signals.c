/* signals.c: holding signals back from the calling thread while Python has something half done.
 *
 * A Python-level signal handler may raise (KeyboardInterrupt does) between any two calls, so also between a system call
 * that gave a descriptor and the assignment that would remember it.  With every signal blocked none can.  Calling twice
 * is harmless, so that whoever is unsure may call again.
 *
 * Owns: nothing; the mask lies in the caller's struct.  May call: libc.
 */
#include "signals.h"

#include <signal.h>
#include <string.h>

_Static_assert(sizeof(sigset_t) <= sizeof(((struct pb_held *)0)->before), "a sigset_t has room");

void pb_hold_signals(struct pb_held *held)
{
    sigset_t all, before;
    if (held->held)
        return;
    sigfillset(&all); /* but those that libc keeps for itself */
    pthread_sigmask(SIG_BLOCK, &all, &before);
    memcpy(held->before, &before, sizeof before);
    held->held = 1;
}

void pb_release_signals(struct pb_held *held)
{
    sigset_t before;
    if (!held->held)
        return;
    memcpy(&before, held->before, sizeof before);
    held->held = 0;
    pthread_sigmask(SIG_SETMASK, &before, NULL);
}
