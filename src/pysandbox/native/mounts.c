/* mounts.c: the verbs that build the box's root.
 *
 * Each is a few lines over one system call or two.  Sources are opened and cloned first, with the caller's rights, and
 * held by descriptor; mounts go onto descriptors (MOVE_MOUNT_T_EMPTY_PATH), so that nothing in a root file system can
 * redirect them.
 *
 * May call: system calls (sys.h), paths.h.  Owns: the descriptors that it leaves in the context.
 */
#include "mounts.h"

#include "paths.h"

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

static long fs_set(long fs, const char *key, const char *value)
{
    return SYS5(__NR_fsconfig, fs, FSCONFIG_SET_STRING, key, value, 0);
}

static long fs_set_number(long fs, const char *key, uint64_t value, unsigned base)
{
    char text[24];
    pb_number(value, text, base);
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
    long target = pb_open_mount_point(c, path, true);
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

long pb_mount_private(void)
{
    return SYS5(__NR_mount, 0, "/", 0, MS_REC | MS_PRIVATE, 0);
}

/* A copy of what is mounted at a path of the host, held by descriptor until ATTACH_TREE puts it in place. */
long pb_open_tree(struct pb_context *c, uint64_t slot, const char *source, uint64_t flags, uint64_t device)
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

long pb_attach_tree(struct pb_context *c, uint64_t slot, const char *target_path, uint64_t attributes)
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
        long target = pb_open_mount_point(c, target_path, (st.st_mode & PB_S_IFMT) == PB_S_IFDIR);
        r = target < 0 ? target : move_onto(tree, (int)target);
        if (target >= 0)
            sys_close((int)target);
    }
    sys_close(tree);
    return r;
}

/* A mount that the application has made, with rights that init has not got. */
long pb_given_tree(struct pb_context *c, uint64_t slot, int fd)
{
    if (slot >= PB_MAX_TREES || c->trees[slot] >= 0)
        return -EINVAL;
    long r = SYS3(__NR_fcntl, fd, F_DUPFD_CLOEXEC, 3);
    if (r < 0)
        return r;
    c->trees[slot] = (int)r;
    return 0;
}

/* Puts a tree over the host's root: the next one goes over that, and pivot_root(2) makes one of them the root. */
static long move_over_root(int tree)
{
    return SYS5(__NR_move_mount, tree, "", AT_FDCWD, "/", MOVE_MOUNT_F_EMPTY_PATH);
}

/* Takes over a tree as the new root, or closes it. */
static long become_root(struct pb_context *c, long tree)
{
    if (tree < 0)
        return tree;
    long r = move_over_root((int)tree);
    if (r >= 0)
        r = pb_remember_own(c, (int)tree);
    if (r < 0) {
        sys_close((int)tree);
        return r;
    }
    c->root = (int)tree;
    return 0;
}

long pb_new_root(struct pb_context *c, uint64_t size, uint64_t inodes)
{
    return become_root(c, make_tmpfs(size, inodes, 0755, MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV));
}

/* Makes a folder of the stage, and puts a tree on it if there is one. */
static long stage_folder(struct pb_context *c, int stage, const char *name, uint64_t slot)
{
    long r = SYS3(__NR_mkdirat, stage, name, 0755);
    if (r < 0 || slot == PB_NO_TREE)
        return r;
    if (slot >= PB_MAX_TREES || c->trees[slot] < 0)
        return -EINVAL;
    long target = sys_openat(stage, name, O_PATH | O_DIRECTORY | O_CLOEXEC, 0);
    if (target < 0)
        return target;
    r = move_onto(c->trees[slot], (int)target);
    sys_close((int)target);
    sys_close(c->trees[slot]);
    c->trees[slot] = -1;
    return r;
}

/* What an overlay does to its layers it does as whoever mounted it, for ever: as the payload, whose files they are, but with
 * the capabilities that init has now and the payload never (setfsuid(2) takes them out of the effective set).  What init
 * makes in an overlay must be the payload's, too: the file system below may have no other ids. */
long pb_act_as(uint64_t owner)
{
    struct __user_cap_header_struct head = {.version = _LINUX_CAPABILITY_VERSION_3};
    struct __user_cap_data_struct data[2];
    SYS1(__NR_setfsgid, (uint32_t)(owner >> 32));
    SYS1(__NR_setfsuid, (uint32_t)owner);
    long r = SYS2(__NR_capget, &head, data);
    for (int i = 0; i < 2; i++)
        data[i].effective = data[i].permitted;
    return r < 0 ? r : SYS2(__NR_capset, &head, data);
}

