/* floor.c: the least work a single-threaded WebSocket relay can do.
 *
 *     cc -O2 -o floor floor.c && ./floor --mode each --port 0
 *
 * Every data message that a client sends goes to every client, the sender included, with the same
 * opcode. It is the yardstick for servers that do more, so it does nothing else: one channel
 * whatever the path, no limits but the one below, no fragments (close 1003), no UTF-8 check.
 *
 * Theory of operation. One epoll set, one thread, one round per epoll_wait:
 *
 *     ready sockets --one recv each--> parse_client --> relay_message
 *                                                          |
 *                           mode each      the frame is built, then ONE send per client
 *                           mode coalesce  the frame is appended to `round_buf`; when all ready
 *                                          sockets have been read, ONE send per client of it all
 *
 * "each" is what a loop over sockets costs at the very least: the price is the kernel's send.
 * "coalesce" is what batching can reach: as many frames per send as one round has gathered.
 *
 * Invariants.
 *  1. A client's stream is in order: while `pending` holds bytes, new ones go behind them.
 *  2. A client is freed only at the end of a round (`is_dead` before), so that a loop over
 *     `clients`, or an event of the same round, never meets a freed one.
 *  3. An idle client owns no buffer: input is parsed in the shared `read_buf`, and only the
 *     start of an incomplete frame or request is kept. That is why its memory is so small.
 *
 * The pending bytes of one client are bounded: above 64 MiB the program exits with an error.
 * A benchmark in which a client is that far behind measured something else.
 */
#define _GNU_SOURCE
#include "wire.h"

#include <arpa/inet.h>
#include <errno.h>
#include <getopt.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

enum {
    LISTEN_BACKLOG = 4096,
    EVENTS_PER_ROUND = 512,
    READ_BUFFER_BYTES = 256 * 1024,
    MAX_REQUEST_BYTES = 16 * 1024,
    MAX_MESSAGE_BYTES = 16 * 1024 * 1024,
    MAX_PENDING_BYTES = 64 * 1024 * 1024,
    DEFAULT_NOTSENT_LOWAT_BYTES = 64 * 1024,
};

struct buffer {
    uint8_t *bytes;
    size_t len, capacity;
};

struct client {
    int fd;
    bool is_open;               /* the 101 was written */
    bool is_dead;               /* freed at the end of the round */
    bool is_closing;            /* our CLOSE was written: nothing may follow (section 5.5.1) */
    struct buffer input;        /* start of an incomplete request or frame; mostly empty */
    struct buffer pending;      /* what the kernel did not take; EPOLLOUT is armed while it has any */
    size_t pending_start;
};

static int epoll_fd, listen_fd;
static bool is_coalescing, is_accepting = true;
static int notsent_lowat_bytes = DEFAULT_NOTSENT_LOWAT_BYTES;
static struct client **clients;
static uint32_t client_count, client_capacity;
static bool has_dead;
static struct buffer frame_buf, round_buf;
static uint8_t *read_buf;
static size_t read_buf_capacity;
static volatile sig_atomic_t is_stopping;

static void fail(const char *what)
{
    fprintf(stderr, "floor: %s: %s\n", what, strerror(errno));
    exit(1);
}

static void append(struct buffer *buf, const void *bytes, size_t len)
{
    if (buf->len + len > buf->capacity) {
        while (buf->capacity < buf->len + len)
            buf->capacity = buf->capacity ? buf->capacity * 2 : 512;
        if (!(buf->bytes = realloc(buf->bytes, buf->capacity)))
            fail("memory");
    }
    memcpy(buf->bytes + buf->len, bytes, len);
    buf->len += len;
}

static void release(struct buffer *buf)
{
    free(buf->bytes);
    *buf = (struct buffer){0};
}

static void watch(struct client *client, uint32_t events, int operation)
{
    struct epoll_event event = {.events = events, .data.ptr = client};
    if (epoll_ctl(epoll_fd, operation, client ? client->fd : listen_fd, &event))
        fail("epoll_ctl");
}

static void mark_dead(struct client *client)
{
    client->is_dead = true;
    has_dead = true;
}

/* ---- writing --------------------------------------------------------------------------------- */

