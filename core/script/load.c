/* load.c - how a script gets into a VM of its own: piece by piece, so that the worker serves meanwhile.
 *
 * A load has stages, each a function of Lua that runs in a coroutine of its
 * own: the script, the library's look at what it declared, and what is to be
 * found out of that. budget.c interrupts them. */
#include "load.h"

#include <assert.h>
#include <libgen.h>
#include <linux/limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include <lauxlib.h>
#include <lua.h>
#include <lualib.h>

#ifndef MG_SCRIPTS_DIR
#error "MG_SCRIPTS_DIR must name the directory of the installed scripts"
#endif

enum { GC_PAUSE = 400 }; /* percent of what is in use at which the next collection begins; LuaJIT's own is 200 */
enum stage { SCRIPT, FINISH, OUTLINE, CHANGES, FILES, DONE };

/* The field of the registry that keeps the outline of the one in force, which may go meanwhile. */
#define BEFORE "moongate.before"

extern const char mg_seam_text[];

/* ---- The runtime. ---- */

/* Where `require` looks: beside the script, in the build tree's scripts/, where make install puts them. */
static void set_module_path(lua_State *L, const char *script)
{
    char exe[PATH_MAX] = "", copy[PATH_MAX];
    ssize_t n = readlink("/proc/self/exe", exe, sizeof(exe) - 1);

    if (n > 0)
        exe[n] = '\0';
    snprintf(copy, sizeof(copy), "%s", script);
    const char *own = dirname(copy);
    const char *built = dirname(exe);
    lua_getglobal(L, "package");
    lua_getfield(L, -1, "path");
    lua_pushfstring(L, "%s/?.lua;%s/?/init.lua;%s/../scripts/?.lua;%s/../../scripts/?.lua;" MG_SCRIPTS_DIR "/?.lua;%s",
                    own, own, built, built, lua_tostring(L, -1));
    lua_setfield(L, -3, "path");
    lua_pop(L, 2);
}

/* A loader of package.loaders: what `require` names, out of the sources. */
static int load_source(lua_State *L)
{
    const struct mg_sources *sources = lua_touserdata(L, lua_upvalueindex(1));
    const char *name = luaL_gsub(L, luaL_checkstring(L, 1), ".", "/");

    lua_getglobal(L, "package");
    lua_getfield(L, -1, "path");
    const char *at = lua_tostring(L, -1);
    while (at && *at) {
        size_t n = strcspn(at, ";");
        lua_pushlstring(L, at, n);
        const char *path = luaL_gsub(L, lua_tostring(L, -1), "?", name);
        mg_slice text = mg_sources_find(sources, path);
        if (text.ptr) {
            lua_pushfstring(L, "@%s", path);
            if (luaL_loadbuffer(L, text.ptr, text.len, lua_tostring(L, -1)))
                return lua_error(L);
            return 1;
        }
        lua_pop(L, 2);
        at += n + (at[n] == ';');
    }
    return 0;
}

/* Behind that for package.preload, before those for files. */
static void add_loader(lua_State *L, const struct mg_sources *sources)
{
    lua_getglobal(L, "package");
    lua_getfield(L, -1, "loaders");
    for (int i = (int)lua_objlen(L, -1); i > 1; i--) {
        lua_rawgeti(L, -1, i);
        lua_rawseti(L, -2, i + 1);
    }
    lua_pushlightuserdata(L, (void *)sources);
    lua_pushcclosure(L, load_source, 1);
    lua_rawseti(L, -2, 2);
    lua_pop(L, 2);
}

/* Calls require(name), leaving what it returns on the stack. 0, or the text of the error is there. */
static int require(lua_State *L, const char *name)
{
    lua_getglobal(L, "require");
    lua_pushstring(L, name);
    return lua_pcall(L, 1, 1, 0);
}

int mg_load_begin(struct mg_load *l, lua_State *L, struct mg_generation *g, const char *script,
                  const struct mg_load_wants *wants)
{
    *l = (struct mg_load){
        .generation = g,
        .L = L,
        .script = script,
        .sources = wants->sources,
        .outline = wants->outline,
        .changes = wants->before != NULL,
        .files = wants->files,
        .budget = { .seconds = &g->settings.load_budget },
    };
    luaL_openlibs(L);
    lua_gc(L, LUA_GCSETPAUSE, GC_PAUSE);
    lua_pushstring(L, mg_seam_text);
    lua_setglobal(L, "MG_SEAM");
    lua_pushlightuserdata(L, g);
    lua_setglobal(L, "MG_GENERATION");
    set_module_path(L, script);
    if (l->sources)
        add_loader(L, l->sources);
    lua_pushstring(L, wants->before);
    lua_setfield(L, LUA_REGISTRYINDEX, BEFORE);
    lua_settop(L, 0);
    return require(L, "moongate.step") || require(L, "moongate.works");
}

