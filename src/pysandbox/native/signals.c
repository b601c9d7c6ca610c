/* signals.c: holding signals back from the calling thread while Python has something half done.
 *
 * A Python-level signal handler may raise (KeyboardInterrupt does) between any two calls, so also between a system call
 * that gave a descriptor and the assignment that would remember it.  Python runs its handlers in the main thread, whichever
 * thread the kernel gave the signal to.  So holding means two things:
 *  - every signal is blocked in the calling thread, but those whose default it is to end the process;
 *  - where there are other threads, and the caller is the main one, the process's handlers are put aside: a signal that
 *    another thread gets is noted, and sent to the main thread when it is let in again.  Signals of a fault in the
 *    program itself are left alone.
 * Calling twice is harmless, so that whoever is unsure may call again.
 *
 * Owns: the handlers put aside, of which there is one set, as there is one main thread.  May call: libc.
 */
#define _GNU_SOURCE
#include "signals.h"

#include <pthread.h>
#include <signal.h>
#include <stddef.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

_Static_assert(sizeof(sigset_t) <= sizeof(((struct pb_held *)0)->before), "a sigset_t has room");

#define SIGNALS 65

extern char __libc_single_threaded __attribute__((weak)); /* glibc 2.32: no other thread was ever made */

static struct {
    volatile sig_atomic_t active;
    volatile sig_atomic_t noted[SIGNALS];
    unsigned char aside[SIGNALS];
    struct sigaction action[SIGNALS];
} handlers;

static const int deadly[] = {SIGTERM, SIGHUP, SIGQUIT, SIGALRM};

static void note(int number) { handlers.noted[number] = 1; }

static int is_a_fault(int number)
{
    return number == SIGSEGV || number == SIGBUS || number == SIGFPE || number == SIGILL || number == SIGTRAP ||
           number == SIGSYS || number == SIGABRT;
}

static void put_aside(void)
{
    struct sigaction noting;
    memset(&noting, 0, sizeof noting);
    noting.sa_handler = note;
    noting.sa_flags = SA_RESTART;
    for (int n = 1; n < SIGNALS; n++) {
        struct sigaction now;
        handlers.noted[n] = 0;
        handlers.aside[n] = 0;
        if (is_a_fault(n) || sigaction(n, NULL, &now) < 0)
            continue;
        if (now.sa_handler == SIG_DFL || now.sa_handler == SIG_IGN)
            continue;
        handlers.action[n] = now;
        noting.sa_mask = now.sa_mask;
        handlers.aside[n] = sigaction(n, &noting, NULL) == 0;
    }
    handlers.active = 1;
}

static void put_back(void)
{
    handlers.active = 0;
    for (int n = 1; n < SIGNALS; n++)
        if (handlers.aside[n]) {
            handlers.aside[n] = 0;
            sigaction(n, &handlers.action[n], NULL);
        }
}

/* A copy of the process that another thread made has that thread alone: nobody would put the handlers back. */
static void in_forked_child(void)
{
    if (handlers.active)
        put_back();
}

void pb_hold_signals(struct pb_held *held)
{
    static int knows_forks;
    sigset_t all, before;
    if (held->held)
        return;
    sigfillset(&all); /* but those that libc keeps for itself */
    for (size_t i = 0; i < sizeof deadly / sizeof *deadly; i++) {
        struct sigaction now;
        if (sigaction(deadly[i], NULL, &now) == 0 && now.sa_handler == SIG_DFL)
            sigdelset(&all, deadly[i]); /* ends the process at any moment, as SIGKILL does, and runs no handler */
    }
    pthread_sigmask(SIG_BLOCK, &all, &before);
    memcpy(held->before, &before, sizeof before);
    held->held = 1;
    int alone = &__libc_single_threaded && __libc_single_threaded;
    if (alone || getpid() != syscall(SYS_gettid))
        return;
    if (!knows_forks)
        knows_forks = pthread_atfork(NULL, NULL, in_forked_child) == 0;
    put_aside();
    held->aside = 1;
}

void pb_release_signals(struct pb_held *held)
{
    sigset_t before;
    if (!held->held)
        return;
    memcpy(&before, held->before, sizeof before);
    held->held = 0;
    if (held->aside) {
        held->aside = 0;
        put_back();
        for (int n = 1; n < SIGNALS; n++)
            if (handlers.noted[n]) {
                handlers.noted[n] = 0;
                pthread_kill(pthread_self(), n);
            }
    }
    pthread_sigmask(SIG_SETMASK, &before, NULL);
}
