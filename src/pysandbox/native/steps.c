/* steps.c: a plan as bytes, and carrying it out.
 *
 * A plan is a count, then fixed-size steps, then the data their strings point into.  It comes from the
 * application, which is trusted, and is checked all the same: a mistake there must end in an error with the
 * step's index, never in a wild read.  Each verb is a function of a few lines over one system call or two; which
 * verbs, in what order and why is Python's business (pysandbox/plan.py), so nothing here knows a layer.
 *
 * Paths inside the new root are opened with openat2(RESOLVE_IN_ROOT | RESOLVE_NO_SYMLINKS), never followed, and
 * mounts go onto the descriptor (MOVE_MOUNT_T_EMPTY_PATH), so that nothing in a root file system can redirect
 * them.  Mount points are made only on file systems that the plan itself mounted: nothing appears on the host.
 *
 * May call: system calls (sys.h).  Owns: nothing but the descriptors in its context.  No allocation, no libc.
 */
#include "steps.h"

#include "sys.h"

#define MAX_ERRNO 4095
#define RESOLVE_WITHIN (RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS)
#define RESOLVE_STRICT (RESOLVE_IN_ROOT | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS)

/* --- decoding ------------------------------------------------------------------------------------------- */

static const char *const verb_names[] = {
#define PB_NAME(name, kinds) #name,
    PB_VERBS(PB_NAME)
#undef PB_NAME
};

static const char *const verb_kinds[] = {
#define PB_KINDS(name, kinds) kinds,
    PB_VERBS(PB_KINDS)
#undef PB_KINDS
};

const char *pb_verb_name(int verb) { return verb >= 0 && verb < PB_VERB_COUNT ? verb_names[verb] : 0; }
const char *pb_verb_kinds(int verb) { return verb >= 0 && verb < PB_VERB_COUNT ? verb_kinds[verb] : 0; }

/* Strings, bytes and lists are one number: the offset in the low half, the length in the high one. */
static uint32_t offset_of(uint64_t arg) { return (uint32_t)arg; }
static uint32_t length_of(uint64_t arg) { return (uint32_t)(arg >> 32); }

static bool span_is_inside(const struct pb_plan *plan, uint64_t arg)
{
    return (uint64_t)offset_of(arg) + length_of(arg) <= plan->data_size;
}

static bool argument_is_valid(const struct pb_plan *plan, char kind, uint64_t arg)
{
    const char *text = plan->data + offset_of(arg);
    uint32_t length = length_of(arg);
    switch (kind) {
    case 's': /* one string: its length counts the final NUL, and there is no other */
        return span_is_inside(plan, arg) && length > 0 && text[length - 1] == 0 && pb_strlen(text) == length - 1;
    case 'l': /* strings one after the other */
        return span_is_inside(plan, arg) && (length == 0 || text[length - 1] == 0);
    case 'b':
        return span_is_inside(plan, arg);
    case 'f':
        return arg < plan->nfds;
    default:
        return true;
    }
}

int pb_decode(const void *bytes, size_t size, const int *fds, uint32_t nfds, struct pb_plan *plan, uint32_t *bad)
{
    const uint64_t *count = bytes;
    *bad = 0;
    if ((uintptr_t)bytes % sizeof(uint64_t) || size < sizeof *count || size > UINT32_MAX)
        return EINVAL;
    if (*count > PB_MAX_STEPS || sizeof *count + *count * sizeof(struct pb_step) > size)
        return EINVAL;
    plan->steps = (const struct pb_step *)(count + 1);
    plan->count = (uint32_t)*count;
    plan->data = (const char *)(plan->steps + plan->count);
    plan->data_size = (uint32_t)(size - sizeof *count - plan->count * sizeof(struct pb_step));
    plan->fds = fds;
    plan->nfds = nfds;
    for (uint32_t i = 0; i < plan->count; i++) {
        const struct pb_step *step = &plan->steps[i];
        *bad = i;
        if (step->verb >= PB_VERB_COUNT || step->reserved || step->fault > MAX_ERRNO)
            return EINVAL;
        const char *kinds = verb_kinds[step->verb];
        for (int a = 0; kinds[a]; a++)
            if (!argument_is_valid(plan, kinds[a], step->arg[a]))
                return EINVAL;
    }
    return 0;
}

