/* test_base.c - core/base: text, agenda, arena, block, clock, log. */
#undef NDEBUG
#include <assert.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <ev.h>

#include "agenda.h"
#include "arena.h"
#include "block.h"
#include "clock.h"
#include "log.h"
#include "text.h"

static mg_slice of(const char *s)
{
    return mg_slice_of(s);
}

static bool prints(const char *buffer, size_t n, const char *expected)
{
    return n == strlen(expected) && memcmp(buffer, expected, n) == 0;
}

/* ---- text ---- */

static void words_are_the_same_but_for_ascii_case(void)
{
    assert(mg_text_same(of("Content-Length"), of("cONTENT-lENGTH")));
    assert(mg_text_same(of("Host"), of("hOST")));
    assert(mg_text_same(of(""), of("")));
    assert(!mg_text_same(of("Host"), of("Hose")));
    assert(!mg_text_same(of("Transfer-Encoding"), of("Transfer-Encodinh")));
    assert(!mg_text_same(of("Host"), of("Hosts")));
    /* Every pair of bytes, in the short way and in the long one. */
    for (int a = 0; a < 256; a++) {
        for (int b = 0; b < 256; b++) {
            char x[9] = "12345678", y[9] = "12345678";
            x[3] = x[8] = (char)a;
            y[3] = y[8] = (char)b;
            bool same = mg_text_lower((char)a) == mg_text_lower((char)b);
            for (uint32_t len = 4; len <= 9; len++)
                assert(mg_text_same((mg_slice){ x, len }, (mg_slice){ y, len }) == same);
        }
    }
}

static void tokens_are_exactly_the_tchars_of_rfc_9110(void)
{
    assert(!mg_text_is_token(of("")));
    for (int c = 0; c < 256; c++) {
        char one = (char)c;
        bool tchar = c < 0x80 && c > 0x20 && c != 0x7f && !strchr("\"(),/:;<=>?@[\\]{}", c);
        assert(mg_text_is_token((mg_slice){ &one, 1 }) == tchar);
    }
    assert(!mg_text_is_token(of("Content Length")));
}

static void field_values_have_no_control_byte_but_the_tab(void)
{
    for (uint32_t len = 0; len <= 40; len++) {
        char value[40];
        memset(value, 'a', sizeof(value));
        assert(mg_text_is_field_value((mg_slice){ value, len }));
        for (uint32_t at = 0; at < len; at++) {
            for (int c = 0; c < 256; c++) {
                value[at] = (char)c;
                bool good = c == '\t' || (c >= 0x20 && c != 0x7f);
                assert(mg_text_is_field_value((mg_slice){ value, len }) == good);
            }
            value[at] = 'a';
        }
    }
}

static void numbers_are_digits_that_fit(void)
{
    uint64_t n = 1;
    assert(mg_text_number(of("0"), &n) && n == 0);
    assert(mg_text_number(of("000000000000000000000000042"), &n) && n == 42);
    assert(mg_text_number(of("18446744073709551615"), &n) && n == UINT64_MAX);
    const char *bad[] = { "", "18446744073709551616", "99999999999999999999", "+1", "-1", " 1", "1 ", "0x1", "1.0" };
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
        assert(!mg_text_number(of(bad[i]), &n));
}

static void sizes_take_one_letter(void)
{
    uint64_t n;
    assert(mg_text_size(of("123"), &n) && n == 123);
    assert(mg_text_size(of("64K"), &n) && n == 65536);
    assert(mg_text_size(of("1m"), &n) && n == 1 << 20);
    assert(mg_text_size(of("2G"), &n) && n == UINT64_C(2) << 30);
    assert(!mg_text_size(of(""), &n) && !mg_text_size(of("K"), &n) && !mg_text_size(of("1KB"), &n));
    assert(!mg_text_size(of("1T"), &n) && !mg_text_size(of("18446744073709551615G"), &n));
}

