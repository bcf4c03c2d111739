/* turned_away.c - half of what the internet connects with comes from scanners: a line a second tells enough. */
#include "turned_away.h"

#include "log.h"
#include "meter.h"

static const double TOLD = 1; /* seconds between two lines */

void mg_turned_away(const struct mg_peer_info *info, const char *why)
{
    static double last = -1e9;
    static unsigned others;
    char ip[INET6_ADDRSTRLEN];
    double now = mg_clock_now();

    mg_meter_turned_away(why);
    if (now - last < TOLD) {
        others++;
        return;
    }
    int len = (int)mg_endpoint_print(&info->client, ip);
    if (others)
        mg_log(MG_LOG_INFO, "client %.*s: %s (and %u others since the last such line)", len, ip, why, others);
    else
        mg_log(MG_LOG_INFO, "client %.*s: %s", len, ip, why);
    last = now;
    others = 0;
}
