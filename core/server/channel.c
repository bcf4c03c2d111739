/* channel.c - a word, its body and its descriptors in one message. */
#include "channel.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>

bool mg_channel_send(int channel, enum mg_word word, const void *body, size_t len, const int *fds, unsigned fd_count)
{
    uint32_t head = (uint32_t)word;
    struct iovec v[2] = { { &head, sizeof(head) }, { (void *)body, len } };
    union {
        char bytes[CMSG_SPACE(sizeof(int) * MG_BINDS_MOST)];
        struct cmsghdr align;
    } control = { 0 };
    struct msghdr m = { .msg_iov = v, .msg_iovlen = len ? 2 : 1 };

    if (fd_count) {
        m.msg_control = control.bytes;
        m.msg_controllen = CMSG_SPACE(sizeof(int) * fd_count);
        struct cmsghdr *c = CMSG_FIRSTHDR(&m);
        c->cmsg_level = SOL_SOCKET;
        c->cmsg_type = SCM_RIGHTS;
        c->cmsg_len = CMSG_LEN(sizeof(int) * fd_count);
        memcpy(CMSG_DATA(c), fds, sizeof(int) * fd_count);
    }
    ssize_t n;
    do
        n = sendmsg(channel, &m, MSG_NOSIGNAL);
    while (n < 0 && errno == EINTR);
    return n >= 0;
}

static void take_descriptors(struct msghdr *m, struct mg_letter *l)
{
    for (struct cmsghdr *c = CMSG_FIRSTHDR(m); c; c = CMSG_NXTHDR(m, c)) {
        if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS)
            continue;
        l->fd_count = (unsigned)((c->cmsg_len - CMSG_LEN(0)) / sizeof(int));
        memcpy(l->fds, CMSG_DATA(c), l->fd_count * sizeof(int));
    }
}

int mg_channel_receive(int channel, struct mg_letter *l)
{
    static char *body;
    uint32_t head = 0;
    union {
        char bytes[CMSG_SPACE(sizeof(int) * MG_BINDS_MOST)];
        struct cmsghdr align;
    } control;

    if (!body && !(body = malloc(MG_LETTER_MOST + 1)))
        return -1;
    struct iovec v[2] = { { &head, sizeof(head) }, { body, MG_LETTER_MOST } };
    /* clang-format off */
    struct msghdr m = {
        .msg_iov = v, .msg_iovlen = 2, .msg_control = control.bytes, .msg_controllen = sizeof(control)
    };
    /* clang-format on */
    ssize_t n;
    do
        n = recvmsg(channel, &m, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
    while (n < 0 && errno == EINTR);
    if (n < 0)
        return errno == EAGAIN ? 0 : -1;
    if ((size_t)n < sizeof(head))
        return -1;
    *l = (struct mg_letter){ .word = (enum mg_word)head, .len = (size_t)n - sizeof(head), .body = body };
    body[l->len] = '\0';
    take_descriptors(&m, l);
    return 1;
}