void pb_context_init(struct pb_context *context)
{
    context->root = context->host_proc = context->box_proc = -1;
    for (int i = 0; i < PB_MAX_TREES; i++)
        context->trees[i] = -1;
    context->n_own = 0;
    context->pointers = 0;
    context->n_pointers = 0;
    context->folder = context->nothing[0] = context->nothing[1] = -1;
}

/* --- paths inside the new root ---------------------------------------------------------------------------- */

/* The directory that paths of the plan are relative to: the new root, or (when there is none, or we are
 * inside it) the current directory, which init keeps at "/". */
static int base_of(const struct pb_context *c) { return c->root >= 0 ? c->root : AT_FDCWD; }

static const char *relative(const char *path)
{
    while (*path == '/')
        path++;
    return *path ? path : ".";
}

static long open_inside(const struct pb_context *c, const char *path)
{
    return sys_openat2(base_of(c), relative(path), O_PATH | O_NOFOLLOW | O_CLOEXEC, 0, RESOLVE_STRICT);
}

static bool is_own(const struct pb_context *c, int fd)
{
    struct stat st;
    if (sys_fstat(fd, &st) < 0)
        return false;
    for (uint32_t i = 0; i < c->n_own; i++)
        if (c->own_devices[i] == st.st_dev)
            return true;
    return false;
}

static long remember_own(struct pb_context *c, int fd)
{
    struct stat st;
    long r = sys_fstat(fd, &st);
    if (r < 0)
        return r;
    if (c->n_own == PB_MAX_OWN)
        return -ENOSPC;
    c->own_devices[c->n_own++] = st.st_dev;
    return 0;
}

/* Copies the folders of `path` to `folder`; returns its last name, or 0 if either is too long. */
static const char *split(const char *path, char *folder, size_t size)
{
    path = relative(path);
    const char *name = path;
    for (const char *p = path; *p; p++)
        if (*p == '/' && p[1])
            name = p + 1;
    size_t length = (size_t)(name - path);
    if (length + 2 > size || pb_strlen(name) > 255)
        return 0;
    for (size_t i = 0; i < length; i++)
        folder[i] = path[i];
    if (!length)
        folder[length++] = '.';
    folder[length] = 0;
    return name;
}

/* Makes what is missing of `folder`, on our own file systems only. */
static long make_folders(const struct pb_context *c, const char *folder)
{
    char name[256];
    long dir = sys_openat2(base_of(c), ".", O_PATH | O_DIRECTORY | O_CLOEXEC, 0, RESOLVE_STRICT);
    while (dir >= 0 && *folder) {
        size_t n = 0;
        for (; folder[n] && folder[n] != '/'; n++) {
            if (n + 1 >= sizeof name) {
                sys_close((int)dir);
                return -ENAMETOOLONG;
            }
            name[n] = folder[n];
        }
        name[n] = 0;
        folder += n;
        while (*folder == '/')
            folder++;
        if (is_own(c, (int)dir))
            SYS3(__NR_mkdirat, dir, name, 0755); /* if it failed, the next call says so */
        long next = sys_openat2((int)dir, name, O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC, 0, RESOLVE_WITHIN);
        sys_close((int)dir);
        dir = next;
    }
    return dir;
}

static void forget_folder(struct pb_context *c)
{
    if (c->folder >= 0)
        sys_close(c->folder);
    c->folder = -1;
}

static bool is_folder_used_last(const struct pb_context *c, const char *folder)
{
    if (c->folder < 0)
        return false;
    size_t i = 0;
    while (folder[i] && folder[i] == c->folder_path[i])
        i++;
    return folder[i] == c->folder_path[i];
}

/* The folder that holds `path`'s last name, made if need be.  Returns a descriptor that belongs to the context, and the
 * name. */
static long parent_of(struct pb_context *c, const char *path, const char **name)
{
    char folder[4096];
    *name = split(path, folder, sizeof folder);
    if (!*name)
        return -ENAMETOOLONG;
    if (is_folder_used_last(c, folder))
        return c->folder;
    forget_folder(c);
    long dir = sys_openat2(base_of(c), folder, O_PATH | O_DIRECTORY | O_CLOEXEC, 0, RESOLVE_STRICT);
    if (dir == -ENOENT)
        dir = make_folders(c, folder);
    if (dir < 0)
        return dir;
    c->folder = (int)dir;
    size_t length = pb_strlen(folder);
    c->folder_path[0] = 0; /* matches no folder */
    if (length < sizeof c->folder_path)
        for (size_t i = 0; i <= length; i++)
            c->folder_path[i] = folder[i];
    return dir;
}

