/* test_generations.c - core/script/vm: a script is loaded, runs and is closed again and again, and nothing of it stays.
 * */
#undef NDEBUG
#include <assert.h>
#include <malloc.h>
#include <stdio.h>
#include <stdlib.h>

#include <ev.h>

#include "clock.h"
#include "engine.h"
#include "exchange.h"
#include "log.h"
#include "resolve.h"
#include "shared.h"
#include "transport.h"
#include "vm.h"

static const char script[] =
    "local gate = require 'moongate'\n"
    "gate.listen '127.0.0.1:1'\n"
    "local seen = gate.shared('seen', '64K')\n"
    "local app = gate.upstream('app', { peers = { '127.0.0.1:1', { '127.0.0.1:2', weight = 3, meta = { a = 1 } } },\n"
    "  balance = function(req, peers) return peers[1] end })\n"
    "gate.use { init = function() seen:incr('loads', 1, 0) end, exit = function() seen:incr('exits', 1, 0) end,\n"
    "  request = function(req) req.headers['x-a'] = 'b' end, log = function() end }\n"
    "gate.every(60, function() gate.sleep(1) end)\n"
    "gate.after(60, function() end)\n"
    "for i = 1, 200 do\n"
    "  gate.route { '/things/' .. i .. '/:id', upstream = app,\n"
    "    policies = { function(req, next) return next(req) end } }\n"
    "end\n"
    "gate.route { '/*', handler = function(req) return 200, { json = true } end }\n";

static enum mg_status ready;

static void on_ready(struct mg_generation *g, enum mg_status status)
{
    (void)g;
    ready = status;
}

/* As a worker does: prepare, init, put in force, close. */
static void live(unsigned number, const char *path)
{
    mg_slice problem = { "", 0 };
    struct mg_generation *g = mg_generation_new(number);

    assert(g);
    g->on_ready = on_ready;
    ready = MG_BUSY;
    static const struct mg_load_wants nothing;
    enum mg_status status = mg_vm_open(g, path, &nothing, &problem);
    assert(status == MG_OK);
    while ((status = mg_vm_load(g, &problem)) == MG_BUSY)
        ;
    if (status != MG_OK) {
        fprintf(stderr, "%.*s\n", (int)problem.len, problem.ptr);
        exit(1);
    }
    mg_vm_init(g);
    assert(ready == MG_OK);
    g->state = MG_GENERATION_IN_FORCE;
    mg_vm_start(g);
    ev_run(mg_clock_loop(), EVRUN_NOWAIT);
    assert(g->route_count == 201 && g->tasks > 0);
    mg_vm_end(g);
    while (g->number % 2 && !mg_vm_shrink(g))
        ;
    mg_vm_close(g);
    mg_generation_free(g);
}

/* How many, if not a hundred, may be said: valgrind is slow. */
int main(int argc, char **argv)
{
    uint64_t said = 100;
    assert(argc < 2 || mg_text_number(mg_slice_of(argv[1]), &said));
    const unsigned count = (unsigned)said;
    const char *path = "generations.lua";
    FILE *f = fopen(path, "w");

    assert(f && fputs(script, f) >= 0 && fclose(f) == 0);
    assert(mg_shared_start((size_t)1 << 28));
    mg_shared_worker(0, 0);
    struct ev_loop *loop = ev_default_loop(EVBACKEND_EPOLL);
    mg_clock_start(loop);
    mg_exchange_start();

    for (unsigned i = 1; i <= 10; i++)
        live(i, path);
    unsigned arenas = mg_arena_live();
    size_t used = mallinfo2().uordblks;
    for (unsigned i = 11; i <= count + 10; i++)
        live(i, path);
    assert(mg_arena_live() == arenas);
    printf("ok %u generations come and go and leave no arena\n", count);

    /* The sanitizer's heap counts nothing here; its own leak check does. */
    size_t now = mallinfo2().uordblks;
    assert(now <= used + 16 * 1024);
    printf("ok %u generations come and go and leave no memory (%zu bytes before, %zu after)\n", count, used, now);

    mg_slice key = { "loads", 5 };
    mg_value value;
    mg_dict *d;
    assert(mg_dict_open("seen", 4, 65536, &d) == MG_OK && mg_dict_get(d, key.ptr, key.len, &value) == MG_OK);
    assert(value.number == count + 10);
    assert(mg_dict_get(d, "exits", 5, &value) == MG_OK && value.number == count + 10);
    printf("ok init and exit hooks ran once in each, and the dictionary outlived them all\n");
    return 0;
}
