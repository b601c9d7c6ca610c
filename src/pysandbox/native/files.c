/* files.c: opening a file of the box for the application, with the box's rights.
 *
 * The payload may have put anything there.  Only a regular file is opened, no symlink is followed out of the box, and
 * nothing blocks: a FIFO or a device is an error.
 *
 * May call: sys.h.  Owns: nothing.
 */
#include "files.h"

#include "sys.h"

long pb_open_for_application(const struct pb_request_in *request)
{
    const struct pb_open *wanted = (const struct pb_open *)request->body;
    struct stat st;
    if (request->head.length <= sizeof *wanted || request->body[request->head.length - 1])
        return -EINVAL;
    const char *path = request->body + sizeof *wanted;
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
