/* spawn.c: starts init, vfork-style.
 *
 * The child shares the application's memory until it has exec'd (CLONE_VM | CLONE_VFORK), so its cost does not grow
 * with the application and no page is copied.  That makes rules (vfork(2); CPython's _posixsubprocess.c):
 *  - it runs on a stack of its own, made for this call, with a guard page below: several threads may spawn at once;
 *  - every signal is blocked around it, so that no handler of the application runs in it;
 *  - it makes system calls and touches its own struct, nothing else: no allocation, no lock, no libc, no Python;
 *  - it never changes its uid, which would make the application undumpable (PR_SET_DUMPABLE, prctl(2)).
 * The caller holds no lock that the child could want; cffi has released the GIL.
 *
 * Owns: the stack, for the length of the call.  May call: libc in the parent, sys.h in the child.
 */
#define _GNU_SOURCE
#include "spawn.h"

#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "spawn_child.h"

#define STACK_SIZE (64 << 10)
#define GUARD_SIZE (64 << 10) /* a page, on any machine */

static int run_child(void *argument)
{
    struct pb_child *child = argument;
    pb_spawn_child(child);
    return 127;
}

struct pb_spawned pb_spawn(int image, int control, int application, uint64_t flags, uint64_t capabilities)
{
    struct pb_spawned result = {.pid = -1, .pidfd = -1, .step = PB_SPAWN_MEMORY};
    struct pb_child child = {.image = image, .control = control, .application = application};
    child.capabilities = flags & CLONE_NEWUSER ? capabilities : 0;
    sigset_t all, before;
    char *stack = mmap(NULL, GUARD_SIZE + STACK_SIZE, PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_STACK, -1, 0);
    if (stack == MAP_FAILED) {
        result.error = errno;
        return result;
    }
    mprotect(stack, GUARD_SIZE, PROT_NONE);
    sigfillset(&all);
    pthread_sigmask(SIG_BLOCK, &all, &before);
    result.step = PB_SPAWN_CLONE;
    result.pid = clone(run_child, stack + GUARD_SIZE + STACK_SIZE,
                       (int)(CLONE_VM | CLONE_VFORK | CLONE_PIDFD | SIGCHLD | flags), &child, &result.pidfd);
    if (result.pid < 0)
        result.error = errno;
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    munmap(stack, GUARD_SIZE + STACK_SIZE);
    if (result.pid >= 0 && child.error) {
        result.step = child.step;
        result.error = child.error;
        while (waitpid(result.pid, NULL, __WALL) < 0 && errno == EINTR)
            ;
        close(result.pidfd);
        result.pid = result.pidfd = -1;
    }
    return result;
}
