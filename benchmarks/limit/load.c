/* load.c: the load client: N subscribers and one publisher in one process, and a verdict.
 *
 *     cc -O2 -o load load.c && ./load --url ws://127.0.0.1:8080/ --clients 1000 --messages 500
 *
 * It works with any WebSocket server that relays a data message to all connections on the same
 * path, and prints one JSON object. `load --help` lists the options; ledger.h has the payload's form.
 *
 * Theory of operation. One epoll set; the phases follow each other:
 *
 *     connect all --> warm-up --> window (measured) --> report
 *            '------> hold (nothing sent, memory measured) --> report
 *
 * The server's memory is read after the warm-up and at the window's end, while all are connected (the
 * kernel's for sockets before the warm-up, too: idle sockets hold none). Of the
 * subscribers, --stalled N never read: they are spread evenly, nothing waits for them, and no figure but
 * "stalled_..." and memory has them in it. After --settle seconds (a server may take its time to close
 * them) they are counted.
 *
 * It must not be the bottleneck. One recv of up to 256 KiB per ready socket, one clock reading per
 * recv (not per frame), and a frame that is the expected one costs a few memcmp. A frame
 * that straddles two reads is kept per connection, and goes in front of the next read.
 *
 * The publisher is a connection like the others; its own copies are read and not counted.
 *   closed loop  at most K messages are under way. --judge first: a message has arrived when one
 *                subscriber has it (the server is kept busy); --judge all: when every one has it
 *   open loop    message i is due at start + i / R, whatever the server does, and its latency
 *                counts from then: a server that falls behind cannot hide it (coordinated omission)
 * All messages that may go out at one time leave in one send.
 *
 * The result is a result only if the server was the limit: look at server_cpu_share (1.0 is one
 * core) before anything else. The window's end is the moment the last delivery was read; if nothing
 * arrives for STALL_SECONDS, what is not there is missing, and "stopped" is true.
 */
#define _GNU_SOURCE
#include "connection.h"
#include "stalled.h"

#include <poll.h>
#include <sys/resource.h>
#include <sys/timerfd.h>

enum {
    MAX_UNSENT_BYTES = 64 * 1024 * 1024,
    EVENTS_PER_ROUND = 64,              /* small: the publisher gets its turn after each round */
    CONNECTS_AT_ONCE = 64,
    STALL_SECONDS = 5,
};

static struct connection *connections, *publisher, probe;     /* N subscribers, then the publisher */
static uint32_t connection_count, started;
static int timer_fd;
static uint8_t *unsent;                 /* what the publisher still has to write */
static size_t unsent_bytes, unsent_start, unsent_capacity;
static bool is_measuring, has_stopped;
static uint64_t publish_limit, window_start_ns, window_end_ns, rate_start_ns, rate_start_seq;
static double server_cpu_start, server_cpu, client_cpu_start, client_cpu, connecting_seconds;
static double server_wait_start, server_wait, client_wait_start, client_wait;

static double own_cpu_seconds(void)
{
    struct timespec used;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &used);
    return (double)used.tv_sec + (double)used.tv_nsec / 1e9;
}

/* The server's first process: the one whose loop it is. */
static double read_server_wait(void)
{
    return options.server_pids.count ? read_wait_seconds(options.server_pids.pids[0]) : -1;
}

/* ---- publishing ------------------------------------------------------------------------------ */

static void write_unsent(void)
{
    bool was_waiting = unsent_start > 0;
    if (publisher->state != OPEN || !unsent_bytes)
        return;
    ssize_t sent = send(publisher->fd, unsent + unsent_start, unsent_bytes - unsent_start,
                        MSG_DONTWAIT | MSG_NOSIGNAL);
    if (sent < 0 && errno != EAGAIN && errno != EINTR) {
        lose_connection(publisher, now_ns());
        return;
    }
    unsent_start += sent > 0 ? (size_t)sent : 0;
    if (unsent_start == unsent_bytes) {
        unsent_start = unsent_bytes = 0;
        if (was_waiting)
            watch(publisher, EPOLLIN, EPOLL_CTL_MOD);
    } else if (!was_waiting) {
        watch(publisher, EPOLLIN | EPOLLOUT, EPOLL_CTL_MOD);
    }
}

