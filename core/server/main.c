/* main.c - the command line. */
#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <ev.h>

#include "access.h"
#include "ask.h"
#include "clock.h"
#include "launch.h"
#include "log.h"
#include "master.h"
#include "shared.h"
#include "simulate.h"
#include "vm.h"

enum { USAGE = 2, WORD_MOST = 24 };

static const char help[] =
    "Moongate: a reverse proxy that is programmed in Lua.\n"
    "\n"
    "  moongate [options] FILE      serve what the script FILE declares, in the foreground\n"
    "  moongate check FILE          load FILE and print listeners, routes and upstreams; binds nothing\n"
    "  moongate check [--json]      what a reload of a running moongate would change, or why it would fail\n"
    "  moongate sim FILE            try out how balancers spread requests, in simulated time (moongate sim --help)\n"
    "  moongate status [--json]     what a running moongate has open\n"
    "  moongate generations         the last generations of a running moongate, what became of them, and the memory\n"
    "                               that they take (--json)\n"
    "  moongate reload [--json]     load the script of a running moongate anew: in all workers, or in none\n"
    "  moongate reload --canary 5%  the same, but only this share of the exchanges begins in the new generation\n"
    "  moongate rollback [--json]   go back to the generation before the last reload, while that is on probation;\n"
    "                               or end what --canary tries out\n"
    "  moongate promote             end the probation: the generation in force is final; or put in force what is\n"
    "                               tried out\n"
    "  moongate upgrade [--json]    start the binary anew; when all of it serves, the old process finishes and ends\n"
    "  moongate log-level [LEVEL]   how much the error log of a running moongate says; with LEVEL, from now on\n"
    "  moongate peers [UPSTREAM]    the peers of a running moongate's upstreams (--json)\n"
    "  moongate peers ACTION UPSTREAM PEER [WEIGHT]\n"
    "                               add, remove, drain, undrain or weight one in all workers; or reset an upstream\n"
    "  moongate drain               let a running moongate finish what is in progress, then end\n"
    "  moongate stop                end it at once\n"
    "\n"
    "  --workers N       worker processes, instead of what the script says (default: one a processor)\n"
    "  --control PATH    the control socket: made by the server, asked by status and those below it\n"
    "                    (default for those: $MOONGATE_CONTROL)\n"
    "  --log LEVEL       debug, info, warn, error or none, instead of what the script says\n"
    "  --error-log PATH  the error log's file, instead of standard error\n"
    "  --shared SIZE     room for what workers share, such as dictionaries (default: 1G, taken as it is used)\n"
    "  --watch           reload when the script, a file that it required or a certificate changes\n"
    "  --canary SHARE    with reload: try the new generation out, with a share like 5% or 0.05\n"
    "  --by KEY          with --canary: of the clients, by client (address), cookie:NAME or header:NAME, instead of\n"
    "                    exchanges by chance\n"
    "  --json            the answer as one line of JSON\n"
    "  --help, --version\n"
    "\n"
    "Signals: TERM and INT stop at once, QUIT finishes what is in progress first, HUP reloads,\n"
    "USR1 opens the logs again, USR2 upgrades.\n"
    "Exit status: 0 fine, 1 a bad script or something that can't be done, 2 a mistake on the command line.\n";

struct line {
    struct mg_master_options master;
    const char *control;
    const char *canary, *by; /* of reload */
    bool json;
};

/* clang-format off */
static const struct option options[] = {
    { "workers", required_argument, NULL, 'w' }, { "control", required_argument, NULL, 'c' },
    { "log", required_argument, NULL, 'l' },     { "error-log", required_argument, NULL, 'e' },
    { "shared", required_argument, NULL, 's' },  { "json", no_argument, NULL, 'j' },
    { "watch", no_argument, NULL, 'W' },         { "help", no_argument, NULL, 'h' },
    { "version", no_argument, NULL, 'v' },       { "canary", required_argument, NULL, 'C' },
    { "by", required_argument, NULL, 'b' },      { 0 },
};
/* clang-format on */

