/* test_net.c - core/net: address, transport, resolve. */
#undef NDEBUG
#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <arpa/inet.h>
#include <ev.h>
#include <sys/socket.h>

#include "address.h"
#include "clock.h"
#include "log.h"
#include "resolve.h"
#include "text.h"
#include "transport.h"

static struct ev_loop *loop;

static mg_slice of(const char *s)
{
    return mg_slice_of(s);
}

/* ---- addresses ---- */

static bool reads_back(const char *text, const char *printed)
{
    struct mg_address a, b;
    char to[MG_ADDRESS_TEXT];
    if (!mg_address_parse(of(text), &a))
        return false;
    size_t n = mg_address_print(&a, to);
    return n == strlen(printed) && memcmp(to, printed, n) == 0 && mg_address_parse((mg_slice){ to, (uint32_t)n }, &b) &&
           mg_address_equal(&a, &b);
}

static void addresses_are_printed_as_they_are_parsed(void)
{
    assert(reads_back("127.0.0.1:80", "127.0.0.1:80"));
    assert(reads_back("255.255.255.255:65535", "255.255.255.255:65535"));
    assert(reads_back("[::1]:8080", "[::1]:8080"));
    assert(reads_back("[2001:DB8:0:0::7]:1", "[2001:db8::7]:1"));
    assert(reads_back("[fe80::1%1]:80", "[fe80::1%1]:80"));
    assert(reads_back(":80", "[::]:80") && reads_back("*:80", "[::]:80"));
    assert(reads_back("0.0.0.0:80", "0.0.0.0:80"));
    assert(reads_back("unix:/run/x.sock", "unix:/run/x.sock"));
    assert(reads_back("unix:@abstract", "unix:@abstract"));
}

static void what_is_no_address_is_refused(void)
{
    struct mg_address a;
    /* clang-format off */
    const char *bad[] = { "", ":", "80", "127.0.0.1", "127.0.0.1:", "127.0.0.1:65536", "127.0.0.1:-1", "127.0.0.1: 80",
                          "127.0.0:80", "127.0.0.01.2:80", "::1:80", "::1", "[::1]", "[::1:80", "::1]:80", "[]:80",
                          "[127.0.0.1]:80", "[::g]:80", "localhost:80", "unix:", "unix:@", "[fe80::1%nosuch]:80" };
    /* clang-format on */
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
        assert(!mg_address_parse(of(bad[i]), &a));

    char path[128] = "unix:";
    memset(path + 5, 'p', 108);
    assert(!mg_address_parse((mg_slice){ path, 113 }, &a));
    assert(mg_address_parse((mg_slice){ path, 112 }, &a));
    assert(!mg_address_parse((mg_slice){ "unix:/a\0b", 9 }, &a));
    assert(!mg_address_parse((mg_slice){ "1.2.3.4\0:80", 11 }, &a));
}

static void a_peer_has_a_host_and_a_port(void)
{
    mg_slice host;
    uint16_t port;
    assert(mg_address_split(of("example.com:8080"), &host, &port) && port == 8080);
    assert(mg_text_equal(host, of("example.com")));
    assert(mg_address_split(of("[::1]:1"), &host, &port) && port == 1 && mg_text_equal(host, of("::1")));
    const char *bad[] = { "", "example.com", "example.com:", "example.com:0", "example.com:65536", ":80", "::1:80" };
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
        assert(!mg_address_split(of(bad[i]), &host, &port));
}

static void literals_need_no_port(void)
{
    struct mg_address a;
    assert(mg_address_literal(of("10.0.0.1"), 80, &a) && a.any.sa_family == AF_INET && mg_address_port(&a) == 80);
    assert(mg_address_literal(of("::1"), 81, &a) && a.any.sa_family == AF_INET6 && mg_address_port(&a) == 81);
    assert(mg_address_literal(of("[::1]"), 81, &a));
    assert(!mg_address_literal(of("example.com"), 80, &a) && !mg_address_literal(of(""), 80, &a));
    assert(!mg_address_literal(of("10.1"), 80, &a) && !mg_address_literal(of("0x7f000001"), 80, &a));
}

