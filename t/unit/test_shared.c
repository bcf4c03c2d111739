/* test_shared.c - core/proxy/shared and dict: places and dictionaries, also when a holder is killed. */
#undef NDEBUG
#include <assert.h>
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <sys/wait.h>

#include "log.h"
#include "shared.h"
#include "text.h"

static mg_dict *dict(const char *name, double size)
{
    mg_dict *d;

    assert(mg_dict_open(name, (uint32_t)strlen(name), size, &d) == MG_OK);
    return d;
}

static mg_value text(const char *s, uint32_t len)
{
    return (mg_value){ .type = MG_VALUE_TEXT, .text = { s, len } };
}

static mg_value number(double n)
{
    return (mg_value){ .type = MG_VALUE_NUMBER, .number = n };
}

static int put(mg_dict *d, const char *key, mg_value v, double ttl)
{
    return mg_dict_set(d, MG_DICT_SET, key, (uint32_t)strlen(key), &v, ttl);
}

static bool has_text(mg_dict *d, const char *key, const char *want)
{
    mg_value v;

    return mg_dict_get(d, key, (uint32_t)strlen(key), &v) == MG_OK && v.type == MG_VALUE_TEXT &&
           mg_text_equal(v.text, mg_slice_of(want));
}

static bool is_absent(mg_dict *d, const char *key)
{
    mg_value v;

    return mg_dict_get(d, key, (uint32_t)strlen(key), &v) == MG_ABSENT && v.type == MG_VALUE_NIL;
}

static void nap(double seconds)
{
    struct timespec t = { (time_t)seconds, (long)((seconds - floor(seconds)) * 1e9) };

    nanosleep(&t, NULL);
}

static void a_place_is_the_same_for_everybody_who_names_it(void)
{
    int *a = mg_shared_place(MG_LIT("one"), sizeof(int) * 4);
    int *b = mg_shared_place(MG_LIT("two"), sizeof(int));

    assert(a && b && a != b && *a == 0 && *b == 0);
    assert(mg_shared_place(MG_LIT("one"), sizeof(int) * 4) == a);
    pid_t child = fork();
    if (child == 0) {
        *(int *)mg_shared_place(MG_LIT("one"), sizeof(int) * 4) = 7;
        *(int *)mg_shared_place(MG_LIT("made by a child"), sizeof(int)) = 8;
        _exit(0);
    }
    assert(waitpid(child, NULL, 0) == child && *a == 7);
    assert(*(int *)mg_shared_place(MG_LIT("made by a child"), sizeof(int)) == 8);
}

static void a_place_of_another_size_is_refused(void)
{
    assert(mg_shared_place(MG_LIT("sized"), 100));
    assert(!mg_shared_place(MG_LIT("sized"), 101));
}

static void a_place_that_does_not_fit_is_refused(void)
{
    assert(!mg_shared_place(MG_LIT("huge"), (size_t)1 << 40));
    assert(!mg_shared_place(MG_LIT("huger"), SIZE_MAX));
    assert(mg_shared_place(MG_LIT("huge"), 10));
}

static void places_are_walked_by_prefix(void)
{
    void *a = mg_shared_place(MG_LIT("walk:a"), 1), *b = mg_shared_place(MG_LIT("walk:b"), 1);

    assert(mg_shared_nth(MG_LIT("walk:"), 0) == a);
    assert(mg_shared_nth(MG_LIT("walk:"), 1) == b);
    assert(!mg_shared_nth(MG_LIT("walk:"), 2));
}

static void a_value_comes_back_with_its_type(void)
{
    mg_dict *d = dict("types", 64 * 1024);
    mg_value v;

    assert(put(d, "text", text("value", 5), 0) == MG_OK && has_text(d, "text", "value"));
    assert(put(d, "number", number(2.5), 0) == MG_OK);
    assert(mg_dict_get(d, "number", 6, &v) == MG_OK && v.type == MG_VALUE_NUMBER && v.number == 2.5);
    mg_value yes = { .type = MG_VALUE_BOOLEAN, .number = 1 };
    assert(put(d, "boolean", yes, 0) == MG_OK);
    assert(mg_dict_get(d, "boolean", 7, &v) == MG_OK && v.type == MG_VALUE_BOOLEAN && v.number == 1);
    assert(put(d, "text", text("", 0), 0) == MG_OK && has_text(d, "text", ""));
    assert(is_absent(d, "none"));
    assert(mg_dict_delete(d, "text", 4) == MG_OK && mg_dict_delete(d, "text", 4) == MG_ABSENT);
}

static void add_and_replace_look_at_what_stands(void)
{
    mg_dict *d = dict("how", 64 * 1024);
    mg_value v = text("1", 1);

    assert(mg_dict_set(d, MG_DICT_REPLACE, "k", 1, &v, 0) == MG_ABSENT);
    assert(mg_dict_set(d, MG_DICT_ADD, "k", 1, &v, 0) == MG_OK);
    assert(mg_dict_set(d, MG_DICT_ADD, "k", 1, &v, 0) == MG_BUSY);
    v = text("22222222222222222222222222222222222222222222222222222222222222222222222222222222222222222", 80);
    assert(mg_dict_set(d, MG_DICT_REPLACE, "k", 1, &v, 0) == MG_OK);
}

