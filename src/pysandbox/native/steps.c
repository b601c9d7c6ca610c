/* steps.c: carrying out a plan.
 *
 * A switch over the verbs; which verbs, in what order and why is Python's business (pysandbox/plan.py), so nothing here
 * knows a layer.  The verbs for the root are in mounts.c, all others here.
 *
 * May call: system calls (sys.h), mounts.h.  Owns: nothing but the descriptors in its context.  No allocation, no libc.
 */
#include "steps.h"

#include "filters.h"
#include "mounts.h"
#include "sys.h"

void pb_context_init(struct pb_context *context)
{
    context->root = context->host_proc = context->box_proc = -1;
    for (int i = 0; i < PB_MAX_TREES; i++)
        context->trees[i] = -1;
    context->n_own = 0;
    context->own_ipc = false;
    context->pointers = 0;
    context->n_pointers = 0;
    context->upper = context->folder = context->nothing[0] = context->nothing[1] = -1;
}

/* A session keyring of the box's own: the caller's keys are not inherited (session-keyring(7)).  Keyrings of boxes that
 * have ended count against a user's quota until the kernel has collected them, a moment later. */
static long session_keyring(void)
{
    const struct __kernel_timespec moment = {.tv_nsec = 2000000};
    long r = SYS2(__NR_keyctl, KEYCTL_JOIN_SESSION_KEYRING, 0);
    for (int attempt = 0; r == -EDQUOT && attempt < 200; attempt++) {
        SYS2(__NR_nanosleep, &moment, 0);
        r = SYS2(__NR_keyctl, KEYCTL_JOIN_SESSION_KEYRING, 0);
    }
    return r == -ENOSYS ? 0 : r; /* a kernel without keys has none to leak */
}

/* init's own ids: from here on, what it makes belongs to the box.  Coming to uid 0 of its user namespace keeps
 * its capabilities (capabilities(7), "Effect of user ID changes"). */
static long init_ids(uint64_t uid, uint64_t gid)
{
    long r = SYS3(__NR_setresgid, gid, gid, gid);
    return r < 0 ? r : SYS3(__NR_setresuid, uid, uid, uid);
}

/* Opens a file of the box's /proc, or of the host's where the box's lacks it (subset=pid, proc(5)). */
static long open_proc(const struct pb_context *c, const char *path, int flags)
{
    long fd = c->box_proc < 0 ? -ENOENT : sys_openat(c->box_proc, path, flags | O_CLOEXEC, 0);
    if (fd == -ENOENT && c->host_proc >= 0)
        fd = sys_openat(c->host_proc, path, flags | O_CLOEXEC, 0);
    return fd;
}

static long write_proc(const struct pb_context *c, const char *path, const char *value)
{
    long fd = open_proc(c, path, O_WRONLY);
    if (fd < 0)
        return fd;
    long r = sys_write((int)fd, value, pb_strlen(value));
    sys_close((int)fd);
    return r < 0 ? r : 0;
}

static long loopback_up(void)
{
    struct pb_ifreq request = {.name = "lo"};
    long fd = SYS3(__NR_socket, PB_AF_INET, PB_SOCK_DGRAM | O_CLOEXEC, 0);
    if (fd < 0)
        return fd;
    long r = SYS3(__NR_ioctl, fd, SIOCGIFFLAGS, &request);
    request.flags |= PB_IFF_UP;
    if (r >= 0)
        r = SYS3(__NR_ioctl, fd, SIOCSIFFLAGS, &request);
    sys_close((int)fd);
    return r;
}

/* A new time namespace is for children until it is joined (time_namespaces(7)).  init joins it itself, as a vfork-style
 * child would get it at its exec only, which Linux 6.1 refuses with EINVAL. */
static long time_offsets(const struct pb_context *c, const char *offsets)
{
    long r = SYS1(__NR_unshare, CLONE_NEWTIME);
    if (r >= 0 && *offsets)
        r = write_proc(c, "self/timens_offsets", offsets);
    if (r >= 0)
        r = open_proc(c, "self/ns/time_for_children", O_RDONLY);
    if (r < 0)
        return r;
    int fd = (int)r;
    r = SYS2(__NR_setns, fd, CLONE_NEWTIME);
    sys_close(fd);
    return r;
}