static void hex_digits_have_values(void)
{
    for (int c = 0; c < 256; c++) {
        const char *all = "0123456789abcdef0123456789ABCDEF";
        const char *at = c ? strchr(all, c) : NULL;
        assert(mg_text_hex((char)c) == (at ? (int)((at - all) % 16) : -1));
    }
}

static void numbers_are_written_in_decimal(void)
{
    char to[24], expected[24];
    uint64_t some[] = { 0, 9, 10, 99, 100, 65535, 4294967296, UINT64_MAX };
    for (size_t i = 0; i < sizeof(some) / sizeof(some[0]); i++) {
        snprintf(expected, sizeof(expected), "%llu", (unsigned long long)some[i]);
        assert(prints(to, mg_text_put_number(to, some[i]), expected));
    }
}

static void json_strings_are_escaped_and_valid_utf8(void)
{
    char to[256];
    assert(prints(to, mg_text_put_json(to, of("a\"b\\c\n\x7f")), "a\\\"b\\\\c\\u000a\\u007f"));
    assert(prints(to, mg_text_put_json(to, of("gr\xc3\xbc\xc3\x9f \xe2\x82\xac \xf0\x9f\x8c\x99")),
                  "gr\xc3\xbc\xc3\x9f \xe2\x82\xac \xf0\x9f\x8c\x99"));
    /* A lone byte, an overlong form, a surrogate, beyond U+10FFFF, a cut end. */
    assert(prints(to, mg_text_put_json(to, of("\xff")), "\\u00ff"));
    assert(prints(to, mg_text_put_json(to, of("\xc0\xaf")), "\\u00c0\\u00af"));
    assert(prints(to, mg_text_put_json(to, of("\xed\xa0\x80")), "\\u00ed\\u00a0\\u0080"));
    assert(prints(to, mg_text_put_json(to, of("\xf4\x90\x80\x80")), "\\u00f4\\u0090\\u0080\\u0080"));
    assert(prints(to, mg_text_put_json(to, of("\xe2\x82")), "\\u00e2\\u0082"));
}

static void log_fields_are_escaped_to_printable_ascii(void)
{
    char to[64];
    assert(prints(to, mg_text_put_escaped(to, of("a b\"\\\r\n\xe9")), "a b\\x22\\x5c\\x0d\\x0a\\xe9"));
}

static void lists_are_taken_apart_at_commas_outside_quotes(void)
{
    mg_slice rest = of(" ,a ,\tb;q=\"x,\\\"y\" , ,, c"), item;
    assert(mg_text_next_item(&rest, &item) && mg_text_equal(item, of("a")));
    assert(mg_text_next_item(&rest, &item) && mg_text_equal(item, of("b;q=\"x,\\\"y\"")));
    assert(mg_text_next_item(&rest, &item) && mg_text_equal(item, of("c")));
    assert(!mg_text_next_item(&rest, &item));
    assert(mg_text_list_has(of("keep-alive, Upgrade"), of("upgrade")));
    assert(!mg_text_list_has(of("keep-alive, Upgraded"), of("upgrade")));
    assert(!mg_text_list_has(of(""), of("upgrade")));
    assert(mg_text_trim(of(" \t ")).len == 0);
}

/* ---- arena ---- */

static void an_arena_gives_aligned_memory_that_does_not_overlap(void)
{
    struct mg_arena *a = mg_arena_new();
    unsigned char *taken[400];
    for (size_t i = 0; i < 400; i++) {
        size_t n = 1 + i * 7 % 300;
        taken[i] = mg_arena_take(a, n);
        assert(taken[i] && (uintptr_t)taken[i] % 16 == 0);
        memset(taken[i], (int)(i & 0xff), n);
    }
    for (size_t i = 0; i < 400; i++)
        for (size_t k = 0; k < 1 + i * 7 % 300; k++)
            assert(taken[i][k] == (i & 0xff));
    assert(!mg_arena_failed(a) && mg_arena_live() > 1);
    mg_arena_free(a);
    assert(mg_arena_live() == 0);
}

