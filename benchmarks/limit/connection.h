/* connection.h: the load client's connections: connect, handshake, read, answer, close.
 *
 *     CLOSED --> CONNECTING --> HANDSHAKING --> OPEN --> CLOSED      subscribers, the publisher
 *                                   |---------> CLOSING --> CLOSED   a probe: closes at once, politely
 *                                   '---------> OPEN                 a stalled one: never read again
 *
 * A subscriber's messages have one known header, so the usual frame is recognised by comparing it;
 * every other frame is parsed. A publisher's and a probe's messages are read and thrown away. A stalled
 * client leaves the epoll set after its handshake; to the server it looks like any other.
 *
 * This header holds the program's connection state (it is included once, by load.c). Events are
 * handled one by one and close() takes a socket out of the epoll set, so a connection that is
 * closed here is not met again in the same round.
 */
#ifndef FASTBCAST_BENCHMARKS_CONNECTION_H
#define FASTBCAST_BENCHMARKS_CONNECTION_H

#include "ledger.h"
#include "options.h"
#include "wire.h"

#include <errno.h>
#include <netinet/tcp.h>
#include <sys/epoll.h>
#include <sys/socket.h>

enum {
    READ_BUFFER_BYTES = 256 * 1024,
    MAX_KEPT_BYTES = 1024 * 1024,       /* a frame or response head larger than this is an error */
    CONNECTIONS_PER_SOURCE = 20000,
};

enum role { SUBSCRIBER, STALLED, PUBLISHER, PROBE };
enum state { CLOSED, CONNECTING, HANDSHAKING, OPEN, CLOSING };

struct connection {
    int fd;
    uint8_t role, state;
    uint32_t number;                    /* makes its Sec-WebSocket-Key */
    uint64_t connect_ns;
    struct receipt receipt;
    uint8_t *kept;                      /* the start of a frame or response head; NULL if none */
    size_t kept_bytes;
};

static struct options options;
static struct ledger ledger;
static struct histogram connects, probes;           /* connect() to 101 received */
static int epoll_fd;
static uint32_t handshaking, opened, open_subscribers, closed_by_server, probes_failed;
static uint64_t reads, frames_read, last_read_ns;   /* of subscribers */
static uint8_t *read_buf;
static uint8_t frame_header[FRAME_MAX_HEADER_BYTES];
static size_t frame_header_bytes, frame_bytes;

static _Noreturn void fail(const char *what, int error)
{
    fprintf(stderr, "load: %s%s%s\n", what, error ? ": " : "", error ? strerror(error) : "");
    exit(1);
}

/* A fixed sequence (splitmix64): masks and handshake keys need no secrecy here. */
static uint64_t scramble(uint64_t value)
{
    value += 0x9E3779B97F4A7C15u;
    value = (value ^ value >> 30) * 0xBF58476D1CE4E5B9u;
    value = (value ^ value >> 27) * 0x94D049BB133111EBu;
    return value ^ value >> 31;
}

static void watch(struct connection *connection, uint32_t events, int operation)
{
    struct epoll_event event = {.events = events, .data.ptr = connection};
    if (epoll_ctl(epoll_fd, operation, connection->fd, &event))
        fail("epoll_ctl", errno);
}

/* ---- connecting ------------------------------------------------------------------------------ */

static void handshake_key(const struct connection *connection, char key[24])
{
    uint64_t nonce[2] = {scramble(connection->number), scramble(~(uint64_t)connection->number)};
    base64_encode((uint8_t *)nonce, sizeof nonce, key);
}

