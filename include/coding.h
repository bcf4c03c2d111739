/* coding.h - content codings for scripts: what enter.c needs beside the seam's mg_coder_*. */
#pragma once

struct mg_task;

/* Closes what this task has open. */
void mg_coding_end(const struct mg_task *t);
/* Coders that are open: for the question what is left open. */
unsigned mg_coding_live(void);