static void what_is_larger_than_a_chunk_has_its_own(void)
{
    struct mg_arena *a = mg_arena_new();
    char *before = mg_arena_take(a, 16);
    char *large = mg_arena_zeroed(a, 100000);
    char *after = mg_arena_take(a, 16);
    assert(large && large[0] == 0 && large[99999] == 0);
    assert(after == before + 16); /* the small chunk goes on being used */
    assert(mg_arena_live() == 2);
    mg_arena_free(a);
    assert(mg_arena_live() == 0);
}

static void running_out_of_an_arena_is_sticky(void)
{
    struct mg_arena *a = mg_arena_new();
    assert(!mg_arena_take(a, SIZE_MAX - 8) && !mg_arena_take(a, SIZE_MAX) && mg_arena_failed(a));
    assert(!mg_arena_take(a, 1) && !mg_arena_zeroed(a, 1) && !mg_arena_copy(a, of("x")).ptr);
    mg_arena_free(a);
    mg_arena_free(NULL);
    mg_arena_trim();
}

/* ---- blocks and chains ---- */

static bool chain_is(const struct mg_chain *c, const char *expected)
{
    char bytes[1024];
    assert(c->bytes < sizeof(bytes));
    mg_chain_read(c, bytes);
    return prints(bytes, c->bytes, expected);
}

static int span_count(const struct mg_chain *c)
{
    struct iovec v[64];
    return mg_chain_iovec(c, v, 64);
}

static void spare_blocks_that_nobody_needs_are_freed_at_the_second_look(void)
{
    struct mg_block *a = mg_block_take(MG_BLOCK_LARGE), *b = mg_block_take(MG_BLOCK_LARGE);

    mg_block_give(a);
    mg_block_give(b);
    mg_block_relax();
    assert(mg_block_spare() == 2);
    mg_block_give(mg_block_take(MG_BLOCK_LARGE));
    mg_block_relax();
    assert(mg_block_spare() == 1);
    mg_block_relax();
    assert(mg_block_spare() == 0);
}

static void blocks_come_back_last_in_first_out(void)
{
    struct mg_block *a = mg_block_take(1), *b = mg_block_take(MG_BLOCK_LARGE), *c = mg_block_take(MG_BLOCK_SMALL + 1);
    assert(a->size == MG_BLOCK_SMALL && b->size == MG_BLOCK_LARGE && c->size == MG_BLOCK_SMALL + 1);
    assert(mg_block_live() == 3);
    a->used = 7;
    mg_block_hold(a);
    mg_block_give(a);
    assert(mg_block_live() == 3);
    mg_block_give(a);
    mg_block_give(b);
    mg_block_give(c);
    assert(mg_block_live() == 0);
    struct mg_block *again = mg_block_take(100);
    assert(again == a && again->used == 0 && again->refs == 1);
    mg_block_give(again);
    assert(!mg_block_take(SIZE_MAX));
    mg_block_trim();
}

static void bytes_that_go_on_share_one_span(void)
{
    struct mg_block *b = mg_block_take(64);
    memcpy(b->data, "0123456789", 10);
    struct mg_chain c = { 0 };
    mg_chain_add(&c, b, b->data, 4);
    mg_chain_add(&c, b, b->data + 4, 2);
    mg_chain_add(&c, b, b->data + 6, 0);
    assert(span_count(&c) == 1 && chain_is(&c, "012345") && b->refs == 2);
    mg_chain_add(&c, b, b->data + 8, 2);
    assert(span_count(&c) == 2 && chain_is(&c, "01234589") && b->refs == 3);
    mg_block_give(b);
    assert(mg_block_live() == 1);
    mg_chain_clear(&c);
    assert(mg_block_live() == 0 && mg_chain_empty(&c));
}

