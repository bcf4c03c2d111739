/* test_peer.c - core/proxy/peer: who is picked, and what is counted. */
#undef NDEBUG
#include <assert.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <ev.h>
#include <sys/wait.h>

#include "clock.h"
#include "log.h"
#include "peer.h"
#include "text.h"

static const struct mg_tried none;

static struct mg_upstream *upstream(const char *name, mg_upstream_spec spec)
{
    const char *problem;

    spec.name = mg_slice_of(name);
    struct mg_upstream *u = mg_upstream_new(&spec, &problem);
    assert(u && !problem);
    return u;
}

static struct mg_peer *add(struct mg_upstream *u, const char *address, double weight)
{
    const char *problem;
    struct mg_peer *p = mg_upstream_add_peer(u, mg_slice_of(address), weight, MG_LIT("a"), &problem);

    assert(p && !problem);
    return p;
}

static struct mg_peer *pick(struct mg_upstream *u)
{
    bool full;

    return mg_peer_pick(u, &none, &full);
}

/* The last byte of the name of each pick. */
static void picks(struct mg_upstream *u, unsigned count, char *to)
{
    for (unsigned i = 0; i < count; i++) {
        struct mg_peer *p = pick(u);
        to[i] = p->name.ptr[p->name.len - 1];
    }
    to[count] = '\0';
}

static unsigned count_of(const char *s, char c)
{
    unsigned n = 0;

    for (; *s; s++)
        n += *s == c;
    return n;
}

static void weights_are_mixed_smoothly(void)
{
    struct mg_upstream *u = upstream("smooth", (mg_upstream_spec){ 0 });
    char got[16];

    add(u, "10.0.0.1:1", 5), add(u, "10.0.0.1:2", 1), add(u, "10.0.0.1:3", 1);
    picks(u, 14, got);

    assert(strcmp(got, "11213111121311") == 0); /* as nginx does it */
    mg_upstream_free(u);
}

static void fractions_are_weights_too(void)
{
    struct mg_upstream *u = upstream("fractions", (mg_upstream_spec){ 0 });
    char got[4001];

    add(u, "10.0.0.1:1", 0.5), add(u, "10.0.0.1:2", 1.25), add(u, "10.0.0.1:3", M_PI);
    picks(u, 4000, got);

    assert(abs((int)count_of(got, '1') - 409) < 8);
    assert(abs((int)count_of(got, '2') - 1022) < 8);
    mg_upstream_free(u);
}

static void very_different_weights_all_get_a_turn(void)
{
    struct mg_upstream *u = upstream("different", (mg_upstream_spec){ 0 });
    char got[9001];

    add(u, "10.0.0.1:1", 1e6), add(u, "10.0.0.1:2", 0.001);
    picks(u, 9000, got);

    assert(count_of(got, '2') >= 1 && count_of(got, '2') < 10);
    mg_upstream_free(u);
}

static void workers_share_one_round(void)
{
    struct mg_upstream *u = upstream("round", (mg_upstream_spec){ 0 });

    struct mg_peer *a = add(u, "10.0.0.1:1", 1), *b = add(u, "10.0.0.1:2", 1);
    assert(pick(u) == a);
    pid_t child = fork();
    if (child == 0)
        _exit(pick(u) == b ? 0 : 1);
    int status;
    assert(waitpid(child, &status, 0) == child && status == 0);
    assert(pick(u) == a);
    mg_upstream_free(u);
}

static void the_turns_of_a_drained_peer_are_shared_by_all(void)
{
    struct mg_upstream *u = upstream("drained", (mg_upstream_spec){ 0 });
    char got[31];

    struct mg_peer *a = add(u, "10.0.0.1:1", 1);
    add(u, "10.0.0.1:2", 1), add(u, "10.0.0.1:3", 1);
    mg_peer_drain(a, true);
    picks(u, 30, got);
    assert(count_of(got, '2') == 15 && count_of(got, '3') == 15);

    mg_peer_drain(a, false);
    picks(u, 30, got);
    assert(count_of(got, '1') == 10);
    mg_upstream_free(u);
}

