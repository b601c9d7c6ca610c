/* messages.h: requests in, replies out.  See messages.c, and proto.h for what they mean. */
#ifndef PB_MESSAGES_H
#define PB_MESSAGES_H

#include <stdbool.h>
#include <stdint.h>

#include "proto.h"

#define PB_SMALL_BODY (32u << 10) /* a request up to here needs no mmap */
#define PB_NO_STEP UINT32_MAX /* a failure that is no step's: the request itself, or the fork */

struct pb_request_in {
    struct pb_head head;
    char *body; /* head.length bytes, mapped unless they are in small_body */
    uint32_t n_fds;
    int fds[PB_MAX_FDS];
};

/* Sends one reply, with a descriptor when fd >= 0.  A reader that is gone is no matter: its end is seen elsewhere. */
void pb_send_reply(int socket, const struct pb_reply *reply, int fd);
void pb_send_failure(int socket, uint32_t step, int error);

/* Receives one request.  False when the socket has closed or what came is no request. */
bool pb_receive(int control, struct pb_request_in *request);

/* Closes what came with a request, and gives back its body. */
void pb_close_request(const struct pb_request_in *request);

#endif