/* The folders of an overlay are named to the kernel by paths.  These are relative to a file system of our own, in which
 * nobody else has a say; userxattr, as in a user namespace no other attributes may be written (Linux 5.11). */
static long make_overlay(int stage)
{
    long r = SYS1(__NR_fchdir, stage);
    if (r < 0)
        return r;
    long fs = SYS2(__NR_fsopen, "overlay", FSOPEN_CLOEXEC);
    if (fs < 0)
        return fs;
    r = fs_set(fs, "lowerdir", "lower");
    if (r >= 0)
        r = fs_set(fs, "upperdir", "kept/upper");
    if (r >= 0)
        r = fs_set(fs, "workdir", "kept/work");
    if (r >= 0)
        r = SYS5(__NR_fsconfig, fs, FSCONFIG_SET_FLAG, "userxattr", 0, 0);
    if (r < 0) {
        sys_close((int)fs);
        return r;
    }
    return fs_mount(fs, MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV);
}

/* A new root that shows one tree, and keeps what is written in another, or in memory.  The overlay has mounts of its own
 * of both, so the file system in which it found them is gone when it is there. */
long pb_overlay_root(struct pb_context *c, const uint64_t *arg)
{
    /* size, inodes, lower tree, upper tree, and the payload's ids: uid in the low half, gid above */
    uint64_t upper = arg[3];
    c->keeps = upper != PB_NO_TREE;
    long r = make_tmpfs(arg[0], arg[1], 0755, MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV);
    if (r < 0)
        return r;
    int stage = (int)r;
    long overlay = move_over_root(stage);
    if (overlay < 0) {
        sys_close(stage);
        return overlay;
    }
    r = stage_folder(c, stage, "lower", arg[2]);
    if (r >= 0)
        r = stage_folder(c, stage, "kept", upper);
    if (r >= 0)
        r = pb_act_as(arg[4]);
    if (r >= 0 && upper == PB_NO_TREE) {
        r = SYS3(__NR_mkdirat, stage, "kept/upper", 0755);
        if (r >= 0)
            r = SYS3(__NR_mkdirat, stage, "kept/work", 0755);
    }
    if (r >= 0)
        r = sys_openat2(stage, "kept/upper", O_RDONLY | O_DIRECTORY | O_CLOEXEC, 0, RESOLVE_NO_SYMLINKS | RESOLVE_BENEATH);
    if (r >= 0) {
        c->upper = (int)r;
        r = make_overlay(stage);
        SYS1(__NR_chdir, "/");
    }
    sys_close(stage);
    overlay = r;
    r = SYS2(__NR_umount2, "/", PB_MNT_DETACH); /* the stage, which lies over the root */
    if (r < 0 && overlay >= 0) {
        sys_close((int)overlay);
        return r;
    }
    return become_root(c, overlay);
}

