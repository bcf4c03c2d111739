/* address.h - socket addresses: parsed, printed, compared. */
#pragma once

#include <sys/socket.h>

#include <netinet/in.h>
#include <sys/un.h>

#include "slice.h"

enum { MG_ADDRESS_TEXT = 128 }; /* enough for any printed address */

struct mg_address {
    socklen_t len;
    union {
        struct sockaddr any;
        struct sockaddr_in ip4;
        struct sockaddr_in6 ip6;
        struct sockaddr_un path;
    };
};

/* A network: an address and how many of its bits count. */
struct mg_network {
    struct mg_address address;
    unsigned bits;
};

/* An address without its path, small enough to keep for every connection. */
struct mg_endpoint {
    uint8_t ip[16]; /* IPv4 in the first four */
    uint16_t port;
    uint8_t family; /* 4, 6, or 0 for a unix socket */
};

/* An IPv4-mapped IPv6 address becomes IPv4. */
struct mg_endpoint mg_endpoint_of(const struct mg_address *a);
/* "127.0.0.1", "::1", "unix"; how many bytes, at most INET6_ADDRSTRLEN. */
size_t mg_endpoint_print(const struct mg_endpoint *e, char *to);

/* "127.0.0.1:80", "[::1]:80", ":80" (any address, IPv6 and IPv4), "*:80",
 * "unix:/run/x.sock", "unix:@abstract". A name is not an address: false. */
bool mg_address_parse(mg_slice text, struct mg_address *out);
/* Of a unix socket whose file this is, whatever it is called. False with errno: the path is too long. */
bool mg_address_of_file(const char *path, struct mg_address *out);
/* The address of a literal without a port ("10.0.0.1", "::1", "[::1]"). */
bool mg_address_literal(mg_slice host, uint16_t port, struct mg_address *out);
/* "name:port" or "address:port" into its parts; false if there is no port or
 * it is not 1..65535. Brackets around an IPv6 host are taken off. */
bool mg_address_split(mg_slice text, mg_slice *host, uint16_t *port);
/* As it would be parsed again; how many bytes, at most MG_ADDRESS_TEXT. */
size_t mg_address_print(const struct mg_address *a, char *to);
/* Only the host's part: "127.0.0.1", "::1"; "unix" for a unix socket. */
size_t mg_address_print_host(const struct mg_address *a, char *to);
uint16_t mg_address_port(const struct mg_address *a);
bool mg_address_equal(const struct mg_address *a, const struct mg_address *b);

/* "10.0.0.0/8", "::1", "unix" (every unix socket's client). An IPv4-mapped
 * IPv6 address is compared as IPv4. */
bool mg_network_parse(mg_slice text, struct mg_network *out);
bool mg_network_has(const struct mg_network *n, const struct mg_address *a);
