/* Bytes on their way into a pipe or socket that may be full. Credit bounds them: at most a window. */
#include "agent.h"

bool outbuf_add(struct outbuf *b, const uint8_t *bytes, size_t length) {
  if (b->from + b->length + length > b->room) {
    if (b->from > 0) {
      memmove(b->at, b->at + b->from, b->length);
      b->from = 0;
    }
    if (b->length + length > b->room) {
      size_t room = b->room ? b->room : 4096;
      while (room < b->length + length) room *= 2;
      uint8_t *grown = realloc(b->at, room);
      if (!grown) return false;
      b->at = grown;
      b->room = room;
    }
  }
  memcpy(b->at + b->from + b->length, bytes, length);
  b->length += length;
  return true;
}

ssize_t outbuf_flush(struct outbuf *b, int fd) {
  ssize_t total = 0;
  while (b->length > 0) {
    ssize_t written = write(fd, b->at + b->from, b->length);
    if (written < 0 && errno == EINTR) continue;
    if (written < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) break;
    if (written <= 0) return -1;
    total += written;
    b->from += (size_t)written;
    b->length -= (size_t)written;
  }
  if (b->length == 0) outbuf_free(b);
  return total;
}

void outbuf_free(struct outbuf *b) {
  free(b->at);
  *b = (struct outbuf){0};
}
