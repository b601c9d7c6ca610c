/* mounts.h: the verbs that build the box's root.  See mounts.c. */
#ifndef PB_MOUNTS_H
#define PB_MOUNTS_H

#include <stdbool.h>

#include "steps.h"

long pb_mount_private(void);
/* Takes on ids (uid in the low half, gid in the high one) for what is done with files, and keeps all capabilities. */
long pb_act_as(uint64_t owner);
long pb_open_tree(struct pb_context *c, uint64_t slot, const char *source, uint64_t flags, uint64_t device);
long pb_attach_tree(struct pb_context *c, uint64_t slot, const char *target_path, uint64_t attributes);
long pb_given_tree(struct pb_context *c, uint64_t slot, int fd);
long pb_overlay_root(struct pb_context *c, const uint64_t *arg);
long pb_new_root(struct pb_context *c, uint64_t size, uint64_t inodes);
long pb_make_symlink(struct pb_context *c, const char *target, const char *path);
long pb_write_file(struct pb_context *c, const char *path, const char *bytes, uint32_t length, uint64_t mode);
long pb_mount_tmpfs(struct pb_context *c, const char *path, const uint64_t *arg);
long pb_mount_writable(struct pb_context *c, const char *path, const uint64_t *arg);
long pb_mount_proc(struct pb_context *c, const char *path, const char *options, uint64_t attributes);
long pb_mount_devpts(struct pb_context *c, const char *path, uint64_t attributes);
long pb_mask(struct pb_context *c, const char *path, uint64_t flags);
long pb_cover(struct pb_context *c, const char *path, const char *bytes, uint32_t length);
long pb_read_only(struct pb_context *c, const char *path);
long pb_enter_root(struct pb_context *c, bool pivot);

#endif
