/* procfs.h: what other processes cost, from /proc: CPU seconds, resident memory, and the kernel's for sockets.
 *
 * The server may be several processes: every figure is the sum over the pids given. CPU time counts
 * all threads of a process and comes in clock ticks (10 ms), so a window should last seconds. Pss
 * shares a page that several processes map among them; Rss counts it in each. The peak is the largest Rss
 * since reset_peak(). What the kernel holds for TCP is the whole system's, both ends of a loopback
 * connection: only its growth says something, and only if nothing else talks.
 */
#ifndef FASTBCAST_BENCHMARKS_PROCFS_H
#define FASTBCAST_BENCHMARKS_PROCFS_H

#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

enum { MAX_SERVER_PIDS = 64 };

struct server_pids {
    int pids[MAX_SERVER_PIDS];
    int count;
};

struct memory_bytes {
    double rss, pss, peak, sockets;
};

/* User and system time so far; a process that is gone counts 0. */
static inline double read_cpu_seconds(const struct server_pids *server)
{
    double seconds = 0;
    for (int i = 0; i < server->count; i++) {
        char path[64], text[1024];
        unsigned long long user, kernel;
        snprintf(path, sizeof path, "/proc/%d/stat", server->pids[i]);
        FILE *file = fopen(path, "r");
        if (!file)
            continue;
        text[fread(text, 1, sizeof text - 1, file)] = 0;
        fclose(file);
        /* The command's name may hold blanks and parentheses: fields are counted after the last ")". */
        const char *fields = strrchr(text, ')');
        if (fields && sscanf(fields, ") %*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %llu %llu", &user, &kernel) == 2)
            seconds += (double)(user + kernel) / (double)sysconf(_SC_CLK_TCK);
    }
    return seconds;
}

/* How long the process's first thread was ready to run while something else had its core; -1 if not known. */
static inline double read_wait_seconds(int pid)
{
    char path[64];
    unsigned long long ran_ns, waited_ns;
    snprintf(path, sizeof path, "/proc/%d/schedstat", pid);
    FILE *file = fopen(path, "r");
    if (!file)
        return -1;
    bool is_known = fscanf(file, "%llu %llu", &ran_ns, &waited_ns) == 2;
    fclose(file);
    return is_known ? (double)waited_ns / 1e9 : -1;
}

/* "TCP: inuse 5 orphan 0 tw 2 alloc 9 mem 322": the last is in pages. */
static inline double read_socket_bytes(void)
{
    char line[256];
    unsigned long long pages = 0;
    FILE *file = fopen("/proc/net/sockstat", "r");
    if (!file)
        return 0;
    while (fgets(line, sizeof line, file)) {
        if (!strncmp(line, "TCP:", 4) && strstr(line, " mem "))
            sscanf(strstr(line, " mem "), " mem %llu", &pages);
    }
    fclose(file);
    return (double)pages * (double)sysconf(_SC_PAGESIZE);
}

static inline double read_peak_bytes(int pid)
{
    char path[64], line[256];
    unsigned long long kib = 0;
    snprintf(path, sizeof path, "/proc/%d/status", pid);
    FILE *file = fopen(path, "r");
    if (!file)
        return 0;
    while (fgets(line, sizeof line, file) && sscanf(line, "VmHWM: %llu kB", &kib) != 1)
        ;
    fclose(file);
    return (double)kib * 1024;
}

/* The peak counts from now (proc(5), clear_refs). Where that is forbidden it counts from the server's start. */
static inline void reset_peak(const struct server_pids *server)
{
    for (int i = 0; i < server->count; i++) {
        char path[64];
        snprintf(path, sizeof path, "/proc/%d/clear_refs", server->pids[i]);
        FILE *file = fopen(path, "w");
        if (!file)
            continue;
        fputs("5", file);
        fclose(file);
    }
}

static inline struct memory_bytes read_memory(const struct server_pids *server)
{
    struct memory_bytes memory = {.sockets = read_socket_bytes()};
    for (int i = 0; i < server->count; i++) {
        char path[64], line[256];
        unsigned long long kib;
        snprintf(path, sizeof path, "/proc/%d/smaps_rollup", server->pids[i]);
        FILE *file = fopen(path, "r");
        if (!file)
            continue;
        while (fgets(line, sizeof line, file)) {
            if (sscanf(line, "Rss: %llu kB", &kib) == 1)
                memory.rss += (double)kib * 1024;
            else if (sscanf(line, "Pss: %llu kB", &kib) == 1)
                memory.pss += (double)kib * 1024;
        }
        fclose(file);
        memory.peak += read_peak_bytes(server->pids[i]);
    }
    return memory;
}

#endif
