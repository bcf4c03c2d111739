/* test_outside.c - core/script/outside and fetch, over core/proxy/dial, against a server in a child process. */
#undef NDEBUG
#include <assert.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <arpa/inet.h>
#include <ev.h>
#include <sys/socket.h>
#include <sys/wait.h>

#include "arena.h"
#include "block.h"
#include "clock.h"
#include "dial.h"
#include "fetch.h"
#include "generation.h"
#include "h1.h"
#include "log.h"
#include "outside.h"
#include "pool.h"
#include "resolve.h"
#include "text.h"
#include "transport.h"

static struct ev_loop *loop;
static int port;

/* ---- A policy that writes down who was woken. ---- */

static int codes[1024];
static bool woken[1024];

static void wake(struct mg_policy *p, int ticket, int code)
{
    (void)p;
    woken[ticket] = true;
    ev_break(loop, EVBREAK_ONE);
    codes[ticket] = code;
}

static struct mg_policy policy = { .wake = wake };
static struct mg_generation generation = { .policy = &policy };
static struct mg_task task;

static void flush(void)
{
    mg_outside_flush();
    mg_h1_flush();
}

/* What the loop says for this ticket; a call that was answered at once says so itself. */
static int await(int ticket)
{
    if (ticket <= 0)
        return ticket;
    flush();
    for (int i = 0; i < 100000 && !woken[ticket]; i++) {
        ev_run(loop, EVRUN_ONCE);
        flush();
    }
    assert(woken[ticket]);
    woken[ticket] = false;
    mg_ticket_release(&generation.tickets, ticket);
    return codes[ticket];
}

static void turn(double seconds)
{
    double until = ev_time() + seconds;

    flush();
    while (ev_time() < until) {
        ev_run(loop, EVRUN_NOWAIT);
        flush();
        usleep(1000);
    }
}

/* ---- The server: what it does is named by the target or the line. ---- */

static void say(int fd, const char *text)
{
    size_t len = strlen(text);
    assert(write(fd, text, len) == (ssize_t)len || true);
}

static void serve_line(int fd, const char *line, int served)
{
    static char big[1024 * 1024];
    char text[256];

    if (strstr(line, "GET /close")) {
        say(fd, "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok");
        _exit(0);
    } else if (strstr(line, "GET /big")) {
        memset(big, 'b', sizeof(big));
        say(fd, "HTTP/1.1 200 OK\r\nContent-Length: 1048576\r\n\r\n");
        for (size_t at = 0; at < sizeof(big);) {
            ssize_t n = write(fd, big + at, sizeof(big) - at);
            if (n <= 0)
                _exit(0);
            at += (size_t)n;
        }
    } else if (strstr(line, "GET /cut")) {
        say(fd, "HTTP/1.1 200 OK\r\nContent-Length: 20\r\n\r\nhalf");
        _exit(0);
    } else if (strstr(line, "GET /nonsense")) {
        say(fd, "what?\r\n\r\n");
        _exit(0);
    } else if (strstr(line, "GET /silent") || strstr(line, "silent\n")) {
        pause();
    } else if (strstr(line, " /")) {
        snprintf(text, sizeof(text),
                 "HTTP/1.1 200 OK\r\nServed: %d\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n"
                 "3\r\ndef\r\n0\r\n\r\n",
                 served);
        say(fd, text);
    } else if (strstr(line, "bye")) {
        say(fd, "good bye, unfinished");
        _exit(0);
    } else {
        say(fd, line);
    }
}

static void serve(int fd)
{
    static char in[1 << 20];
    size_t have = 0;

    for (int served = 1;; served++) {
        char *end = NULL;
        while (!end) {
            end = memmem(in, have, "\r\n\r\n", 4);
            if (end)
                end += 4;
            else if (have && !memmem(in, have, "HTTP", 4) && (end = memchr(in, '\n', have)))
                end++;
            if (end)
                break;
            ssize_t n = read(fd, in + have, sizeof(in) - 1 - have);
            if (n <= 0)
                _exit(0);
            have += (size_t)n;
        }
        char kept = *end;
        *end = '\0';
        serve_line(fd, in, served);
        *end = kept;
        have -= (size_t)(end - in);
        memmove(in, end, have);
    }
}

