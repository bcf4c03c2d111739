/* dict.h - dictionaries in shared memory, for the core: scripts have the seam's mg_dict_*. */
#pragma once

#include "seam.h"
#include "status.h"

/* Reads and writes a key's value in one step for all workers. `change` gets the value, MG_VALUE_NIL if there is none,
 * whose text is good until it returns, and puts another in its place (NIL deletes the key), whose text is its own;
 * false leaves all as it was. It is called with the dictionary's lock, so it does nothing else.
 * ttl: seconds, 0: for ever. MG_FULL if the new value is larger than the dictionary. */
enum mg_status MG_MUST_CHECK mg_dict_change(mg_dict *d, mg_slice key, double ttl,
                                            bool (*change)(void *owner, mg_value *value), void *owner);