static void a_tried_peer_is_not_picked_again(void)
{
    struct mg_upstream *u = upstream("tried", (mg_upstream_spec){ 0 });
    struct mg_peer *a = add(u, "10.0.0.1:1", 1), *b = add(u, "10.0.0.1:2", 1);
    struct mg_tried tried = { { a }, 1 };
    bool full;

    for (int i = 0; i < 5; i++)
        assert(mg_peer_pick(u, &tried, &full) == b);
    tried.peers[tried.count++] = b;
    assert(!mg_peer_pick(u, &tried, &full) && !full);
    assert(!mg_peer_may(a, &tried) && mg_peer_may(a, &none));
    mg_upstream_free(u);
}

static void when_none_is_healthy_all_count_as_healthy(void)
{
    struct mg_upstream *u = upstream("healthy", (mg_upstream_spec){ 0 });
    struct mg_peer *a = add(u, "10.0.0.1:1", 1), *b = add(u, "10.0.0.1:2", 1);

    assert(mg_peer_look(a)->healthy);
    mg_peer_set_healthy(a, false);
    assert(pick(u) == b && pick(u) == b && !mg_peer_may(a, &none));
    mg_peer_set_healthy(b, false);
    assert(pick(u) != pick(u) && mg_peer_may(a, &none) && mg_peer_may(b, &none));
    mg_peer_set_healthy(b, true);
    assert(pick(u) == b && pick(u) == b);
    mg_upstream_free(u);
}

static void a_full_peer_waits_for_an_end(void)
{
    struct mg_upstream *u = upstream("full", (mg_upstream_spec){ .max_connections = 1 });
    struct mg_peer *a = add(u, "10.0.0.1:1", 1);
    bool full = false;

    mg_peer_begin(a);
    assert(!mg_peer_pick(u, &none, &full) && full && !mg_peer_may(a, &none));
    mg_peer_end(a, false, 0.1);
    assert(mg_peer_pick(u, &none, &full) == a && !full);
    mg_upstream_free(u);
}

static void least_connections_go_by_weight(void)
{
    struct mg_upstream *u = upstream("least", (mg_upstream_spec){ .balance = MG_BALANCE_LEAST_CONN });
    struct mg_peer *a = add(u, "10.0.0.1:1", 1), *b = add(u, "10.0.0.1:2", 3);

    for (int i = 0; i < 40; i++)
        mg_peer_begin(pick(u));
    assert(mg_peer_active(a) == 10 && mg_peer_active(b) == 30);
    for (int i = 0; i < 10; i++)
        mg_peer_end(a, false, -1);
    assert(pick(u) == a);
    for (int i = 0; i < 30; i++)
        mg_peer_end(b, false, -1);
    mg_upstream_free(u);
}

static void equal_loads_take_turns(void)
{
    struct mg_upstream *u = upstream("ties", (mg_upstream_spec){ .balance = MG_BALANCE_LEAST_CONN });
    char got[31];

    add(u, "10.0.0.1:1", 1), add(u, "10.0.0.1:2", 1), add(u, "10.0.0.1:3", 1);
    picks(u, 30, got);

    assert(count_of(got, '1') == 10 && count_of(got, '2') == 10 && count_of(got, '3') == 10);
    mg_upstream_free(u);
}

static void tries_are_counted(void)
{
    struct mg_upstream *u = upstream("counted", (mg_upstream_spec){ 0 });
    struct mg_peer *p = add(u, "10.0.0.1:1", 1);
    mg_peer_view *view = mg_peer_look(p);

    for (int i = 0; i < 3; i++) {
        mg_peer_begin(p);
        mg_peer_end(p, true, -1);
    }
    assert(view->requests == 3 && view->failures == 3 && view->failed == 3 && view->latency == 0);
    mg_peer_begin(p);
    assert(mg_peer_active(p) == 1);
    mg_peer_end(p, false, 0.2);
    assert(mg_peer_active(p) == 0 && view->failures == 0 && view->failed == 3 && view->latency == 0.2);
    mg_peer_begin(p);
    mg_peer_end(p, false, 1.2);
    assert(fabs(view->latency - 0.3) < 1e-9);
    mg_upstream_free(u);
}