static pid_t start_server(void)
{
    struct sockaddr_in a = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
    socklen_t len = sizeof(a);
    int fd = socket(AF_INET, SOCK_STREAM, 0);

    assert(bind(fd, (struct sockaddr *)&a, sizeof(a)) == 0 && listen(fd, 64) == 0);
    assert(getsockname(fd, (struct sockaddr *)&a, &len) == 0);
    port = ntohs(a.sin_port);
    pid_t child = fork();
    if (child) {
        setpgid(child, child); /* so that its children end with it */
        close(fd);
        return child;
    }
    setpgid(0, 0);
    signal(SIGCHLD, SIG_IGN);
    signal(SIGPIPE, SIG_IGN);
    alarm(60);
    for (;;) {
        int c = accept(fd, NULL, NULL);
        if (c >= 0 && fork() == 0) {
            alarm(60);
            serve(c);
        }
        close(c);
    }
}

/* ---- Sockets. ---- */

static mg_socket *connected(void)
{
    mg_socket *s;

    assert(await(mg_socket_open(&task, "127.0.0.1", 9, port, NULL, 5, &s)) == MG_OK && s && mg_socket_is_open(s));
    return s;
}

static void send_text(mg_socket *s, const char *text)
{
    assert(mg_socket_send(s, &task, text, (uint32_t)strlen(text)) == MG_OK);
}

static bool takes(mg_socket *s, const char *want)
{
    mg_slice got;

    return mg_socket_take(s, &got) == MG_OK && mg_text_equal(got, mg_slice_of(want));
}

static void a_socket_sends_and_receives_lines(void)
{
    mg_socket *s = connected();

    send_text(s, "one\r\ntwo\n");
    assert(await(mg_socket_receive(s, &task, MG_RECEIVE_LINE, 0, NULL, 0, 5)) == MG_OK && takes(s, "one"));
    assert(await(mg_socket_receive(s, &task, MG_RECEIVE_LINE, 0, NULL, 0, 5)) == MG_OK && takes(s, "two"));
    mg_socket_close(s);
}

static void a_socket_receives_by_count_and_pattern(void)
{
    mg_socket *s = connected();

    send_text(s, "abcdef--ghi\n");
    assert(await(mg_socket_receive(s, &task, MG_RECEIVE_BYTES, 3, NULL, 0, 5)) == MG_OK && takes(s, "abc"));
    assert(await(mg_socket_receive(s, &task, MG_RECEIVE_UNTIL, 0, "--", 2, 5)) == MG_OK && takes(s, "def"));
    assert(await(mg_socket_receive(s, &task, MG_RECEIVE_SOME, 2, NULL, 0, 5)) == MG_OK && takes(s, "gh"));
    assert(mg_socket_ready(s) == 2);
    assert(await(mg_socket_receive(s, &task, MG_RECEIVE_BYTES, 0, NULL, 0, 5)) == MG_OK && takes(s, ""));
    assert(mg_socket_receive(s, &task, MG_RECEIVE_LINE, 1, NULL, 0, 5) == MG_OK && takes(s, "i"));
    send_text(s, "a long line without end");
    send_text(s, " and more\n");
    assert(await(mg_socket_receive(s, &task, MG_RECEIVE_LINE, 5, NULL, 0, 5)) == MG_FULL);
    mg_socket_close(s);
}

static void what_a_peer_said_before_it_closed_is_kept(void)
{
    mg_socket *s = connected();

    send_text(s, "bye\n");
    assert(await(mg_socket_receive(s, &task, MG_RECEIVE_LINE, 0, NULL, 0, 5)) == MG_CUT);
    assert(takes(s, "good bye, unfinished") && !mg_socket_is_open(s));
    assert(mg_socket_receive(s, &task, MG_RECEIVE_SOME, 0, NULL, 0, 5) == MG_CUT && takes(s, ""));
    mg_socket_close(s);

    s = connected();
    send_text(s, "bye\n");
    assert(await(mg_socket_receive(s, &task, MG_RECEIVE_ALL, 0, NULL, 0, 5)) == MG_OK);
    assert(takes(s, "good bye, unfinished"));
    mg_socket_close(s);
}