static void keep_pending(struct client *client, const uint8_t *bytes, size_t len)
{
    if (client->pending.len == 0)
        watch(client, EPOLLIN | EPOLLOUT, EPOLL_CTL_MOD);
    append(&client->pending, bytes, len);
    if (client->pending.len - client->pending_start > MAX_PENDING_BYTES) {
        fprintf(stderr, "floor: a client is more than %d bytes behind\n", MAX_PENDING_BYTES);
        exit(1);
    }
}

/* The one ordered way to a client's socket. A client that cannot be written is marked dead. */
static inline void write_client(struct client *client, const uint8_t *bytes, size_t len)
{
    ssize_t sent = 0;
    if (client->pending.len == 0) {
        sent = send(client->fd, bytes, len, MSG_DONTWAIT | MSG_NOSIGNAL);
        if (sent == (ssize_t)len)
            return;
        if (sent < 0) {
            if (errno != EAGAIN && errno != EINTR) {
                mark_dead(client);
                return;
            }
            sent = 0;
        }
    }
    keep_pending(client, bytes + sent, len - (size_t)sent);
}

static void flush_pending(struct client *client)
{
    struct buffer *pending = &client->pending;
    ssize_t sent = send(client->fd, pending->bytes + client->pending_start,
                        pending->len - client->pending_start, MSG_DONTWAIT | MSG_NOSIGNAL);
    if (sent < 0) {
        if (errno != EAGAIN && errno != EINTR)
            mark_dead(client);
        return;
    }
    client->pending_start += (size_t)sent;
    if (client->pending_start == pending->len) {
        release(pending);
        client->pending_start = 0;
        watch(client, EPOLLIN, EPOLL_CTL_MOD);
        if (client->is_closing)
            shutdown(client->fd, SHUT_WR);
    } else if (client->pending_start > pending->len / 2) {
        pending->len -= client->pending_start;
        memmove(pending->bytes, pending->bytes + client->pending_start, pending->len);
        client->pending_start = 0;
    }
}

static void write_all_clients(const uint8_t *bytes, size_t len)
{
    for (uint32_t i = 0; i < client_count; i++)
        if (clients[i]->is_open && !clients[i]->is_closing && !clients[i]->is_dead)
            write_client(clients[i], bytes, len);
}

static void write_control(struct client *client, uint8_t opcode, const uint8_t *payload, size_t len)
{
    uint8_t control[2 + CONTROL_MAX_PAYLOAD_BYTES];
    size_t header_bytes = write_frame_header(control, opcode, len, NULL);
    memcpy(control + header_bytes, payload, len);
    write_client(client, control, header_bytes + len);
}

static void close_client(struct client *client, const uint8_t *payload, size_t len)
{
    write_control(client, OPCODE_CLOSE, payload, len);
    client->is_closing = true;
    if (client->pending.len == 0)
        shutdown(client->fd, SHUT_WR);      /* the client's end of file then frees it */
}

static void refuse_client(struct client *client, uint16_t code)
{
    close_client(client, (uint8_t[2]){(uint8_t)(code >> 8), (uint8_t)code}, 2);
}

/* ---- reading --------------------------------------------------------------------------------- */

static void relay_message(uint8_t opcode, const uint8_t *masked, const struct frame *frame)
{
    struct buffer *out = is_coalescing ? &round_buf : &frame_buf;
    uint8_t header[FRAME_MAX_HEADER_BYTES];
    if (!is_coalescing)
        out->len = 0;
    append(out, header, write_frame_header(header, opcode, frame->payload_bytes, NULL));
    append(out, masked, frame->payload_bytes);
    uint8_t *payload = out->bytes + out->len - frame->payload_bytes;
    apply_mask(payload, payload, frame->payload_bytes, frame->mask);
    if (!is_coalescing)
        write_all_clients(out->bytes, out->len);
}