static void what_a_dead_worker_had_in_flight_is_taken_off(void)
{
    struct mg_upstream *u = upstream("dead", (mg_upstream_spec){ 0 });
    struct mg_peer *p = add(u, "10.0.0.1:1", 1);

    while (mg_shared_slot_take(getpid()) < 3)
        ;
    pid_t child = fork();
    if (child == 0) {
        mg_shared_worker(3, 3);
        mg_peer_begin(p);
        mg_peer_begin(p);
        _exit(0);
    }
    assert(waitpid(child, NULL, 0) == child);
    mg_peer_begin(p);
    assert(mg_peer_active(p) == 3);
    mg_peer_forget_slot(3);
    assert(mg_peer_active(p) == 1);
    mg_peer_end(p, false, -1);
    mg_upstream_free(u);
}

static void counters_outlive_a_generation(void)
{
    struct mg_upstream *u = upstream("outlive", (mg_upstream_spec){ 0 });
    struct mg_peer *p = add(u, "10.0.0.1:1", 1);
    mg_peer_begin(p);
    mg_peer_end(p, true, -1);
    mg_peer_drain(p, true);
    mg_upstream_free(u);

    u = upstream("outlive", (mg_upstream_spec){ 0 });
    p = add(u, "10.0.0.1:1", 1);
    assert(mg_peer_look(p)->failed == 1 && mg_peer_look(p)->draining && mg_peer_look(p)->healthy);
    mg_upstream_free(u);
}

static void the_same_address_may_stand_twice(void)
{
    struct mg_upstream *u = upstream("twice", (mg_upstream_spec){ 0 });
    struct mg_peer *a = add(u, "10.0.0.1:1", 1), *b = add(u, "10.0.0.1:1", 1);

    mg_peer_begin(a);
    assert(mg_peer_active(a) == 1 && mg_peer_active(b) == 0);
    mg_peer_end(a, false, -1);
    mg_peer_take_off(a);
    struct mg_peer *c = add(u, "10.0.0.1:1", 2);
    assert(c->view != b->view && c == a && !c->removed && c->weight == 2);
    mg_upstream_free(u);
}

static void peers_come_and_go(void)
{
    struct mg_upstream *u = upstream("come and go", (mg_upstream_spec){ 0 });
    struct mg_peer *a = add(u, "10.0.0.1:1", 1), *b = add(u, "10.0.0.1:2", 1);
    uint32_t version = mg_upstream_version(u);

    mg_peer_begin(a);
    mg_peer_take_off(a);
    mg_peer_take_off(a);
    assert(mg_upstream_version(u) != version && mg_upstream_count(u) == 1 && mg_upstream_peer(u, 0) == b);
    assert(mg_peer_index(b) == 0 && !mg_upstream_peer(u, 1) && !mg_upstream_peer(u, -1));
    assert(pick(u) == b && pick(u) == b && !mg_peer_may(a, &none));
    mg_peer_end(a, false, -1);

    const char *problem;
    mg_peer *c = mg_upstream_add_peer(u, MG_LIT("app.internal:80"), 1, MG_LIT(""), &problem);
    assert(c && mg_peer_index(c) == 1 && pick(u) != pick(u));
    assert(!mg_upstream_add_peer(u, MG_LIT("nonsense"), 1, MG_LIT(""), &problem));
    mg_peer_take_off(b), mg_peer_take_off(c);
    assert(!pick(u) && mg_upstream_count(u) == 0);
    mg_upstream_free(u);
}

static void health_seen_by_another_worker_changes_the_version(void)
{
    struct mg_upstream *u = upstream("version", (mg_upstream_spec){ 0 });
    struct mg_peer *p = add(u, "10.0.0.1:1", 1);
    uint32_t version = mg_upstream_version(u);

    pid_t child = fork();
    if (child == 0) {
        mg_peer_set_healthy(p, false);
        _exit(0);
    }
    assert(waitpid(child, NULL, 0) == child);
    assert(mg_upstream_version(u) != version);
    version = mg_upstream_version(u);
    mg_peer_set_healthy(p, false);
    assert(mg_upstream_version(u) == version);
    mg_upstream_free(u);
}