static void a_long_line_arrives_whole(void)
{
    static char line[900 * 1024];
    mg_socket *s = connected();
    mg_slice got;

    memset(line, 'x', sizeof(line));
    line[sizeof(line) - 1] = '\n';
    assert(await(mg_socket_send(s, &task, line, sizeof(line))) == MG_OK);
    assert(await(mg_socket_receive(s, &task, MG_RECEIVE_LINE, 0, NULL, 0, 5)) == MG_OK);
    assert(mg_socket_take(s, &got) == MG_OK && got.len == sizeof(line) - 1 && memcmp(got.ptr, line, got.len) == 0);
    send_text(s, "short\n");
    assert(await(mg_socket_receive(s, &task, MG_RECEIVE_BYTES, 6, NULL, 0, 5)) == MG_OK && takes(s, "short\n"));
    mg_socket_close(s);
}

static void a_silent_peer_is_a_timeout(void)
{
    mg_socket *s = connected();

    send_text(s, "silent\n");
    assert(await(mg_socket_receive(s, &task, MG_RECEIVE_LINE, 0, NULL, 0, 0.02)) == MG_TIMEOUT);
    int ticket = mg_socket_receive(s, &task, MG_RECEIVE_LINE, 0, NULL, 0, 0);
    assert(ticket > 0 && mg_socket_receive(s, &task, MG_RECEIVE_LINE, 0, NULL, 0, 0) == MG_BUSY);
    mg_socket_close(s);
    assert(await(ticket) == MG_CUT);
}

static void a_port_where_nobody_listens_is_refused(void)
{
    mg_socket *s;

    assert(await(mg_socket_open(&task, "127.0.0.1", 9, 1, NULL, 5, &s)) == MG_REFUSED && !mg_socket_is_open(s));
    assert(mg_socket_send(s, &task, "x", 1) == MG_CUT);
    mg_socket_close(s);
    assert(await(mg_socket_open(&task, "unix:/no/such", 13, 0, NULL, 5, &s)) == MG_REFUSED);
    if (s)
        mg_socket_close(s);
    assert(mg_socket_open(&task, "", 0, 80, NULL, 5, &s) == MG_MALFORMED && !s);
}

static void a_name_is_resolved(void)
{
    mg_socket *s;

    assert(await(mg_socket_open(&task, "localhost", 9, port, NULL, 5, &s)) == MG_OK);
    mg_socket_close(s);
}

static void sockets_end_with_their_owner(void)
{
    struct mg_task other;
    mg_socket *kept = connected(), *s;

    mg_task_init(&other, &generation);
    assert(mg_socket_open(&other, "127.0.0.1", 9, port, NULL, 5, &s) > 0);
    assert(mg_socket_open(&other, "127.0.0.1", 9, port, NULL, 5, &s) > 0);
    mg_socket_give(kept, NULL);
    mg_outside_end(&generation, &other);
    mg_task_end(&other);
    assert(mg_outside_live() == 1 && mg_socket_is_open(kept));
    mg_outside_end(&generation, NULL);
    assert(mg_outside_live() == 0);
}

/* ---- Fetches. ---- */

static mg_fetch *fetch(const char *method, const char *target)
{
    mg_fetch *f;

    assert(mg_fetch_open(&task, "127.0.0.1", 9, port, NULL, method, (uint32_t)strlen(method), target,
                         (uint32_t)strlen(target), &f) == MG_OK);
    return f;
}

static size_t read_all(mg_fetch *f, int *code)
{
    size_t sum = 0;
    mg_slice piece;

    while ((*code = await(mg_fetch_read(f))) == MG_OK && (*code = mg_fetch_take(f, &piece)) == MG_OK)
        sum += piece.len;
    return sum;
}

static bool was_served(mg_fetch *f, const char *nth)
{
    mg_slice value;

    return mg_message_get(mg_fetch_response(f), MG_LIT("Served"), &value) == MG_OK &&
           mg_text_equal(value, mg_slice_of(nth));
}

