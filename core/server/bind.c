/* bind.c - binds the addresses that a script listens on.
 *
 * Nothing is taken away from anybody: a unix socket is replaced only when it
 * is one and nobody answers on it. */
#include "bind.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static bool has_file(const struct mg_address *a)
{
    return a->any.sa_family == AF_UNIX && a->path.sun_path[0] != '\0';
}

static bool is_socket(const char *path)
{
    struct stat s;

    return lstat(path, &s) == 0 && S_ISSOCK(s.st_mode);
}

void mg_bind_remove_stale(const struct mg_address *a)
{
    /* connect() says "refused" of an ordinary file too. */
    if (!has_file(a) || !is_socket(a->path.sun_path))
        return;
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return;
    if (connect(fd, &a->any, a->len) != 0 && errno == ECONNREFUSED)
        unlink(a->path.sun_path);
    close(fd);
}

static const char *reason(const struct mg_address *a, int error)
{
    if (error == EADDRINUSE && has_file(a) && !is_socket(a->path.sun_path))
        return "a file is there that is no socket";
    if (error == EADDRINUSE)
        return "address already in use: another process listens there";
    if (error == EACCES && a->any.sa_family != AF_UNIX)
        return "permission denied: ports below 1024 need root or CAP_NET_BIND_SERVICE";
    return strerror(error);
}

static int complain(const struct mg_bind *b, int error, const char **why)
{
    static char text[MG_WHERE_TEXT + MG_ADDRESS_TEXT + 128];

    snprintf(text, sizeof(text), "%s: listen %s: %s", b->where, b->text, reason(&b->address, error));
    *why = text;
    return -1;
}

/* ":80" means both families; "[::]:80" is what it says. */
static bool means_both(const struct mg_bind *b)
{
    return b->address.any.sa_family == AF_INET6 && b->text[0] != '[';
}

/* On a kernel without IPv6 both families are one. */
static struct mg_address any_ip4(const struct mg_bind *b)
{
    return (struct mg_address){
        .len = sizeof(b->address.ip4),
        .ip4 = { .sin_family = AF_INET, .sin_port = b->address.ip6.sin6_port },
    };
}

static int open_socket(const struct mg_bind *b, struct mg_address *a)
{
    int fd = socket(a->any.sa_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);

    if (fd >= 0 || errno != EAFNOSUPPORT || !means_both(b))
        return fd;
    *a = any_ip4(b);
    return socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
}

bool mg_bind_is_at(const struct mg_bind *b, const struct mg_address *bound)
{
    if (mg_address_equal(&b->address, bound))
        return true;
    if (!means_both(b) || bound->any.sa_family != AF_INET)
        return false;
    struct mg_address a = b->address, other = any_ip4(b);
    int fd = open_socket(b, &a);
    if (fd >= 0)
        close(fd);
    return a.any.sa_family == AF_INET && mg_address_equal(&other, bound);
}

int mg_bind_open(const struct mg_bind *b, const char **why)
{
    struct mg_address a = b->address;
    int one = 1, only6 = !means_both(b);
    int fd = open_socket(b, &a);

    if (fd < 0)
        return complain(b, errno, why);
    if (a.any.sa_family != AF_UNIX)
        setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
    if (a.any.sa_family == AF_INET6)
        setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &only6, sizeof(only6));
    mg_bind_remove_stale(&a);
    if (bind(fd, &a.any, a.len) == 0 && listen(fd, b->backlog > 0 ? b->backlog : SOMAXCONN) == 0)
        return fd;
    int error = errno;
    close(fd);
    return complain(b, error, why);
}

void mg_bind_close(const struct mg_bind *b, int fd)
{
    /* The file goes first: whoever binds next finds none of ours to take for a stale one. */
    if (has_file(&b->address))
        unlink(b->address.path.sun_path);
    close(fd);
}