static void append_message(uint64_t intended_ns)
{
    uint64_t random = scramble(ledger.published);
    uint8_t mask[4] = {(uint8_t)random, (uint8_t)(random >> 8), (uint8_t)(random >> 16), (uint8_t)(random >> 24)};
    struct message *message = ledger_publish(&ledger, intended_ns, open_subscribers);
    size_t filler_bytes = options.payload_bytes - STAMP_BYTES;
    if (unsent_bytes + frame_bytes + 4 > unsent_capacity) {
        unsent_capacity = unsent_capacity * 2 + frame_bytes + 4;
        unsent = allocate(unsent, unsent_capacity);
        if (unsent_bytes - unsent_start > MAX_UNSENT_BYTES)
            fail("the server does not read: 64 MiB wait in the publisher", 0);
    }
    unsent_bytes += write_frame_header(unsent + unsent_bytes, frame_header[0] & 0x0F, options.payload_bytes, mask);
    apply_mask(unsent + unsent_bytes, (uint8_t *)message->stamp, STAMP_BYTES, mask);
    apply_mask(unsent + unsent_bytes + STAMP_BYTES, (uint8_t *)ledger.filler, filler_bytes, mask);
    unsent_bytes += options.payload_bytes;
}

/* Publishes whatever is due now, in one send. */
static void publish_due(uint64_t now)
{
    if (options.rate > 0) {
        uint64_t due = rate_start_seq + 1 + (uint64_t)((double)(now - rate_start_ns) * options.rate / 1e9);
        while (ledger.published < due && ledger.published < publish_limit) {
            double offset_ns = (double)(ledger.published - rate_start_seq) * 1e9 / options.rate;
            append_message(rate_start_ns + (uint64_t)offset_ns);
        }
    } else {
        uint64_t arrived = options.is_judged_by_all ? ledger.all_seq : ledger.first_seq;
        uint64_t due = arrived + options.in_flight_messages;
        if (unsent_bytes)
            return;                     /* the previous batch is still on its way out */
        while (ledger.published < due && ledger.published < publish_limit)
            append_message(now);
    }
    if (unsent_bytes)
        write_unsent();
}

static void start_publishing(uint64_t messages, uint64_t now)
{
    publish_limit = ledger.published + messages;
    rate_start_ns = last_read_ns = now;
    rate_start_seq = ledger.published;
    if (options.rate > 0) {
        double interval_ns = 1e9 / options.rate;
        struct timespec interval = {(time_t)(interval_ns / 1e9), (long)interval_ns % 1000000000};
        struct itimerspec timer = {.it_interval = interval, .it_value = interval};
        timerfd_settime(timer_fd, 0, &timer, NULL);
    }
}

static void start_window(void)
{
    is_measuring = true;
    reads = frames_read = 0;
    server_cpu_start = read_cpu_seconds(&options.server_pids);
    client_cpu_start = own_cpu_seconds();
    server_wait_start = read_server_wait();
    client_wait_start = read_wait_seconds(getpid());
    window_start_ns = now_ns();
    start_publishing(options.window_seconds > 0 ? UINT64_MAX / 2 : options.messages, window_start_ns);
    if (options.connect_probes)
        start_connect(&probe, PROBE, connection_count);
}

static void end_window(uint64_t now)
{
    window_end_ns = now;
    server_cpu = read_cpu_seconds(&options.server_pids) - server_cpu_start;
    client_cpu = own_cpu_seconds() - client_cpu_start;
    server_wait = read_server_wait() - server_wait_start;
    client_wait = read_wait_seconds(getpid()) - client_wait_start;
    is_measuring = false;
}

/* ---- the loop -------------------------------------------------------------------------------- */

static void handle_event(const struct epoll_event *event)
{
    struct connection *connection = event->data.ptr;
    uint64_t expirations;
    if (!connection) {
        if (read(timer_fd, &expirations, sizeof expirations) < 0 && errno != EAGAIN)
            fail("timerfd", errno);
        return;                         /* publish_due follows each round */
    }
    if (event->events & EPOLLOUT && connection->state == CONNECTING)
        send_request(connection);
    else if (event->events & EPOLLOUT && connection == publisher)
        write_unsent();
    if (event->events & (EPOLLIN | EPOLLERR | EPOLLHUP) && connection->state >= HANDSHAKING)
        read_connection(connection);
    else if (event->events & EPOLLERR && connection->state == CONNECTING)
        send_request(connection);       /* reports the error */
}

