/* ready.h - what a worker tells the master of a generation that it has prepared. */
#pragma once

#include "generation.h"

/* Sends READY with what g declares for the master (struct mg_ready). What has changed and its files are left out where
 * the letter would be too long. False without memory, or when the master is gone. */
bool MG_MUST_CHECK mg_ready_send(int channel, const struct mg_generation *g);
