/* steps.h: a plan as bytes, and carrying it out.  See decode.c and steps.c. */
#ifndef PB_STEPS_H
#define PB_STEPS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define PB_MAX_STEPS 4096
#define PB_MAX_TREES 512
#define PB_MAX_OWN 64
#define PB_ARGS 6

/* One line a verb: name and the kinds of its arguments, which pysandbox/plan.py repeats and a test compares.
 * s string, b bytes, l list of strings, f descriptor (index into those sent along), u number. */
#define PB_VERBS(X)                      \
    X(MOUNT_PRIVATE, "")                 \
    X(OPEN_TREE, "usuu")                 \
    X(SESSION_KEYRING, "")               \
    X(INIT_IDS, "uu")                    \
    X(NEW_ROOT, "uu")                    \
    X(SYMLINK, "ss")                     \
    X(WRITE_FILE, "sbu")                 \
    X(ATTACH_TREE, "usu")                \
    X(MOUNT_TMPFS, "suuuuu")             \
    X(MOUNT_WRITABLE, "suuu")            \
    X(MOUNT_PROC, "ssu")                 \
    X(MOUNT_DEVPTS, "su")                \
    X(MASK, "su")                        \
    X(READ_ONLY, "s")                    \
    X(PIVOT_ROOT, "")                    \
    X(CHROOT, "")                        \
    X(SETHOSTNAME, "s")                  \
    X(LOOPBACK_UP, "")                   \
    X(TIME_OFFSETS, "s")                 \
    X(SYSCTL, "ss")                      \
    X(OWN_IPC, "")                       \
    X(CAPBSET, "u")                      \
    X(NOT_DUMPABLE, "")                  \
    X(CGROUP_ATTACH, "f")                \
    X(UNSHARE_CGROUP, "")                \
    X(SETRLIMIT, "uuu")                  \
    X(NEW_SESSION, "")                   \
    X(UMASK, "u")                        \
    X(CHDIR, "s")                        \
    X(STDIO, "fu")                       \
    X(SETGROUPS, "")                     \
    X(SETRESGID, "u")                    \
    X(SETRESUID, "u")                    \
    X(CAPSET, "u")                       \
    X(NO_NEW_PRIVS, "")                  \
    X(CLOSE_FDS, "")                     \
    X(GIVEN_TREE, "uf")                  \
    X(OVERLAY, "uuuuu")                  \
    X(COVER, "sb")                       \
    X(SECCOMP, "b")                      \
    X(SECCOMP_HEARD, "bbf")              \
    X(EXEC, "lll")

enum pb_verb {
#define PB_ENUM(name, kinds) PB_VERB_##name,
    PB_VERBS(PB_ENUM)
#undef PB_ENUM
        PB_VERB_COUNT
};

/* OPEN_TREE's flags */
#define PB_TREE_OPTIONAL 1 /* absent: later ATTACH_TREE of it does nothing */
#define PB_TREE_NO_SYMLINKS 2
#define PB_TREE_DEVICE 4 /* must be a character device with the number given */
/* OVERLAY's upper tree where there is none: what is written is kept in memory, and vanishes with the box */
#define PB_NO_TREE 0xffffffffu
/* MOUNT_WRITABLE's flags */
#define PB_WRITABLE_ANYWAY 1 /* what holds it will not be made read-only */
/* MASK's flags */
#define PB_MASK_OPTIONAL 1

struct pb_step {
    uint16_t verb;
    uint16_t reserved;
    uint32_t fault; /* an errno to fail with in place of doing it: so tests reach every failure path */
    uint64_t arg[PB_ARGS];
};

struct pb_plan {
    const struct pb_step *steps;
    uint32_t count;
    const char *data;
    uint32_t data_size;
    const int *fds;
    uint32_t nfds;
};

/* What steps leave for later ones. */
struct pb_context {
    int root; /* the new root, until pivot_root; -1 before it is made */
    int host_proc; /* the host's /proc, opened before anything else; -1 if absent */
    int box_proc; /* the box's own /proc, once mounted; -1 otherwise */
    int trees[PB_MAX_TREES];
    bool keeps; /* what is written through the overlay outlives the box */
    uint64_t own_devices[PB_MAX_OWN]; /* file systems made for the box: mount points may be created there only */
    uint32_t n_own;
    bool own_ipc; /* the IPC namespace is the box's: what a run leaves in it may be removed */
    int nothing[2]; /* the empty file and the empty folder that MASK covers others with; -1 before they are made */
    int upper; /* where an overlay keeps what is written; -1 without one */
    int folder; /* the folder used last, -1 if none, and its path: plans are sorted, so the next step often wants it too */
    char folder_path[256];
    const char **pointers; /* room for EXEC's argv and env */
    size_t n_pointers;
};

/* Strings, bytes and lists are one number: the offset in the low half, the length in the high one. */
static inline uint32_t pb_offset(uint64_t arg) { return (uint32_t)arg; }
static inline uint32_t pb_length(uint64_t arg) { return (uint32_t)(arg >> 32); }

void pb_context_init(struct pb_context *context);

/* Checks `size` bytes for being a plan; every string ends inside, every index is in range.  0 or an errno;
 * *bad is the step that is wrong. */
int pb_decode(const void *bytes, size_t size, const int *fds, uint32_t nfds, struct pb_plan *plan, uint32_t *bad);

/* Carries out a decoded plan.  0 or an errno; *failed is the step. */
int pb_execute(struct pb_context *context, const struct pb_plan *plan, uint32_t *failed);

const char *pb_verb_name(int verb);
const char *pb_verb_kinds(int verb);

#endif