static void splitting_and_dropping_keep_every_byte_once(void)
{
    for (size_t cut = 0; cut <= 10; cut++) {
        struct mg_block *b = mg_block_take(64);
        memcpy(b->data, "abc..defghi", 11);
        struct mg_chain from = { 0 }, to = { 0 };
        mg_chain_add(&from, b, b->data, 3);
        mg_chain_add(&from, b, b->data + 5, 6);
        mg_chain_copy(&from, "j", 1);
        mg_block_give(b);

        char left[16], right[16];
        snprintf(left, sizeof(left), "%.*s", (int)cut, "abcdefghij");
        snprintf(right, sizeof(right), "%s", &"abcdefghij"[cut]);
        mg_chain_split(&to, &from, cut);
        assert(chain_is(&to, left) && chain_is(&from, right));
        while (from.bytes > 0)
            mg_chain_split(&to, &from, 1);
        assert(chain_is(&to, "abcdefghij") && span_count(&to) == 3 && !from.first && !from.last);

        mg_chain_drop(&to, cut);
        assert(chain_is(&to, right));
        mg_chain_move(&from, &to);
        assert(chain_is(&from, right) && !to.first && !to.last && to.bytes == 0);
        mg_chain_clear(&from);
        assert(mg_block_live() == 0);
    }
}

static void copies_use_the_room_of_a_block_nobody_else_holds(void)
{
    struct mg_chain c = { 0 };
    mg_chain_copy(&c, "one ", 4);
    mg_chain_copy(&c, "two", 3);
    assert(span_count(&c) == 1 && mg_block_live() == 1 && chain_is(&c, "one two"));
    struct mg_block *b = c.last->block;
    mg_block_hold(b);
    mg_chain_copy(&c, "!", 1);
    assert(span_count(&c) == 2 && mg_block_live() == 2 && chain_is(&c, "one two!"));
    mg_block_give(b);
    mg_chain_clear(&c);
    assert(mg_block_live() == 0);
}

static void a_large_copy_is_whole(void)
{
    enum { SIZE = 2 * MG_BLOCK_LARGE + 12345 };
    char *bytes = malloc(SIZE), *read = malloc(SIZE);
    for (size_t i = 0; i < SIZE; i++)
        bytes[i] = (char)(i * 31 >> 3);
    struct mg_chain c = { 0 };
    mg_chain_copy(&c, "", 0);
    mg_chain_copy(&c, bytes, 100);
    mg_chain_copy(&c, bytes + 100, SIZE - 100);
    assert(c.bytes == SIZE && !c.failed);
    mg_chain_read(&c, read);
    assert(memcmp(bytes, read, SIZE) == 0);
    mg_chain_clear(&c);
    free(bytes);
    free(read);
    mg_block_trim();
    assert(mg_block_live() == 0);
}

static void failure_is_sticky_and_moves_along(void)
{
    struct mg_chain a = { 0 }, b = { 0 };
    mg_chain_copy(&a, "abc", 3);
    mg_chain_copy(&b, "def", 3);
    b.failed = true;
    mg_chain_copy(&b, "ghi", 3);
    assert(b.bytes == 3);
    mg_chain_move(&a, &b);
    assert(a.failed && mg_chain_empty(&b) && chain_is(&a, "abc"));
    mg_chain_clear(&a);
    assert(!a.failed && mg_block_live() == 0);
}

