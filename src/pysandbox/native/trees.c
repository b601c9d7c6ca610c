/* trees.c: mounts that a root caller makes for a box, as init has not got the rights.
 *
 * A root caller's box has ids of its own, to which the files of the host belong as little as to any stranger.  In a copy of
 * the mount whose ids are mapped (mount_setattr(2), MOUNT_ATTR_IDMAP, Linux 5.12; as an overlay's layer 5.19) they are the
 * payload's there, and on the host they are the caller's still.
 *
 * May call: sys.h.  Owns: nothing; the descriptor that it returns is the caller's.
 */
#include "trees.h"

#include "sys.h"

/* Gives a mount its attributes and mapped ids, or closes it. */
static int with_attributes(long tree, int user_namespace, uint64_t attributes)
{
    struct mount_attr attr = {.attr_set = attributes};
    if (user_namespace >= 0) {
        attr.attr_set |= MOUNT_ATTR_IDMAP;
        attr.userns_fd = (uint64_t)user_namespace;
    }
    long r = SYS5(__NR_mount_setattr, tree, "", AT_EMPTY_PATH, &attr, sizeof attr);
    if (r < 0)
        sys_close((int)tree);
    return (int)(r < 0 ? r : tree);
}

int pb_mapped_tree(const char *path, int user_namespace, uint64_t attributes, int *step)
{
    *step = PB_TREE_OPENAT2;
    long folder = sys_openat2(AT_FDCWD, path, O_PATH | O_DIRECTORY | O_CLOEXEC, 0, RESOLVE_NO_SYMLINKS);
    if (folder < 0)
        return (int)folder;
    *step = PB_TREE_OPEN_TREE;
    long tree = SYS3(__NR_open_tree, folder, "", OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | AT_EMPTY_PATH);
    sys_close((int)folder);
    if (tree < 0)
        return (int)tree;
    *step = PB_TREE_MOUNT_SETATTR;
    return with_attributes(tree, user_namespace, attributes);
}

int pb_mounted_device(const char *device, const char *type, const char *option, int user_namespace, uint64_t attributes, int *step)
{
    *step = PB_TREE_FSOPEN;
    long fs = SYS2(__NR_fsopen, type, FSOPEN_CLOEXEC);
    if (fs < 0)
        return (int)fs;
    *step = PB_TREE_FSCONFIG;
    long r = SYS5(__NR_fsconfig, fs, FSCONFIG_SET_STRING, "source", device, 0);
    if (r >= 0)
        r = SYS5(__NR_fsconfig, fs, FSCONFIG_SET_FLAG, "ro", 0, 0);
    if (r >= 0 && *option)
        r = SYS5(__NR_fsconfig, fs, FSCONFIG_SET_FLAG, option, 0, 0);
    if (r >= 0)
        r = SYS5(__NR_fsconfig, fs, FSCONFIG_CMD_CREATE, 0, 0, 0);
    if (r >= 0) {
        *step = PB_TREE_FSMOUNT;
        r = SYS3(__NR_fsmount, fs, FSMOUNT_CLOEXEC, 0);
    }
    sys_close((int)fs);
    if (r < 0)
        return (int)r;
    *step = PB_TREE_MOUNT_SETATTR;
    return with_attributes(r, user_namespace, attributes);
}

int pb_set_file_ids(uint32_t uid, uint32_t gid)
{
    int signal = 0;
    SYS5(__NR_prctl, PR_GET_PDEATHSIG, &signal, 0, 0, 0);
    SYS1(__NR_setfsgid, gid);
    SYS1(__NR_setfsuid, uid);
    SYS5(__NR_prctl, PR_SET_PDEATHSIG, signal, 0, 0, 0);
    return (uint32_t)SYS1(__NR_setfsuid, -1) == uid && (uint32_t)SYS1(__NR_setfsgid, -1) == gid ? 0 : -EPERM;
}

int pb_dumpable(int flag)
{
    if (flag >= 0)
        return (int)SYS5(__NR_prctl, PR_SET_DUMPABLE, flag, 0, 0, 0);
    return (int)SYS5(__NR_prctl, PR_GET_DUMPABLE, 0, 0, 0, 0);
}
