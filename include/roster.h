/* roster.h - who the peers of an upstream are now, as was said since the script declared them: agreed by all workers.
 *
 * What was said of an address lies in shared memory under the upstream's name: it is there, with this weight and tier,
 * or it is not. That stands over reloads, upgrades and deaths of workers, whatever scripts declare, until it is said
 * otherwise.
 * Every worker takes it up before its next try. */
#pragma once

#include "peer.h"

enum { MG_ROSTER_ADDRESS_MOST = 128, MG_ROSTER_ZONE_MOST = 48, MG_ROSTER_MOST = 512 };

struct mg_roster_said {
    double weight;
    mg_slice zone; /* may be empty */
    uint16_t tier;
    bool found; /* it is there as long as somebody discovers peers */
};
/* A peer of this address is there from now on. NULL, or what is wrong. */
const char *mg_roster_put(struct mg_upstream *u, mg_slice address, const struct mg_roster_said *said);
/* None is. */
const char *mg_roster_remove(struct mg_upstream *u, mg_slice address);
/* What was said is forgotten: those are there that the script declares. */
const char *mg_roster_reset(struct mg_upstream *u);
/* Was anything said of this address? */
bool mg_roster_names(struct mg_upstream *u, mg_slice address);
/* Takes up what was said since the last call; before each try. */
void mg_roster_follow(struct mg_upstream *u);
/* The same where there was a try before: now and then, for those who have none now, but kept connections to peers that
 * are gone. */
void mg_roster_keep_up(struct mg_upstream *u);