/* Opens `path` for mounting on it.  What is missing is made (a folder, or an empty file), on our own file
 * systems only. */
static long open_mount_point(struct pb_context *c, const char *path, bool folder)
{
    const char *name;
    long dir = parent_of(c, path, &name);
    if (dir < 0)
        return dir;
    if (is_own(c, (int)dir)) {
        long r = folder ? SYS3(__NR_mkdirat, dir, name, 0755)
                        : sys_openat((int)dir, name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0444);
        if (r >= 0 && !folder)
            sys_close((int)r);
        if (r < 0 && r != -EEXIST)
            return r;
    }
    return sys_openat2((int)dir, name, O_PATH | O_NOFOLLOW | O_CLOEXEC, 0, RESOLVE_WITHIN);
}

static long move_onto(int tree, int target)
{
    return SYS5(__NR_move_mount, tree, "", target, "", MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH);
}

static long set_attributes(int fd, uint64_t attributes, bool recursive)
{
    struct mount_attr attr = {.attr_set = attributes};
    if (!attributes)
        return 0;
    return SYS5(__NR_mount_setattr, fd, "", AT_EMPTY_PATH | (recursive ? AT_RECURSIVE : 0), &attr, sizeof attr);
}

/* --- a file system of our own: fsopen, options, fsmount ---------------------------------------------------- */

static void decimal(uint64_t value, char *to, unsigned base)
{
    char digits[24];
    int n = 0;
    do
        digits[n++] = (char)('0' + value % base);
    while (value /= base);
    while (n)
        *to++ = digits[--n];
    *to = 0;
}

static long fs_set(long fs, const char *key, const char *value)
{
    return SYS5(__NR_fsconfig, fs, FSCONFIG_SET_STRING, key, value, 0);
}

static long fs_set_number(long fs, const char *key, uint64_t value, unsigned base)
{
    char text[24];
    decimal(value, text, base);
    return fs_set(fs, key, text);
}

static long fs_mount(long fs, uint64_t attributes)
{
    long r = SYS5(__NR_fsconfig, fs, FSCONFIG_CMD_CREATE, 0, 0, 0);
    if (r >= 0)
        r = SYS3(__NR_fsmount, fs, FSMOUNT_CLOEXEC, attributes);
    sys_close((int)fs);
    return r;
}

/* Mounts what fs_mount gave onto `path`; returns the mount's descriptor. */
static long mount_on(struct pb_context *c, long tree, const char *path)
{
    if (tree < 0 || !*path) /* no path: held by descriptor, and shown nowhere */
        return tree;
    long target = open_mount_point(c, path, true);
    long r = target < 0 ? target : move_onto((int)tree, (int)target);
    if (target >= 0)
        sys_close((int)target);
    if (r < 0) {
        sys_close((int)tree);
        return r;
    }
    return tree;
}

static long make_tmpfs(uint64_t size, uint64_t inodes, uint64_t mode, uint64_t attributes)
{
    long fs = SYS2(__NR_fsopen, "tmpfs", FSOPEN_CLOEXEC);
    if (fs < 0)
        return fs;
    long r = fs_set_number(fs, "size", size, 10);
    if (r >= 0)
        r = fs_set_number(fs, "nr_inodes", inodes, 10);
    if (r >= 0)
        r = fs_set_number(fs, "mode", mode, 8);
    if (r < 0) {
        sys_close((int)fs);
        return r;
    }
    return fs_mount(fs, attributes);
}

/* --- the verbs ---------------------------------------------------------------------------------------------- */

static long mount_private(void)
{
    return SYS5(__NR_mount, 0, "/", 0, MS_REC | MS_PRIVATE, 0);
}

