/* file.h - files for scripts: opened beneath a folder, read in pieces. */
#pragma once

#include "seam.h"

/* The generation's VM is gone: what it has not closed is closed. */
void mg_files_end(const struct mg_generation *g);