static void start_connect(struct connection *connection, uint8_t role, uint32_t number)
{
    *connection = (struct connection){.role = role, .state = CONNECTING, .number = number};
    connection->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (connection->fd < 0)
        fail("socket", errno);
    setsockopt(connection->fd, IPPROTO_TCP, TCP_NODELAY, &(int){1}, sizeof(int));
    if (options.is_spreading_sources) {
        uint32_t source = INADDR_LOOPBACK + number / CONNECTIONS_PER_SOURCE % 8;
        struct sockaddr_in address = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(source)};
        /* The port is chosen by connect(), so that one port serves several servers' connections. */
        setsockopt(connection->fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &(int){1}, sizeof(int));
        if (bind(connection->fd, (struct sockaddr *)&address, sizeof address))
            fail("bind", errno);
    }
    connection->connect_ns = now_ns();
    if (connect(connection->fd, (struct sockaddr *)&options.server, sizeof options.server) && errno != EINPROGRESS)
        fail("connect", errno);
    watch(connection, EPOLLIN | EPOLLOUT, EPOLL_CTL_ADD);
}

static void send_request(struct connection *connection)
{
    char request[768], key[24];
    int error = 0;
    socklen_t error_len = sizeof error;
    getsockopt(connection->fd, SOL_SOCKET, SO_ERROR, &error, &error_len);
    if (error)
        fail("connect", error);
    handshake_key(connection, key);
    int len = snprintf(request, sizeof request,
                       "GET %s HTTP/1.1\r\nHost: %s\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
                       "Sec-WebSocket-Key: %.24s\r\nSec-WebSocket-Version: 13\r\n\r\n",
                       options.path, options.authority, key);
    if (send(connection->fd, request, (size_t)len, MSG_NOSIGNAL) != len)
        fail("the request could not be written", errno);
    connection->state = HANDSHAKING;
    watch(connection, EPOLLIN, EPOLL_CTL_MOD);
}

static void close_connection(struct connection *connection, uint64_t now)
{
    close(connection->fd);
    free(connection->kept);
    connection->kept = NULL;
    connection->kept_bytes = 0;
    if (connection->role == SUBSCRIBER && connection->state == OPEN) {
        open_subscribers--;
        ledger_leave(&ledger, &connection->receipt, now);
    }
    connection->state = CLOSED;
}

/* Control frames are small: a full socket (never seen) would only lose a pong. */
static void send_control(struct connection *connection, uint8_t opcode, const uint8_t *payload, size_t len)
{
    uint8_t control[FRAME_MAX_HEADER_BYTES + CONTROL_MAX_PAYLOAD_BYTES], mask[4] = {7, 7, 7, 7};
    size_t header_bytes = write_frame_header(control, opcode, len, mask);
    apply_mask(control + header_bytes, payload, len, mask);
    send(connection->fd, control, header_bytes + len, MSG_DONTWAIT | MSG_NOSIGNAL);
}

static void stop_reading(struct connection *connection)
{
    if (epoll_ctl(epoll_fd, EPOLL_CTL_DEL, connection->fd, NULL))
        fail("epoll_ctl", errno);
}

/* Returns the length of the response's head, 0 while it is incomplete. Extra headers are welcome. */
static size_t take_response(struct connection *connection, const char *buf, size_t len, uint64_t read_ns)
{
    char key[24], expected[ACCEPT_KEY_BYTES];
    size_t head_len = head_length(buf, len), accept_len = 0;
    if (!head_len)
        return 0;
    const char *accept = find_header(buf, head_len, "Sec-WebSocket-Accept", &accept_len);
    handshake_key(connection, key);
    accept_key(key, sizeof key, expected);
    if (memcmp(buf, "HTTP/1.1 101", 12) || accept_len != ACCEPT_KEY_BYTES
        || memcmp(accept, expected, ACCEPT_KEY_BYTES)) {
        fprintf(stderr, "load: handshake refused: %.*s\n", (int)strcspn(buf, "\r"), buf);
        exit(1);
    }
    histogram_add(connection->role == PROBE ? &probes : &connects, read_ns - connection->connect_ns);
    connection->state = OPEN;
    if (connection->role == PROBE) {
        send_control(connection, OPCODE_CLOSE, (const uint8_t *)"\x03\xe8", 2);
        connection->state = CLOSING;
    } else {
        handshaking--;
        opened++;
        open_subscribers += connection->role == SUBSCRIBER;
        if (connection->role == STALLED)
            stop_reading(connection);
    }
    return head_len;
}