/* One round; false when the time limit has passed. */
static bool run_round(uint64_t start_ns)
{
    struct epoll_event events[EVENTS_PER_ROUND];
    int ready = epoll_wait(epoll_fd, events, EVENTS_PER_ROUND, 100);
    for (int i = 0; i < ready; i++)
        handle_event(&events[i]);
    return (double)(now_ns() - start_ns) / 1e9 < options.timeout_seconds;
}

/* Stalled clients are spread evenly, so that they stand wherever a server keeps its clients. */
static uint8_t role_of(uint64_t number)
{
    if (number >= options.clients)
        return PUBLISHER;
    bool is_stalled = (number + 1) * options.stalled / options.clients > number * options.stalled / options.clients;
    return is_stalled ? STALLED : SUBSCRIBER;
}

static bool connect_all(uint64_t start_ns)
{
    while (opened < connection_count) {
        for (; started < connection_count && handshaking < CONNECTS_AT_ONCE; started++, handshaking++)
            start_connect(&connections[started], role_of(started), started);
        if (!run_round(start_ns))
            return false;
    }
    connecting_seconds = (double)(now_ns() - start_ns) / 1e9;
    return true;
}

/* Publishes up to the limit and waits until all is settled, or until nothing moves any more. */
static bool run_messages(uint64_t start_ns)
{
    for (;;) {
        uint64_t now = now_ns();
        if (is_measuring && options.window_seconds > 0 && publish_limit > ledger.published
            && (double)(now - window_start_ns) / 1e9 >= options.window_seconds)
            publish_limit = ledger.published;
        publish_due(now);
        if (is_measuring && probe.state == CLOSED && probes.total + probes_failed < options.connect_probes)
            start_connect(&probe, PROBE, connection_count + (uint32_t)probes.total + probes_failed);
        if (publisher->state != OPEN)
            return true;
        if (ledger.published == publish_limit && ledger.all_seq == publish_limit)
            return true;
        if (ledger.all_seq < ledger.published && now > last_read_ns + STALL_SECONDS * 1000000000ull
            && now > ledger.messages[ledger.published - 1].intended_ns + STALL_SECONDS * 1000000000ull) {
            has_stopped = true;
            return true;
        }
        if (!open_subscribers || !run_round(start_ns))
            return !open_subscribers;
    }
}

/* False when the time limit has passed. */
static bool hold(double seconds, uint64_t start_ns)
{
    uint64_t hold_ns = now_ns();
    bool is_in_time = true;
    while (is_in_time && (double)(now_ns() - hold_ns) / 1e9 < seconds)
        is_in_time = run_round(start_ns);
    return is_in_time;
}

static uint64_t *find_stalled_keys(uint32_t *count)
{
    uint64_t *keys = allocate(NULL, (options.stalled + 1) * sizeof *keys);
    *count = 0;
    for (uint32_t i = 0; i < options.clients; i++) {
        struct sockaddr_in own;
        socklen_t own_len = sizeof own;
        if (connections[i].role == STALLED && connections[i].state == OPEN
            && !getsockname(connections[i].fd, (struct sockaddr *)&own, &own_len))
            keys[(*count)++] = endpoint_key(own.sin_addr.s_addr, ntohs(own.sin_port));
    }
    qsort(keys, *count, sizeof *keys, compare_keys);
    return keys;
}

/* Those that know, without reading: a FIN or a reset has arrived. */
static uint32_t count_closes_seen(void)
{
    uint32_t seen = 0;
    for (uint32_t i = 0; i < options.clients; i++) {
        struct pollfd pollfd = {.fd = connections[i].fd, .events = POLLRDHUP};
        if (connections[i].role == STALLED && connections[i].state == OPEN && poll(&pollfd, 1, 0) > 0)
            seen += (pollfd.revents & (POLLRDHUP | POLLHUP | POLLERR)) != 0;
    }
    return seen;
}

