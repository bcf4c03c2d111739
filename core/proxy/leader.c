/* leader.c - which worker does what one of them does for all.
 *
 * Who leads and until when is one number, so that taking over is one atomic
 * operation: two can't both believe that they have. */
#include "leader.h"

#include <stdio.h>

#include "clock.h"
#include "shared.h"
#include "text.h"

#define LEADER_PREFIX "leader:"

enum { SLOT_BITS = 16 };

struct mg_leader {
    uint64_t term; /* the slot + 1 in the low bits, 0: nobody; above them until when, in milliseconds */
};

static bool has_left;

static uint64_t slot_of(uint64_t term)
{
    return term & ((1u << SLOT_BITS) - 1);
}

mg_leader *mg_leader_of(const char *name, uint32_t len)
{
    char whole[256];
    int n = snprintf(whole, sizeof(whole), LEADER_PREFIX "%.*s", (int)len, name);

    if (n < 0 || (size_t)n >= sizeof(whole))
        return NULL;
    return mg_shared_place((mg_slice){ whole, (uint32_t)n }, sizeof(struct mg_leader));
}

bool mg_leader_lead(mg_leader *l, double seconds)
{
    uint64_t now = (uint64_t)(mg_clock_now() * 1e3), me = mg_shared_slot() + 1;
    uint64_t term = __atomic_load_n(&l->term, __ATOMIC_RELAXED);

    if (has_left || (slot_of(term) && slot_of(term) != me && term >> SLOT_BITS > now))
        return false;
    uint64_t next = (now + (uint64_t)(seconds * 1e3)) << SLOT_BITS | me;
    return __atomic_compare_exchange_n(&l->term, &term, next, false, __ATOMIC_ACQ_REL, __ATOMIC_RELAXED);
}

void mg_leader_forget_slot(unsigned slot)
{
    struct mg_leader *l;

    for (unsigned n = 0; (l = mg_shared_nth(MG_LIT(LEADER_PREFIX), n)); n++) {
        uint64_t term = __atomic_load_n(&l->term, __ATOMIC_RELAXED);
        if (slot_of(term) == slot + 1)
            __atomic_compare_exchange_n(&l->term, &term, 0, false, __ATOMIC_ACQ_REL, __ATOMIC_RELAXED);
    }
}

void mg_leader_leave(void)
{
    has_left = true;
    mg_leader_forget_slot(mg_shared_slot());
}