static void a_number_is_counted_up_in_place(void)
{
    mg_dict *d = dict("count", 64 * 1024);
    double n = 0;

    assert(mg_dict_incr(d, "n", 1, 1, NAN, 0, &n) == MG_ABSENT);
    assert(mg_dict_incr(d, "n", 1, 1, 10, 0, &n) == MG_OK && n == 11);
    assert(mg_dict_incr(d, "n", 1, 2.5, 10, 0, &n) == MG_OK && n == 13.5);
    assert(put(d, "n", text("x", 1), 0) == MG_OK && mg_dict_incr(d, "n", 1, 1, 0, 0, &n) == MG_MALFORMED);
}

static void a_value_ends_with_its_ttl(void)
{
    mg_dict *d = dict("ttl", 64 * 1024);
    double n;

    assert(put(d, "short", text("v", 1), 0.05) == MG_OK && put(d, "ever", text("v", 1), 0) == MG_OK);
    assert(mg_dict_incr(d, "n", 1, 1, 0, 0.05, &n) == MG_OK);
    assert(has_text(d, "short", "v"));
    assert(mg_dict_ttl(d, "short", 5) > 0 && mg_dict_ttl(d, "short", 5) <= 0.05);
    assert(mg_dict_ttl(d, "ever", 4) == 0 && mg_dict_ttl(d, "none", 4) == MG_ABSENT);
    nap(0.06);
    assert(is_absent(d, "short") && is_absent(d, "n") && has_text(d, "ever", "v"));
    assert(mg_dict_ttl(d, "short", 5) == MG_ABSENT);
}

static void the_least_recently_used_make_room(void)
{
    mg_dict *d = dict("lru", 16 * 1024);
    char key[16], value[1000];

    memset(value, 'x', sizeof(value));
    put(d, "used", text("kept", 4), 0);
    put(d, "unused", text("dropped", 7), 0);
    for (int i = 0; i < 100; i++) {
        snprintf(key, sizeof(key), "key%d", i);
        assert(put(d, key, text(value, sizeof(value)), 0) == MG_OK);
        assert(has_text(d, "used", "kept"));
    }
    assert(is_absent(d, "unused") && is_absent(d, "key0"));
}

static void what_has_expired_makes_room_before_what_is_used(void)
{
    mg_dict *d = dict("expired", 16 * 1024);
    char value[4000];

    memset(value, 'x', sizeof(value));
    put(d, "old", text("kept", 4), 0);
    put(d, "a", text(value, sizeof(value)), 0.01);
    put(d, "b", text(value, sizeof(value)), 0.01);
    nap(0.02);
    put(d, "c", text(value, sizeof(value)), 0);
    put(d, "d", text(value, sizeof(value)), 0);

    assert(has_text(d, "old", "kept"));
}

static void a_value_larger_than_the_dictionary_is_refused(void)
{
    mg_dict *d = dict("small", 8 * 1024);
    static char value[9000];

    put(d, "k", text("v", 1), 0);
    assert(put(d, "big", text(value, sizeof(value)), 0) == MG_FULL && has_text(d, "k", "v"));
    assert(put(d, "big", text(value, 5000), 0) == MG_OK);
}

static void a_dictionary_of_another_size_is_refused(void)
{
    mg_dict *d;

    dict("twice", 20000);
    assert(mg_dict_open("twice", 5, 20000, &d) == MG_OK);
    assert(mg_dict_open("twice", 5, 30000, &d) == MG_MALFORMED && !d);
    assert(mg_dict_open("infinite", 8, INFINITY, &d) == MG_FULL);
    assert(mg_dict_open("nan", 3, NAN, &d) == MG_FULL);
}

static void all_keys_are_walked(void)
{
    mg_dict *d = dict("walk", 1024 * 1024);
    char key[16];
    bool seen[1000] = { false };
    uint32_t at = 0;
    mg_slice k;

    for (int i = 0; i < 1000; i++) {
        snprintf(key, sizeof(key), "%d", i);
        put(d, key, number(i), 0);
    }
    int count = 0;
    for (; mg_dict_next(d, &at, &k) == MG_OK; count++) {
        uint64_t n;
        assert(mg_text_number(k, &n) && n < 1000 && !seen[n]);
        seen[n] = true;
    }
    assert(count == 1000);
    assert(mg_dict_flush(d) == MG_OK && is_absent(d, "5"));
    at = 0;
    assert(mg_dict_next(d, &at, &k) == MG_ABSENT);
}

