# What a client looks up in the head of the answer to its handshake. A header only: there is no module of this name.

cdef extern from *:
    """
    #include <string.h>
    #include <strings.h>

    /* The value of a header in a response's head, without blanks around it; NULL if there is none of that name. */
    static inline const char *fastbcast_find_header(const char *head, size_t len, const char *name, size_t *value_len) {
        size_t name_len = strlen(name);
        const char *end = head + len, *line = memchr(head, '\\n', len);
        while (line && ++line < end) {
            const char *line_end = memchr(line, '\\r', (size_t)(end - line));
            if (!line_end)
                return NULL;
            if ((size_t)(line_end - line) > name_len && line[name_len] == ':' && !strncasecmp(line, name, name_len)) {
                const char *value = line + name_len + 1;
                while (value < line_end && (*value == ' ' || *value == '\\t'))
                    value++;
                while (line_end > value && (line_end[-1] == ' ' || line_end[-1] == '\\t'))
                    line_end--;
                *value_len = (size_t)(line_end - value);
                return value;
            }
            line = memchr(line, '\\n', (size_t)(end - line));
        }
        return NULL;
    }
    static inline int fastbcast_has(const char *text, size_t len, const char *wanted) {
        size_t wanted_len = strlen(wanted);
        for (size_t at = 0; text && at + wanted_len <= len; at++)
            if (!strncasecmp(text + at, wanted, wanted_len))
                return 1;
        return 0;
    }
    """
    const char* find_header "fastbcast_find_header" (
        const char* head, size_t len, const char* name, size_t* value_len
    ) noexcept nogil
    bint has_text "fastbcast_has" (const char* text, size_t len, const char* wanted) noexcept nogil


cdef extern from "<string.h>" nogil:
    void* memmem(const void* data, size_t len, const void* wanted, size_t wanted_len)
