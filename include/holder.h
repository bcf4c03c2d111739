/* holder.h - from a part to the struct that holds it: a timeout, a wait, a stream are parts of what they are for. */
#pragma once

#include <stddef.h>

#define MG_HOLDER(part, type, member) ((type *)(void *)((char *)(part)-offsetof(type, member)))
