/* load.c - a closed loop of HTTP/1.1 requests from one thread; prints one line of JSON.
 *
 *     load IP PORT [-c connections] [-n requests | -d seconds] [-p path] [-b bytes to post] [-e coding] [-f field] [-i]
 *
 * Each connection sends its next request when its answer is whole, on a new connection if it says "Connection: close".
 * With -i each sends one (64 at a time) and
 * stays open: `held N` is printed, and all are let go when stdin ends. It is as light as it can be, so that the
 * proxy is what is measured; it trusts the answers' heads, which the tests do not. */
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

enum { HEAD_MAX = 4096, READ_SIZE = 256 * 1024, BUCKETS = 64 * 64, AT_ONCE = 64, PATIENCE = 120 };

struct connection {
    int fd;
    bool busy, in_body, chunked, last;
    size_t head_len;
    uint64_t sent, left; /* of the request; of the answer's body */
    uint64_t began;
    char head[HEAD_MAX];
};

static struct sockaddr_in address = { .sin_family = AF_INET };
static const char *path = "/", *accepted = "identity", *field = "X-Client: abc123";
static unsigned connection_count = 64;
static uint64_t request_count, post_len;
static double seconds;
static bool hold;

static struct connection *connections;
static char request[8192], *post, buffer[READ_SIZE];
static uint64_t request_len, started, whole, failed, refused, bytes, stop_at;
static uint64_t latency[BUCKETS]; /* a logarithmic histogram, 64 steps to each power of two */
static int loop;

static uint64_t now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static unsigned bucket_of(uint64_t ns)
{
    if (ns < 64)
        return (unsigned)ns;
    unsigned power = 63 - (unsigned)__builtin_clzll(ns);
    return (power - 5) * 64 + (unsigned)((ns >> (power - 6)) & 63);
}

static double percentile_us(double share)
{
    uint64_t want = (uint64_t)((double)whole * share), seen = 0;
    for (unsigned i = 0; i < BUCKETS; i++) {
        seen += latency[i];
        if (seen > want)
            return (i < 64 ? i : (double)((64ull + i % 64) << (i / 64 - 1))) / 1e3;
    }
    return 0;
}

static void dial(struct connection *c)
{
    int on = 1;
    c->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);
    setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
    if (connect(c->fd, (struct sockaddr *)&address, sizeof(address)) < 0 && errno != EINPROGRESS) {
        perror("load: connect");
        exit(1);
    }
    struct epoll_event event = { .events = EPOLLIN | EPOLLOUT | EPOLLET, .data.ptr = c };
    epoll_ctl(loop, EPOLL_CTL_ADD, c->fd, &event);
}

static bool is_more(void)
{
    return request_count ? started < request_count : now() < stop_at;
}

/* Writes what is left of the request; false if the connection is lost. */
static bool push(struct connection *c)
{
    while (c->sent < request_len + post_len) {
        struct iovec parts[2];
        int count = 0;
        if (c->sent < request_len)
            parts[count++] = (struct iovec){ request + c->sent, request_len - c->sent };
        uint64_t posted = c->sent < request_len ? 0 : c->sent - request_len;
        if (post_len)
            parts[count++] = (struct iovec){ post + posted, post_len - posted };
        ssize_t done = writev(c->fd, parts, count);
        if (done < 0)
            return errno == EAGAIN || errno == ENOTCONN;
        c->sent += (uint64_t)done;
    }
    return true;
}

static void begin(struct connection *c)
{
    started++;
    c->busy = true;
    c->in_body = c->chunked = c->last = false;
    c->head_len = 0;
    c->sent = c->left = 0;
    c->began = now();
    push(c); /* a lost connection is told by the loop */
}

static void next(struct connection *c)
{
    if (is_more())
        begin(hold ? &connections[started] : c);
}

static void finish(struct connection *c)
{
    latency[bucket_of(now() - c->began)]++;
    whole++;
    c->busy = false;
    if (c->last) {
        close(c->fd);
        dial(c);
    }
    next(c);
}

static void fail(struct connection *c)
{
    bool was_busy = c->busy;
    close(c->fd);
    c->busy = false;
    dial(c);
    if (was_busy) {
        failed++;
        next(c);
    }
}

/* Takes bytes of the head; how many of them it had, or 0 if it is not whole yet. */
static size_t take_head(struct connection *c, const char *data, size_t len)
{
    size_t had = c->head_len, room = HEAD_MAX - 1 - had, taken = len < room ? len : room;
    memcpy(c->head + had, data, taken);
    c->head_len += taken;
    c->head[c->head_len] = 0;
    char *end = memmem(c->head, c->head_len, "\r\n\r\n", 4);
    if (!end)
        return 0;

    *end = 0;
    c->in_body = true;
    refused += c->head[9] != '2';
    const char *length = strcasestr(c->head, "\ncontent-length:");
    if (length)
        sscanf(length + 16, "%lu", &c->left);
    c->last = strcasestr(c->head, "\nconnection: close");
    c->chunked = !length && strcasestr(c->head, "\ntransfer-encoding: chunked");
    return (size_t)(end + 4 - c->head) - had;
}

