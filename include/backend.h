/* backend.h - simulated servers: they take the engine's requests in dial.c's place, work, fail and come back. */
#pragma once

#include "agenda.h"
#include "simulation.h"
#include "stream.h"

/* A simulated request, as its client knows it: crowd.c's. An attempt's dial shows which one it is for by d->client. */
struct mg_asker {
    struct mg_stream stream; /* first: the client's */
    struct mg_peer_info info;
    double came;
    uint32_t number;  /* its place in the plan */
    unsigned worker;  /* that it came to */
    uint16_t backend; /* of the last try */
    uint8_t tries;
    bool answered, over;
    struct mg_asker *next;            /* of those that are over, or unused */
    struct mg_asker *before, *behind; /* of those that are open */
};

/* Takes dial.c's place. What servers have to do is put into `agenda`, and handed back by mg_backend_turn(). False
 * without memory. */
bool mg_backend_open(mg_simulation *s, struct mg_agenda *agenda, double begin);
/* It is d's turn, which was in the agenda. */
void mg_backend_turn(struct mg_due *d);
/* As the plan says: a server dies, is slow, comes back; not MG_CHANGE_HEALTHY. */
void mg_backend_change(const mg_change *c);
/* What servers still have is cut. All exchanges must be over. */
void mg_backend_stop(void);
void mg_backend_close(void);
