/* stalled.h: clients that never read, as the kernel has them at the end.
 *
 * What such a client can tell is little: a CLOSE frame, a FIN too, waits behind all that it has not read, and only
 * a reset comes through. So the server's ends are looked up in /proc/net/tcp:
 *
 *     state of the server's end           counted as
 *     ESTABLISHED, and a process has it   open        still a client of the server
 *     any other                           lingering   closed by the server; the kernel keeps what was not taken
 *     not there                           gone
 *
 * `unread_bytes` is what the kernel holds of the stream at both ends: sent and not acknowledged, or received
 * and not read (a byte is in both for the moment before its acknowledgement arrives).
 */
#ifndef FASTBCAST_BENCHMARKS_STALLED_H
#define FASTBCAST_BENCHMARKS_STALLED_H

#include <netinet/in.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

enum { TCP_STATE_ESTABLISHED = 1 };

struct stalled_tally {
    bool is_known;                      /* false: there is no /proc/net/tcp */
    uint32_t open, lingering;
    uint64_t unread_bytes;
};

/* An IPv4 address and port as one number, to be sorted and found. */
static inline uint64_t endpoint_key(uint32_t address, uint32_t port)
{
    return (uint64_t)address << 16 | port;
}

static inline int compare_keys(const void *left, const void *right)
{
    uint64_t a = *(const uint64_t *)left, b = *(const uint64_t *)right;
    return a < b ? -1 : a > b;
}

/* `clients` are the stalled ones' own addresses (endpoint_key), sorted; the server's port tells the two ends apart. */
static inline struct stalled_tally count_stalled(const uint64_t *clients, uint32_t count, struct sockaddr_in server)
{
    struct stalled_tally tally = {0};
    char line[512];
    uint32_t server_port = ntohs(server.sin_port);
    FILE *file = fopen("/proc/net/tcp", "r");
    if (!file)
        return tally;
    tally.is_known = true;
    while (fgets(line, sizeof line, file)) {
        unsigned local, local_port, remote, remote_port, state, unsent, unread;
        unsigned long inode;
        if (sscanf(line, "%*d: %8x:%4x %8x:%4x %2x %8x:%8x %*x:%*x %*x %*d %*d %lu", &local, &local_port, &remote,
                   &remote_port, &state, &unsent, &unread, &inode) != 8)
            continue;
        bool is_server_end = local_port == server_port;
        if (!is_server_end && remote_port != server_port)
            continue;
        uint64_t client = is_server_end ? endpoint_key(remote, remote_port) : endpoint_key(local, local_port);
        if (!bsearch(&client, clients, count, sizeof *clients, compare_keys))
            continue;
        if (!is_server_end)
            tally.unread_bytes += unread;
        else if (state == TCP_STATE_ESTABLISHED && inode)
            tally.open++;
        else
            tally.lingering++;
        if (is_server_end)
            tally.unread_bytes += unsent;
    }
    fclose(file);
    return tally;
}

#endif
