/* ask.h - what the command line asks a running moongate, by its control socket (control.h). */
#pragma once

#include <stdbool.h>

/* Is this a command that it takes? */
bool mg_ask_knows(const char *command);
/* Sends it and prints the answer: to be read, or as it came. The exit status. */
int mg_ask(const char *path, const char *command, bool json);