static void a_fetch_brings_head_and_body(void)
{
    mg_fetch *f = fetch("GET", "/a?b=c");
    int code;

    assert(await(mg_fetch_send(f, "", 0, 5)) == MG_OK && mg_fetch_status(f) == 200 && was_served(f, "1"));
    assert(read_all(f, &code) == 6 && code == MG_ABSENT);
    mg_fetch_close(f);
}

static void its_connection_is_used_again(void)
{
    mg_fetch *f = fetch("GET", "/");
    int code;

    assert(mg_pool_idle() == 1);
    assert(await(mg_fetch_send(f, "", 0, 5)) == MG_OK && was_served(f, "2"));
    assert(read_all(f, &code) == 6);
    mg_fetch_close(f);
    f = fetch("POST", "/");
    assert(await(mg_fetch_send(f, "", 0, 5)) == MG_OK && was_served(f, "3"));
    assert(read_all(f, &code) == 6);
    mg_fetch_close(f);
    assert(mg_pool_idle() == 1);
}

static void a_stale_connection_is_not_noticed(void)
{
    int code;

    for (int i = 0; i < 3; i++) {
        mg_fetch *f = fetch("GET", "/close");
        assert(await(mg_fetch_send(f, "", 0, 5)) == MG_OK);
        assert(read_all(f, &code) == 2);
        mg_fetch_close(f);
        usleep(20000); /* the server's end arrives, and the loop has not seen it */
        f = fetch(i == 1 ? "POST" : "GET", "/");
        assert(await(mg_fetch_send(f, "", 0, 5)) == MG_OK);
        assert(read_all(f, &code) == 6);
        mg_fetch_close(f);
    }
}

static void a_named_server_is_dialled_and_its_connection_kept(void)
{
    mg_slice text;
    mg_fetch *f;
    int code;

    for (int i = 0; i < 4; i++) {
        assert(mg_fetch_open(&task, "localhost", 9, port, NULL, "GET", 3, "/", 1, &f) == MG_OK);
        assert(await(mg_fetch_send(f, "", 0, 5)) == MG_OK && read_all(f, &code) == 6);
        mg_fetch_close(f);
    }
    assert(mg_fetch_open(&task, "localhost", 9, 1, NULL, "GET", 3, "/", 1, &f) == MG_OK);
    assert(await(mg_fetch_send(f, "", 0, 5)) == MG_REFUSED);
    mg_fetch_close(f);
    assert(mg_fetch_open(&task, "no-such-name.invalid", 20, 80, NULL, "GET", 3, "/", 1, &f) == MG_OK);
    assert(await(mg_fetch_send(f, "", 0, 5)) < 0);
    mg_fetch_problem(f, &text);
    assert(text.len && mg_dial_live() == 0);
    mg_fetch_close(f);
}

static void a_large_body_waits_for_its_reader(void)
{
    mg_fetch *f = fetch("GET", "/big");
    int code;

    assert(await(mg_fetch_send(f, "", 0, 5)) == MG_OK);
    turn(0.1);
    assert(mg_block_live() < 40);
    assert(read_all(f, &code) == 1048576 && code == MG_ABSENT);
    mg_fetch_close(f);
}

static void failures_have_a_code_and_words(void)
{
    mg_slice text;
    int code;

    mg_fetch *f = fetch("GET", "/cut");
    assert(await(mg_fetch_send(f, "", 0, 5)) == MG_OK && read_all(f, &code) == 4 && code == MG_CUT);
    mg_fetch_problem(f, &text);
    assert(text.len);
    mg_fetch_close(f);

    f = fetch("GET", "/nonsense");
    assert(await(mg_fetch_send(f, "", 0, 5)) == MG_MALFORMED);
    mg_fetch_close(f);

    f = fetch("GET", "/silent");
    assert(await(mg_fetch_send(f, "", 0, 0.02)) == MG_TIMEOUT);
    mg_fetch_close(f);

    assert(mg_fetch_open(&task, "127.0.0.1", 9, 1, NULL, "GET", 3, "/", 1, &f) == MG_OK);
    assert(await(mg_fetch_send(f, "", 0, 5)) == MG_REFUSED);
    mg_fetch_problem(f, &text);
    assert(mg_text_equal(text, MG_LIT("connection refused")));
    mg_fetch_close(f);
}

