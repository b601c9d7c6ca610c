/* paths.c: finding and making things inside the new root.
 *
 * Paths inside the new root are opened with openat2(RESOLVE_IN_ROOT | RESOLVE_NO_SYMLINKS), never followed, so that nothing
 * in a root file system can redirect them.  Folders and mount points are made only on file systems that the plan itself
 * mounted: nothing appears on the host.
 *
 * May call: system calls (sys.h).  Owns: the folder that it keeps open in the context.
 */
#include "paths.h"

/* The directory that paths of the plan are relative to: the new root, or (when there is none, or we are
 * inside it) the current directory, which init keeps at "/". */
static int base_of(const struct pb_context *c) { return c->root >= 0 ? c->root : AT_FDCWD; }

static const char *relative(const char *path)
{
    while (*path == '/')
        path++;
    return *path ? path : ".";
}

long pb_open_inside(const struct pb_context *c, const char *path)
{
    return sys_openat2(base_of(c), relative(path), O_PATH | O_NOFOLLOW | O_CLOEXEC, 0, PB_RESOLVE_STRICT);
}

bool pb_is_own(const struct pb_context *c, int fd)
{
    struct stat st;
    if (sys_fstat(fd, &st) < 0)
        return false;
    for (uint32_t i = 0; i < c->n_own; i++)
        if (c->own_devices[i] == st.st_dev)
            return true;
    return false;
}

long pb_remember_own(struct pb_context *c, int fd)
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
    long dir = sys_openat2(base_of(c), ".", O_PATH | O_DIRECTORY | O_CLOEXEC, 0, PB_RESOLVE_STRICT);
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
        if (pb_is_own(c, (int)dir))
            SYS3(__NR_mkdirat, dir, name, 0755); /* if it failed, the next call says so */
        long next = sys_openat2((int)dir, name, O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC, 0, PB_RESOLVE_WITHIN);
        sys_close((int)dir);
        dir = next;
    }
    return dir;
}

void pb_forget_folder(struct pb_context *c)
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
long pb_parent_of(struct pb_context *c, const char *path, const char **name)
{
    char folder[4096];
    *name = split(path, folder, sizeof folder);
    if (!*name)
        return -ENAMETOOLONG;
    if (is_folder_used_last(c, folder))
        return c->folder;
    pb_forget_folder(c);
    long dir = sys_openat2(base_of(c), folder, O_PATH | O_DIRECTORY | O_CLOEXEC, 0, PB_RESOLVE_STRICT);
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

/* What a root file system has in a place that is to be the box's own gives way, where the root is an overlay: it stays in
 * the folder below.  Not where what is written is kept: it is somebody's.  Folders stay where one is wanted, and are an
 * error where none is. */
long pb_make_way(const struct pb_context *c, int dir, const char *name, bool folder)
{
    struct stat st;
    if (c->upper < 0 || c->keeps || !pb_is_own(c, dir))
        return 0;
    long there = sys_openat(dir, name, O_PATH | O_NOFOLLOW | O_CLOEXEC, 0);
    if (there < 0)
        return there == -ENOENT ? 0 : there;
    long r = sys_fstat((int)there, &st);
    sys_close((int)there);
    if (r < 0)
        return r;
    if ((st.st_mode & PB_S_IFMT) == PB_S_IFDIR)
        return folder ? 0 : -EISDIR;
    return SYS3(__NR_unlinkat, dir, name, 0);
}

/* Opens `path` for mounting on it.  What is missing is made (a folder, or an empty file), on our own file
 * systems only. */
long pb_open_mount_point(struct pb_context *c, const char *path, bool folder)
{
    const char *name;
    long dir = pb_parent_of(c, path, &name);
    if (dir < 0)
        return dir;
    if (pb_is_own(c, (int)dir)) {
        long r = pb_make_way(c, (int)dir, name, folder);
        if (r >= 0)
            r = folder ? SYS3(__NR_mkdirat, dir, name, 0755) : SYS4(__NR_mknodat, dir, name, PB_S_IFREG | 0444, 0);
        if (r < 0 && r != -EEXIST)
            return r;
    }
    return sys_openat2((int)dir, name, O_PATH | O_NOFOLLOW | O_CLOEXEC, 0, PB_RESOLVE_WITHIN);
}
