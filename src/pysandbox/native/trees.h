/* trees.h: mounts that a root caller makes for a box.  See trees.c. */
#ifndef PB_TREES_H
#define PB_TREES_H

#include <stdint.h>

/* What failed. */
enum pb_tree_step {
    PB_TREE_OPENAT2,
    PB_TREE_OPEN_TREE,
    PB_TREE_MOUNT_SETATTR,
    PB_TREE_FSOPEN,
    PB_TREE_FSCONFIG,
    PB_TREE_FSMOUNT
};

/* A copy of the mount at a folder of the host, in which ids are mapped as in a user namespace (-1: in none), with the given
 * attributes (mount_setattr(2)).  Returns its descriptor or -errno. */
int pb_mapped_tree(const char *path, int user_namespace, uint64_t attributes, int *step);

/* The same of a block device's file system, mounted read-only; `option` is a further one of it, or empty. */
int pb_mounted_device(const char *device, const char *type, const char *option, int user_namespace, uint64_t attributes, int *step);

/* Takes on ids for what this thread does with files (setfsuid(2)).  That also makes the process undumpable, and would take
 * the thread's parent-death signal from it (prctl(2)).  -EPERM where that is not allowed. */
int pb_set_file_ids(uint32_t uid, uint32_t gid);

/* Sets the process's dumpable flag, or with -1 reads it. */
int pb_dumpable(int flag);

#endif
