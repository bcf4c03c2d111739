/* network.c - addresses and networks as bytes, for scripts. Implements what seam.h declares. */
#include <string.h>

#include "address.h"
#include "seam.h"

int mg_network_read(const char *ptr, uint32_t len, uint8_t *ip, uint32_t *bits)
{
    struct mg_network n;

    if (!mg_network_parse((mg_slice){ ptr, len }, &n))
        return MG_MALFORMED;
    struct mg_endpoint e = mg_endpoint_of(&n.address);
    memcpy(ip, e.ip, sizeof(e.ip));
    *bits = n.bits;
    return e.family;
}
