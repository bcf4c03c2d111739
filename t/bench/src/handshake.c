/* handshake.c - TLS handshakes, each with one request; prints one line of JSON.
 *
 *     handshake IP PORT [-d seconds] [-c threads] [-r]
 *
 * Each thread connects, shakes hands (TLS 1.3), asks once, reads the answer to its end, and begins anew; with -r
 * every session but a thread's first must be resumed: one that is not counts as an error. */
#include <arpa/inet.h>
#include <netinet/tcp.h>
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <openssl/ssl.h>

enum { THREADS_MOST = 64 };

static const char request[] = "GET / HTTP/1.1\r\nHost: bench.local\r\nConnection: close\r\n\r\n";
static struct sockaddr_in address = { .sin_family = AF_INET };
static SSL_CTX *context;
static double until;
static bool resume;

struct worker {
    pthread_t thread;
    SSL_SESSION *session;
    uint64_t requests, errors;
};

static double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static int on_session(SSL *ssl, SSL_SESSION *session)
{
    struct worker *w = SSL_get_app_data(ssl);
    SSL_SESSION_free(w->session);
    w->session = session;
    return 1;
}

/* One connection from its beginning to its end; false if anything about it is not as it should be. */
static bool ask(struct worker *w, SSL *ssl)
{
    char answer[4096];
    int total = 0, n;

    bool resuming = resume && w->session;

    if (resuming)
        SSL_set_session(ssl, w->session);
    if (SSL_connect(ssl) != 1 || SSL_write(ssl, request, sizeof(request) - 1) != sizeof(request) - 1)
        return false;
    bool good = false;
    while ((n = SSL_read(ssl, answer, sizeof(answer))) > 0) {
        good |= total == 0 && n > 12 && memcmp(answer + 9, "200", 3) == 0;
        total += n;
    }
    SSL_set_shutdown(ssl, SSL_SENT_SHUTDOWN | SSL_RECEIVED_SHUTDOWN);
    return good && (SSL_session_reused(ssl) == 1) == resuming;
}

static void *work(void *arg)
{
    struct worker *w = arg;
    struct linger reset = { .l_onoff = 1, .l_linger = 0 }; /* no port stays in TIME_WAIT */
    int on = 1;

    while (now() < until) {
        int fd = socket(AF_INET, SOCK_STREAM, 0);
        SSL *ssl = SSL_new(context);
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
        SSL_set_fd(ssl, fd);
        SSL_set_app_data(ssl, w);
        if (connect(fd, (struct sockaddr *)&address, sizeof(address)) == 0 && ask(w, ssl))
            w->requests++;
        else
            w->errors++;
        setsockopt(fd, SOL_SOCKET, SO_LINGER, &reset, sizeof(reset));
        SSL_free(ssl);
        close(fd);
    }
    return NULL;
}

int main(int argc, char **argv)
{
    static struct worker workers[THREADS_MOST];
    struct worker all = { 0 };
    int threads = 8, option;
    double seconds = 1;

    if (argc < 3 || inet_pton(AF_INET, argv[1], &address.sin_addr) != 1)
        return 2;
    address.sin_port = htons((uint16_t)strtoul(argv[2], NULL, 10));
    while ((option = getopt(argc - 2, argv + 2, "d:c:r")) != -1) {
        if (option == 'd')
            seconds = strtod(optarg, NULL);
        else if (option == 'c')
            threads = (int)strtol(optarg, NULL, 10);
        else if (option == 'r')
            resume = true;
        else
            return 2;
    }
    if (threads < 1 || threads > THREADS_MOST)
        return 2;
    context = SSL_CTX_new(TLS_client_method());
    SSL_CTX_set_min_proto_version(context, TLS1_3_VERSION);
    SSL_CTX_set_session_cache_mode(context, SSL_SESS_CACHE_CLIENT | SSL_SESS_CACHE_NO_INTERNAL);
    SSL_CTX_sess_set_new_cb(context, on_session);
    double started = now();
    until = started + seconds;
    for (int i = 0; i < threads; i++)
        pthread_create(&workers[i].thread, NULL, work, &workers[i]);
    for (int i = 0; i < threads; i++) {
        pthread_join(workers[i].thread, NULL);
        all.requests += workers[i].requests;
        all.errors += workers[i].errors;
    }
    printf("{\"requests\": %lu, \"errors\": %lu, \"rate\": %.0f}\n", all.requests, all.errors,
           (double)all.requests / (now() - started));
    return 0;
}