/* Drops every capability from the bounding set but those in `keep`. */
static long drop_bounding(uint64_t keep)
{
    for (int cap = 0; cap < 64; cap++) {
        if (keep >> cap & 1)
            continue;
        long r = sys_prctl(PR_CAPBSET_DROP, (unsigned long)cap, 0);
        if (r == -EINVAL && cap > 0)
            return 0; /* past the kernel's last one */
        if (r < 0)
            return r;
    }
    return 0;
}

static long set_uid(uint64_t uid)
{
    long r = sys_prctl(PR_SET_KEEPCAPS, 1, 0); /* CAPSET decides what is kept */
    return r < 0 ? r : SYS3(__NR_setresuid, uid, uid, uid);
}

/* Leaves the process the capabilities in `keep` and no other, in all of permitted, effective, inheritable and
 * ambient, so that they survive the exec of an ordinary file. */
static long set_capabilities(uint64_t keep)
{
    long r = sys_prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0);
    struct __user_cap_header_struct head = {.version = _LINUX_CAPABILITY_VERSION_3};
    struct __user_cap_data_struct data[2];
    for (int i = 0; i < 2; i++) {
        uint32_t half = (uint32_t)(keep >> (32 * i));
        data[i] = (struct __user_cap_data_struct){.effective = half, .permitted = half, .inheritable = half};
    }
    if (r >= 0)
        r = SYS2(__NR_capset, &head, data);
    for (int cap = 0; r >= 0 && cap < 64; cap++)
        if (keep >> cap & 1)
            r = sys_prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, (unsigned long)cap);
    return r;
}

static long cgroup_attach(int fd)
{
    return sys_write(fd, "0", 1);
}

/* Gives the program a descriptor under a number.  Ours have moved away from those numbers (see init.c) and close on
 * exec; the copy does not. */
static long stdio(int fd, uint64_t number)
{
    if (number > 0x7fffffff)
        return -EBADF;
    long r = SYS3(__NR_dup3, fd, number, 0);
    return r == -EINVAL ? -EBADF : r; /* dup3 says EINVAL for fd == number: a collision that must not be */
}

static long close_fds(void)
{
    long r = SYS3(__NR_close_range, 3, ~0U, CLOSE_RANGE_CLOEXEC);
    return r == -EINVAL || r == -ENOSYS ? 0 : r; /* before Linux 5.11; all of ours are close-on-exec anyway */
}

/* Puts pointers to the strings of a list, with a final null, at the front of the room that is left; null when they
 * do not fit. */
static const char **pointers(const char ***room, const char **end, const char *text, uint32_t length)
{
    const char **list = *room;
    for (uint32_t i = 0; i < length; i += (uint32_t)pb_strlen(text + i) + 1) {
        if (*room == end)
            return 0;
        *(*room)++ = text + i;
    }
    if (*room == end)
        return 0;
    *(*room)++ = 0;
    return list;
}

/* Tries the candidates in order, as execvp does: a missing one is passed over, one that may not be executed is
 * remembered. */
static long exec(const char *text, uint32_t length, const char **argv, const char **env)
{
    long error = -ENOENT;
    for (uint32_t i = 0; i < length; i += (uint32_t)pb_strlen(text + i) + 1) {
        long r = SYS3(__NR_execve, text + i, argv, env);
        if (r == -EACCES)
            error = r;
        else if (r != -ENOENT && r != -ENOTDIR)
            return r;
    }
    return error;
}

