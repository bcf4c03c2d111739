/* origin.c - the lightest HTTP/1.1 origin: one thread, edge-triggered epoll.
 *
 *     origin IP PORT
 *
 * GET /b/N is answered with N bytes, any other GET with 100, a POST (Content-Length only) with 2 once its body has
 * been read. Connections are kept alive unless the request says `Connection: close`. One that asks for a WebSocket
 * gets back what it sends, byte by byte. */
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/uio.h>
#include <unistd.h>

enum { HEAD_MAX = 16 * 1024, BIG = 1024 * 1024, SMALL_BODY = 100, POST_BODY = 2 };

struct connection {
    int fd;
    bool close_after, echoes;
    size_t len;               /* of what was read and not yet taken */
    size_t in_left;           /* of the request's body */
    size_t head_at, head_len; /* of the answer */
    size_t out_left;          /* of its body */
    char head[256];
    char in[HEAD_MAX + 1];
};

enum outcome { GO_ON, WAIT, DROP };

static char big[BIG], sink[256 * 1024];

static enum outcome write_answer(struct connection *c)
{
    while (c->head_at < c->head_len || c->out_left > 0) {
        size_t head = c->head_len - c->head_at;
        struct iovec parts[2] = { { c->head + c->head_at, head }, { big, c->out_left < BIG ? c->out_left : BIG } };
        ssize_t done = writev(c->fd, parts, 2);
        if (done < 0)
            return errno == EAGAIN ? WAIT : DROP;
        size_t of_head = (size_t)done < head ? (size_t)done : head;
        c->head_at += of_head;
        c->out_left -= (size_t)done - of_head;
    }
    return c->close_after ? DROP : GO_ON;
}

static void answer(struct connection *c, size_t body)
{
    c->head_at = 0;
    c->head_len = (size_t)snprintf(c->head, sizeof(c->head),
                                   "HTTP/1.1 200 OK\r\nServer: origin\r\nDate: Mon, 01 Jan 2024 00:00:00 GMT\r\n"
                                   "Content-Type: text/plain\r\nContent-Length: %zu\r\nX-Origin: 1\r\n%s\r\n",
                                   body, c->close_after ? "Connection: close\r\n" : "");
    c->out_left = body;
}

static enum outcome fill(struct connection *c, char *to, size_t room, size_t *got)
{
    ssize_t done = read(c->fd, to, room);
    if (done < 0 && errno == EAGAIN)
        return WAIT;
    if (done <= 0)
        return DROP;
    *got = (size_t)done;
    return GO_ON;
}

static enum outcome swallow(struct connection *c)
{
    size_t got;
    enum outcome outcome = fill(c, sink, c->in_left < sizeof(sink) ? c->in_left : sizeof(sink), &got);
    if (outcome != GO_ON)
        return outcome;
    c->in_left -= got;
    if (c->in_left == 0)
        answer(c, POST_BODY);
    return GO_ON;
}

/* To the key that the benchmark sends, sixteen zero bytes (RFC 6455 4.2.2). */
static const char ACCEPT[] = "ICX+Yqv66kxgM0FcWaLWlFLwTAI=";

static void become_echo(struct connection *c)
{
    c->echoes = true;
    c->head_at = 0;
    c->head_len = (size_t)snprintf(c->head, sizeof(c->head),
                                   "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n"
                                   "Connection: upgrade\r\n"
                                   "Sec-WebSocket-Accept: %s\r\n\r\n",
                                   ACCEPT);
}

/* As much as has room where an answer's head stands. */
static enum outcome echo(struct connection *c)
{
    c->head_at = c->head_len = 0;
    return fill(c, c->head, sizeof(c->head), &c->head_len);
}