static void print_times(const char *name, const struct histogram *histogram, bool has_p90)
{
    printf(", \"%s\": {\"count\": %llu, \"p50\": %.3f", name, (unsigned long long)histogram->total,
           (double)histogram_quantile_ns(histogram, 0.50) / 1e6);
    if (has_p90)
        printf(", \"p90\": %.3f", (double)histogram_quantile_ns(histogram, 0.90) / 1e6);
    printf(", \"p99\": %.3f, \"max\": %.3f}", (double)histogram_quantile_ns(histogram, 0.99) / 1e6,
           (double)histogram->max_ns / 1e6);
}

/* A quotient that has no meaning (nothing measured) is null, not 0. */
static void print_ratio(const char *name, double part, double whole, int decimals)
{
    if (whole > 0)
        printf(", \"%s\": %.*f", name, decimals, part / whole);
    else
        printf(", \"%s\": null", name);
}

static void print_stalled(void)
{
    uint32_t count;
    uint64_t *keys = find_stalled_keys(&count);
    struct stalled_tally tally = count_stalled(keys, count, options.server);
    free(keys);
    printf(", \"stalled\": %u, \"stalled_closes_seen\": %u", options.stalled, count_closes_seen());
    if (tally.is_known)
        printf(", \"stalled_open\": %u, \"stalled_lingering\": %u, \"stalled_gone\": %u"
               ", \"stalled_unread_bytes\": %llu", tally.open, tally.lingering,
               count - tally.open - tally.lingering, (unsigned long long)tally.unread_bytes);
    else
        printf(", \"stalled_open\": null, \"stalled_lingering\": null, \"stalled_gone\": null"
               ", \"stalled_unread_bytes\": null");
}

/* `settled` is read after --settle: what a server gave back by closing stalled clients is not in it. */
static void print_memory(struct memory_bytes before, struct memory_bytes after, struct memory_bytes settled)
{
    double known = options.server_pids.count > 0;
    print_ratio("rss_before_bytes", before.rss, known, 0);
    print_ratio("rss_growth_bytes", after.rss - before.rss, known, 0);
    print_ratio("rss_peak_growth_bytes", after.peak > before.rss ? after.peak - before.rss : 0, known, 0);
    print_ratio("rss_settled_growth_bytes", settled.rss - before.rss, known, 0);
    print_ratio("sockets_before_bytes", before.sockets, 1, 0);
    print_ratio("sockets_growth_bytes", after.sockets - before.sockets, 1, 0);
    print_ratio("sockets_settled_growth_bytes", settled.sockets - before.sockets, 1, 0);
}

static uint64_t print_report(struct memory_bytes before, struct memory_bytes after, struct memory_bytes settled,
                             bool is_timed_out)
{
    bool has_server = options.server_pids.count > 0;
    double seconds = (double)(window_end_ns - window_start_ns) / 1e9, deliveries = (double)ledger.measured_received;
    uint64_t missing = ledger.published * (options.clients - options.stalled) - ledger.received;
    double held = options.hold_seconds > 0 ? options.clients : 0;
    printf("{\"clients\": %u, \"payload_bytes\": %u, \"messages\": %llu, \"deliveries\": %llu, \"seconds\": %.6f",
           options.clients, options.payload_bytes,
           (unsigned long long)(ledger.published > ledger.measured_from_seq
                                ? ledger.published - ledger.measured_from_seq : 0),
           (unsigned long long)ledger.measured_received, seconds);
    print_ratio("target_messages", (double)options.messages, options.window_seconds > 0 ? 0 : 1, 0);
    print_ratio("deliveries_per_second", deliveries, seconds, 0);
    print_ratio("server_cpu_seconds", server_cpu, has_server && seconds > 0 ? 1 : 0, 2);
    print_ratio("server_cpu_us_per_delivery", server_cpu * 1e6, has_server ? deliveries : 0, 4);
    print_ratio("server_cpu_share", server_cpu, has_server ? seconds : 0, 4);
    print_ratio("client_cpu_share", client_cpu, seconds, 4);
    print_ratio("server_wait_share", server_wait, server_wait_start >= 0 ? seconds : 0, 4);
    print_ratio("client_wait_share", client_wait, client_wait_start >= 0 ? seconds : 0, 4);
    print_ratio("frames_per_read", (double)frames_read, (double)reads, 2);
    printf(", \"missing\": %llu, \"duplicated\": %llu, \"reordered\": %llu, \"corrupt\": %llu, \"closed_by_server\": %u"
           ", \"stopped\": %s, \"timed_out\": %s",
           (unsigned long long)missing, (unsigned long long)ledger.duplicated, (unsigned long long)ledger.reordered,
           (unsigned long long)ledger.corrupt, closed_by_server, has_stopped ? "true" : "false",
           is_timed_out ? "true" : "false");
    print_times("delivery_ms", &ledger.delivery, true);
    print_times("completion_ms", &ledger.completion, false);
    print_times("spread_ms", &ledger.spread, false);
    print_times("connect_ms", &connects, false);
    print_times("probe_connect_ms", &probes, false);
    printf(", \"probes_failed\": %u", probes_failed);
    print_ratio("handshakes_per_second", opened, connecting_seconds, 0);
    print_ratio("rss_bytes_per_connection", after.rss - before.rss, held, 0);
    print_ratio("pss_bytes_per_connection", after.pss - before.pss, held, 0);
    if (!held)
        print_memory(before, after, settled);
    print_stalled();
    printf("}\n");
    return missing + ledger.duplicated + ledger.reordered + ledger.corrupt + closed_by_server;
}

