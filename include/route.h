/* route.h - host and path to a route: a compiled table. Pure.
 *
 * A pattern is "[host]/path". In the path ":name" is one segment, not empty,
 * and a last "*" the rest (which may be empty). "*.example.com" matches every
 * subdomain, not the name itself. An exact host beats a wildcard (the longer
 * the better) beats none; within the same host the more literal path wins,
 * segment by segment (literal beats ":name" beats "*"), whatever the order of
 * declaration. A route whose methods don't allow the request's is passed over.
 * "/users/" with a last "*" matches "/users/a/b" (rest "a/b"), "/users/" and
 * also "/users" (rest empty), unless that is a pattern, too. Literal segments
 * are compared with the normalised path: write them decoded. "*" alone is for
 * "OPTIONS *".
 */
#pragma once

#include <stddef.h>

#include "status.h"

struct mg_router;

enum { MG_ROUTE_PARAMS_MAX = 16 };

struct mg_route_match {
    int route; /* the number given to mg_router_add */
    unsigned param_count;
    mg_slice params[MG_ROUTE_PARAMS_MAX]; /* into the path; the "*" rest, without its "/", last */
};

struct mg_router *mg_router_new(void);
void mg_router_free(struct mg_router *r);

/* Declares a route. methods: with commas, empty for all but CONNECT and TRACE.
 * Everything is copied. Below 0 with *problem, a sentence that names the wrong
 * part and the remedy: a bad pattern, or one that stands already for the same methods. */
enum mg_status MG_MUST_CHECK mg_router_add(struct mg_router *r, mg_slice pattern, mg_slice methods, int number,
                                           const char **problem);
/* After the last mg_router_add, before the first find. */
enum mg_status MG_MUST_CHECK mg_router_compile(struct mg_router *r);

/* host: lower case, no port. path: normalised, begins with "/" (or is "*" for OPTIONS *, which only the patterns
 * "*" and "/" followed by "*" match). MG_OK; MG_ABSENT if no pattern matches; MG_REFUSED if some do but
 * for other methods: `allow` (if not NULL) then lists them with ", ", at most cap bytes. */
enum mg_status mg_router_find(const struct mg_router *r, mg_slice host, mg_slice path, mg_slice method,
                              struct mg_route_match *out, char *allow, size_t cap, size_t *allow_len);

/* The names of a route's params, in order ("*" for the rest). */
unsigned mg_router_param_names(const struct mg_router *r, int number, mg_slice *names);
/* The number of the nth route in match order, or MG_ABSENT. */
int mg_router_in_order(const struct mg_router *r, int n);