/* ---- reading --------------------------------------------------------------------------------- */

static void lose_connection(struct connection *connection, uint64_t now)
{
    if (connection->state < OPEN && connection->role != PROBE)
        fail("the server closed a connection during its handshake", 0);
    if (connection->role != PROBE)
        closed_by_server++;
    else if (connection->state != CLOSING)
        probes_failed++;
    close_connection(connection, now);
}

/* A frame that is not a message of ours. The connection may be closed afterwards. */
static void take_other_frame(struct connection *connection, const struct frame *frame, const uint8_t *payload,
                             uint64_t read_ns)
{
    if (frame->opcode == OPCODE_PING && frame->payload_bytes <= CONTROL_MAX_PAYLOAD_BYTES) {
        if (connection->state == OPEN)
            send_control(connection, OPCODE_PONG, payload, frame->payload_bytes);
    } else if (frame->opcode == OPCODE_CLOSE) {
        if (connection->state == OPEN)
            send_control(connection, OPCODE_CLOSE, payload, frame->payload_bytes < 2 ? 0 : 2);
        lose_connection(connection, read_ns);
    } else if (frame->opcode != OPCODE_PONG && connection->role == SUBSCRIBER) {
        ledger.corrupt++;
    }
}

/* Takes all whole frames; returns the bytes taken. Subscribers' messages have one known header. */
static size_t take_frames(struct connection *connection, const uint8_t *buf, size_t len, uint64_t read_ns)
{
    size_t at = 0;
    bool is_subscriber = connection->role == SUBSCRIBER;
    struct frame frame;
    while (connection->state >= OPEN) {
        if (is_subscriber && len - at >= frame_bytes && !memcmp(buf + at, frame_header, frame_header_bytes)) {
            ledger_receive(&ledger, &connection->receipt, (const char *)buf + at + frame_header_bytes, read_ns);
            frames_read++;
            at += frame_bytes;
            continue;
        }
        if (!read_frame_header(buf + at, len - at, &frame))
            break;
        if (frame.is_masked || frame.has_rsv || frame.payload_bytes > MAX_KEPT_BYTES) {
            ledger.corrupt++;           /* what follows cannot be read either */
            lose_connection(connection, read_ns);
            break;
        }
        if (len - at - frame.header_bytes < frame.payload_bytes)
            break;
        take_other_frame(connection, &frame, buf + at + frame.header_bytes, read_ns);
        at += frame.header_bytes + frame.payload_bytes;
    }
    return connection->state == CLOSED ? len : at;
}

static void read_connection(struct connection *connection)
{
    size_t kept_bytes = connection->kept_bytes, taken = 0;
    ssize_t got = recv(connection->fd, read_buf + kept_bytes, READ_BUFFER_BYTES, MSG_DONTWAIT);
    uint64_t read_ns = now_ns();
    if (got <= 0) {
        if (got == 0 || (errno != EAGAIN && errno != EINTR))
            lose_connection(connection, read_ns);
        return;
    }
    if (kept_bytes)
        memcpy(read_buf, connection->kept, kept_bytes);
    size_t len = kept_bytes + (size_t)got;
    if (connection->state == HANDSHAKING)
        taken = take_response(connection, (const char *)read_buf, len, read_ns);
    if (connection->role == STALLED && connection->state == OPEN)
        taken = len;                    /* what came with the response */
    if (connection->state >= OPEN) {
        taken += take_frames(connection, read_buf + taken, len - taken, read_ns);
        if (connection->role == SUBSCRIBER) {
            reads++;
            last_read_ns = read_ns;
        }
    }
    if (connection->state == CLOSED)
        return;
    connection->kept_bytes = len - taken;
    if (connection->kept_bytes > MAX_KEPT_BYTES)
        fail("a response or frame without an end", 0);
    if (taken < len) {
        connection->kept = allocate(connection->kept, len - taken);
        memcpy(connection->kept, read_buf + taken, len - taken);
    } else if (kept_bytes) {
        free(connection->kept);
        connection->kept = NULL;
    }
}

#endif
