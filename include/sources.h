/* sources.h - the texts of the files that a generation was loaded from, for loading it once more when they have been
 * edited. */
#pragma once

#include "slice.h"

struct mg_sources;

/* Reads the files of a list, one a line; NULL if that is not possible, or if they are more than 16 MiB. */
struct mg_sources *mg_sources_read(const char *files);
void mg_sources_free(struct mg_sources *s);
/* The text of one; ptr is NULL if it is not among them. s may be NULL. */
mg_slice mg_sources_find(const struct mg_sources *s, const char *path);