long pb_make_symlink(struct pb_context *c, const char *target, const char *path)
{
    const char *name;
    long dir = pb_parent_of(c, path, &name);
    if (dir < 0)
        return dir;
    if (!pb_is_own(c, (int)dir))
        return -EROFS;
    long r = pb_make_way(c, (int)dir, name, false);
    return r < 0 ? r : SYS3(__NR_symlinkat, target, dir, name);
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

long pb_write_file(struct pb_context *c, const char *path, const char *bytes, uint32_t length, uint64_t mode)
{
    const char *name;
    long dir = pb_parent_of(c, path, &name);
    if (dir < 0)
        return dir;
    long fd = pb_is_own(c, (int)dir) ? pb_make_way(c, (int)dir, name, false) : -EROFS;
    if (fd >= 0)
        fd = sys_openat((int)dir, name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, (int)mode);
    if (fd < 0)
        return fd;
    long r = write_all((int)fd, bytes, length);
    if (r >= 0 && mode & 022)
        r = SYS2(__NR_fchmod, fd, mode); /* init's umask is 022 */
    sys_close((int)fd);
    return r;
}

long pb_mount_tmpfs(struct pb_context *c, const char *path, const uint64_t *arg)
{
    /* size, inodes, mode, attributes, and the owner: uid in the low half, gid in the high one */
    long tree = mount_on(c, make_tmpfs(arg[1], arg[2], arg[3], arg[4]), path);
    if (tree < 0)
        return tree;
    long r = pb_remember_own(c, (int)tree);
    if (r >= 0)
        r = SYS5(__NR_fchownat, tree, "", (uint32_t)arg[5], (uint32_t)(arg[5] >> 32), AT_EMPTY_PATH);
    sys_close((int)tree);
    return r;
}

/* Makes a folder of one of our own file systems and mounts it over itself, so that it stays writable when what holds it
 * is made read-only.  A quarter of the price of a tmpfs of its own. */
long pb_mount_writable(struct pb_context *c, const char *path, const uint64_t *arg)
{
    /* mode, owner (uid in the low half, gid in the high one), flags */
    uint64_t mode = arg[1], owner = arg[2];
    const char *name;
    long dir = pb_parent_of(c, path, &name);
    if (dir < 0)
        return dir;
    if (!pb_is_own(c, (int)dir))
        return -EROFS;
    long r = SYS3(__NR_mkdirat, dir, name, 0755);
    if (r < 0 && r != -EEXIST)
        return r;
    long fd = sys_openat2((int)dir, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC, 0, PB_RESOLVE_WITHIN);
    if (fd < 0)
        return fd;
    r = SYS3(__NR_fchown, fd, (uint32_t)owner, (uint32_t)(owner >> 32));
    if (r >= 0 && mode != 0755)
        r = SYS2(__NR_fchmod, fd, mode); /* after the owner: chown(2) clears bits */
    if (r >= 0 && !(arg[3] & PB_WRITABLE_ANYWAY)) {
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

long pb_mount_proc(struct pb_context *c, const char *path, const char *options, uint64_t attributes)
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

long pb_mount_devpts(struct pb_context *c, const char *path, uint64_t attributes)
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
long pb_mask(struct pb_context *c, const char *path, uint64_t flags)
{
    const uint64_t attributes = MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC;
    struct stat st;
    pb_forget_folder(c); /* it may lie below what is covered now */
    long target = pb_open_inside(c, path);
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

/* Shows a file of the box's own in the place of another, which its file system does not let be changed (/proc). */
long pb_cover(struct pb_context *c, const char *path, const char *bytes, uint32_t length)
{
    const uint64_t attributes = MOUNT_ATTR_RDONLY | MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC;
    static const char name[] = ".pysandbox-cover";
    if (c->root < 0)
        return -EINVAL;
    long target = pb_open_inside(c, path);
    if (target < 0)
        return target == -ENOENT ? 0 : target; /* nothing to be covered (subset=pid, proc(5)) */
    long file = sys_openat(c->root, name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0444);
    long r = file < 0 ? file : write_all((int)file, bytes, length);
    if (r >= 0)
        r = SYS3(__NR_open_tree, file, "", OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | AT_EMPTY_PATH);
    if (r >= 0) {
        int cover = (int)r;
        r = set_attributes(cover, attributes, false);
        if (r >= 0)
            r = move_onto(cover, (int)target);
        sys_close(cover);
    }
    if (file >= 0) { /* what is unlinked can be mounted no more, but stays where it is */
        SYS3(__NR_unlinkat, c->root, name, 0);
        sys_close((int)file);
    }
    sys_close((int)target);
    return r;
}

long pb_read_only(struct pb_context *c, const char *path)
{
    long fd = pb_open_inside(c, path);
    if (fd < 0)
        return fd;
    long r = set_attributes((int)fd, MOUNT_ATTR_RDONLY, false);
    sys_close((int)fd);
    return r;
}

/* Enters the new root by pivot_root(".", "."), which stacks the old root over the new one; then the old one
 * is detached (pivot_root(2), NOTES). */
long pb_enter_root(struct pb_context *c, bool pivot)
{
    if (c->root < 0)
        return -EINVAL;
    pb_forget_folder(c);
    forget_nothing(c);
    long r = SYS1(__NR_fchdir, c->root);
    if (r >= 0 && c->upper >= 0)
        r = pb_act_as((uint64_t)SYS0(__NR_geteuid) | (uint64_t)SYS0(__NR_getegid) << 32);
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