static void little_is_joined_by_a_copy_and_much_by_its_spans(void)
{
    struct mg_chain a = { 0 }, b = { 0 };
    mg_chain_copy(&a, "head ", 5);
    mg_chain_copy(&b, "body", 4);
    mg_chain_join(&a, &b);
    assert(mg_chain_empty(&b) && span_count(&a) == 1 && chain_is(&a, "head body"));
    assert(mg_block_live() == 1);

    struct mg_chain holder = { 0 };
    mg_chain_add(&holder, a.first->block, a.first->ptr, 4);
    mg_chain_copy(&b, "!", 1);
    mg_chain_join(&a, &b); /* somebody else reads that block */
    assert(span_count(&a) == 2 && chain_is(&a, "head body!") && chain_is(&holder, "head"));
    mg_chain_clear(&holder);
    mg_chain_clear(&a);

    char much[600];
    memset(much, 'x', sizeof(much));
    mg_chain_copy(&a, "head ", 5);
    mg_chain_copy(&b, much, sizeof(much));
    mg_chain_join(&a, &b);
    assert(mg_chain_empty(&b) && span_count(&a) == 2 && a.bytes == 605);
    mg_chain_clear(&a);
    assert(mg_block_live() == 0);
    mg_block_trim();
}

/* ---- agenda ---- */

enum { DUES = 1000 };

static void what_is_due_comes_in_its_order_and_what_was_removed_never(void)
{
    static struct mg_due dues[DUES];
    static double at[DUES];
    struct mg_agenda a = { 0 };
    uint32_t random = 1;
    int left = 0;

    for (int i = 0; i < DUES; i++) {
        random = random * 1664525u + 1013904223u;
        at[i] = random >> 24; /* few enough that some are due at once */
        assert(mg_agenda_add(&a, &dues[i], at[i]));
    }
    for (int i = 0; i < DUES; i += 3)
        mg_agenda_remove(&a, &dues[i]);
    mg_agenda_remove(&a, &dues[0]); /* a second time is nothing */

    double last = -1;
    ptrdiff_t before = -1;
    for (struct mg_due *d; mg_agenda_next(&a) < INFINITY; left++) {
        double now = mg_agenda_next(&a);
        d = mg_agenda_take(&a);
        assert(now == at[d - dues] && (d - dues) % 3 != 0 && d->place == 0);
        assert(now > last || (now == last && d - dues > before)); /* at the same time: as they were added */
        last = now;
        before = d - dues;
    }
    assert(left == DUES - (DUES + 2) / 3 && mg_agenda_take(&a) == NULL);
    mg_agenda_free(&a);
}

/* ---- clock ---- */

static char fired[64];
static struct mg_timeout timeouts[4];
static struct mg_clock_queue *again_queue;

static void fire(struct mg_timeout *t)
{
    assert(!t->queue);
    size_t n = strlen(fired);
    fired[n] = (char)('a' + (t - timeouts));
    fired[n + 1] = 0;
}

static void fire_and_set_again(struct mg_timeout *t)
{
    fire(t);
    if (strlen(fired) < 3)
        mg_timeout_set(t, again_queue);
}

static void fire_and_clear_the_next(struct mg_timeout *t)
{
    fire(t);
    mg_timeout_clear(&timeouts[1]);
}

static void stop_loop(void *loop)
{
    ev_break(loop, EVBREAK_ALL);
}

static void begin(struct ev_loop *loop)
{
    fired[0] = 0;
    memset(timeouts, 0, sizeof(timeouts));
    for (int i = 0; i < 4; i++)
        timeouts[i].fire = fire;
    mg_clock_start(loop);
}

static void timeouts_fire_in_the_order_of_their_deadlines(void)
{
    struct ev_loop *loop = ev_loop_new(0);
    begin(loop);
    mg_timeout_set(&timeouts[0], mg_clock_queue(0.03));
    mg_timeout_set(&timeouts[1], mg_clock_queue(0.01));
    mg_timeout_set(&timeouts[2], mg_clock_queue(0.02));
    mg_timeout_set(&timeouts[3], mg_clock_queue(0.01));
    double start = mg_clock_now();
    ev_run(loop, 0); /* ends because nothing keeps it awake */
    assert(strcmp(fired, "bdca") == 0);
    assert(mg_clock_now() - start >= 0.03 && mg_clock_now() - start < 5);
    assert(mg_clock_queue(0.01) == mg_clock_queue(0.01) && !mg_clock_queue(0) && !mg_clock_queue(-1));
    mg_clock_stop();
    ev_loop_destroy(loop);
}