static int misuse(const char *what, const char *value)
{
    fprintf(stderr, "moongate: %s%s%s; moongate --help tells more\n", what, value ? " " : "", value ? value : "");
    return USAGE;
}

static bool parse_workers(const char *text, int *out)
{
    uint64_t n;

    if (!mg_text_number(mg_slice_of(text), &n) || n < 1 || n > MG_WORKERS_MAX)
        return false;
    *out = (int)n;
    return true;
}

static unsigned least(unsigned a, unsigned b)
{
    return a < b ? a : b;
}

/* How many letters must be put in, left out or changed to make one word of the other (Levenshtein). */
static unsigned distance(const char *a, const char *b)
{
    unsigned row[WORD_MOST + 1];
    size_t width = strnlen(b, WORD_MOST);

    for (unsigned i = 0; i <= width; i++)
        row[i] = i;
    for (unsigned n = 1; *a && *a != '=' && n <= WORD_MOST; a++, n++) {
        unsigned corner = row[0];
        row[0] = n;
        for (size_t i = 1; i <= width; i++) {
            unsigned above = row[i];
            row[i] = least(least(above, row[i - 1]) + 1, corner + (*a != b[i - 1]));
            corner = above;
        }
    }
    return row[width];
}

static int unknown_option(const char *given)
{
    const char *word = given + strspn(given, "-"), *nearest = NULL;
    unsigned best = least(4, (unsigned)(strlen(word) + 3) / 2); /* what is further away was not meant */

    for (const struct option *o = options; o->name; o++) {
        unsigned d = distance(word, o->name);
        if (d < best) {
            best = d;
            nearest = o->name;
        }
    }
    if (!nearest)
        return misuse("there is no option", given);
    fprintf(stderr, "moongate: there is no option %s; did you mean --%s?\n", given, nearest);
    return USAGE;
}

static bool parse_shared(const char *text, size_t *out)
{
    uint64_t n;

    if (!mg_text_size(mg_slice_of(text), &n) || n < 1u << 20 || n > 1ull << 40)
        return false;
    *out = (size_t)n;
    return true;
}

/* One option. 0, or the exit status of a mistake. */
static int take_option(int option, const char *given, struct line *l)
{
    switch (option) {
    case 'w':
        return parse_workers(optarg, &l->master.workers) ? 0 : misuse("--workers: 1 to 64 is needed, got", optarg);
    case 'c':
        l->control = optarg;
        return 0;
    case 'l':
        l->master.log_level_given = mg_log_level_named(mg_slice_of(optarg), &mg_log_level);
        return l->master.log_level_given ? 0 : misuse("--log: debug, info, warn, error or none is needed, got", optarg);
    case 'e':
        l->master.error_log_given = true;
        if (mg_log_open(optarg))
            return 0;
        fprintf(stderr, "moongate: --error-log %s: %s\n", optarg, strerror(errno));
        return 1;
    case 's':
        return parse_shared(optarg, &l->master.shared) ? 0 : misuse("--shared: 1M to 1024G is needed, got", optarg);
    case 'j':
        l->json = true;
        return 0;
    case 'W':
        l->master.watch = true;
        return 0;
    case 'C':
        l->canary = optarg;
        return 0;
    case 'b':
        l->by = optarg;
        return 0;
    case ':':
        return misuse("a value is needed after", given);
    default:
        return unknown_option(given);
    }
}

/* 0, or 1 with the text for the user. */
static int load_whole(struct mg_generation *g, const char *script, mg_slice *problem)
{
    static const struct mg_load_wants nothing;
    enum mg_status status = mg_vm_open(g, script, &nothing, problem);
    const char *wrong = NULL;

    if (status == MG_OK)
        do
            status = mg_vm_load(g, problem);
        while (status == MG_BUSY);
    if (status == MG_OK && (wrong = mg_access_check(&g->settings)))
        *problem = mg_slice_of(wrong);
    return status != MG_OK || wrong;
}

