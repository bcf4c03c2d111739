/* sockets.c - the listening sockets of the master, by address. */
#include "sockets.h"

#include <sys/socket.h>
#include <unistd.h>

#include "inherited.h"

/* Whose the file of a unix socket is. HANDED: another process may still need it. */
enum owner { OURS, HANDED, LENT };

static struct {
    struct mg_bind bind;
    int fd;
    enum owner owner;
} held[2 * MG_BINDS_MOST]; /* in a reload, those of before and those to come */
static unsigned count;

static unsigned place_of(const struct mg_address *a)
{
    unsigned i = 0;

    while (i < count && !mg_address_equal(&held[i].bind.address, a))
        i++;
    return i;
}

int mg_sockets_find(const struct mg_address *a)
{
    unsigned i = place_of(a);

    return i < count ? held[i].fd : -1;
}

static void close_held(unsigned i)
{
    if (held[i].owner == OURS)
        mg_bind_close(&held[i].bind, held[i].fd);
    else
        close(held[i].fd);
}

static bool hold(const struct mg_bind *b, const char **why)
{
    bool lent = false;
    int fd = mg_inherited_socket(b, &lent);
    enum owner owner = fd < 0 ? OURS : lent ? LENT : HANDED;

    if (fd < 0)
        fd = mg_bind_open(b, why);
    if (fd < 0)
        return false;
    held[count].bind = *b;
    held[count].owner = owner;
    held[count++].fd = fd;
    return true;
}

bool mg_sockets_open(const struct mg_bind *binds, unsigned binds_count, const char **why)
{
    unsigned before = count;

    for (unsigned i = 0; i < binds_count; i++) {
        if (place_of(&binds[i].address) < count)
            continue;
        if (!hold(&binds[i], why)) {
            while (count > before)
                close_held(--count);
            return false;
        }
    }
    return true;
}

static const struct mg_bind *find_bind(const struct mg_bind *binds, unsigned binds_count, const struct mg_address *a)
{
    for (unsigned i = 0; i < binds_count; i++)
        if (mg_address_equal(&binds[i].address, a))
            return &binds[i];
    return NULL;
}

void mg_sockets_keep(const struct mg_bind *binds, unsigned binds_count)
{
    for (unsigned i = count; i-- > 0;) {
        const struct mg_bind *b = find_bind(binds, binds_count, &held[i].bind.address);
        if (!b) {
            close_held(i);
            held[i] = held[--count];
        } else if (b->backlog != held[i].bind.backlog) {
            listen(held[i].fd, b->backlog > 0 ? b->backlog : SOMAXCONN);
            held[i].bind = *b;
        }
    }
}

void mg_sockets_forget(void)
{
    while (count)
        close(held[--count].fd);
}

unsigned mg_sockets_list(int *fds, const char **names, unsigned most)
{
    unsigned n = 0;

    for (; n < count && n < most; n++) {
        fds[n] = held[n].fd;
        names[n] = held[n].owner == LENT ? MG_INHERITED_LENT : MG_INHERITED_OURS;
    }
    return n;
}

static void change_owner(enum owner from, enum owner to)
{
    for (unsigned i = 0; i < count; i++)
        if (held[i].owner == from)
            held[i].owner = to;
}

void mg_sockets_settle(void)
{
    change_owner(HANDED, OURS);
}

void mg_sockets_hand_over(void)
{
    change_owner(OURS, HANDED);
}