static bool in_network(const char *network, const char *address)
{
    struct mg_network n;
    struct mg_address a;
    assert(mg_network_parse(of(network), &n) && mg_address_parse(of(address), &a));
    return mg_network_has(&n, &a);
}

static void networks_have_the_addresses_under_their_prefix(void)
{
    assert(in_network("10.0.0.0/8", "10.255.1.2:1") && !in_network("10.0.0.0/8", "11.0.0.0:1"));
    assert(in_network("10.16.0.0/12", "10.31.0.1:1") && !in_network("10.16.0.0/12", "10.32.0.1:1"));
    assert(in_network("1.2.3.4", "1.2.3.4:1") && !in_network("1.2.3.4", "1.2.3.5:1"));
    assert(in_network("0.0.0.0/0", "9.9.9.9:1") && !in_network("0.0.0.0/0", "[::1]:1"));
    assert(in_network("2001:db8::/33", "[2001:db8:7fff::1]:1") && !in_network("2001:db8::/33", "[2001:db8:8000::1]:1"));
    assert(in_network("10.0.0.0/8", "[::ffff:10.1.2.3]:1") && in_network("::ffff:10.0.0.0/104", "10.1.2.3:1"));
    assert(in_network("unix", "unix:/x") && !in_network("unix", "127.0.0.1:1") && !in_network("::/0", "unix:/x"));

    struct mg_network n;
    const char *bad[] = { "", "/8", "10.0.0.0/33", "10.0.0.0/", "10.0.0.0/8/8", "::/129", "name/8", "::ffff:0:0/90" };
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
        assert(!mg_network_parse(of(bad[i]), &n));
}

static bool endpoint_prints(const char *address, const char *printed)
{
    struct mg_address a;
    char to[INET6_ADDRSTRLEN];
    assert(mg_address_parse(of(address), &a));
    struct mg_endpoint e = mg_endpoint_of(&a);
    size_t n = mg_endpoint_print(&e, to);
    return e.port == mg_address_port(&a) && n == strlen(printed) && memcmp(to, printed, n) == 0;
}

static void endpoints_show_mapped_addresses_as_ipv4(void)
{
    assert(endpoint_prints("192.168.100.200:7", "192.168.100.200"));
    assert(endpoint_prints("[::ffff:1.2.3.4]:7", "1.2.3.4"));
    assert(endpoint_prints("[::1]:7", "::1") && endpoint_prints("unix:/x", "unix"));
}

/* ---- transports ---- */

static char seen[128]; /* what happened, a letter each */
static int connect_error;
static unsigned afters;

static void note(char c)
{
    size_t n = strlen(seen);
    assert(n + 1 < sizeof(seen));
    seen[n] = c;
    seen[n + 1] = 0;
}

static void after_event(void)
{
    afters++;
}

static void on_connected(struct mg_transport *t, int error)
{
    (void)t;
    note('c');
    connect_error = error;
    ev_break(loop, EVBREAK_ALL);
}

static void on_readable(struct mg_transport *t)
{
    (void)t;
    note('r');
    ev_break(loop, EVBREAK_ALL);
}

static void on_writable(struct mg_transport *t)
{
    (void)t;
    note('w');
    ev_break(loop, EVBREAK_ALL);
}

static void on_readable_close(struct mg_transport *t)
{
    note('x');
    t->ops->close(t, false);
    ev_break(loop, EVBREAK_ALL);
}

static const struct mg_transport_events events = { on_connected, on_readable, on_writable };
static const struct mg_transport_events closing = { on_connected, on_readable_close, on_writable };

static void on_patience(void *unused)
{
    (void)unused;
    note('!');
    ev_break(loop, EVBREAK_ALL);
}

/* Runs until something was noted ('!' if nothing in this time). */
static void run(double patience)
{
    struct mg_alarm *alarm = mg_alarm_new(patience, on_patience, NULL);
    size_t before = strlen(seen);
    while (strlen(seen) == before)
        ev_run(loop, EVRUN_ONCE);
    if (seen[strlen(seen) - 1] != '!')
        mg_alarm_free(alarm);
}

static struct mg_transport *wrap(int fd, const struct mg_transport_events *e)
{
    struct mg_transport *t = mg_transport_accepted(fd, false);
    assert(t);
    t->events = e;
    return t;
}