static int check(const char *script)
{
    mg_slice problem;
    struct mg_generation *g;

    if (!mg_shared_start(1u << 30) || !(g = mg_generation_new(1))) {
        fprintf(stderr, "moongate: out of memory\n");
        return 1;
    }
    mg_clock_start(ev_default_loop(0));
    int status = load_whole(g, script, &problem);
    if (status)
        fprintf(stderr, "%.*s\n", (int)problem.len, problem.ptr);
    else
        mg_vm_check(g);
    if (g->policy) {
        mg_vm_end(g);
        mg_vm_close(g);
    }
    mg_generation_free(g);
    mg_clock_stop();
    return status;
}

static int ask_with(const struct line *l, const char *command, const struct mg_given *given)
{
    const char *path = l->control ? l->control : getenv("MOONGATE_CONTROL");

    if (!path && strcmp(command, "check") == 0)
        return misuse("check needs a file, moongate check gateway.lua, or a running moongate's --control PATH", NULL);
    if (!path)
        return misuse("which one? Name its control socket with --control PATH or MOONGATE_CONTROL for", command);
    return mg_ask(path, command, given, l->json);
}

static int ask(const struct line *l, const char *command, const char *word)
{
    const char *key = mg_ask_word(command);
    const struct mg_given given[] = { { "canary", l->canary }, { "by", l->by }, { key, word }, { NULL, NULL } };

    return ask_with(l, command, given);
}

/* peers [UPSTREAM], or peers ACTION UPSTREAM [PEER [WEIGHT]]. */
static int ask_peers(const struct line *l, int count, char **words)
{
    enum { MOST = 4 };
    const char *w[MOST] = { NULL };

    if (count > MOST)
        return misuse("one word too many:", words[MOST]);
    for (int i = 0; i < count; i++)
        w[i] = words[i];
    const struct mg_given named[] = { { "upstream", w[0] }, { NULL, NULL } };
    const struct mg_given given[] = {
        { "action", w[0] }, { "upstream", w[1] }, { "peer", w[2] }, { "weight", w[3] }, { NULL, NULL },
    };
    return ask_with(l, "peers", count < 2 ? named : given);
}

static int run(struct line *l, int count, char **words)
{
    const char *first = count ? words[0] : NULL;

    if (!first)
        return misuse("a script is needed: moongate gateway.lua", NULL);
    if ((l->canary || l->by) && strcmp(first, "reload") != 0)
        return misuse("--canary and --by belong to reload, not to", first);
    if (l->by && !l->canary)
        return misuse("--by needs a share: --canary 5%", NULL);
    if (strcmp(first, "check") == 0 && count == 2)
        return check(words[1]);
    if (strcmp(first, "peers") == 0)
        return ask_peers(l, count - 1, words + 1);
    if (mg_ask_knows(first)) {
        int most = mg_ask_word(first) ? 2 : 1;
        return count <= most ? ask(l, first, count > 1 ? words[1] : NULL) : misuse("one word too many:", words[most]);
    }
    if (count > 1)
        return misuse("one script only; what is this:", words[1]);
    l->master.script = first;
    l->master.control = l->control;
    return mg_master_run(&l->master);
}

int main(int argc, char **argv)
{
    struct line l = { .master.shared = 1u << 30 };
    int option;

    if (argc > 1 && strcmp(argv[1], "sim") == 0)
        return mg_simulate(argc - 1, argv + 1);
    if (!mg_launch_remember(argc, argv)) {
        fprintf(stderr, "moongate: %s\n", strerror(errno));
        return 1;
    }
    /* The colon: what is missing is told apart from what is unknown, and both are told here. */
    while ((option = getopt_long(argc, argv, ":hv", options, NULL)) != -1) {
        if (option == 'h') {
            fputs(help, stdout);
            return 0;
        }
        if (option == 'v') {
            puts("moongate " MG_VERSION);
            return 0;
        }
        int status = take_option(option, argv[optind - 1], &l);
        if (status)
            return status;
    }
    return run(&l, argc - optind, argv + optind);
}
