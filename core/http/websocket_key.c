/* websocket_key.c - the key of a WebSocket's handshake, and the answer to it (RFC 6455 4.1, 4.2.2).
 *
 * HTTP/2 has neither (RFC 8441): where one side speaks it and the other does not, they are made here. */
#include "websocket_key.h"

#include <string.h>

#include <openssl/evp.h>

#include "random.h"

bool mg_websocket_key(char *to)
{
    unsigned char bytes[16];

    return mg_random(bytes, sizeof(bytes)) &&
           EVP_EncodeBlock((unsigned char *)to, bytes, sizeof(bytes)) == MG_WEBSOCKET_KEY;
}

bool mg_websocket_accept(mg_slice key, char *to)
{
    static const char guid[] = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11";
    char text[MG_WEBSOCKET_KEY + sizeof(guid) - 1];
    unsigned char digest[20];

    if (key.len != MG_WEBSOCKET_KEY)
        return false;
    memcpy(text, key.ptr, MG_WEBSOCKET_KEY);
    memcpy(text + MG_WEBSOCKET_KEY, guid, sizeof(guid) - 1);
    return EVP_Digest(text, sizeof(text), digest, NULL, EVP_sha1(), NULL) == 1 &&
           EVP_EncodeBlock((unsigned char *)to, digest, sizeof(digest)) == MG_WEBSOCKET_ACCEPT;
}
