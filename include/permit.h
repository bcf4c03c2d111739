/* permit.h - exchanges counted under a key of a dictionary, until they end.
 *
 * A key's value tells how many each worker has, so what a worker had is out of
 * the count as soon as it has died. The count is exact over all workers.
 */
#pragma once

#include "arena.h"
#include "status.h"

struct mg_dict;
struct mg_permit;

/* One more under this key, if there are fewer than `most`: it is put on the list, in memory of this arena, and *total
 * says how many there are now. MG_FULL: there are as many; MG_MALFORMED: the key holds something else; MG_NO_MEMORY. */
enum mg_status MG_MUST_CHECK mg_permit_take(struct mg_permit **list, struct mg_arena *arena, struct mg_dict *d,
                                            mg_slice key, double most, double *total);
/* Gives back all on the list. */
void mg_permits_give(struct mg_permit **list);
