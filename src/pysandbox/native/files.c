/* files.c: opening a file of the box for the application, with the box's rights.
 *
 * The payload may have put anything there.  Only a regular file is opened, no symlink is followed out of the box, and
 * nothing blocks: a FIFO or a device is an error.
 *
 * May call: sys.h.  Owns: nothing.
 */
#include "files.h"

#include "mounts.h"
#include "sys.h"

/* Opens a folder; with O_CREAT its last name is made if it is missing, owned by the payload. */
static long open_folder(const struct pb_open *wanted, char *path)
{
    const uint64_t resolve = RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS | RESOLVE_NO_SYMLINKS;
    if (wanted->flags & O_CREAT) {
        char *name = path;
        for (char *p = path; *p; p++)
            if (*p == '/')
                name = p + 1;
        long above = -EINVAL;
        if (name > path && *name) {
            name[-1] = 0;
            above = sys_openat2(AT_FDCWD, *path ? path : "/", O_PATH | O_DIRECTORY | O_CLOEXEC, 0, resolve);
            name[-1] = '/';
        }
        if (above < 0)
            return above;
        long r = SYS3(__NR_mkdirat, above, name, wanted->mode & 0777);
        if (r >= 0)
            r = SYS5(__NR_fchownat, above, name, wanted->uid, wanted->gid, AT_SYMLINK_NOFOLLOW);
        sys_close((int)above);
        if (r < 0 && r != -EEXIST)
            return r;
    }
    return sys_openat2(AT_FDCWD, path, O_RDONLY | O_DIRECTORY | O_NONBLOCK | O_CLOEXEC, 0, resolve);
}

static long open_wanted(const struct pb_request_in *request)
{
    const struct pb_open *wanted = (const struct pb_open *)request->body;
    struct stat st;
    if (request->head.length <= sizeof *wanted || request->body[request->head.length - 1])
        return -EINVAL;
    char *path = request->body + sizeof *wanted;
    if (wanted->flags & O_DIRECTORY)
        return open_folder(wanted, path);
    uint64_t resolve = RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS | (wanted->links ? 0 : RESOLVE_NO_SYMLINKS);
    uint64_t flags = (wanted->flags & (O_ACCMODE | O_CREAT | O_EXCL)) | O_NONBLOCK | O_NOCTTY | O_CLOEXEC;
    long fd = sys_openat2(AT_FDCWD, path, flags, flags & O_CREAT ? wanted->mode & 07777 : 0, resolve);
    if (fd < 0)
        return fd;
    long r = sys_fstat((int)fd, &st);
    if (r >= 0 && (st.st_mode & PB_S_IFMT) != PB_S_IFREG)
        r = (st.st_mode & PB_S_IFMT) == PB_S_IFDIR ? -EISDIR : -ENXIO;
    if (r >= 0 && wanted->flags & O_TRUNC)
        r = SYS2(__NR_ftruncate, fd, 0);
    if (r >= 0 && flags & O_CREAT) {
        r = SYS3(__NR_fchown, fd, wanted->uid, wanted->gid);
        if (r >= 0)
            r = SYS2(__NR_fchmod, fd, wanted->mode & 07777);
    }
    if (r < 0) {
        sys_close((int)fd);
        return r;
    }
    return fd;
}

long pb_open_for_application(const struct pb_context *context, const struct pb_request_in *request)
{
    const struct pb_open *wanted = (const struct pb_open *)request->body;
    bool acts = context->upper >= 0 && request->head.length > sizeof *wanted; /* an overlay may have no ids but the payload's */
    if (acts)
        pb_act_as((uint64_t)wanted->uid | (uint64_t)wanted->gid << 32);
    long fd = open_wanted(request);
    if (acts)
        pb_act_as((uint64_t)SYS0(__NR_geteuid) | (uint64_t)SYS0(__NR_getegid) << 32);
    return fd;
}
