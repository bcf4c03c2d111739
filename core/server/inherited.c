/* inherited.c - descriptors that this process was started with. */
#include "inherited.h"

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "log.h"
#include "text.h"

enum { FIRST = 3, MOST = 1024, NAME_MOST = 32 };

static struct inherited {
    int fd;
    bool listens;              /* a stream socket that listens */
    struct mg_address address; /* if so */
    char name[NAME_MOST];      /* shortened; ours are not longer */
} all[MOST];
static unsigned count;

/* Of a listening stream socket. */
static bool find_address(int fd, struct mg_address *a)
{
    int type = 0, listens = 0;
    socklen_t len = sizeof(int);

    if (getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &len) != 0 || type != SOCK_STREAM)
        return false;
    if (getsockopt(fd, SOL_SOCKET, SO_ACCEPTCONN, &listens, &len) != 0 || !listens)
        return false;
    memset(a, 0, sizeof(*a));
    a->len = sizeof(a->path);
    return getsockname(fd, &a->any, &a->len) == 0 && a->len <= sizeof(a->path);
}

static void add(int fd, mg_slice name)
{
    struct inherited *i = &all[count];

    if (fcntl(fd, F_SETFD, FD_CLOEXEC) != 0)
        return; /* it is not there */
    *i = (struct inherited){ .fd = fd };
    memcpy(i->name, name.ptr, name.len < NAME_MOST ? name.len : NAME_MOST - 1);
    i->listens = find_address(fd, &i->address);
    count++;
}

static void read_all(const char *names, uint64_t descriptors)
{
    for (unsigned i = 0; i < descriptors && count < MOST; i++) {
        size_t len = strcspn(names, ":");
        add(FIRST + (int)i, (mg_slice){ names, (uint32_t)len });
        names += len + (names[len] == ':');
    }
}

void mg_inherited_read(void)
{
    const char *pid = getenv("LISTEN_PID"), *fds = getenv("LISTEN_FDS"), *names = getenv("LISTEN_FDNAMES");
    uint64_t whose, descriptors;

    /* Variables that were meant for a parent of ours are nothing to us. */
    if (pid && fds && mg_text_number(mg_slice_of(pid), &whose) && whose == (uint64_t)getpid() &&
        mg_text_number(mg_slice_of(fds), &descriptors))
        read_all(names ? names : "", descriptors);
    unsetenv("LISTEN_PID");
    unsetenv("LISTEN_FDS");
    unsetenv("LISTEN_FDNAMES");
}

static int take(unsigned i)
{
    int fd = all[i].fd;

    all[i] = all[--count];
    return fd;
}

int mg_inherited_take(const char *name)
{
    for (unsigned i = 0; i < count; i++)
        if (strcmp(all[i].name, name) == 0)
            return take(i);
    return -1;
}

int mg_inherited_socket(const struct mg_bind *b, bool *lent)
{
    for (unsigned i = 0; i < count; i++) {
        if (!all[i].listens || !mg_bind_is_at(b, &all[i].address))
            continue;
        *lent = strcmp(all[i].name, MG_INHERITED_OURS) != 0;
        fcntl(all[i].fd, F_SETFL, fcntl(all[i].fd, F_GETFL) | O_NONBLOCK);
        listen(all[i].fd, b->backlog > 0 ? b->backlog : SOMAXCONN);
        return take(i);
    }
    return -1;
}

void mg_inherited_drop(void)
{
    char text[MG_ADDRESS_TEXT];

    while (count) {
        struct inherited *i = &all[--count];
        struct mg_bind b = { .address = i->address };
        if (i->listens)
            mg_log(MG_LOG_WARN, "descriptor %d was inherited: the script does not listen on %.*s, so it is closed",
                   i->fd, (int)mg_address_print(&i->address, text), text);
        else
            mg_log(MG_LOG_WARN, "descriptor %d (%s) was inherited: it is no listening stream socket, so it is closed",
                   i->fd, i->name);
        if (i->listens && strcmp(i->name, MG_INHERITED_OURS) == 0)
            mg_bind_close(&b, i->fd);
        else
            close(i->fd);
    }
}

void mg_inherited_forget(void)
{
    while (count)
        close(all[--count].fd);
}
