/* notify.h - tells the service manager what the process is at, by the datagrams that sd_notify(3) documents.
 *
 * Without $NOTIFY_SOCKET nothing is said. */
#pragma once

#include <sys/types.h>

struct ev_loop;

/* Reads NOTIFY_SOCKET, WATCHDOG_USEC and WATCHDOG_PID and takes them out of the environment, where scripts would see
 * them; from now on the watchdog is told that the loop turns. */
void mg_notify_start(struct ev_loop *loop);
void mg_notify_stop(void);
/* In a process that is to execute the binary anew: they are in the environment again. */
void mg_notify_restore(void);

/* The sentence is what `systemctl status` shows. */
void mg_notify_ready(const char *format, ...) __attribute__((format(printf, 1, 2)));
void mg_notify_reloading(void);
void mg_notify_stopping(const char *how);
/* The service is another process from now on. */
void mg_notify_successor(pid_t pid);