/* Takes one whole frame. What it may do to the client: mark it dead or closing, never free it. */
static void take_frame(struct client *client, const struct frame *frame, uint8_t *payload)
{
    bool is_control = frame->opcode & 0x8;
    if (!frame->is_masked || frame->has_rsv || (is_control && frame->payload_bytes > CONTROL_MAX_PAYLOAD_BYTES)) {
        refuse_client(client, 1002);
    } else if (!is_control) {
        if (frame->is_final && frame->opcode != OPCODE_CONTINUATION)
            relay_message(frame->opcode, payload, frame);
        else
            refuse_client(client, 1003);
    } else {
        apply_mask(payload, payload, frame->payload_bytes, frame->mask);
        if (frame->opcode == OPCODE_PING)
            write_control(client, OPCODE_PONG, payload, frame->payload_bytes);
        else if (frame->opcode == OPCODE_CLOSE)
            close_client(client, payload, frame->payload_bytes < 2 ? 0 : 2);
    }
}

/* Returns the length of the request it took, 0 if it is incomplete. */
static size_t take_request(struct client *client, const char *buf, size_t len)
{
    static const char before_key[] = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n"
                                     "Connection: Upgrade\r\nSec-WebSocket-Accept: ";
    uint8_t response[sizeof before_key - 1 + ACCEPT_KEY_BYTES + 4];
    size_t head_len = head_length(buf, len), key_len;
    const char *key = head_len ? find_header(buf, head_len, "Sec-WebSocket-Key", &key_len) : NULL;
    char *accept = (char *)response + sizeof before_key - 1;
    if (!head_len && len < MAX_REQUEST_BYTES)
        return 0;
    if (!key || !accept_key(key, key_len, accept)) {
        mark_dead(client);
        return 0;
    }
    memcpy(response, before_key, sizeof before_key - 1);
    memcpy(accept + ACCEPT_KEY_BYTES, "\r\n\r\n", 4);
    write_client(client, response, sizeof response);
    client->is_open = true;
    return head_len;
}

/* Takes all that is complete in `buf`; returns how many bytes that was. */
static size_t parse_client(struct client *client, uint8_t *buf, size_t len)
{
    size_t at = 0;
    struct frame frame;
    if (!client->is_open && !(at = take_request(client, (char *)buf, len)))
        return 0;
    while (!client->is_dead && !client->is_closing && read_frame_header(buf + at, len - at, &frame)) {
        if (frame.payload_bytes > MAX_MESSAGE_BYTES) {
            refuse_client(client, 1009);
            break;
        }
        if (len - at - frame.header_bytes < frame.payload_bytes)
            break;
        take_frame(client, &frame, buf + at + frame.header_bytes);
        at += frame.header_bytes + frame.payload_bytes;
    }
    return client->is_closing ? len : at;
}

/* One recv. The kept start of a frame goes before it in `read_buf`, so that parsing sees one piece. */
static void read_client(struct client *client)
{
    size_t kept = client->input.len;
    if (kept + READ_BUFFER_BYTES > read_buf_capacity) {
        read_buf_capacity = kept + 2 * READ_BUFFER_BYTES;
        if (!(read_buf = realloc(read_buf, read_buf_capacity)))
            fail("memory");
    }
    ssize_t got = recv(client->fd, read_buf + kept, READ_BUFFER_BYTES, MSG_DONTWAIT);
    if (got <= 0) {
        if (got == 0 || (errno != EAGAIN && errno != EINTR))
            mark_dead(client);
        return;
    }
    if (kept)
        memcpy(read_buf, client->input.bytes, kept);
    size_t len = kept + (size_t)got, taken = parse_client(client, read_buf, len);
    client->input.len = 0;
    if (taken < len)
        append(&client->input, read_buf + taken, len - taken);
    else if (kept)
        release(&client->input);
}

/* ---- accepting and freeing ------------------------------------------------------------------- */

static void accept_clients(void)
{
    for (;;) {
        int fd = accept4(listen_fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
        if (fd < 0) {
            if (errno == EMFILE || errno == ENFILE) {
                /* Level-triggered: it would wake us forever. Listen again when a client has left. */
                fprintf(stderr, "floor: out of file descriptors at %u clients\n", client_count);
                watch(NULL, 0, EPOLL_CTL_MOD);
                is_accepting = false;
            }
            return;
        }
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &(int){1}, sizeof(int));
        if (notsent_lowat_bytes)
            setsockopt(fd, IPPROTO_TCP, TCP_NOTSENT_LOWAT, &notsent_lowat_bytes, sizeof(int));
        if (client_count == client_capacity) {
            client_capacity = client_capacity ? client_capacity * 2 : 1024;
            if (!(clients = realloc(clients, client_capacity * sizeof *clients)))
                fail("memory");
        }
        struct client *client = calloc(1, sizeof *client);
        if (!client)
            fail("memory");
        client->fd = fd;
        clients[client_count++] = client;
        watch(client, EPOLLIN, EPOLL_CTL_ADD);
    }
}