static void a_moved_timeout_fires_once_and_a_cleared_one_never(void)
{
    struct ev_loop *loop = ev_loop_new(0);
    begin(loop);
    mg_timeout_set(&timeouts[0], mg_clock_queue(0.01));
    mg_timeout_set(&timeouts[1], mg_clock_queue(0.01));
    mg_timeout_set(&timeouts[2], mg_clock_queue(0.01));
    mg_timeout_set(&timeouts[3], mg_clock_queue(0.01));
    mg_timeout_set(&timeouts[0], mg_clock_queue(0.01)); /* to the end of its queue */
    mg_timeout_set(&timeouts[1], mg_clock_queue(0.02));
    mg_timeout_clear(&timeouts[2]);
    mg_timeout_set(&timeouts[3], NULL);
    mg_timeout_clear(&timeouts[3]);
    ev_run(loop, 0);
    assert(strcmp(fired, "ab") == 0);
    mg_clock_stop();
    ev_loop_destroy(loop);
}

static void a_timeout_may_set_itself_and_clear_another(void)
{
    struct ev_loop *loop = ev_loop_new(0);
    begin(loop);
    again_queue = mg_clock_queue(0.005);
    timeouts[2].fire = fire_and_set_again;
    mg_timeout_set(&timeouts[2], again_queue);
    ev_run(loop, 0);
    assert(strcmp(fired, "ccc") == 0);

    fired[0] = 0;
    timeouts[0].fire = fire_and_clear_the_next;
    mg_timeout_set(&timeouts[0], again_queue);
    mg_timeout_set(&timeouts[1], again_queue);
    ev_run(loop, 0);
    assert(strcmp(fired, "a") == 0);
    mg_clock_stop();
    ev_loop_destroy(loop);
}

static void stopping_the_clock_clears_what_is_set(void)
{
    struct ev_loop *loop = ev_loop_new(0);
    begin(loop);
    mg_timeout_set(&timeouts[0], mg_clock_queue(60));
    mg_clock_stop();
    assert(!timeouts[0].queue && fired[0] == 0);
    ev_loop_destroy(loop);
}

static void an_alarm_fires_once_and_not_too_early(void)
{
    struct ev_loop *loop = ev_loop_new(0);
    begin(loop);
    usleep(20000); /* a long turn must not count as waiting */
    struct timespec before, after;
    clock_gettime(CLOCK_MONOTONIC, &before);
    mg_alarm_new(0.02, stop_loop, loop);
    mg_alarm_free(mg_alarm_new(0.001, stop_loop, loop));
    ev_run(loop, 0);
    clock_gettime(CLOCK_MONOTONIC, &after);
    double waited = (double)(after.tv_sec - before.tv_sec) + (double)(after.tv_nsec - before.tv_nsec) * 1e-9;
    assert(waited >= 0.0199);
    mg_clock_stop();
    ev_loop_destroy(loop);
}

static void note_alarm(void *name)
{
    size_t n = strlen(fired);
    fired[n] = *(const char *)name;
    fired[n + 1] = 0;
}

static void set_another(void *name)
{
    note_alarm(name);
    if (strlen(fired) < 10)
        mg_alarm_new(0, set_another, name);
}

