/* messages.c: requests in, replies out, over the control socket and the runs' sockets.
 *
 * The application is trusted, and what it sends is checked all the same: a request whose head does not fit what came is
 * none.
 *
 * May call: sys.h.  Owns: one buffer for small requests (init takes one after the other), and a mapping for a large one.
 */
#include "messages.h"

#include "sys.h"

static char small_body[PB_SMALL_BODY] __attribute__((aligned(16)));

void pb_send_reply(int socket, const struct pb_reply *reply, int fd)
{
    struct iovec part = {.iov_base = (void *)(uintptr_t)reply, .iov_len = sizeof *reply};
    struct {
        struct pb_cmsghdr head;
        int fd;
    } __attribute__((aligned(8))) control = {{.len = sizeof control.head + sizeof(int), .level = PB_SOL_SOCKET, .type = PB_SCM_RIGHTS}, fd};
    struct pb_msghdr message = {.iov = &part, .iovlen = 1};
    if (fd >= 0) {
        message.control = &control;
        message.controllen = sizeof control;
    }
    long r;
    do
        r = sys_sendmsg(socket, &message, PB_MSG_NOSIGNAL);
    while (r == -EINTR);
}

void pb_send_failure(int socket, uint32_t step, int error)
{
    struct pb_reply reply = {.kind = PB_FAILED, .step = step, .error = error};
    pb_send_reply(socket, &reply, -1);
}

void pb_close_request(const struct pb_request_in *request)
{
    for (uint32_t i = 0; i < request->n_fds; i++)
        sys_close(request->fds[i]);
    if (request->body && request->body != small_body)
        sys_munmap(request->body, request->head.length);
}

static bool read_exactly(int fd, char *to, size_t length)
{
    while (length) {
        long n = sys_read(fd, to, length);
        if (n == -EINTR)
            continue;
        if (n <= 0)
            return false;
        to += n;
        length -= (size_t)n;
    }
    return true;
}

bool pb_receive(int control, struct pb_request_in *request)
{
    union {
        struct pb_cmsghdr head;
        char space[sizeof(struct pb_cmsghdr) + (PB_MAX_FDS + 3) * sizeof(int)];
    } __attribute__((aligned(8))) ancillary;
    struct iovec part = {.iov_base = &request->head, .iov_len = sizeof request->head};
    struct pb_msghdr message = {
        .iov = &part, .iovlen = 1, .control = &ancillary, .controllen = sizeof ancillary};
    request->body = 0;
    request->n_fds = 0;
    long got;
    do
        got = sys_recvmsg(control, &message, PB_MSG_CMSG_CLOEXEC);
    while (got == -EINTR);
    if (got <= 0)
        return false;
    if (message.controllen >= sizeof(struct pb_cmsghdr) && ancillary.head.level == PB_SOL_SOCKET &&
        ancillary.head.type == PB_SCM_RIGHTS && ancillary.head.len <= sizeof ancillary) {
        const int *fds = (const int *)(&ancillary.head + 1);
        size_t count = (ancillary.head.len - sizeof(struct pb_cmsghdr)) / sizeof(int);
        for (size_t i = 0; i < count; i++) {
            if (request->n_fds < PB_MAX_FDS)
                request->fds[request->n_fds++] = fds[i];
            else
                sys_close(fds[i]);
        }
    }
    if (!read_exactly(control, (char *)&request->head + got, sizeof request->head - (size_t)got))
        return false;
    const struct pb_head *head = &request->head;
    if (head->magic != PB_MAGIC || head->length > PB_MAX_BODY || head->nfds != request->n_fds ||
        message.flags & PB_MSG_CTRUNC)
        return false;
    if (!head->length)
        return true;
    request->body = small_body;
    if (head->length > PB_SMALL_BODY) {
        long body = sys_mmap(head->length);
        if (body < 0 && body > -4096)
            return false;
        request->body = (char *)body;
    }
    return read_exactly(control, request->body, head->length);
}
