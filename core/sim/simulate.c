/* simulate.c - `moongate sim`: a desk, which is a VM without a script, plans runs and tells what came of them. */
#include "simulate.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "engine.h"
#include "clock.h"
#include "exchange.h"
#include "log.h"
#include "shared.h"
#include "text.h"
#include "vm.h"
#include "world.h"

enum { MISUSE = 2 };
static const double DESK_MOST = 64.0 * 1024 * 1024 *
                                1024; /* bytes of the desk's VM: plans of many requests are large */
static const size_t SHARED = (size_t)4 << 30;

static mg_simulation simulation;

mg_simulation *mg_simulation_at_hand(void)
{
    return &simulation;
}

void mg_simulation_balance(mg_upstream *u, int balance)
{
    mg_upstream_set_balance(u, (enum mg_balance)balance);
}

/* The words, a zero byte behind each. NULL without memory. */
static char *join(int count, char **words, size_t *len)
{
    *len = 0;
    for (int i = 0; i < count; i++)
        *len += strlen(words[i]) + 1;
    char *text = malloc(*len ? *len : 1), *at = text;
    for (int i = 0; text && i < count; i++)
        at = stpcpy(at, words[i]) + 1;
    return text;
}

static struct mg_generation *open_desk(void)
{
    static const struct mg_load_wants nothing;
    struct mg_generation *g = mg_generation_new(0);
    mg_slice problem;

    if (!g)
        return NULL;
    g->settings.memory_limit = DESK_MOST;
    if (mg_vm_open(g, "moongate", &nothing, &problem) == MG_OK)
        return g;
    fprintf(stderr, "moongate sim: %.*s\n", (int)problem.len, problem.ptr);
    mg_generation_free(g);
    return NULL;
}

static void close_desk(struct mg_generation *g)
{
    mg_vm_close(g);
    mg_generation_free(g);
}

/* Asks the desk. False: it was told what is wrong. */
static bool ask_desk(struct mg_generation *desk, const char *word, mg_slice text, mg_slice *out)
{
    if (mg_vm_call(desk, "moongate.simulate", word, text, out) == MG_OK)
        return true;
    fprintf(stderr, "%.*s\n", (int)out->len, out->ptr);
    return false;
}

static bool fail(const char *problem)
{
    fprintf(stderr, "%s\n", problem);
    return false;
}

/* One run, as the desk has planned it; `setup` is for the VMs. */
static bool run(struct mg_generation *desk, const char *path, mg_slice setup, unsigned *numbers)
{
    struct mg_world_script script = { path, setup, numbers };
    mg_slice about, out;
    const char *problem = mg_world_open(&script, simulation.workers, simulation.own_view, &about);
    bool good = !problem || fail(problem);

    good = good && ask_desk(desk, "plan", about, &out);
    if (good && (problem = mg_world_run(&simulation)))
        good = fail(problem);
    good = good && ask_desk(desk, "take", MG_LIT(""), &out);
    mg_world_close();
    return good;
}

/* Runs until the desk has no more; each is an answer of "next". */
static bool run_all(struct mg_generation *desk, const char *path)
{
    unsigned numbers = 0;
    mg_slice out;

    for (;;) {
        if (!ask_desk(desk, "next", MG_LIT(""), &out))
            return false;
        if (!out.len)
            return true;
        mg_slice setup = out;
        char *copy = malloc(setup.len);
        if (!copy)
            return fail("moongate sim: out of memory");
        memcpy(copy, setup.ptr, setup.len);
        bool good = run(desk, path, (mg_slice){ copy, setup.len }, &numbers);
        free(copy);
        if (!good)
            return false;
    }
}

/* What the desk says of the words: "run" and the script's path, or a text to be printed. */
static int begin(struct mg_generation *desk, int argc, char **argv)
{
    size_t len;
    char *words = join(argc - 1, argv + 1, &len);
    mg_slice out;

    if (!words || len > UINT32_MAX)
        return 1;
    bool good = ask_desk(desk, "begin", (mg_slice){ words, (uint32_t)len }, &out);
    free(words);
    if (!good)
        return MISUSE;
    if (out.len < 4 || memcmp(out.ptr, "run ", 4) != 0) {
        fwrite(out.ptr, 1, out.len, stdout);
        return 0;
    }
    char *path = strndup(out.ptr + 4, out.len - 4);
    int status = path && run_all(desk, path) && ask_desk(desk, "finish", MG_LIT(""), &out) ? 0 : 1;
    free(path);
    return status;
}

int mg_simulate(int argc, char **argv)
{
    if (!mg_shared_start(SHARED)) {
        fail("moongate sim: out of memory");
        return 1;
    }
    mg_log_level = MG_LOG_ERROR;
    mg_clock_simulate(1, 1, NULL);
    mg_exchange_start();
    struct mg_generation *desk = open_desk();
    if (!desk)
        return 1;
    int status = begin(desk, argc, argv);
    close_desk(desk);
    mg_clock_stop();
    return status;
}
