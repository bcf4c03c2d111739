/* random.h - bytes that nobody can foresee: keys, masks, nonces. */
#pragma once

#include <stdbool.h>
#include <stddef.h>

#include "status.h"

/* False, and `to` is not to be used, if the system gives none. */
bool MG_MUST_CHECK mg_random(void *to, size_t len);