/* A transport and the other end of its socket. */
static struct mg_transport *pair(int *other, const struct mg_transport_events *e)
{
    int fds[2];
    assert(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, fds) == 0);
    *other = fds[1];
    seen[0] = 0;
    return wrap(fds[0], e);
}

static void bytes_go_both_ways_and_an_end_is_seen(void)
{
    int other;
    char buffer[64];
    size_t n;
    struct mg_transport *t = pair(&other, &events);
    assert(mg_transport_live() == 1);
    assert(t->ops->read(t, buffer, sizeof(buffer), &n) == MG_IO_AGAIN && n == 0);

    char he[] = "he", llo[] = "llo";
    struct iovec v[] = { { he, 2 }, { llo, 3 } };
    assert(t->ops->write(t, v, 2, &n) == MG_IO_DONE && n == 5);
    assert(t->ops->write(t, v, 1, &n) == MG_IO_DONE && n == 2);
    assert(read(other, buffer, sizeof(buffer)) == 7 && memcmp(buffer, "hellohe", 7) == 0);

    assert(!t->ops->stirred(t));
    assert(write(other, "hi", 2) == 2 && t->ops->stirred(t));
    afters = 0;
    t->ops->want_read(t, true);
    run(5);
    assert(strcmp(seen, "r") == 0 && afters == 1);
    assert(t->ops->read(t, buffer, sizeof(buffer), &n) == MG_IO_DONE && n == 2);

    t->ops->shutdown(t);
    assert(read(other, buffer, 1) == 0);
    close(other);
    run(5);
    assert(t->ops->stirred(t) && t->ops->read(t, buffer, 1, &n) == MG_IO_CLOSED);
    assert(t->ops->write(t, v, 2, &n) == MG_IO_ERROR);
    t->ops->close(t, false);
    assert(mg_transport_live() == 0);
}

static void reading_is_quiet_while_it_is_not_wanted(void)
{
    int other;
    struct mg_transport *t = pair(&other, &events);
    t->ops->want_read(t, true);
    t->ops->want_read(t, false);
    assert(write(other, "x", 1) == 1);
    run(0.02);
    assert(strcmp(seen, "!") == 0);
    t->ops->want_read(t, true);
    run(5);
    assert(strcmp(seen, "!r") == 0);
    t->ops->close(t, false);
    close(other);
}

static void a_full_socket_says_once_that_it_has_room(void)
{
    int other;
    size_t n;
    static char big[65536];
    struct mg_transport *t = pair(&other, &events);
    struct iovec v = { big, sizeof(big) };
    enum mg_io io;
    while ((io = t->ops->write(t, &v, 1, &n)) == MG_IO_DONE)
        ;
    assert(io == MG_IO_AGAIN);
    t->ops->want_write(t);
    run(0.02);
    assert(strcmp(seen, "!") == 0);
    while (read(other, big, sizeof(big)) > 0)
        ;
    run(5);
    run(0.02);
    assert(strcmp(seen, "!w!") == 0);
    t->ops->close(t, false);
    close(other);
}

static void a_transport_may_be_closed_by_its_own_event(void)
{
    int other;
    char byte;
    struct mg_transport *t = pair(&other, &closing);
    t->ops->want_read(t, true);
    t->ops->want_write(t);
    assert(write(other, "x", 1) == 1);
    while (!strchr(seen, 'x'))
        run(5);
    assert(mg_transport_live() == 0 && read(other, &byte, 1) < 0 && errno == ECONNRESET); /* x was not read */
    close(other);
}

/* A listening socket on a free port; its address. */
static int listen_somewhere(const char *where, struct mg_address *at)
{
    assert(mg_address_parse(of(where), at));
    int fd = socket(at->any.sa_family, SOCK_STREAM, 0);
    socklen_t len = sizeof(*at) - offsetof(struct mg_address, any);
    assert(fd >= 0 && bind(fd, &at->any, at->len) == 0 && listen(fd, 8) == 0);
    assert(getsockname(fd, &at->any, &len) == 0);
    at->len = len;
    return fd;
}

