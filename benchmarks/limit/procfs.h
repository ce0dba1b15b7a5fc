/* procfs.h: what other processes cost, from /proc: CPU seconds and resident memory.
 *
 * The server may be several processes: every figure is the sum over the pids given. CPU time counts
 * all threads of a process and comes in clock ticks (10 ms), so a window should last seconds. Pss
 * shares a page that several processes map among them; Rss counts it in each.
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
    double rss, pss;
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

static inline struct memory_bytes read_memory(const struct server_pids *server)
{
    struct memory_bytes memory = {0, 0};
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
    }
    return memory;
}

#endif