/* Every value says its own key and length, so that any mixture shows. */
static void random_change(mg_dict *d, unsigned *seed, size_t most)
{
    static char value[300000];
    char key[16];
    unsigned n = (unsigned)rand_r(seed) % 200;
    int key_len = snprintf(key, sizeof(key), "k%u", n);

    if (rand_r(seed) % 4 == 0) {
        mg_dict_delete(d, key, (uint32_t)key_len);
        return;
    }
    size_t len = (size_t)rand_r(seed) % most;
    memset(value, 'a' + (int)(n % 26), len);
    mg_value v = text(value, (uint32_t)len);
    assert(mg_dict_set(d, MG_DICT_SET, key, (uint32_t)key_len, &v, rand_r(seed) % 8 ? 0 : 0.001) == MG_OK);
}

static void check_all(mg_dict *d)
{
    for (unsigned n = 0; n < 200; n++) {
        char key[16];
        mg_value v;
        int key_len = snprintf(key, sizeof(key), "k%u", n);
        if (mg_dict_get(d, key, (uint32_t)key_len, &v) != MG_OK)
            continue;
        for (uint32_t i = 0; i < v.text.len; i++)
            assert(v.text.ptr[i] == (char)('a' + n % 26));
    }
}

static void random_changes_leave_every_value_whole(void)
{
    mg_dict *d = dict("random", 200 * 1000);
    unsigned seed = 1;

    for (int i = 0; i < 20000; i++) {
        random_change(d, &seed, i % 16 ? 300 : 40000);
        if (i % 1000 == 0)
            check_all(d);
    }
    /* After it is empty again all of it is one piece. */
    mg_dict_flush(d);
    static char big[150000];
    assert(put(d, "big", text(big, sizeof(big)), 0) == MG_OK);
}

static void a_killed_holder_leaves_a_dictionary_that_works(void)
{
    mg_dict *d = dict("killed", 4 * 1024 * 1024);
    unsigned seed = 2;

    for (int round = 0; round < 60; round++) {
        pid_t child = fork();
        if (child == 0) {
            unsigned own = (unsigned)round;
            for (;;)
                random_change(d, &own, 300000);
        }
        nap(0.002 + (rand_r(&seed) % 1000) * 1e-6);
        kill(child, SIGKILL);
        for (int i = 0; i < 20; i++)
            random_change(d, &seed, 3000);
        assert(waitpid(child, NULL, 0) == child);
        check_all(d);
        assert(put(d, "after", text("works", 5), 0) == MG_OK && has_text(d, "after", "works"));
        double n;
        assert(mg_dict_incr(d, "n", 1, 1, 0, 0, &n) == MG_OK);
    }
}

static void workers_count_together_without_losing_any(void)
{
    mg_dict *d = dict("together", 64 * 1024);
    pid_t children[3];
    double n;

    for (int c = 0; c < 3; c++) {
        children[c] = fork();
        if (children[c] == 0) {
            for (int i = 0; i < 20000; i++)
                mg_dict_incr(d, "n", 1, 1, 0, 0, &n);
            _exit(0);
        }
    }
    for (int c = 0; c < 3; c++)
        waitpid(children[c], NULL, 0);
    assert(mg_dict_incr(d, "n", 1, 0, 0, 0, &n) == MG_OK && n == 60000);
}

static const struct {
    void (*test)(void);
    const char *sentence;
} promises[] = {
/* clang-format off */
#define PROMISE(name) { name, #name }
    /* clang-format on */
    PROMISE(a_place_is_the_same_for_everybody_who_names_it),
    PROMISE(a_place_of_another_size_is_refused),
    PROMISE(a_place_that_does_not_fit_is_refused),
    PROMISE(places_are_walked_by_prefix),
    PROMISE(a_value_comes_back_with_its_type),
    PROMISE(add_and_replace_look_at_what_stands),
    PROMISE(a_number_is_counted_up_in_place),
    PROMISE(a_value_ends_with_its_ttl),
    PROMISE(the_least_recently_used_make_room),
    PROMISE(what_has_expired_makes_room_before_what_is_used),
    PROMISE(a_value_larger_than_the_dictionary_is_refused),
    PROMISE(a_dictionary_of_another_size_is_refused),
    PROMISE(all_keys_are_walked),
    PROMISE(random_changes_leave_every_value_whole),
    PROMISE(a_killed_holder_leaves_a_dictionary_that_works),
    PROMISE(workers_count_together_without_losing_any),
};

int main(void)
{
    mg_log_level = MG_LOG_NONE;
    assert(!mg_shared_place(MG_LIT("too early"), 1));
    assert(mg_shared_start((size_t)64 * 1024 * 1024));
    for (size_t i = 0; i < sizeof(promises) / sizeof(promises[0]); i++) {
        promises[i].test();
        printf("ok ");
        for (const char *c = promises[i].sentence; *c; c++)
            putchar(*c == '_' ? ' ' : *c);
        putchar('\n');
        fflush(stdout);
    }
    return 0;
}
