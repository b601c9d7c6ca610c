/* proto.h: what the application and init say to each other.  pysandbox/box.py is the other side.
 *
 * PREPARE is the first part of the set-up, which needs no id maps and so can be sent before they are written; it is
 * answered only if it fails.  A failed PREPARE or SETUP ends the box, so that requests which are on their way already find nobody.
 *
 * The control socket (a stream) carries requests, a fixed head and then `length` bytes; descriptors
 * ride on the head.  A request RUN brings a socket of its own for that run (SOCK_SEQPACKET), on which
 * init reports and takes orders, so that any thread or event loop waits on its own run only.
 * The payload holds neither.
 */
#ifndef PB_PROTO_H
#define PB_PROTO_H

#include <stdint.h>

#define PB_MAGIC 0x50594258u /* "PYBX" */
#define PB_MAX_BODY (32u << 20)
#define PB_MAX_FDS 250 /* the kernel's SCM_MAX_FD is 253 */

enum pb_request { PB_SETUP = 1, PB_RUN = 2, PB_OPEN = 3, PB_LAST_RUN = 4 /* the box ends with it */, PB_PREPARE = 5, PB_UPPER = 6 /* where an overlay keeps what is written */ };
#define PB_MEASURE 0x100u /* or'ed to a RUN: report the last two of pb_reply, which cost a few calls and a look into /proc */

struct pb_head {
    uint32_t magic;
    uint32_t request;
    uint32_t length;
    uint32_t nfds;
};

/* PB_OPEN's body is this and then the path. */
struct pb_open {
    uint32_t flags; /* O_RDONLY, or O_WRONLY with O_CREAT, O_TRUNC, O_EXCL; O_DIRECTORY for a folder, made with O_CREAT */
    uint32_t mode;
    uint32_t uid, gid;
    uint32_t links; /* follow symlinks, inside the box (reading only) */
};

enum pb_reply_kind { PB_READY = 1, PB_FAILED = 2, PB_STARTED = 3, PB_ENDED = 4, PB_LISTENING = 5 /* comes before STARTED, with a descriptor */ };

struct pb_reply {
    uint32_t kind;
    uint32_t step; /* FAILED: index of the step in its plan */
    int32_t error; /* FAILED: errno */
    int32_t status; /* ENDED: wait status of the program itself; FAILED: 1 if it was PREPARE's step */
    int32_t pid; /* STARTED: its pid inside the box */
    uint32_t killed; /* ENDED: processes of the run that outlived the program and were killed */
    uint64_t user_us, system_us; /* ENDED: CPU of every process of the run that was reaped */
    uint64_t max_rss_kib;
    uint64_t voluntary, involuntary; /* context switches */
    uint64_t blocks_in, blocks_out;
    uint64_t wall_ns; /* ENDED: from the program's start to the end of the run's last process */
    uint64_t delay_ns; /* ENDED: time in which the program's first thread could have run and did not; ~0 if not known */
    uint64_t sampled_ns; /* ENDED: the program's CPU time by the clock that RLIMIT_CPU goes by; ~0 if not known */
};

enum pb_order_kind { PB_SIGNAL = 1, PB_SIGNAL_GROUP = 2, PB_KILL = 3 };

struct pb_order {
    uint32_t kind;
    uint32_t signal;
};

#endif
