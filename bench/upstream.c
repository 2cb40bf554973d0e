/* A fake OpenAI provider that costs next to nothing, so that a benchmark measures the gateway in front of it.
 *
 *   cc -O2 -o upstream upstream.c && ./upstream PORT [PACE_MS]
 *
 * Every POST gets a chat completion of about 0.7 KB; when its body asks for a stream, 50 content events, a usage
 * event and [DONE]: in one write, or one event every PACE_MS milliseconds. HTTP/1.1 keep-alive, bodies with a
 * content-length or chunked, one thread, epoll. Listens on 127.0.0.1 only. It answers benchmarks, not strangers:
 * what it does not understand it drops.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

enum { CONNECTIONS = 8192, REQUEST_MAX = 1 << 20, EVENTS = 50, PIECES = EVENTS + 3 };

struct connection {
    char *input;
    size_t used, room;
    int piece;     /* next piece of a paced stream, -1: none under way */
    long due;      /* when to send it, ms */
};

struct text {
    char *data;
    size_t size;
};

static struct connection connections[CONNECTIONS];
static int streaming[CONNECTIONS], streams; /* descriptors with a paced stream under way */
static struct text answer, stream_head, pieces[PIECES], whole_stream;
static long pace;

static long now_ms(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

static struct text copy(const char *data, size_t size)
{
    struct text t = {malloc(size), size};
    memcpy(t.data, data, size);
    return t;
}

/* One HTTP chunk that holds one server-sent event. */
static struct text event(const char *fields)
{
    static const char common[] =
        "{\"id\":\"chatcmpl-bench0000000000000000000\",\"object\":\"chat.completion.chunk\",\"created\":1750000000,"
        "\"model\":\"gpt-4o-mini-2024-07-18\",\"service_tier\":\"default\",\"system_fingerprint\":\"fp_0000000000\",";
    char data[1024], chunk[1200];
    int size = fields ? snprintf(data, sizeof data, "data: %s%s}\n\n", common, fields)
                      : snprintf(data, sizeof data, "data: [DONE]\n\n");
    return copy(chunk, snprintf(chunk, sizeof chunk, "%x\r\n%s\r\n", size, data));
}

static void compose(void)
{
    static const char body[] =
        "{\"id\":\"chatcmpl-bench0000000000000000000\",\"object\":\"chat.completion\",\"created\":1750000000,"
        "\"model\":\"gpt-4o-mini-2024-07-18\",\"choices\":[{\"index\":0,\"message\":{\"role\":\"assistant\",\"content\":"
        "\"Three direct trains still run today: at 14:04, 16:04 and 18:30. Your ticket is valid on each of them. "
        "You would pass through Bourgogne-Franche-Comte, whose capital is Dijon.\",\"refusal\":null,\"annotations\":[]},"
        "\"logprobs\":null,\"finish_reason\":\"stop\"}],\"usage\":{\"prompt_tokens\":131,\"completion_tokens\":48,"
        "\"total_tokens\":179,\"prompt_tokens_details\":{\"cached_tokens\":0,\"audio_tokens\":0},"
        "\"completion_tokens_details\":{\"reasoning_tokens\":0}},\"service_tier\":\"default\","
        "\"system_fingerprint\":\"fp_0000000000\"}";
    static const char head[] =
        "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream; charset=utf-8\r\nCache-Control: no-cache\r\n"
        "Transfer-Encoding: chunked\r\n\r\n";
    char text[2048];
    int size = snprintf(text, sizeof text,
                        "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %zu\r\n"
                        "x-request-id: req_bench0000000000\r\n\r\n%s", sizeof body - 1, body);
    answer = copy(text, size);
    stream_head = copy(head, sizeof head - 1);
    for (int i = 0; i < EVENTS; i++) {
        snprintf(text, sizeof text, "\"choices\":[{\"index\":0,\"delta\":{\"content\":\" word%d\"},\"logprobs\":null,"
                 "\"finish_reason\":%s}],\"usage\":null", i, i == EVENTS - 1 ? "\"stop\"" : "null");
        pieces[i] = event(text);
    }
    pieces[EVENTS] = event("\"choices\":[],\"usage\":{\"prompt_tokens\":131,\"completion_tokens\":50,\"total_tokens\":181}");
    pieces[EVENTS + 1] = event(NULL);
    pieces[EVENTS + 2] = copy("0\r\n\r\n", 5);
    whole_stream = copy(head, sizeof head - 1);
    for (int i = 0; i < PIECES; i++) {
        whole_stream.data = realloc(whole_stream.data, whole_stream.size + pieces[i].size);
        memcpy(whole_stream.data + whole_stream.size, pieces[i].data, pieces[i].size);
        whole_stream.size += pieces[i].size;
    }
}

static bool send_all(int fd, struct text t)
{
    while (t.size) {
        ssize_t sent = send(fd, t.data, t.size, MSG_NOSIGNAL);
        if (sent < 0 && errno == EAGAIN) {
            struct pollfd ready = {fd, POLLOUT, 0};
            if (poll(&ready, 1, 1000) <= 0)
                return false;
        } else if (sent < 0) {
            return false;
        } else {
            t.data += sent;
            t.size -= sent;
        }
    }
    return true;
}

static void forget_stream(int fd)
{
    connections[fd].piece = -1;
    for (int i = 0; i < streams; i++)
        if (streaming[i] == fd)
            streaming[i--] = streaming[--streams];
}

static void drop(int fd)
{
    forget_stream(fd);
    close(fd);
}

/* Size of the complete request at the front of the buffer; 0: not all here yet. Finds its body. */
static size_t request_size(struct connection *c, char **body)
{
    char *end = memmem(c->input, c->used, "\r\n\r\n", 4);
    if (!end)
        return 0;
    *body = end + 4;
    size_t length = 0;
    for (char *line = c->input; line < end; line = (char *)memmem(line, end + 2 - line, "\r\n", 2) + 2) {
        if (!strncasecmp(line, "content-length:", 15))
            length = strtoul(line + 15, NULL, 10);
        else if (!strncasecmp(line, "transfer-encoding:", 18)) {
            char *last = memmem(end, c->used - (end - c->input), "\r\n0\r\n\r\n", 7);
            return last ? (size_t)(last + 7 - c->input) : 0;
        }
    }
    size_t total = *body - c->input + length;
    return total <= c->used ? total : 0;
}

static bool wants_stream(const char *body, size_t size)
{
    const char *key = memmem(body, size, "\"stream\":", 9);
    return key && (size_t)(key + 14 - body) <= size && (!memcmp(key + 9, "true", 4) || !memcmp(key + 9, " true", 5));
}

static bool answer_requests(int fd)
{
    struct connection *c = &connections[fd];
    char *body;
    size_t size;
    while (c->piece < 0 && c->used && (size = request_size(c, &body))) {
        bool stream = wants_stream(body, c->input + size - body);
        memmove(c->input, c->input + size, c->used -= size);
        if (stream && pace) {
            c->piece = 0;
            c->due = now_ms() + pace;
            streaming[streams++] = fd;
        }
        if (!send_all(fd, !stream ? answer : pace ? stream_head : whole_stream))
            return false;
    }
    return true;
}

static bool receive(int fd)
{
    struct connection *c = &connections[fd];
    if (c->used == c->room) {
        if (c->room >= REQUEST_MAX)
            return false;
        c->input = realloc(c->input, c->room = c->room ? 2 * c->room : 16384);
    }
    ssize_t got = recv(fd, c->input + c->used, c->room - c->used, 0);
    if (got <= 0)
        return got < 0 && errno == EAGAIN;
    c->used += got;
    return answer_requests(fd);
}

static void advance_streams(void)
{
    long now = now_ms();
    for (int i = 0; i < streams; i++) {
        int fd = streaming[i];
        struct connection *c = &connections[fd];
        if (c->due > now)
            continue;
        bool alive = send_all(fd, pieces[c->piece++]);
        c->due += pace;
        if (alive && c->piece < PIECES - 1)
            continue;
        alive = alive && send_all(fd, pieces[PIECES - 1]); /* the last chunk goes with [DONE] */
        forget_stream(fd);
        i--;
        if (!alive || !answer_requests(fd))
            drop(fd);
    }
}

static void welcome(int listener, int epoll)
{
    int fd, one = 1;
    while ((fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK)) >= 0) {
        if (fd >= CONNECTIONS) {
            close(fd);
            continue;
        }
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
        connections[fd].used = 0;
        connections[fd].piece = -1;
        struct epoll_event interest = {.events = EPOLLIN, .data.fd = fd};
        epoll_ctl(epoll, EPOLL_CTL_ADD, fd, &interest);
    }
}

int main(int count, char **arguments)
{
    if (count < 2) {
        fprintf(stderr, "usage: %s PORT [PACE_MS]\n", arguments[0]);
        return 2;
    }
    pace = count > 2 ? atol(arguments[2]) : 0;
    compose();
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0), one = 1, epoll = epoll_create1(0);
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons(atoi(arguments[1])),
                                  .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (bind(listener, (struct sockaddr *)&address, sizeof address) || listen(listener, 4096)) {
        perror("upstream");
        return 1;
    }
    struct epoll_event interest = {.events = EPOLLIN, .data.fd = listener}, ready[256];
    epoll_ctl(epoll, EPOLL_CTL_ADD, listener, &interest);
    for (;;) {
        int events = epoll_wait(epoll, ready, 256, streams ? 1 : -1);
        for (int i = 0; i < events; i++) {
            int fd = ready[i].data.fd;
            if (fd == listener)
                welcome(listener, epoll);
            else if (!receive(fd))
                drop(fd);
        }
        if (streams)
            advance_streams();
    }
}
