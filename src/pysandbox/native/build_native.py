"""What Python sees of the C code: run by the build, writes the source of the cffi extension.

    python build_native.py OUTPUT.c LIBSECCOMP.py

The extension is `pysandbox._native`: starting init, and the table of verbs for the tests.  LIBSECCOMP.py becomes
`pysandbox._libseccomp`, by which the system's libseccomp is loaded when a filter is compiled.
"""

from __future__ import annotations

import sys

import cffi

DECLARATIONS = """
struct pb_spawned { int32_t pid; int32_t pidfd; int32_t step; int32_t error; };
struct pb_spawned pb_spawn(int image, int control, int application, uint64_t flags, uint64_t capabilities);

int pb_set_file_ids(uint32_t uid, uint32_t gid);
int pb_dumpable(int flag);
int pb_mapped_tree(const char *path, int user_namespace, uint64_t attributes, int *step);
int pb_mounted_device(const char *device, const char *type, const char *option, int user_namespace, uint64_t attributes,
    int *step);

struct pb_held { int32_t held; int32_t aside; uint64_t before[16]; };
void pb_hold_signals(struct pb_held *held);
void pb_release_signals(struct pb_held *held);

const char *pb_verb_name(int verb);
const char *pb_verb_kinds(int verb);
int pb_check_plan(const char *bytes, size_t size, uint32_t nfds, uint32_t *bad);
size_t pb_reply_size(void);
"""

LIBSECCOMP = """
struct scmp_arg_cmp { unsigned int arg; int op; uint64_t datum_a; uint64_t datum_b; };
void *seccomp_init(uint32_t def_action);
void seccomp_release(void *ctx);
int seccomp_attr_set(void *ctx, int attr, uint32_t value);
int seccomp_syscall_resolve_name(const char *name);
char *seccomp_syscall_resolve_num_arch(uint32_t arch_token, int num);
int seccomp_rule_add_array(void *ctx, uint32_t action, int syscall, unsigned int arg_cnt,
    const struct scmp_arg_cmp *arg_array);
int seccomp_export_bpf(void *ctx, int fd);
void free(void *ptr); /* the C library's, which libseccomp brings along */
"""

SOURCE = """
#include <stdlib.h>
#include <string.h>
#include "proto.h"
#include "signals.h"
#include "spawn.h"
#include "steps.h"
#include "trees.h"

/* The step decoder on bytes of Python's, which need not be aligned. */
static int pb_check_plan(const char *bytes, size_t size, uint32_t nfds, uint32_t *bad)
{
    struct pb_plan plan;
    char *aligned = malloc(size ? size : 1);
    if (!aligned)
        return 12; /* ENOMEM */
    memcpy(aligned, bytes, size);
    int error = pb_decode(aligned, size, NULL, nfds, &plan, bad);
    free(aligned);
    return error;
}

static size_t pb_reply_size(void) { return sizeof(struct pb_reply); }
"""


def main(output: str, libseccomp: str) -> None:
    """Write the extension's C source, and the module that loads libseccomp."""
    ffi = cffi.FFI()
    ffi.cdef(DECLARATIONS)
    ffi.set_source("pysandbox._native", SOURCE)
    ffi.emit_c_code(output)
    loaded = cffi.FFI()
    loaded.cdef(LIBSECCOMP)
    loaded.set_source("pysandbox._libseccomp", None)
    loaded.emit_python_code(libseccomp)


if __name__ == "__main__":
    main(*sys.argv[1:])
