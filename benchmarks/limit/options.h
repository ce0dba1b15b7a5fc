/* options.h: the command line of load.c. */
#ifndef FASTBCAST_BENCHMARKS_OPTIONS_H
#define FASTBCAST_BENCHMARKS_OPTIONS_H

#include "procfs.h"

#include <arpa/inet.h>
#include <getopt.h>
#include <netinet/in.h>
#include <stdint.h>
#include <stdlib.h>

enum { MIN_PAYLOAD_BYTES = 32, MAX_PAYLOAD_BYTES = 64 * 1024 };

struct options {
    struct sockaddr_in server;
    char authority[64], path[256];
    uint32_t clients, stalled, payload_bytes, connect_probes;
    uint64_t messages, warmup_messages, in_flight_messages;
    double window_seconds, rate, hold_seconds, settle_seconds, timeout_seconds;
    bool is_judged_by_all, is_binary, is_spreading_sources;
    struct server_pids server_pids;
};

static const char usage_text[] =
    "usage: load --url ws://127.0.0.1:PORT/PATH [options]\n"
    "  --clients N          subscribers (1000); one more connection publishes\n"
    "  --stalled N          of them, N that never read after the handshake; the others are judged (0)\n"
    "  --size BYTES         payload of a message, at least 32 (128)\n"
    "  --messages M         messages in the measured window (1000)\n"
    "  --seconds T          publish for T seconds instead\n"
    "  --warmup M           messages before the window, not measured (0)\n"
    "  --in-flight K        closed loop: at most K messages under way (1)\n"
    "  --judge first|all    ... until the first subscriber, or until all, have them (all)\n"
    "  --rate R             open loop: R messages a second, latency from the intended time\n"
    "  --binary             binary messages instead of text\n"
    "  --server-pid P       the server's process; may be given several times\n"
    "  --connect-probes N   during the window, N connections one after another\n"
    "  --hold SECONDS       connect all, send nothing, report memory per connection\n"
    "  --settle SECONDS     wait this long before the stalled clients are counted (0)\n"
    "  --source-spread      20,000 connections from each of 127.0.0.1 to 127.0.0.8\n"
    "  --timeout SECONDS    give up after this (120)\n"
    "exit: 0 good, 1 missing or wrong messages, 2 usage, 3 time limit\n";

static inline _Noreturn void fail_usage(const char *problem, const char *value)
{
    fprintf(stderr, "load: %s%s%s\n%s", problem, value ? " " : "", value ? value : "", usage_text);
    exit(2);
}

static inline double parse_number(const char *text, double least, double most)
{
    char *end;
    double value = strtod(text, &end);
    if (end == text || *end || !(value >= least && value <= most))
        fail_usage("not a number that fits:", text);
    return value;
}

/* IPv4 literals only: a load client on loopback has no use for a resolver. */
static inline void parse_url(const char *url, struct options *options)
{
    char host[40];
    int port, path_at = 0;
    if (sscanf(url, "ws://%39[0-9.]:%d%n", host, &port, &path_at) != 2 || port < 1 || port > 65535
        || inet_pton(AF_INET, host, &options->server.sin_addr) != 1
        || (url[path_at] && url[path_at] != '/') || strlen(url + path_at) >= sizeof options->path)
        fail_usage("not a URL like ws://127.0.0.1:8080/path:", url);
    options->server.sin_family = AF_INET;
    options->server.sin_port = htons((uint16_t)port);
    snprintf(options->authority, sizeof options->authority, "%s:%d", host, port);
    strcpy(options->path, url[path_at] ? url + path_at : "/");
}

