/* notify.c - the datagrams of sd_notify(3). */
#include "notify.h"

#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#include <ev.h>

#include "address.h"
#include "text.h"

enum { MESSAGE_MOST = 1024 };

/* As they were found in the environment; NULL: not there. */
static char *socket_name, *watchdog_usec, *watchdog_pid;
static struct mg_address address;
static bool known; /* the address */
static struct ev_loop *loop;
static ev_timer watchdog;

static void say(const char *text)
{
    /* Whoever does not read must not hold the loop. */
    struct timeval patience = { 0, 100000 };

    if (!known)
        return;
    int fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return;
    setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof(patience));
    (void)!sendto(fd, text, strlen(text), MSG_NOSIGNAL, &address.any, address.len);
    close(fd);
}

static char *take_variable(const char *name)
{
    const char *value = getenv(name);
    char *copy = value ? strdup(value) : NULL;

    unsetenv(name);
    return copy;
}

static void on_watchdog(struct ev_loop *l, ev_timer *t, int events)
{
    (void)l;
    (void)t;
    (void)events;
    say("WATCHDOG=1");
}

/* Twice in the time that it waits, as sd_watchdog_enabled(3) advises. */
static void start_watchdog(void)
{
    uint64_t usec, pid = 0;
    bool meant = !watchdog_pid || (mg_text_number(mg_slice_of(watchdog_pid), &pid) && pid == (uint64_t)getpid());

    if (!known || !meant || !watchdog_usec || !mg_text_number(mg_slice_of(watchdog_usec), &usec) || !usec)
        return;
    double every = (double)usec / 2e6;
    ev_timer_set(&watchdog, every, every);
    ev_timer_start(loop, &watchdog);
}

void mg_notify_start(struct ev_loop *on)
{
    char text[MG_ADDRESS_TEXT];

    loop = on;
    ev_init(&watchdog, on_watchdog);
    socket_name = take_variable("NOTIFY_SOCKET");
    watchdog_usec = take_variable("WATCHDOG_USEC");
    watchdog_pid = take_variable("WATCHDOG_PID");
    if (!socket_name || (socket_name[0] != '/' && socket_name[0] != '@'))
        return;
    int n = snprintf(text, sizeof(text), "unix:%s", socket_name);
    known = n > 0 && (size_t)n < sizeof(text) && mg_address_parse(mg_slice_of(text), &address);
    start_watchdog();
}

void mg_notify_stop(void)
{
    if (loop)
        ev_timer_stop(loop, &watchdog);
    free(socket_name);
    free(watchdog_usec);
    free(watchdog_pid);
    socket_name = watchdog_usec = watchdog_pid = NULL;
    known = false;
}

void mg_notify_restore(void)
{
    char pid[24];

    if (socket_name)
        setenv("NOTIFY_SOCKET", socket_name, 1);
    if (watchdog_usec)
        setenv("WATCHDOG_USEC", watchdog_usec, 1);
    snprintf(pid, sizeof(pid), "%d", (int)getpid());
    if (watchdog_pid)
        setenv("WATCHDOG_PID", pid, 1);
}

void mg_notify_ready(const char *format, ...)
{
    char text[MESSAGE_MOST] = "READY=1\nSTATUS=";
    size_t n = strlen(text);
    va_list args;

    va_start(args, format);
    vsnprintf(text + n, sizeof(text) - n, format, args);
    va_end(args);
    say(text);
}

void mg_notify_reloading(void)
{
    char text[MESSAGE_MOST];
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    snprintf(text, sizeof(text), "RELOADING=1\nMONOTONIC_USEC=%llu\nSTATUS=The script is being loaded anew",
             (unsigned long long)t.tv_sec * 1000000 + (unsigned long long)t.tv_nsec / 1000);
    say(text);
}

void mg_notify_stopping(const char *how)
{
    char text[MESSAGE_MOST];

    snprintf(text, sizeof(text), "STOPPING=1\nSTATUS=%s", how);
    say(text);
}

void mg_notify_successor(pid_t pid)
{
    char text[MESSAGE_MOST];

    snprintf(text, sizeof(text), "MAINPID=%d\nSTATUS=Process %d has taken over", (int)pid, (int)pid);
    say(text);
}