static void nothing_can_be_smuggled_into_a_head(void)
{
    mg_fetch *f;

    assert(mg_fetch_open(&task, "a", 1, 80, NULL, "GET", 3, "/ HTTP/1.1\r\nx: y", 16, &f) == MG_MALFORMED && !f);
    assert(mg_fetch_open(&task, "a", 1, 80, NULL, "GET /", 5, "/", 1, &f) == MG_MALFORMED);
    assert(mg_fetch_open(&task, "a\r\nb", 4, 80, NULL, "GET", 3, "/", 1, &f) == MG_MALFORMED);
    assert(mg_fetch_open(&task, "a", 1, 80, NULL, "CONNECT", 7, "a:80", 4, &f) == MG_MALFORMED);
    assert(mg_fetch_open(&task, "a", 1, 0, NULL, "GET", 3, "/", 1, &f) == MG_MALFORMED);
}

static void a_fetch_ends_with_its_task(void)
{
    struct mg_task other;
    mg_fetch *f;

    mg_task_init(&other, &generation);
    assert(mg_fetch_open(&other, "127.0.0.1", 9, port, NULL, "GET", 3, "/silent", 7, &f) == MG_OK);
    assert(mg_fetch_send(f, "body", 4, 5) > 0);
    turn(0.05);
    mg_fetch_end(&generation, &other);
    mg_task_end(&other);
    turn(0.01);
    assert(mg_fetch_live() == 0 && mg_h1_streams() == 0 && mg_dial_live() == 0);
}

static void nothing_is_left_open(void)
{
    mg_dial_stop();
    mg_task_end(&task);
    turn(0.01);
    assert(mg_outside_live() == 0 && mg_fetch_live() == 0 && mg_pool_idle() == 0 && mg_dial_live() == 0);
    assert(mg_transport_live() == 0 && mg_block_live() == 0 && mg_arena_live() == 0 && generation.tickets.used == 0);
}

static const struct {
    void (*test)(void);
    const char *sentence;
} promises[] = {
/* clang-format off */
#define PROMISE(name) { name, #name }
    /* clang-format on */
    PROMISE(a_socket_sends_and_receives_lines),
    PROMISE(a_socket_receives_by_count_and_pattern),
    PROMISE(what_a_peer_said_before_it_closed_is_kept),
    PROMISE(a_long_line_arrives_whole),
    PROMISE(a_silent_peer_is_a_timeout),
    PROMISE(a_port_where_nobody_listens_is_refused),
    PROMISE(a_name_is_resolved),
    PROMISE(sockets_end_with_their_owner),
    PROMISE(a_fetch_brings_head_and_body),
    PROMISE(its_connection_is_used_again),
    PROMISE(a_stale_connection_is_not_noticed),
    PROMISE(a_named_server_is_dialled_and_its_connection_kept),
    PROMISE(a_large_body_waits_for_its_reader),
    PROMISE(failures_have_a_code_and_words),
    PROMISE(nothing_can_be_smuggled_into_a_head),
    PROMISE(a_fetch_ends_with_its_task),
    PROMISE(nothing_is_left_open),
};

int main(void)
{
    signal(SIGPIPE, SIG_IGN);
    alarm(60);
    pid_t server = start_server();
    loop = ev_default_loop(0);
    mg_log_level = MG_LOG_NONE;
    mg_clock_start(loop);
    mg_transport_start(loop, flush);
    assert(mg_resolve_start(loop, NULL));
    mg_task_init(&task, &generation);
    for (size_t i = 0; i < sizeof(promises) / sizeof(promises[0]); i++) {
        promises[i].test();
        printf("ok ");
        for (const char *c = promises[i].sentence; *c; c++)
            putchar(*c == '_' ? ' ' : *c);
        putchar('\n');
        fflush(stdout);
    }
    kill(-server, SIGKILL);
    mg_tickets_free(&generation.tickets);
    mg_resolve_stop();
    mg_clock_stop();
    mg_arena_trim();
    mg_block_trim();
    return 0;
}