static inline void parse_options(int argc, char **argv, struct options *options)
{
    enum { URL = 1, CLIENTS, STALLED_CLIENTS, SIZE, MESSAGES, SECONDS, WARMUP, IN_FLIGHT, JUDGE, RATE, BINARY,
           SERVER_PID, CONNECT_PROBES, HOLD, SETTLE, SOURCE_SPREAD, TIMEOUT };
    static const struct option names[] = {
        {"url", 1, NULL, URL}, {"clients", 1, NULL, CLIENTS}, {"stalled", 1, NULL, STALLED_CLIENTS},
        {"size", 1, NULL, SIZE},
        {"messages", 1, NULL, MESSAGES}, {"seconds", 1, NULL, SECONDS}, {"warmup", 1, NULL, WARMUP},
        {"in-flight", 1, NULL, IN_FLIGHT}, {"judge", 1, NULL, JUDGE}, {"rate", 1, NULL, RATE},
        {"binary", 0, NULL, BINARY}, {"server-pid", 1, NULL, SERVER_PID},
        {"connect-probes", 1, NULL, CONNECT_PROBES}, {"hold", 1, NULL, HOLD},
        {"settle", 1, NULL, SETTLE}, {"source-spread", 0, NULL, SOURCE_SPREAD},
        {"timeout", 1, NULL, TIMEOUT}, {NULL, 0, NULL, 0}};
    bool has_url = false;
    int name;
    *options = (struct options){.clients = 1000, .payload_bytes = 128, .messages = 1000, .in_flight_messages = 1,
                                .is_judged_by_all = true, .timeout_seconds = 120};
    while ((name = getopt_long(argc, argv, "", names, NULL)) != -1) {
        switch (name) {
        case URL: parse_url(optarg, options); has_url = true; break;
        case CLIENTS: options->clients = (uint32_t)parse_number(optarg, 1, 160000); break;
        case STALLED_CLIENTS: options->stalled = (uint32_t)parse_number(optarg, 0, 160000); break;
        case SIZE: options->payload_bytes = (uint32_t)parse_number(optarg, MIN_PAYLOAD_BYTES, MAX_PAYLOAD_BYTES); break;
        case MESSAGES: options->messages = (uint64_t)parse_number(optarg, 1, 1e8); break;
        case SECONDS: options->window_seconds = parse_number(optarg, 0.01, 3600); break;
        case WARMUP: options->warmup_messages = (uint64_t)parse_number(optarg, 0, 1e8); break;
        case IN_FLIGHT: options->in_flight_messages = (uint64_t)parse_number(optarg, 1, 1e6); break;
        case JUDGE:
            if (strcmp(optarg, "first") && strcmp(optarg, "all"))
                fail_usage("--judge is first or all, not", optarg);
            options->is_judged_by_all = !strcmp(optarg, "all");
            break;
        case RATE: options->rate = parse_number(optarg, 0.1, 1e6); break;
        case BINARY: options->is_binary = true; break;
        case SERVER_PID:
            if (options->server_pids.count == MAX_SERVER_PIDS)
                fail_usage("too many --server-pid", NULL);
            options->server_pids.pids[options->server_pids.count++] = (int)parse_number(optarg, 1, 1 << 30);
            break;
        case CONNECT_PROBES: options->connect_probes = (uint32_t)parse_number(optarg, 0, 1e6); break;
        case HOLD: options->hold_seconds = parse_number(optarg, 0.01, 3600); break;
        case SETTLE: options->settle_seconds = parse_number(optarg, 0, 3600); break;
        case SOURCE_SPREAD: options->is_spreading_sources = true; break;
        case TIMEOUT: options->timeout_seconds = parse_number(optarg, 0.1, 86400); break;
        default: fail_usage("no such option", NULL);
        }
    }
    if (!has_url)
        fail_usage("--url is missing", NULL);
    if (optind < argc)
        fail_usage("what is", argv[optind]);
    if (options->stalled >= options->clients)
        fail_usage("--stalled: at least one of --clients must read", NULL);
    if (options->hold_seconds > 0 && !options->server_pids.count)
        fail_usage("--hold measures memory: give --server-pid", NULL);
}

#endif
