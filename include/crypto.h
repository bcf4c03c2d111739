/* crypto.h - digests, for the files of core/script that sign and verify. */
#pragma once

#include <openssl/evp.h>

/* Of a number of mg_digest, fetched once; NULL: there is no such one, or no memory. */
const EVP_MD *mg_digest_of(int digest);
