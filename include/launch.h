/* launch.h - how this process was started, and the same once more. */
#pragma once

#include <stdbool.h>

/* Once, before anything looks at the arguments: the binary's path, as it was called, the arguments, the folder. False
 * with errno. */
bool mg_launch_remember(int argc, char **argv);
const char *mg_launch_path(void);
/* In a new process: executes the binary that lies at that path now, in that folder, with those arguments. It inherits
 * these descriptors by the convention of inherited.h, under these names. Comes back only if it can't be, with why, and
 * fds[0] is then where it can be told. */
const char *mg_launch(int *fds, const char *const *names, unsigned count);
