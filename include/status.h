/* status.h - what a fallible function says.
 *
 * Every value but MG_OK is below 0, so a function that returns a count or a
 * ticket can say these too. The names that Lua needs are enums of seam.h; the
 * macro says that a caller must look.
 */
#pragma once

#include "seam.h"

#define MG_MUST_CHECK __attribute__((warn_unused_result))