static void raise_file_limit(void)
{
    struct rlimit files;
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
    if (files.rlim_max < options.clients + 32u) {
        fprintf(stderr, "load: %u clients need a higher limit of open files than %llu (ulimit -Hn)\n",
                options.clients, (unsigned long long)files.rlim_max);
        exit(2);
    }
}

int main(int argc, char **argv)
{
    struct memory_bytes before = {0}, after = {0}, settled = {0};
    parse_options(argc, argv, &options);
    raise_file_limit();
    epoll_fd = epoll_create1(EPOLL_CLOEXEC);
    timer_fd = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
    struct epoll_event timer_event = {.events = EPOLLIN, .data.ptr = NULL};
    if (epoll_fd < 0 || timer_fd < 0 || epoll_ctl(epoll_fd, EPOLL_CTL_ADD, timer_fd, &timer_event))
        fail("epoll", errno);
    ledger_open(&ledger, options.payload_bytes, options.warmup_messages);
    frame_header_bytes = write_frame_header(frame_header, options.is_binary ? OPCODE_BINARY : OPCODE_TEXT,
                                            options.payload_bytes, NULL);
    frame_bytes = frame_header_bytes + options.payload_bytes;
    read_buf = allocate(NULL, MAX_KEPT_BYTES + READ_BUFFER_BYTES);
    connection_count = options.clients + (options.hold_seconds > 0 ? 0 : 1);
    connections = allocate(NULL, connection_count * sizeof *connections);
    publisher = &connections[options.clients];

    before = read_memory(&options.server_pids);
    uint64_t start_ns = now_ns();
    bool is_in_time = connect_all(start_ns);
    if (is_in_time && options.hold_seconds > 0) {
        is_in_time = hold(options.hold_seconds, start_ns);
        after = read_memory(&options.server_pids);
    } else if (is_in_time) {
        double idle_sockets = read_socket_bytes();  /* a stalled client's fill with the warm-up already */
        start_publishing(options.warmup_messages, now_ns());
        is_in_time = run_messages(start_ns);
        reset_peak(&options.server_pids);
        before = read_memory(&options.server_pids);
        before.sockets = idle_sockets;
        after = before;
        if (is_in_time && ledger.all_seq == options.warmup_messages) {
            start_window();
            is_in_time = run_messages(start_ns);
            end_window(last_read_ns);
            after = read_memory(&options.server_pids);
        }
        if (options.stalled && is_in_time)
            is_in_time = hold(options.settle_seconds, start_ns);
        settled = read_memory(&options.server_pids);
    }
    uint64_t wrong = print_report(before, after, settled, !is_in_time);
    return !is_in_time ? 3 : wrong ? 1 : 0;
}
