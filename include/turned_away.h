/* turned_away.h - connections of clients that came to nothing, told without flooding the log. */
#pragma once

#include "stream.h"

/* A line for the first of them in a second, with how many others there were since the last one. */
void mg_turned_away(const struct mg_peer_info *info, const char *why);
