/* key.h - the keys that scripts have read, seen from the VM's life. */
#pragma once

struct mg_generation;

/* Frees those of g that are left: its VM has gone, and no finalizer of Lua's runs any more. */
void mg_keys_end(const struct mg_generation *g);