/* A copy of what is mounted at a path of the host, held by descriptor until ATTACH_TREE puts it in place. */
static long open_tree(struct pb_context *c, uint64_t slot, const char *source, uint64_t flags, uint64_t device)
{
    struct stat st;
    if (slot >= PB_MAX_TREES || c->trees[slot] >= 0)
        return -EINVAL;
    uint64_t resolve = RESOLVE_NO_MAGICLINKS | (flags & PB_TREE_NO_SYMLINKS ? RESOLVE_NO_SYMLINKS : 0);
    long path = sys_openat2(AT_FDCWD, source, O_PATH | O_CLOEXEC, 0, resolve);
    if (path == -ENOENT && flags & PB_TREE_OPTIONAL)
        return 0;
    if (path < 0)
        return path;
    long r = sys_fstat((int)path, &st);
    if (r >= 0 && flags & PB_TREE_DEVICE && ((st.st_mode & PB_S_IFMT) != PB_S_IFCHR || st.st_rdev != device))
        r = -ENODEV;
    if (r >= 0)
        r = SYS3(__NR_open_tree, path, "", OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | AT_EMPTY_PATH | AT_RECURSIVE);
    sys_close((int)path);
    if (r < 0)
        return r;
    c->trees[slot] = (int)r;
    return 0;
}