static void in_simulated_time_all_fires_when_the_time_is_set_and_not_before(void)
{
    fired[0] = 0;
    memset(timeouts, 0, sizeof(timeouts));
    for (int i = 0; i < 4; i++)
        timeouts[i].fire = fire;
    mg_clock_simulate(1000, 86400, NULL);
    mg_timeout_set(&timeouts[0], mg_clock_queue(3600));
    mg_timeout_set(&timeouts[1], mg_clock_queue(60));
    mg_alarm_new(120, note_alarm, "x");
    mg_alarm_free(mg_alarm_new(1, note_alarm, "y"));
    assert(mg_clock_now() == 1000 && mg_clock_read() == 1000 && mg_clock_wall() == 86400);
    mg_clock_set(1000);
    assert(mg_clock_due() == 1060 && fired[0] == 0);

    mg_clock_set(1060);
    assert(strcmp(fired, "b") == 0 && mg_clock_due() == 1120 && mg_clock_wall() == 86460);
    mg_clock_set(1120);
    mg_clock_set(4600);
    assert(strcmp(fired, "bxa") == 0 && mg_clock_due() == INFINITY);
    mg_alarm_new(0, set_another, "z"); /* one that always sets another of no time does not hold the clock */
    mg_clock_set(4600);
    assert(strcmp(fired, "bxaz") == 0 && mg_clock_due() == 4600);
    while (mg_clock_due() < INFINITY)
        mg_clock_set(mg_clock_due());
    assert(strcmp(fired, "bxazzzzzzz") == 0);
    mg_clock_stop();
}

static void note_turn(unsigned whom)
{
    size_t n = strlen(fired);
    fired[n] = (char)('0' + whom);
    fired[n + 1] = 0;
}

static void what_fires_in_simulated_time_is_the_turn_of_who_has_set_it(void)
{
    memset(timeouts, 0, sizeof(timeouts));
    for (int i = 0; i < 4; i++)
        timeouts[i].fire = fire;
    mg_clock_simulate(1000, 86400, note_turn);
    for (unsigned whom = 1; whom <= 2; whom++) {
        mg_clock_enter(whom);
        mg_timeout_set(&timeouts[whom], mg_clock_queue(60));
        mg_alarm_new(61, note_alarm, "x");
    }
    fired[0] = 0;
    mg_clock_set(1060);
    mg_clock_set(1061);
    assert(strcmp(fired, "2c1b1x2x") == 0 || strcmp(fired, "1b2c1x2x") == 0);
    assert(mg_clock_whom() == 2);
    mg_clock_stop();
}

static void the_date_is_an_imf_fixdate(void)
{
    struct ev_loop *loop = ev_loop_new(0);
    begin(loop);
    char expected[40];
    time_t second = (time_t)mg_clock_wall();
    struct tm t;
    strftime(expected, sizeof(expected), "%a, %d %b %Y %H:%M:%S GMT", gmtime_r(&second, &t));
    assert(strcmp(mg_clock_date(), expected) == 0 && strlen(expected) == 29);
    assert(mg_clock_date() == mg_clock_date() && mg_clock_loop() == loop);
    mg_clock_stop();
    ev_loop_destroy(loop);
}

/* ---- log ---- */

static char log_path[64];

static size_t read_log(char *to, size_t room)
{
    int fd = open(log_path, O_RDONLY);
    ssize_t n = read(fd, to, room - 1);
    close(fd);
    assert(n >= 0);
    to[n] = 0;
    return (size_t)n;
}

static void a_log_line_says_when_how_bad_who_and_what(void)
{
    char text[8192];
    snprintf(log_path, sizeof(log_path), "/tmp/moongate-log-XXXXXX");
    int fd = mkstemp(log_path);
    assert(fd >= 0);
    close(fd);

    assert(mg_log_open(log_path));
    mg_log_who("worker 2");
    mg_log(MG_LOG_DEBUG, "not written");
    mg_log(MG_LOG_WARN, "peer %s: %d", "10.0.0.7:80\nforged", 7);
    read_log(text, sizeof(text));
    assert(strlen(text) > 24 && text[4] == '-' && text[10] == 'T' && text[19] == '.' && text[23] == 'Z');
    assert(strcmp(text + 24, " warn [worker 2] peer 10.0.0.7:80?forged: 7\n") == 0);
}