static void connecting_is_told_from_the_loop(void)
{
    struct mg_address at;
    int listener = listen_somewhere("127.0.0.1:0", &at);
    seen[0] = 0;
    struct mg_transport *t = mg_transport_connect(&at, &events, NULL);
    assert(t && !seen[0]);
    run(5);
    assert(strcmp(seen, "c") == 0 && connect_error == 0);
    int peer = accept(listener, NULL, NULL);
    close(listener);

    /* An aborted connection is a reset for the peer. */
    char byte;
    t->ops->close(t, true);
    assert(read(peer, &byte, 1) < 0 && errno == ECONNRESET);
    close(peer);
}

static void a_refused_connection_is_told_from_the_loop_too(void)
{
    struct mg_address at;
    close(listen_somewhere("127.0.0.1:0", &at));
    seen[0] = 0;
    struct mg_transport *t = mg_transport_connect(&at, &events, NULL);
    assert(t && !seen[0]);
    run(5);
    assert(strcmp(seen, "c") == 0 && connect_error == ECONNREFUSED);
    t->ops->close(t, false);

    assert(mg_address_parse(of("unix:/nonexistent/socket"), &at));
    t = mg_transport_connect(&at, &events, NULL);
    assert(t && strcmp(seen, "c") == 0);
    run(5);
    assert(strcmp(seen, "cc") == 0 && connect_error == ENOENT);
    t->ops->close(t, false);

    t = mg_transport_connect(&at, &events, NULL);
    t->ops->close(t, false); /* cancelled: nothing comes */
    run(0.02);
    assert(strcmp(seen, "cc!") == 0 && mg_transport_live() == 0);
}

/* ---- names ---- */

static int server = -1;
static char server_text[64];
static ev_io server_io;
static unsigned questions;
static enum { GOOD, NO_SUCH_NAME, BROKEN, SILENT } manner;
static uint8_t last_octet;
static uint8_t ttl;

/* Answers A with 10.0.0.last_octet, and AAAA with nothing. */
static void on_question(struct ev_loop *l, ev_io *w, int unused)
{
    (void)l, (void)unused;
    uint8_t p[512];
    struct sockaddr_in from;
    socklen_t len = sizeof(from);
    ssize_t n = recvfrom(w->fd, p, sizeof(p) - 16, 0, (struct sockaddr *)&from, &len);
    assert(n > 16);

    size_t end = 12; /* of the question */
    while (p[end] != 0)
        end += p[end] + 1u;
    end += 5;
    bool ip4 = p[end - 3] == 1;
    questions += ip4;
    if (manner == SILENT)
        return;

    bool answers = manner == GOOD && ip4;
    p[2] = 0x85;
    p[3] = (uint8_t)(0x80 | (manner == NO_SUCH_NAME ? 3 : manner == BROKEN ? 2 : 0));
    p[7] = answers;
    memset(p + 8, 0, 4);
    if (answers) {
        uint8_t record[] = { 0xc0, 12, 0, 1, 0, 1, 0, 0, 0, ttl, 0, 4, 10, 0, 0, last_octet };
        memcpy(p + end, record, sizeof(record));
        end += sizeof(record);
    }
    sendto(w->fd, p, end, 0, (struct sockaddr *)&from, len);
}

static void start_server(void)
{
    struct mg_address at;
    assert(mg_address_parse(of("127.0.0.1:0"), &at));
    server = socket(AF_INET, SOCK_DGRAM, 0);
    socklen_t len = at.len;
    assert(bind(server, &at.any, at.len) == 0 && getsockname(server, &at.any, &len) == 0);
    server_text[mg_address_print(&at, server_text)] = 0;
    ev_io_init(&server_io, on_question, server, EV_READ);
    ev_io_start(loop, &server_io);
    questions = 0;
    manner = GOOD;
    last_octet = 1;
    ttl = 60;
    seen[0] = 0;
    assert(mg_resolve_start(loop, server_text));
}

static void stop_server(void)
{
    assert(mg_resolve_live() == 0);
    mg_resolve_stop();
    ev_io_stop(loop, &server_io);
    close(server);
}

static char last_problem[128];
static uint8_t found; /* the last octet of the first address */

