/* test_window.c - core/proxy: window, leader. */
#undef NDEBUG
#include <assert.h>
#include <stdio.h>
#include <unistd.h>

#include <ev.h>

#include "clock.h"
#include "leader.h"
#include "shared.h"
#include "window.h"

static struct mg_window_count total(uint64_t ended, uint64_t failed)
{
    return (struct mg_window_count){ ended, failed };
}

static void a_window_sees_what_has_come_since_it_was_begun(void)
{
    struct mg_window w = { 0 };

    assert(mg_window_look(&w, 100, 8, total(50, 5)).ended == 0);
    struct mg_window_count c = mg_window_look(&w, 101, 8, total(60, 6));
    assert(c.ended == 10 && c.failed == 1);
}

static void a_window_forgets_what_is_older_than_itself_and_nothing_younger_than_seven_eighths(void)
{
    struct mg_window w = { 0 };

    mg_window_look(&w, 100, 8, total(0, 0));
    for (unsigned i = 1; i <= 100; i++) {
        struct mg_window_count c = mg_window_look(&w, 100 + i, 8, total(i, 0));
        assert(c.ended >= (i < 7 ? i : 7) && c.ended <= 8);
    }
}

static void a_window_that_nobody_has_looked_at_for_long_begins_anew(void)
{
    struct mg_window w = { 0 };

    mg_window_look(&w, 100, 8, total(0, 0));
    assert(mg_window_look(&w, 200, 8, total(1000, 1000)).ended == 0);
    assert(mg_window_look(&w, 200.5, 8, total(1003, 1001)).ended == 3);
}

static void a_sum_that_seems_to_fall_shows_nothing(void)
{
    struct mg_window w = { 0 };

    mg_window_look(&w, 100, 8, total(10, 10));
    struct mg_window_count c = mg_window_look(&w, 100.5, 8, total(9, 10));
    assert(c.ended == 0 && c.failed == 0);
}

/* Two workers, in turn. */
static bool leads(unsigned slot, mg_leader *l, double seconds)
{
    mg_shared_worker((int)slot, slot);
    return mg_leader_lead(l, seconds);
}

static void one_leads_until_it_ends_or_its_time_is_over(void)
{
    mg_leader *l = mg_leader_of("work", 4), *other = mg_leader_of("other", 5);

    assert(l && other && l != other && mg_leader_of("work", 4) == l);
    assert(leads(0, l, 60));
    assert(!leads(1, l, 60) && leads(0, l, 60));
    assert(leads(1, other, 60));

    mg_leader_forget_slot(0);
    assert(leads(1, l, 0.01) && !leads(0, other, 60));
    usleep(20000);
    ev_run(mg_clock_loop(), EVRUN_NOWAIT);
    assert(leads(0, l, 60) && !leads(1, l, 60));
}

int main(void)
{
    mg_clock_start(ev_default_loop(0));
    assert(mg_shared_start(1 << 20));
#define SHOW(test) (test(), puts("ok " #test))
    SHOW(a_window_sees_what_has_come_since_it_was_begun);
    SHOW(a_window_forgets_what_is_older_than_itself_and_nothing_younger_than_seven_eighths);
    SHOW(a_window_that_nobody_has_looked_at_for_long_begins_anew);
    SHOW(a_sum_that_seems_to_fall_shows_nothing);
    SHOW(one_leads_until_it_ends_or_its_time_is_over);
    mg_clock_stop();
    return 0;
}