/* ---- The stages. ---- */

/* The function of a stage, on co's stack. 0, or the text of the error is there. */
static int push_stage(const struct mg_load *l)
{
    static const char *const modules[] = {
        [FINISH] = "moongate.finish",
        [OUTLINE] = "moongate.outline",
        [CHANGES] = "moongate.changes",
        [FILES] = "moongate.files",
    };

    if (l->stage != SCRIPT)
        return require(l->co, modules[l->stage]);
    mg_slice text = mg_sources_find(l->sources, l->script);
    if (!text.ptr)
        return luaL_loadfile(l->co, l->script);
    lua_pushfstring(l->co, "@%s", l->script);
    int status = luaL_loadbuffer(l->co, text.ptr, text.len, lua_tostring(l->co, -1));
    lua_remove(l->co, -2);
    return status;
}

static int push_arguments(const struct mg_load *l)
{
    switch (l->stage) {
    case FINISH:
    case FILES:
        lua_pushstring(l->co, l->script);
        return 1;
    case CHANGES:
        lua_getfield(l->co, LUA_REGISTRYINDEX, BEFORE);
        lua_pushstring(l->co, l->generation->outline);
        return 2;
    default:
        return 0;
    }
}

static bool is_wanted(const struct mg_load *l)
{
    switch (l->stage) {
    case OUTLINE:
        return l->outline;
    case CHANGES:
        return l->changes && l->generation->outline;
    case FILES:
        return l->files;
    default:
        return true;
    }
}

/* What the stage has returned, as text of malloc. */
static void keep_answer(struct mg_load *l)
{
    char **places[] = {
        [OUTLINE] = &l->generation->outline, [CHANGES] = &l->generation->changes, [FILES] = &l->generation->files
    };
    size_t len = 0;
    const char *text = l->stage >= OUTLINE ? lua_tolstring(l->co, -1, &len) : NULL;

    if (!text)
        return;
    char *copy = malloc(len + 1);
    if (copy)
        memcpy(copy, text, len + 1);
    *places[l->stage] = copy;
}

static bool is_ours(lua_State *co, int level)
{
    lua_Debug ar;

    return lua_getstack(co, level, &ar) && lua_getinfo(co, "S", &ar) && strncmp(ar.source, "@moongate/", 10) == 0;
}

/* The message alone for what the library says of a declaration; with a traceback for everything else. */
static enum mg_status explain(const struct mg_load *l, const char *problem)
{
    lua_State *co = l->co;

    if (problem)
        luaL_traceback(l->L, co, problem, 0);
    else if (!lua_isstring(co, -1) || is_ours(co, 0) || is_ours(co, 1))
        lua_xmove(co, l->L, 1);
    else
        luaL_traceback(l->L, co, lua_tostring(co, -1), 0);
    return MG_MALFORMED;
}

/* The stack of L holds the coroutine of the stage above what mg_load_begin() has left there. */
static enum mg_status begin_stage(struct mg_load *l)
{
    l->co = lua_newthread(l->L);
    if (!push_stage(l))
        return MG_OK;
    lua_xmove(l->co, l->L, 1);
    return MG_MALFORMED;
}

static void end_stage(struct mg_load *l)
{
    keep_answer(l);
    if (l->stage == CHANGES) {
        lua_pushnil(l->L);
        lua_setfield(l->L, LUA_REGISTRYINDEX, BEFORE);
    }
    lua_pop(l->L, 1);
    l->co = NULL;
    do
        l->stage++;
    while (l->stage < DONE && !is_wanted(l));
}

enum mg_status mg_load_go_on(struct mg_load *l)
{
    int arguments = 0;

    assert(l->stage < DONE);
    if (!l->co) {
        if (begin_stage(l) != MG_OK)
            return MG_MALFORMED;
        arguments = push_arguments(l);
    }
    switch (mg_budget_slice(l->co, arguments, &l->budget)) {
    case 0:
        end_stage(l);
        return l->stage == DONE ? MG_OK : MG_BUSY;
    case MG_BUDGET_PAUSED:
        return MG_BUSY;
    case MG_BUDGET_LEFT:
        return MG_GONE;
    case LUA_YIELD:
        return explain(l, "the script's top level can't yield: nobody would resume it");
    default:
        return explain(l, NULL);
    }
}