static long carry_out(struct pb_context *c, const struct pb_plan *plan, const struct pb_step *step)
{
    const uint64_t *a = step->arg;
#define STRING(i) (plan->data + pb_offset(a[i]))
#define FD(i) (plan->fds[a[i]])
    switch ((enum pb_verb)step->verb) {
    case PB_VERB_MOUNT_PRIVATE: return pb_mount_private();
    case PB_VERB_OPEN_TREE: return pb_open_tree(c, a[0], STRING(1), a[2], a[3]);
    case PB_VERB_SESSION_KEYRING: return session_keyring();
    case PB_VERB_INIT_IDS: return init_ids(a[0], a[1]);
    case PB_VERB_NEW_ROOT: return pb_new_root(c, a[0], a[1]);
    case PB_VERB_SYMLINK: return pb_make_symlink(c, STRING(0), STRING(1));
    case PB_VERB_WRITE_FILE: return pb_write_file(c, STRING(0), STRING(1), pb_length(a[1]), a[2]);
    case PB_VERB_ATTACH_TREE: return pb_attach_tree(c, a[0], STRING(1), a[2]);
    case PB_VERB_MOUNT_TMPFS: return pb_mount_tmpfs(c, STRING(0), a);
    case PB_VERB_MOUNT_WRITABLE: return pb_mount_writable(c, STRING(0), a);
    case PB_VERB_MOUNT_PROC: return pb_mount_proc(c, STRING(0), STRING(1), a[2]);
    case PB_VERB_MOUNT_DEVPTS: return pb_mount_devpts(c, STRING(0), a[1]);
    case PB_VERB_MASK: return pb_mask(c, STRING(0), a[1]);
    case PB_VERB_READ_ONLY: return pb_read_only(c, STRING(0));
    case PB_VERB_PIVOT_ROOT: return pb_enter_root(c, true);
    case PB_VERB_CHROOT: return pb_enter_root(c, false);
    case PB_VERB_SETHOSTNAME: return SYS2(__NR_sethostname, STRING(0), pb_length(a[0]) - 1);
    case PB_VERB_LOOPBACK_UP: return loopback_up();
    case PB_VERB_TIME_OFFSETS: return time_offsets(c, STRING(0));
    case PB_VERB_SYSCTL: return write_proc(c, STRING(0), STRING(1));
    case PB_VERB_OWN_IPC: c->own_ipc = true; return 0;
    case PB_VERB_CAPBSET: return drop_bounding(a[0]);
    case PB_VERB_NOT_DUMPABLE: return sys_prctl(PR_SET_DUMPABLE, 0, 0);
    case PB_VERB_CGROUP_ATTACH: return cgroup_attach(FD(0));
    case PB_VERB_UNSHARE_CGROUP: return SYS1(__NR_unshare, CLONE_NEWCGROUP);
    case PB_VERB_SETRLIMIT: {
        struct rlimit64 limit = {.rlim_cur = a[1], .rlim_max = a[2]};
        return SYS4(__NR_prlimit64, 0, a[0], &limit, 0);
    }
    case PB_VERB_NEW_SESSION: return SYS0(__NR_setsid);
    case PB_VERB_UMASK: return SYS1(__NR_umask, a[0]) & 0;
    case PB_VERB_CHDIR: return SYS1(__NR_chdir, STRING(0));
    case PB_VERB_STDIO: return stdio(FD(0), a[1]);
    case PB_VERB_SETGROUPS: return SYS2(__NR_setgroups, 0, 0);
    case PB_VERB_SETRESGID: return SYS3(__NR_setresgid, a[0], a[0], a[0]);
    case PB_VERB_SETRESUID: return set_uid(a[0]);
    case PB_VERB_CAPSET: return set_capabilities(a[0]);
    case PB_VERB_NO_NEW_PRIVS: return sys_prctl(PR_SET_NO_NEW_PRIVS, 1, 0);
    case PB_VERB_CLOSE_FDS: return close_fds();
    case PB_VERB_GIVEN_TREE: return pb_given_tree(c, a[0], FD(1));
    case PB_VERB_OVERLAY: return pb_overlay_root(c, a);
    case PB_VERB_COVER: return pb_cover(c, STRING(0), STRING(1), pb_length(a[1]));
    case PB_VERB_SECCOMP: return pb_seccomp(STRING(0), pb_length(a[0]));
    case PB_VERB_SECCOMP_HEARD: return pb_seccomp_heard(STRING(0), pb_length(a[0]), STRING(1), pb_length(a[1]), FD(2));
    case PB_VERB_EXEC: {
        const char **room = c->pointers, **end = room + c->n_pointers;
        const char **argv = pointers(&room, end, STRING(1), pb_length(a[1]));
        const char **env = pointers(&room, end, STRING(2), pb_length(a[2]));
        return argv && env ? exec(STRING(0), pb_length(a[0]), argv, env) : -E2BIG;
    }
    case PB_VERB_COUNT: break;
    }
    return -EINVAL;
}

int pb_execute(struct pb_context *context, const struct pb_plan *plan, uint32_t *failed)
{
    for (uint32_t i = 0; i < plan->count; i++) {
        *failed = i;
        const struct pb_step *step = &plan->steps[i];
        long r = step->fault ? -(long)step->fault : carry_out(context, plan, step);
        if (r < 0)
            return (int)-r;
    }
    return 0;
}
