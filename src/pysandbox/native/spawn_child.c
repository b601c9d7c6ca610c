/* spawn_child.c: between clone and exec, in the application's memory.  The rules are in spawn.c.
 *
 * May call: sys.h.  Owns: nothing.
 */
#include "spawn_child.h"

#include "spawn.h"
#include "sys.h"

#define ABOVE 16 /* descriptors are moved above the numbers that init wants before they are put there */

/* An exec by an id that is not mapped yet loses all capabilities but the ambient ones (capabilities(7)). */
static long raise_capabilities(uint64_t wanted)
{
    struct __user_cap_header_struct head = {.version = _LINUX_CAPABILITY_VERSION_3};
    struct __user_cap_data_struct data[2];
    long r = SYS2(__NR_capget, &head, data);
    if (r < 0)
        return r;
    for (int i = 0; i < 2; i++)
        data[i].inheritable = data[i].permitted = data[i].effective = data[i].permitted & (uint32_t)(wanted >> 32 * i);
    r = SYS2(__NR_capset, &head, data);
    for (int cap = 0; r >= 0 && cap < 64; cap++) {
        if (!(data[cap / 32].permitted >> (cap % 32) & 1))
            continue;
        r = SYS5(__NR_prctl, PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, cap, 0, 0);
    }
    return r;
}

/* init finds /dev/null on 0 to 2 (also when the caller's are closed), its socket on 3, the application on 4. */
static long arrange_fds(const struct pb_child *child, int *image)
{
    const int wanted[] = {child->control, child->application};
    int above[2];
    long null = sys_openat(AT_FDCWD, "/dev/null", O_RDWR | O_CLOEXEC, 0);
    if (null < 0)
        return null;
    null = SYS3(__NR_fcntl, null, F_DUPFD_CLOEXEC, ABOVE);
    if (null < 0)
        return null;
    for (int i = 0; i < 2; i++) {
        above[i] = (int)SYS3(__NR_fcntl, wanted[i], F_DUPFD_CLOEXEC, ABOVE);
        if (above[i] < 0)
            return above[i];
    }
    *image = (int)SYS3(__NR_fcntl, child->image, F_DUPFD_CLOEXEC, ABOVE);
    if (*image < 0)
        return *image;
    long r = 0;
    for (int i = 0; r >= 0 && i < 3; i++)
        r = SYS3(__NR_dup3, null, i, 0);
    for (int i = 0; r >= 0 && i < 2; i++)
        r = SYS3(__NR_dup3, above[i], 3 + i, 0);
    if (r < 0)
        return r;
    /* All else of the caller's goes now: not all of it needs to be close-on-exec. */
    r = SYS3(__NR_close_range, 5, *image - 1, 0);
    return r < 0 ? r : SYS3(__NR_close_range, *image + 1, ~0U, 0);
}

void pb_spawn_child(struct pb_child *child)
{
    static const char *const nothing[] = {"pysandbox-init", 0};
    int image = -1;
    child->step = PB_SPAWN_CAPABILITIES;
    long r = child->capabilities ? raise_capabilities(child->capabilities) : 0;
    if (r >= 0) {
        child->step = PB_SPAWN_FDS;
        r = arrange_fds(child, &image);
    }
    if (r >= 0) {
        child->step = PB_SPAWN_EXEC;
        r = SYS5(__NR_execveat, image, "", nothing, nothing + 1, AT_EMPTY_PATH);
    }
    child->error = (int)-r;
    sys_exit(127);
}
