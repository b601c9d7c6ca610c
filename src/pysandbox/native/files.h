/* files.h: files of the box for the application.  See files.c. */
#ifndef PB_FILES_H
#define PB_FILES_H

#include "messages.h"
#include "steps.h"

/* Opens the file that a PB_OPEN asks for; returns a descriptor or -errno. */
long pb_open_for_application(const struct pb_context *context, const struct pb_request_in *request);

#endif