static void on_found(void *owner, const struct mg_address *list, unsigned count, const char *problem)
{
    (void)owner;
    assert(problem ? count == 0 && !list : count > 0);
    snprintf(last_problem, sizeof(last_problem), "%s", problem ? problem : "");
    found = problem ? 0 : (uint8_t)(ntohl(list[0].ip4.sin_addr.s_addr) & 0xff);
    note(problem ? '-' : '+');
    ev_break(loop, EVBREAK_ALL);
}

/* Asks without waiting: the last octet if there is an answer at once, or 0. */
static uint8_t kept(const char *name, struct mg_lookup **l)
{
    struct mg_address list[4];
    unsigned count = 4;
    *l = mg_resolve(of(name), list, &count, on_found, NULL);
    assert((count == 0) == (*l != NULL));
    return count ? (uint8_t)(ntohl(list[0].ip4.sin_addr.s_addr) & 0xff) : 0;
}

/* Asks and waits if need be. */
static uint8_t look_up(const char *name)
{
    struct mg_lookup *l;
    uint8_t octet = kept(name, &l);
    if (!l)
        return octet;
    run(10);
    return found;
}

static void sleep_for(double seconds)
{
    size_t before = strlen(seen);
    run(seconds);
    seen[before] = 0;
}

static void a_name_is_asked_for_once_and_kept(void)
{
    struct mg_lookup *l;
    start_server();
    assert(kept("Origin.Test", &l) == 0 && l && !seen[0]);
    assert(kept("origin.test", &l) == 0 && l && mg_resolve_live() == 2);
    while (strlen(seen) < 2)
        run(5);
    assert(strcmp(seen, "++") == 0 && found == 1 && questions == 1);
    assert(kept("ORIGIN.test", &l) == 1 && !l && questions == 1);
    stop_server();
}

static void literals_and_hosts_are_not_asked_for(void)
{
    struct mg_lookup *l;
    start_server();
    assert(kept("10.0.0.77", &l) == 77 && !l);
    look_up("localhost");
    assert(!strchr(seen, '-') && questions == 0);
    stop_server();
}

static void a_cancelled_lookup_is_not_answered(void)
{
    struct mg_lookup *first, *second;
    start_server();
    kept("origin.test", &first);
    kept("origin.test", &second);
    mg_lookup_cancel(first);
    run(5);
    run(0.02);
    assert(strcmp(seen, "+!") == 0);
    stop_server();
}

static void what_is_no_name_is_told_from_the_loop(void)
{
    struct mg_lookup *l;
    char long_name[300];
    start_server();
    memset(long_name, 'a', sizeof(long_name));
    long_name[299] = 0;
    const char *bad[] = { "", "a b", "a\nb", "\xc3\xa4.test", long_name, "a..b" };
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        seen[0] = 0;
        assert(kept(bad[i], &l) == 0 && l && !seen[0]);
        run(5);
        assert(strcmp(seen, "-") == 0);
    }
    stop_server();
}

static void a_failure_is_remembered_for_a_second(void)
{
    start_server();
    manner = NO_SUCH_NAME;
    assert(look_up("gone.test") == 0 && strcmp(last_problem, "no such name") == 0);
    unsigned asked = questions;
    manner = GOOD;
    assert(look_up("gone.test") == 0 && questions == asked && strcmp(seen, "--") == 0);
    sleep_for(1.1);
    assert(look_up("gone.test") == 1);
    stop_server();
}

static void an_answer_holds_for_its_ttl(void)
{
    start_server();
    ttl = 1;
    assert(look_up("origin.test") == 1);
    last_octet = 2;
    assert(look_up("origin.test") == 1);
    sleep_for(1.1);
    assert(look_up("origin.test") == 2);
    manner = NO_SUCH_NAME; /* the servers have spoken: the old answer is void */
    sleep_for(1.1);
    assert(look_up("origin.test") == 0);
    stop_server();
}