/* Takes what has arrived; true if the answer is whole. */
static bool take(struct connection *c, const char *data, size_t len)
{
    if (!c->in_body) {
        size_t head = take_head(c, data, len);
        if (!head)
            return false;
        data += head;
        len -= head;
    }
    if (c->chunked)
        return len >= 5 && memcmp(data + len - 5, "0\r\n\r\n", 5) == 0;
    c->left -= len < c->left ? len : c->left;
    return c->left == 0;
}

static void on_readable(struct connection *c)
{
    ssize_t got;
    do {
        got = read(c->fd, buffer, sizeof(buffer));
        if (got < 0 && errno == EAGAIN)
            return;
        if (got <= 0 || (!c->in_body && c->head_len == HEAD_MAX - 1)) {
            fail(c);
            return;
        }
        bytes += (uint64_t)got;
        if (take(c, buffer, (size_t)got)) {
            finish(c);
            return;
        }
    } while (got == sizeof(buffer)); /* edge-triggered: a short read has drained the socket */
}

static void run(void)
{
    uint64_t give_up_at = now() + (uint64_t)(seconds + PATIENCE) * 1000000000u;
    struct epoll_event events[256];
    while ((is_more() || whole + failed < started) && now() < give_up_at) {
        int count = epoll_wait(loop, events, 256, 1000);
        for (int i = 0; i < count; i++) {
            struct connection *c = events[i].data.ptr;
            bool lost = events[i].events & EPOLLERR;
            if (!lost && events[i].events & EPOLLOUT && c->busy && c->sent < request_len + post_len)
                lost = !push(c);
            if (lost)
                fail(c);
            else if (events[i].events & (EPOLLIN | EPOLLHUP))
                on_readable(c);
        }
    }
}

static double number(const char *text)
{
    double value;
    char rest;
    if (sscanf(text, "%lf%c", &value, &rest) != 1 || value < 0) {
        fprintf(stderr, "load: not a number: %s\n", text);
        exit(2);
    }
    return value;
}

static void read_arguments(int argc, char **argv)
{
    if (argc < 3 || inet_pton(AF_INET, argv[1], &address.sin_addr) != 1) {
        fprintf(stderr, "usage: load IP PORT [-c N] [-n N | -d seconds] [-p path] [-b bytes] [-e coding] [-f field] "
                        "[-i]\n");
        exit(2);
    }
    address.sin_port = htons((uint16_t)number(argv[2]));
    optind = 3;
    for (int option; (option = getopt(argc, argv, "c:n:d:p:b:e:f:i")) > 0;) {
        switch (option) {
        case 'c':
            connection_count = (unsigned)number(optarg);
            break;
        case 'n':
            request_count = (uint64_t)number(optarg);
            break;
        case 'd':
            seconds = number(optarg);
            break;
        case 'p':
            path = optarg;
            break;
        case 'b':
            post_len = (uint64_t)number(optarg);
            break;
        case 'e':
            accepted = optarg;
            break;
        case 'f':
            field = optarg;
            break;
        case 'i':
            hold = true;
            break;
        default:
            exit(2);
        }
    }
    if (hold)
        request_count = connection_count;
}

static void prepare(void)
{
    struct rlimit files;
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
    signal(SIGPIPE, SIG_IGN);

    char length[64] = "";
    if (post_len) {
        post = calloc(1, post_len);
        snprintf(length, sizeof(length), "Content-Length: %lu\r\n", post_len);
    }
    request_len = (uint64_t)snprintf(request, sizeof(request),
                                     "%s %s HTTP/1.1\r\nHost: bench.local\r\nUser-Agent: load/1.0\r\nAccept: */*\r\n"
                                     "Accept-Encoding: %s\r\n%s\r\n%s\r\n",
                                     post_len ? "POST" : "GET", path, accepted, field, length);
    loop = epoll_create1(0);
    connections = calloc(connection_count, sizeof(*connections));
    for (unsigned i = 0; i < connection_count; i++) {
        dial(&connections[i]);
        if (i % 256 == 255)
            usleep(20000); /* the accept queue drains */
    }
    usleep(100000);
}

int main(int argc, char **argv)
{
    read_arguments(argc, argv);
    prepare();
    uint64_t began = now();
    stop_at = began + (uint64_t)(seconds * 1e9);
    for (unsigned i = 0; i < (hold ? AT_ONCE : connection_count) && is_more(); i++)
        begin(&connections[i]);
    run();
    double elapsed = (double)(now() - began) / 1e9;
    if (hold) {
        printf("held %lu\n", whole);
        fflush(stdout);
        while (read(0, buffer, 1) > 0)
            ;
        return 0;
    }
    printf("{\"requests\": %lu, \"errors\": %lu, \"rate\": %.0f, \"bytes\": %lu, \"p50\": %.1f, \"p99\": %.1f}\n",
           whole, failed + refused + (started - whole - failed), (double)whole / elapsed, bytes, percentile_us(.5),
           percentile_us(.99));
    return 0;
}
