/* filters.h: system-call filters for the program. */
#ifndef PB_FILTERS_H
#define PB_FILTERS_H

#include <stdint.h>

/* Installs a filter, an array of struct sock_filter (seccomp(2)); after no_new_privs. */
long pb_seccomp(const char *filter, uint32_t length);

/* Installs a filter whose notifications the application hears of, by a descriptor that it gets on the run's socket
 * (seccomp_unotify(2)); the other filter, which kills by itself, where there can be none: a process has one listener. */
long pb_seccomp_heard(const char *filter, uint32_t length, const char *killing, uint32_t killing_length, int socket);

#endif
