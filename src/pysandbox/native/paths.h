/* paths.h: finding and making things inside the new root.  See paths.c. */
#ifndef PB_PATHS_H
#define PB_PATHS_H

#include "steps.h"
#include "sys.h"

#define PB_RESOLVE_WITHIN (RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS)
#define PB_RESOLVE_STRICT (RESOLVE_IN_ROOT | RESOLVE_NO_SYMLINKS | RESOLVE_NO_MAGICLINKS)

long pb_open_inside(const struct pb_context *c, const char *path);

/* Whether a descriptor lies on a file system that was made for the box; and noting one that was. */
bool pb_is_own(const struct pb_context *c, int fd);
long pb_remember_own(struct pb_context *c, int fd);

/* The folder that holds a path's last name, made if need be; the descriptor belongs to the context. */
long pb_parent_of(struct pb_context *c, const char *path, const char **name);
void pb_forget_folder(struct pb_context *c);

/* In an overlay, takes away what is in the place of something of the box's own. */
long pb_make_way(const struct pb_context *c, int dir, const char *name, bool folder);

/* Opens a path for mounting on it; what is missing is made. */
long pb_open_mount_point(struct pb_context *c, const char *path, bool folder);

#endif