static void take_request(struct connection *c, char *end)
{
    size_t used = (size_t)(end + 4 - c->in), length = 0, size = SMALL_BODY;
    *end = 0;
    const char *field = strcasestr(c->in, "\ncontent-length:");
    if (field)
        sscanf(field + 16, "%zu", &length);
    c->close_after = strcasestr(c->in, "\nconnection: close") != NULL;
    if (strcasestr(c->in, "\nupgrade: websocket")) {
        become_echo(c);
        return;
    }
    sscanf(c->in, "GET /b/%zu", &size);

    size_t rest = c->len - used, taken = rest < length ? rest : length;
    c->in_left = length - taken;
    c->len = rest - taken;
    memmove(c->in, c->in + used + taken, c->len);
    if (c->in_left == 0)
        answer(c, length ? POST_BODY : size);
}

static enum outcome read_request(struct connection *c)
{
    char *end = memmem(c->in, c->len, "\r\n\r\n", 4);
    if (end) {
        take_request(c, end);
        return GO_ON;
    }
    size_t got;
    enum outcome outcome = c->len < HEAD_MAX ? fill(c, c->in + c->len, HEAD_MAX - c->len, &got) : DROP;
    if (outcome == GO_ON)
        c->len += got;
    return outcome;
}

static void serve(struct connection *c)
{
    enum outcome outcome = GO_ON;
    while (outcome == GO_ON) {
        if (c->head_at < c->head_len || c->out_left > 0)
            outcome = write_answer(c);
        else if (c->echoes)
            outcome = echo(c);
        else
            outcome = c->in_left > 0 ? swallow(c) : read_request(c);
    }
    if (outcome == DROP) {
        close(c->fd);
        free(c);
    }
}

static void admit(int loop, int listener)
{
    int fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK), on = 1;
    if (fd < 0)
        return;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
    struct connection *c = calloc(1, sizeof(*c));
    c->fd = fd;
    struct epoll_event event = { .events = EPOLLIN | EPOLLOUT | EPOLLET, .data.ptr = c };
    epoll_ctl(loop, EPOLL_CTL_ADD, fd, &event);
}

static int listen_at(const char *ip, const char *port)
{
    struct sockaddr_in address = { .sin_family = AF_INET };
    unsigned short number = 0;
    int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0), on = 1;
    sscanf(port, "%hu", &number);
    address.sin_port = htons(number);
    inet_pton(AF_INET, ip, &address.sin_addr);
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
    if (bind(fd, (struct sockaddr *)&address, sizeof(address)) < 0 || listen(fd, 4096) < 0) {
        perror("origin: listen");
        exit(1);
    }
    return fd;
}

/* Text that compresses as prose does, to about a third: words in an order that repeats after long only. */
static void fill_with_words(void)
{
    static const char *const words[] = {
        "the",   "round", "gate",    "in",   "a",     "garden", "wall",   "opens", "moon",    "and",    "whoever",
        "walks", "never", "through", "sees", "how",   "it",     "was",    "built", "stone",   "shadow", "water",
        "of",    "under", "<p>",     "</p>", "light", "path",   "bamboo", "at",    "evening", "pond",
    };
    unsigned state = 1;

    for (size_t at = 0; at < BIG;) {
        state = state * 1103515245u + 12345u;
        const char *word = words[state >> 16 & 31];
        size_t len = strlen(word), room = BIG - at;
        memcpy(big + at, word, len < room ? len : room);
        at += len;
        if (at < BIG)
            big[at++] = state >> 21 & 15 ? ' ' : (char)('0' + (state >> 25) % 10);
    }
}

int main(int argc, char **argv)
{
    if (argc != 3) {
        fprintf(stderr, "usage: origin IP PORT\n");
        return 2;
    }
    struct rlimit files;
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
    signal(SIGPIPE, SIG_IGN);
    fill_with_words();

    int listener = listen_at(argv[1], argv[2]), loop = epoll_create1(0);
    struct epoll_event event = { .events = EPOLLIN }, events[256];
    epoll_ctl(loop, EPOLL_CTL_ADD, listener, &event);
    for (;;) {
        int count = epoll_wait(loop, events, 256, -1);
        for (int i = 0; i < count; i++) {
            if (events[i].data.ptr)
                serve(events[i].data.ptr);
            else
                admit(loop, listener);
        }
    }
}