static void long_lines_are_cut_and_tracebacks_keep_their_lines(void)
{
    char text[16384], expected[] = " error [worker 2] boom\n  \tat one\n  \tat two\n";
    assert(truncate(log_path, 0) == 0);
    mg_log_text(MG_LOG_ERROR, of("boom\n\tat one\n\tat two\n"));
    read_log(text, sizeof(text));
    assert(strcmp(text + 24, expected) == 0);

    assert(truncate(log_path, 0) == 0);
    mg_log(MG_LOG_INFO, "%05000d", 1);
    size_t n = read_log(text, sizeof(text));
    assert(n > 4000 && n < 4200 && text[n - 1] == '\n');
}

static void a_renamed_log_is_opened_anew(void)
{
    char text[256], moved[80];
    snprintf(moved, sizeof(moved), "%s.1", log_path);
    assert(rename(log_path, moved) == 0);
    mg_log_reopen();
    mg_log(MG_LOG_INFO, "new file");
    read_log(text, sizeof(text));
    assert(strstr(text, "info [worker 2] new file\n"));
    assert(!mg_log_open("/nonexistent/dir/log") && mg_log_fd() != 2);
    assert(mg_log_open(NULL) && mg_log_fd() == 2);
    unlink(moved);
    unlink(log_path);
}

static void levels_have_names(void)
{
    enum mg_log_level level;
    assert(mg_log_level_named(of("debug"), &level) && level == MG_LOG_DEBUG);
    assert(mg_log_level_named(of("none"), &level) && level == MG_LOG_NONE);
    assert(!mg_log_level_named(of("loud"), &level));
}

/* clang-format off */
#define PROMISE(name) { #name, name }
/* clang-format on */

static const struct {
    const char *sentence;
    void (*test)(void);
} promises[] = {
    PROMISE(words_are_the_same_but_for_ascii_case),
    PROMISE(tokens_are_exactly_the_tchars_of_rfc_9110),
    PROMISE(field_values_have_no_control_byte_but_the_tab),
    PROMISE(numbers_are_digits_that_fit),
    PROMISE(sizes_take_one_letter),
    PROMISE(hex_digits_have_values),
    PROMISE(numbers_are_written_in_decimal),
    PROMISE(json_strings_are_escaped_and_valid_utf8),
    PROMISE(log_fields_are_escaped_to_printable_ascii),
    PROMISE(lists_are_taken_apart_at_commas_outside_quotes),
    PROMISE(an_arena_gives_aligned_memory_that_does_not_overlap),
    PROMISE(what_is_larger_than_a_chunk_has_its_own),
    PROMISE(running_out_of_an_arena_is_sticky),
    PROMISE(blocks_come_back_last_in_first_out),
    PROMISE(spare_blocks_that_nobody_needs_are_freed_at_the_second_look),
    PROMISE(bytes_that_go_on_share_one_span),
    PROMISE(splitting_and_dropping_keep_every_byte_once),
    PROMISE(copies_use_the_room_of_a_block_nobody_else_holds),
    PROMISE(a_large_copy_is_whole),
    PROMISE(failure_is_sticky_and_moves_along),
    PROMISE(little_is_joined_by_a_copy_and_much_by_its_spans),
    PROMISE(what_is_due_comes_in_its_order_and_what_was_removed_never),
    PROMISE(timeouts_fire_in_the_order_of_their_deadlines),
    PROMISE(a_moved_timeout_fires_once_and_a_cleared_one_never),
    PROMISE(a_timeout_may_set_itself_and_clear_another),
    PROMISE(stopping_the_clock_clears_what_is_set),
    PROMISE(an_alarm_fires_once_and_not_too_early),
    PROMISE(in_simulated_time_all_fires_when_the_time_is_set_and_not_before),
    PROMISE(what_fires_in_simulated_time_is_the_turn_of_who_has_set_it),
    PROMISE(the_date_is_an_imf_fixdate),
    PROMISE(levels_have_names),
    PROMISE(a_log_line_says_when_how_bad_who_and_what),
    PROMISE(long_lines_are_cut_and_tracebacks_keep_their_lines),
    PROMISE(a_renamed_log_is_opened_anew),
};

int main(void)
{
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