static void free_dead(void)
{
    for (uint32_t i = client_count; i-- > 0;) {
        struct client *client = clients[i];
        if (!client->is_dead)
            continue;
        clients[i] = clients[--client_count];
        close(client->fd);
        release(&client->input);
        release(&client->pending);
        free(client);
    }
    has_dead = false;
    if (!is_accepting) {
        watch(NULL, EPOLLIN, EPOLL_CTL_MOD);
        is_accepting = true;
    }
}

static void stop(int signal_number)
{
    (void)signal_number;
    is_stopping = 1;
}

static void listen_on(int port)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((uint16_t)port),
                                  .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t address_len = sizeof address;
    listen_fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    setsockopt(listen_fd, SOL_SOCKET, SO_REUSEADDR, &(int){1}, sizeof(int));
    if (listen_fd < 0 || bind(listen_fd, (struct sockaddr *)&address, sizeof address)
        || listen(listen_fd, LISTEN_BACKLOG)
        || getsockname(listen_fd, (struct sockaddr *)&address, &address_len))
        fail("listen");
    watch(NULL, EPOLLIN, EPOLL_CTL_ADD);
    printf("listening on ws://127.0.0.1:%d/\n", ntohs(address.sin_port));
    fflush(stdout);
}

int main(int argc, char **argv)
{
    static const struct option options[] = {
        {"mode", required_argument, NULL, 'm'}, {"port", required_argument, NULL, 'p'},
        {"notsent-lowat", required_argument, NULL, 'n'}, {NULL, 0, NULL, 0}};
    int port = 0, option;
    while ((option = getopt_long(argc, argv, "", options, NULL)) != -1) {
        if (option == 'm' && (!strcmp(optarg, "each") || !strcmp(optarg, "coalesce")))
            is_coalescing = !strcmp(optarg, "coalesce");
        else if (option == 'p')
            port = atoi(optarg);
        else if (option == 'n')
            notsent_lowat_bytes = atoi(optarg);
        else {
            fprintf(stderr, "usage: floor [--mode each|coalesce] [--port P] [--notsent-lowat BYTES, 0 is off]\n");
            return 2;
        }
    }
    struct rlimit files;
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);

    /* The signals are open only inside epoll_pwait: none can fall between the test and the wait. */
    sigset_t blocked, open_mask;
    sigemptyset(&blocked);
    sigaddset(&blocked, SIGTERM);
    sigaddset(&blocked, SIGINT);
    sigprocmask(SIG_BLOCK, &blocked, &open_mask);
    sigdelset(&open_mask, SIGTERM);
    sigdelset(&open_mask, SIGINT);
    struct sigaction action = {.sa_handler = stop};
    sigaction(SIGTERM, &action, NULL);
    sigaction(SIGINT, &action, NULL);

    epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    listen_on(port);
    while (!is_stopping) {
        struct epoll_event events[EVENTS_PER_ROUND];
        int ready = epoll_pwait(epoll_fd, events, EVENTS_PER_ROUND, -1, &open_mask);
        for (int i = 0; i < ready; i++) {
            struct client *client = events[i].data.ptr;
            if (!client) {
                accept_clients();
                continue;
            }
            if (events[i].events & EPOLLOUT && !client->is_dead)
                flush_pending(client);
            if (events[i].events & (EPOLLIN | EPOLLHUP | EPOLLERR) && !client->is_dead)
                read_client(client);
        }
        if (round_buf.len) {
            write_all_clients(round_buf.bytes, round_buf.len);
            round_buf.len = 0;
        }
        if (has_dead)
            free_dead();
    }
    return 0;
}