static void the_last_good_answer_outlives_its_servers(void)
{
    struct mg_lookup *l;
    start_server();
    ttl = 1;
    assert(look_up("origin.test") == 1);
    sleep_for(1.1);
    manner = BROKEN;
    assert(look_up("origin.test") == 1);
    manner = SILENT;
    sleep_for(1.1);
    unsigned asked = questions;
    assert(kept("origin.test", &l) == 1 && !l); /* at once, and asked again behind the scenes */
    sleep_for(0.05);
    assert(questions == asked + 1);
    manner = GOOD;
    last_octet = 3;
    sleep_for(3); /* c-ares tries once more */
    sleep_for(0);
    assert(look_up("origin.test") == 3);
    stop_server();
}

static void a_silent_server_delays_a_known_name_only_a_little(void)
{
    start_server();
    ttl = 1;
    assert(look_up("origin.test") == 1);
    sleep_for(1.1);
    manner = SILENT;
    double start = ev_time();
    assert(look_up("origin.test") == 1 && ev_time() - start < 1.5);
    stop_server();
}

static void a_server_that_is_not_there_is_a_failure(void)
{
    struct mg_lookup *l;
    start_server();
    ev_io_stop(loop, &server_io);
    close(server);
    assert(look_up("origin.test") == 0 && strcmp(last_problem, "the name servers do not answer") == 0);
    mg_resolve_stop();

    assert(!mg_resolve_start(loop, "not an address"));

    /* Stopping drops who still waits. */
    start_server();
    manner = SILENT;
    kept("origin.test", &l);
    mg_resolve_stop();
    ev_io_stop(loop, &server_io);
    close(server);
    assert(mg_resolve_live() == 0);
}

static void no_more_names_are_kept_than_4096(void)
{
    struct mg_lookup *l;
    char name[32];
    start_server();
    for (int i = 0; i < 5000; i++) {
        snprintf(name, sizeof(name), "n%d.test", i);
        if (kept(name, &l) == 0) {
            seen[0] = 0;
            run(10);
        }
    }
    unsigned asked = questions;
    assert(kept("n4999.test", &l) == 1 && questions == asked);
    assert(look_up("n0.test") == 1 && questions == asked + 1);
    stop_server();
}

/* clang-format off */
#define PROMISE(name) { #name, name }
/* clang-format on */

static const struct {
    const char *sentence;
    void (*test)(void);
} promises[] = {
    PROMISE(addresses_are_printed_as_they_are_parsed),
    PROMISE(what_is_no_address_is_refused),
    PROMISE(a_peer_has_a_host_and_a_port),
    PROMISE(literals_need_no_port),
    PROMISE(networks_have_the_addresses_under_their_prefix),
    PROMISE(endpoints_show_mapped_addresses_as_ipv4),
    PROMISE(bytes_go_both_ways_and_an_end_is_seen),
    PROMISE(reading_is_quiet_while_it_is_not_wanted),
    PROMISE(a_full_socket_says_once_that_it_has_room),
    PROMISE(a_transport_may_be_closed_by_its_own_event),
    PROMISE(connecting_is_told_from_the_loop),
    PROMISE(a_refused_connection_is_told_from_the_loop_too),
    PROMISE(a_name_is_asked_for_once_and_kept),
    PROMISE(literals_and_hosts_are_not_asked_for),
    PROMISE(a_cancelled_lookup_is_not_answered),
    PROMISE(what_is_no_name_is_told_from_the_loop),
    PROMISE(a_failure_is_remembered_for_a_second),
    PROMISE(an_answer_holds_for_its_ttl),
    PROMISE(the_last_good_answer_outlives_its_servers),
    PROMISE(a_silent_server_delays_a_known_name_only_a_little),
    PROMISE(a_server_that_is_not_there_is_a_failure),
    PROMISE(no_more_names_are_kept_than_4096),
};

int main(void)
{
    loop = ev_default_loop(0);
    mg_clock_start(loop);
    assert(mg_transport_start(loop, after_event));
    mg_log_level = MG_LOG_NONE;
    for (size_t i = 0; i < sizeof(promises) / sizeof(promises[0]); i++) {
        promises[i].test();
        printf("ok ");
        for (const char *c = promises[i].sentence; *c; c++)
            putchar(*c == '_' ? ' ' : *c);
        putchar('\n');
        fflush(stdout);
    }
    mg_transport_stop();
    mg_clock_stop();
    ev_loop_destroy(loop);
    return 0;
}
