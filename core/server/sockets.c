/* sockets.c - the listening sockets of the master, by address. */
#include "sockets.h"

#include <sys/socket.h>
#include <unistd.h>

static struct {
    struct mg_bind bind;
    int fd;
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

bool mg_sockets_open(const struct mg_bind *binds, unsigned binds_count, const char **why)
{
    unsigned before = count;

    for (unsigned i = 0; i < binds_count; i++) {
        if (place_of(&binds[i].address) < count)
            continue;
        int fd = mg_bind_open(&binds[i], why);
        if (fd < 0) {
            while (count > before) {
                count--;
                mg_bind_close(&held[count].bind, held[count].fd);
            }
            return false;
        }
        held[count].bind = binds[i];
        held[count++].fd = fd;
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
            mg_bind_close(&held[i].bind, held[i].fd);
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
