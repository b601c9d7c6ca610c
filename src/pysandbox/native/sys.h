/* sys.h: the system calls that init and the steps use, made directly.
 *
 * Why not libc: init is linked without one.  It starts in a tenth of the time of a static glibc
 * program, has a few pages to copy when it forks, and there is no lock, buffer, thread-local
 * storage or errno in it.  Each wrapper returns what the kernel returns: >= 0, or -errno.
 *
 * May call: nothing.  Owns: nothing.
 */
#ifndef PB_SYS_H
#define PB_SYS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <asm/unistd.h>
#include <linux/capability.h>
#include <linux/errno.h>
#include <linux/fcntl.h>
#include <linux/keyctl.h>
#include <linux/mount.h>
#include <linux/openat2.h>
#include <linux/eventpoll.h>
#include <linux/prctl.h>
#include <linux/resource.h>
#include <linux/sched.h>
#include <linux/sockios.h>
#include <linux/time_types.h>
#include <linux/uio.h>
#include <asm/stat.h>
#include <asm/ipcbuf.h>
#include <asm/shmbuf.h>

/* Kernel headers older than the call: Debian 11's lack mount_setattr (Linux 5.12). */
#ifndef __NR_mount_setattr
#define __NR_mount_setattr 442
#endif
#ifndef MOUNT_ATTR_SIZE_VER0
struct mount_attr { uint64_t attr_set, attr_clr, propagation, userns_fd; };
#endif
#ifndef CLOSE_RANGE_CLOEXEC
#define CLOSE_RANGE_CLOEXEC (1U << 2)
#endif
#ifndef CLONE_NEWTIME
#define CLONE_NEWTIME 0x00000080
#endif

/* <linux/stat.h> hides these, and <linux/if.h> brings libc's headers, where glibc is about. */
#define PB_S_IFMT 0170000
#define PB_S_IFDIR 0040000
#define PB_S_IFCHR 0020000
#define PB_S_IFREG 0100000
#define PB_IFF_UP 1

struct pb_ifreq {
    char name[16];
    short flags;
    char rest[22];
};

#define PB_AF_INET 2
#define PB_SOCK_DGRAM 2
#define PB_SOL_SOCKET 1
#define PB_SCM_RIGHTS 1
#define PB_MSG_DONTWAIT 0x40
#define PB_MSG_NOSIGNAL 0x4000
#define PB_MSG_CTRUNC 0x08
#define PB_MSG_CMSG_CLOEXEC 0x40000000
#define PB_IPC_RMID 0
#define PB_MSG_STAT 13 /* these three are the _ANY ones: root's view, whatever the mode (Linux 4.17) */
#define PB_MSG_INFO 12
#define PB_SHM_STAT 15
#define PB_SHM_INFO 14
#define PB_SEM_STAT 20
#define PB_SEM_INFO 19
#define PB_WNOHANG 1
#define PB_WEXITED 4
#define PB_WNOWAIT 0x01000000
#define PB_P_PID 1
#define PB_WALL 0x40000000
#define PB_SIGKILL 9
#define PB_SIGCHLD 17
#define PB_PROT_RW 3
#define PB_MAP_PRIVATE_ANON 0x22
#define PB_MNT_DETACH 2
#define PB_SIG_BLOCK 0
#define PB_SIG_SETMASK 2

struct pb_msghdr { /* the kernel's struct user_msghdr; <linux/socket.h> does not show it */
    void *name;
    int namelen;
    struct iovec *iov;
    size_t iovlen;
    void *control;
    size_t controllen;
    unsigned int flags;
};

struct pb_cmsghdr {
    size_t len;
    int level;
    int type;
};

#if defined(__x86_64__)
static inline long sys6(long n, long a, long b, long c, long d, long e, long f)
{
    long result;
    register long r10 __asm__("r10") = d;
    register long r8 __asm__("r8") = e;
    register long r9 __asm__("r9") = f;
    __asm__ volatile("syscall"
                     : "=a"(result)
                     : "a"(n), "D"(a), "S"(b), "d"(c), "r"(r10), "r"(r8), "r"(r9)
                     : "rcx", "r11", "memory");
    return result;
}
#elif defined(__aarch64__)
static inline long sys6(long n, long a, long b, long c, long d, long e, long f)
{
    register long x8 __asm__("x8") = n;
    register long x0 __asm__("x0") = a;
    register long x1 __asm__("x1") = b;
    register long x2 __asm__("x2") = c;
    register long x3 __asm__("x3") = d;
    register long x4 __asm__("x4") = e;
    register long x5 __asm__("x5") = f;
    __asm__ volatile("svc #0"
                     : "+r"(x0)
                     : "r"(x8), "r"(x1), "r"(x2), "r"(x3), "r"(x4), "r"(x5)
                     : "memory");
    return x0;
}
#else
#error "pysandbox knows x86-64 and aarch64"
#endif

#define SYS0(n) sys6(n, 0, 0, 0, 0, 0, 0)
#define SYS1(n, a) sys6(n, (long)(a), 0, 0, 0, 0, 0)
#define SYS2(n, a, b) sys6(n, (long)(a), (long)(b), 0, 0, 0, 0)
#define SYS3(n, a, b, c) sys6(n, (long)(a), (long)(b), (long)(c), 0, 0, 0)
#define SYS4(n, a, b, c, d) sys6(n, (long)(a), (long)(b), (long)(c), (long)(d), 0, 0)
#define SYS5(n, a, b, c, d, e) sys6(n, (long)(a), (long)(b), (long)(c), (long)(d), (long)(e), 0)
#define SYS6(n, a, b, c, d, e, f) \
    sys6(n, (long)(a), (long)(b), (long)(c), (long)(d), (long)(e), (long)(f))