static long attach_tree(struct pb_context *c, uint64_t slot, const char *target_path, uint64_t attributes)
{
    struct stat st;
    if (slot >= PB_MAX_TREES)
        return -EINVAL;
    int tree = c->trees[slot];
    if (tree < 0)
        return 0; /* it was optional, and absent */
    c->trees[slot] = -1;
    long r = sys_fstat(tree, &st);
    if (r >= 0)
        r = set_attributes(tree, attributes, true);
    if (r >= 0) {
        long target = open_mount_point(c, target_path, (st.st_mode & PB_S_IFMT) == PB_S_IFDIR);
        r = target < 0 ? target : move_onto(tree, (int)target);
        if (target >= 0)
            sys_close((int)target);
    }
    sys_close(tree);
    return r;
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

static long new_root(struct pb_context *c, uint64_t size, uint64_t inodes)
{
    long tree = make_tmpfs(size, inodes, 0755, MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV);
    if (tree < 0)
        return tree;
    long r = SYS5(__NR_move_mount, tree, "", AT_FDCWD, "/", MOVE_MOUNT_F_EMPTY_PATH);
    if (r >= 0)
        r = remember_own(c, (int)tree);
    if (r < 0) {
        sys_close((int)tree);
        return r;
    }
    c->root = (int)tree;
    return 0;
}

static long make_symlink(struct pb_context *c, const char *target, const char *path)
{
    const char *name;
    long dir = parent_of(c, path, &name);
    if (dir < 0)
        return dir;
    return is_own(c, (int)dir) ? SYS3(__NR_symlinkat, target, dir, name) : -EROFS;
}

static long write_all(int fd, const char *bytes, size_t length)
{
    while (length) {
        long n = sys_write(fd, bytes, length);
        if (n == -EINTR)
            continue;
        if (n < 0)
            return n;
        bytes += n;
        length -= (size_t)n;
    }
    return 0;
}

static long write_file(struct pb_context *c, const char *path, const char *bytes, uint32_t length, uint64_t mode)
{
    const char *name;
    long dir = parent_of(c, path, &name);
    if (dir < 0)
        return dir;
    long fd = -EROFS;
    if (is_own(c, (int)dir))
        fd = sys_openat((int)dir, name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, (int)mode);
    if (fd < 0)
        return fd;
    long r = write_all((int)fd, bytes, length);
    if (r >= 0 && mode & 022)
        r = SYS2(__NR_fchmod, fd, mode); /* init's umask is 022 */
    sys_close((int)fd);
    return r;
}

static long mount_tmpfs(struct pb_context *c, const char *path, const uint64_t *arg)
{
    /* size, inodes, mode, attributes, and the owner: uid in the low half, gid in the high one */
    long tree = mount_on(c, make_tmpfs(arg[1], arg[2], arg[3], arg[4]), path);
    if (tree < 0)
        return tree;
    long r = remember_own(c, (int)tree);
    if (r >= 0)
        r = SYS5(__NR_fchownat, tree, "", (uint32_t)arg[5], (uint32_t)(arg[5] >> 32), AT_EMPTY_PATH);
    sys_close((int)tree);
    return r;
}

/* Makes a folder of one of our own file systems and mounts it over itself, so that it stays writable when what holds it
 * is made read-only.  A quarter of the price of a tmpfs of its own. */
static long mount_writable(struct pb_context *c, const char *path, uint64_t mode, uint64_t owner)
{
    const char *name;
    long dir = parent_of(c, path, &name);
    if (dir < 0)
        return dir;
    if (!is_own(c, (int)dir))
        return -EROFS;
    long r = SYS3(__NR_mkdirat, dir, name, 0755);
    if (r < 0 && r != -EEXIST)
        return r;
    long fd = sys_openat2((int)dir, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC, 0, RESOLVE_WITHIN);
    if (fd < 0)
        return fd;
    r = SYS3(__NR_fchown, fd, (uint32_t)owner, (uint32_t)(owner >> 32));
    if (r >= 0 && mode != 0755)
        r = SYS2(__NR_fchmod, fd, mode); /* after the owner: chown(2) clears bits */
    if (r >= 0) {
        r = SYS3(__NR_open_tree, fd, "", OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | AT_EMPTY_PATH);
        if (r >= 0) {
            int tree = (int)r;
            r = move_onto(tree, (int)fd);
            sys_close(tree);
        }
    }
    sys_close((int)fd);
    return r;
}

static long mount_proc(struct pb_context *c, const char *path, const char *options, uint64_t attributes)
{
    long fs = SYS2(__NR_fsopen, "proc", FSOPEN_CLOEXEC);
    if (fs < 0)
        return fs;
    /* options: "key=value,key=value" */
    char pair[64];
    while (*options) {
        size_t n = 0;
        int equals = -1;
        for (; options[n] && options[n] != ','; n++) {
            if (n + 1 >= sizeof pair) {
                sys_close((int)fs);
                return -EINVAL;
            }
            pair[n] = options[n];
            if (pair[n] == '=')
                equals = (int)n;
        }
        pair[n] = 0;
        if (equals < 0) {
            sys_close((int)fs);
            return -EINVAL;
        }
        pair[equals] = 0;
        long r = fs_set(fs, pair, pair + equals + 1);
        if (r < 0) {
            sys_close((int)fs);
            return r;
        }
        options += n + (options[n] == ',');
    }
    long tree = mount_on(c, fs_mount(fs, attributes), path);
    if (tree < 0)
        return tree;
    c->box_proc = (int)tree; /* kept: init counts its children there */
    return 0;
}

static long mount_devpts(struct pb_context *c, const char *path, uint64_t attributes)
{
    long fs = SYS2(__NR_fsopen, "devpts", FSOPEN_CLOEXEC);
    if (fs < 0)
        return fs;
    long r = fs_set(fs, "ptmxmode", "0666");
    if (r >= 0)
        r = fs_set(fs, "mode", "620");
    if (r < 0) {
        sys_close((int)fs);
        return r;
    }
    long tree = mount_on(c, fs_mount(fs, attributes), path);
    if (tree < 0)
        return tree;
    sys_close((int)tree);
    return 0;
}

/* The names, in the new root, of what covers others; gone again when the root is entered.  Clones of them cost less
 * than a file system each. */
static const char *const nothing_names[] = {".pysandbox-empty-file", ".pysandbox-empty-folder"};

static long clone_of_nothing(struct pb_context *c, bool folder)
{
    if (c->root < 0)
        return -EINVAL;
    if (c->nothing[folder] < 0) {
        const char *name = nothing_names[folder];
        long r = folder ? SYS3(__NR_mkdirat, c->root, name, 0555) : 0;
        int flags = folder ? O_RDONLY | O_DIRECTORY : O_RDONLY | O_CREAT | O_EXCL;
        if (r >= 0)
            r = sys_openat(c->root, name, flags | O_NOFOLLOW | O_CLOEXEC, 0444);
        if (r < 0)
            return r;
        c->nothing[folder] = (int)r;
    }
    return SYS3(__NR_open_tree, c->nothing[folder], "", OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | AT_EMPTY_PATH);
}

static void forget_nothing(struct pb_context *c)
{
    for (int folder = 0; folder < 2; folder++) {
        if (c->nothing[folder] < 0)
            continue;
        SYS3(__NR_unlinkat, c->root, nothing_names[folder], folder ? AT_REMOVEDIR : 0);
        sys_close(c->nothing[folder]);
        c->nothing[folder] = -1;
    }
}

/* Covers a file with an empty one, a folder with an empty folder, both read-only. */
static long mask(struct pb_context *c, const char *path, uint64_t flags)
{
    const uint64_t attributes = MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC;
    struct stat st;
    forget_folder(c); /* it may lie below what is covered now */
    long target = open_inside(c, path);
    if (target == -ENOENT && flags & PB_MASK_OPTIONAL)
        return 0;
    if (target < 0)
        return target;
    long r = sys_fstat((int)target, &st);
    if (r >= 0)
        r = clone_of_nothing(c, (st.st_mode & PB_S_IFMT) == PB_S_IFDIR);
    if (r >= 0) {
        int cover = (int)r;
        r = set_attributes(cover, attributes, false);
        if (r >= 0)
            r = move_onto(cover, (int)target);
        sys_close(cover);
    }
    sys_close((int)target);
    return r;
}

static long read_only(struct pb_context *c, const char *path)
{
    long fd = open_inside(c, path);
    if (fd < 0)
        return fd;
    long r = set_attributes((int)fd, MOUNT_ATTR_RDONLY, false);
    sys_close((int)fd);
    return r;
}

/* Enters the new root by pivot_root(".", "."), which stacks the old root over the new one; then the old one
 * is detached (pivot_root(2), NOTES). */
static long enter_root(struct pb_context *c, bool pivot)
{
    if (c->root < 0)
        return -EINVAL;
    forget_folder(c);
    forget_nothing(c);
    long r = SYS1(__NR_fchdir, c->root);
    if (r >= 0)
        r = pivot ? SYS2(__NR_pivot_root, ".", ".") : SYS1(__NR_chroot, ".");
    if (r >= 0 && pivot)
        r = SYS2(__NR_umount2, ".", PB_MNT_DETACH);
    if (r >= 0)
        r = SYS1(__NR_chdir, "/");
    sys_close(c->root);
    c->root = -1;
    return r;
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

/* Gives the program a descriptor under a number.  Ours all lie above those numbers (see init.c) and close on
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
#define STRING(i) (plan->data + offset_of(a[i]))
#define FD(i) (plan->fds[a[i]])
    switch ((enum pb_verb)step->verb) {
    case PB_VERB_MOUNT_PRIVATE: return mount_private();
    case PB_VERB_OPEN_TREE: return open_tree(c, a[0], STRING(1), a[2], a[3]);
    case PB_VERB_SESSION_KEYRING: return session_keyring();
    case PB_VERB_INIT_IDS: return init_ids(a[0], a[1]);
    case PB_VERB_NEW_ROOT: return new_root(c, a[0], a[1]);
    case PB_VERB_SYMLINK: return make_symlink(c, STRING(0), STRING(1));
    case PB_VERB_WRITE_FILE: return write_file(c, STRING(0), STRING(1), length_of(a[1]), a[2]);
    case PB_VERB_ATTACH_TREE: return attach_tree(c, a[0], STRING(1), a[2]);
    case PB_VERB_MOUNT_TMPFS: return mount_tmpfs(c, STRING(0), a);
    case PB_VERB_MOUNT_WRITABLE: return mount_writable(c, STRING(0), a[1], a[2]);
    case PB_VERB_MOUNT_PROC: return mount_proc(c, STRING(0), STRING(1), a[2]);
    case PB_VERB_MOUNT_DEVPTS: return mount_devpts(c, STRING(0), a[1]);
    case PB_VERB_MASK: return mask(c, STRING(0), a[1]);
    case PB_VERB_READ_ONLY: return read_only(c, STRING(0));
    case PB_VERB_PIVOT_ROOT: return enter_root(c, true);
    case PB_VERB_CHROOT: return enter_root(c, false);
    case PB_VERB_SETHOSTNAME: return SYS2(__NR_sethostname, STRING(0), length_of(a[0]) - 1);
    case PB_VERB_LOOPBACK_UP: return loopback_up();
    case PB_VERB_TIME_OFFSETS: return time_offsets(c, STRING(0));
    case PB_VERB_SYSCTL: return write_proc(c, STRING(0), STRING(1));
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
    case PB_VERB_EXEC: {
        const char **room = c->pointers, **end = room + c->n_pointers;
        const char **argv = pointers(&room, end, STRING(1), length_of(a[1]));
        const char **env = pointers(&room, end, STRING(2), length_of(a[2]));
        return argv && env ? exec(STRING(0), length_of(a[0]), argv, env) : -E2BIG;
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
