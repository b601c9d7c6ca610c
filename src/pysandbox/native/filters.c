/* filters.c: installing system-call filters, in the child that becomes the program.
 *
 * The filters are compiled by the application; the kernel checks them.  They are the last thing before execve(2), so that
 * none of the other steps needs to be let through.
 *
 * May call: sys.h, messages.h.  Owns: nothing.
 */
#include "filters.h"

#include "messages.h"
#include "sys.h"

#include <linux/filter.h>
#include <linux/seccomp.h>

static long install(const char *filter, uint32_t length, uint64_t flags)
{
    if (!length || length % sizeof(struct sock_filter) || length / sizeof(struct sock_filter) > BPF_MAXINSNS)
        return -EINVAL;
    struct sock_fprog program = {
        .len = (unsigned short)(length / sizeof(struct sock_filter)),
        .filter = (struct sock_filter *)(uintptr_t)filter,
    };
    return SYS3(__NR_seccomp, SECCOMP_SET_MODE_FILTER, flags, &program);
}

long pb_seccomp(const char *filter, uint32_t length) { return install(filter, length, 0); }

long pb_seccomp_heard(const char *filter, uint32_t length, const char *killing, uint32_t killing_length, int socket)
{
    long listener = install(filter, length, SECCOMP_FILTER_FLAG_NEW_LISTENER);
    if (listener == -EBUSY) /* we are in a box of somebody who listens already */
        return install(killing, killing_length, 0);
    if (listener < 0)
        return listener;
    struct pb_reply reply = {.kind = PB_LISTENING};
    pb_send_reply(socket, &reply, (int)listener);
    sys_close((int)listener);
    return 0;
}