static void a_bad_peer_is_refused_in_words(void)
{
    /* clang-format off */
    static const char *const bad[] = { "", "10.0.0.1", "10.0.0.1:0", "10.0.0.1:70000", ":80", "*:80", "a b:80", "unix:",
                                       "x/y:80", "[::1", "http://a:80" };
    /* clang-format on */
    struct mg_upstream *u = upstream("bad", (mg_upstream_spec){ 0 });
    const char *problem;

    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        assert(!mg_upstream_add_peer(u, mg_slice_of(bad[i]), 1, MG_LIT(""), &problem));
        assert(strstr(problem, "10.0.0.1:8080"));
    }
    static const double weights[] = { 0, -1, NAN, INFINITY };
    for (size_t i = 0; i < 4; i++) {
        assert(!mg_upstream_add_peer(u, MG_LIT("10.0.0.1:80"), weights[i], MG_LIT(""), &problem));
        assert(strstr(problem, "weight"));
    }
    add(u, "unix:/run/x.sock", 1), add(u, "[::1]:80", 1);
    mg_upstream_free(u);
}

static void retries_are_bounded_by_the_budget(void)
{
    struct mg_upstream *u = upstream("budget", (mg_upstream_spec){ .retry_budget = 0.2 });
    unsigned retries = 0;

    while (mg_upstream_may_retry(u))
        retries++;
    assert(retries == 100);
    for (int i = 0; i < 50; i++)
        mg_upstream_request(u);
    for (retries = 0; mg_upstream_may_retry(u);)
        retries++;
    assert(retries == 9 || retries == 10);
    mg_upstream_free(u);
}

static void many_peers_are_no_trouble(void)
{
    struct mg_upstream *u = upstream("many", (mg_upstream_spec){ 0 });
    const char *problem;
    char address[32];

    for (int i = 0; i < MG_PEERS_MAX; i++) {
        snprintf(address, sizeof(address), "10.0.%d.%d:80", i / 256, i % 256);
        add(u, address, 1);
    }
    assert(!mg_upstream_add_peer(u, MG_LIT("10.1.0.0:80"), 1, MG_LIT(""), &problem) && strstr(problem, "4096"));
    for (int i = 0; i < 10000; i++)
        assert(pick(u)->index == i % MG_PEERS_MAX);
    mg_upstream_free(u);
}

static const struct {
    void (*test)(void);
    const char *sentence;
} promises[] = {
/* clang-format off */
#define PROMISE(name) { name, #name }
    /* clang-format on */
    PROMISE(weights_are_mixed_smoothly),
    PROMISE(fractions_are_weights_too),
    PROMISE(very_different_weights_all_get_a_turn),
    PROMISE(workers_share_one_round),
    PROMISE(the_turns_of_a_drained_peer_are_shared_by_all),
    PROMISE(a_tried_peer_is_not_picked_again),
    PROMISE(when_none_is_healthy_all_count_as_healthy),
    PROMISE(a_full_peer_waits_for_an_end),
    PROMISE(least_connections_go_by_weight),
    PROMISE(equal_loads_take_turns),
    PROMISE(tries_are_counted),
    PROMISE(what_a_dead_worker_had_in_flight_is_taken_off),
    PROMISE(counters_outlive_a_generation),
    PROMISE(the_same_address_may_stand_twice),
    PROMISE(peers_come_and_go),
    PROMISE(health_seen_by_another_worker_changes_the_version),
    PROMISE(a_bad_peer_is_refused_in_words),
    PROMISE(retries_are_bounded_by_the_budget),
    PROMISE(many_peers_are_no_trouble),
};

int main(void)
{
    mg_log_level = MG_LOG_NONE;
    mg_clock_start(ev_default_loop(0));
    assert(mg_shared_start((size_t)64 * 1024 * 1024));
    for (size_t i = 0; i < sizeof(promises) / sizeof(promises[0]); i++) {
        promises[i].test();
        printf("ok ");
        for (const char *c = promises[i].sentence; *c; c++)
            putchar(*c == '_' ? ' ' : *c);
        putchar('\n');
        fflush(stdout);
    }
    mg_clock_stop();
    return 0;
}