static inline long sys_close(int fd) { return SYS1(__NR_close, fd); }
static inline long sys_read(int fd, void *to, size_t n) { return SYS3(__NR_read, fd, to, n); }
static inline long sys_write(int fd, const void *from, size_t n) { return SYS3(__NR_write, fd, from, n); }
static inline long sys_openat(int dir, const char *path, int flags, int mode)
{
    return SYS4(__NR_openat, dir, path, flags, mode);
}
static inline long sys_openat2(int dir, const char *path, uint64_t flags, uint64_t mode, uint64_t resolve)
{
    struct open_how how = {.flags = flags, .mode = mode, .resolve = resolve};
    return SYS4(__NR_openat2, dir, path, &how, sizeof how);
}
static inline long sys_fstat(int fd, struct stat *st) { return SYS2(__NR_fstat, fd, st); }
static inline long sys_prctl(int option, unsigned long a, unsigned long b)
{
    return SYS5(__NR_prctl, option, a, b, 0, 0);
}
static inline long sys_mmap(size_t length)
{
    return SYS6(__NR_mmap, 0, length, PB_PROT_RW, PB_MAP_PRIVATE_ANON, -1, 0);
}
static inline long sys_munmap(void *at, size_t length) { return SYS2(__NR_munmap, at, length); }
static inline long sys_kill(int pid, int sig) { return SYS2(__NR_kill, pid, sig); }
static inline long sys_wait4(int pid, int *status, int options, struct rusage *usage)
{
    return SYS4(__NR_wait4, pid, status, options, usage);
}
static inline long sys_recvmsg(int fd, struct pb_msghdr *m, int flags) { return SYS3(__NR_recvmsg, fd, m, flags); }
static inline long sys_sendmsg(int fd, const struct pb_msghdr *m, int flags) { return SYS3(__NR_sendmsg, fd, m, flags); }
static inline _Noreturn void sys_exit(int status)
{
    for (;;) {
        SYS1(__NR_exit_group, status);
        __builtin_trap(); /* a filter has refused it */
    }
}

/* clone(2) with a stack for the child, which calls run(argument) there and never comes back. */
static inline long sys_clone_on_stack(unsigned long flags, char *stack_end, void (*run)(void *), void *argument)
{
    long result;
#if defined(__x86_64__)
    register long r10 __asm__("r10") = 0;
    register long r8 __asm__("r8") = 0;
    __asm__ volatile("syscall\n\t"
                     "test %%rax, %%rax\n\t"
                     "jnz 1f\n\t"
                     "mov %[argument], %%rdi\n\t" /* any register may hold it, so none is cleared before */
                     "call *%[run]\n\t"
                     "hlt\n"
                     "1:"
                     : "=a"(result)
                     : "a"(__NR_clone), "D"(flags), "S"(stack_end), "d"(0), "r"(r10), "r"(r8), [run] "r"(run),
                       [argument] "r"(argument)
                     : "rcx", "r11", "memory");
#else
    register long x8 __asm__("x8") = __NR_clone;
    register long x0 __asm__("x0") = (long)flags;
    register long x1 __asm__("x1") = (long)stack_end;
    register long x2 __asm__("x2") = 0;
    register long x3 __asm__("x3") = 0;
    register long x4 __asm__("x4") = 0;
    register void (*x9)(void *) __asm__("x9") = run;
    register void *x10 __asm__("x10") = argument;
    __asm__ volatile("svc #0\n\t"
                     "cbnz x0, 1f\n\t"
                     "mov x29, #0\n\t"
                     "mov x0, x10\n\t"
                     "blr x9\n\t"
                     "brk #0\n"
                     "1:"
                     : "+r"(x0)
                     : "r"(x8), "r"(x1), "r"(x2), "r"(x3), "r"(x4), "r"(x9), "r"(x10)
                     : "memory", "x30");
    result = x0;
#endif
    return result;
}

static inline uint64_t sys_monotonic_ns(void)
{
    struct __kernel_timespec now = {0};
    SYS2(__NR_clock_gettime, 1 /* CLOCK_MONOTONIC */, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

/* A process's CPU time as sampled at timer ticks, by which RLIMIT_CPU goes: its CPUCLOCK_PROF, number 0 of its clocks
 * (clock_getcpuclockid(3); kernel/time/posix-cpu-timers.c).  Also of one that has ended and was not waited for. */
static inline uint64_t sys_sampled_cpu_ns(int pid)
{
    struct __kernel_timespec used;
    if (SYS2(__NR_clock_gettime, (int)(~(unsigned)pid << 3), &used) < 0)
        return ~0ull;
    return (uint64_t)used.tv_sec * 1000000000u + (uint64_t)used.tv_nsec;
}

/* A number as text; `to` has room for 24 characters. */
static inline size_t pb_number(uint64_t value, char *to, unsigned base)
{
    char digits[24];
    size_t n = 0, length;
    do
        digits[n++] = (char)('0' + value % base);
    while (value /= base);
    length = n;
    while (n)
        *to++ = digits[--n];
    *to = 0;
    return length;
}

static inline size_t pb_strlen(const char *s)
{
    size_t n = 0;
    while (s[n])
        n++;
    return n;
}

#endif
