/* ask.h - what the command line asks a running moongate, by its control socket (control.h). */
#pragma once

#include <stdbool.h>

/* Is this a command that it takes? */
bool mg_ask_knows(const char *command);
/* May a word follow it? */
bool mg_ask_takes_word(const char *command);
/* Sends it, with that word or NULL, and prints the answer: to be read, or as it came. The exit status. */
int mg_ask(const char *path, const char *command, const char *word, bool json);
