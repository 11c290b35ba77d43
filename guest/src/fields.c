/* Fields: tag, length, value. Reading never leaves the bytes it was given; writing grows, or stops at a fixed room. */
#include "agent.h"

static uint32_t u32(const uint8_t *at) {
  return (uint32_t)at[0] | (uint32_t)at[1] << 8 | (uint32_t)at[2] << 16 | (uint32_t)at[3] << 24;
}

bool field_next(struct bytes *rest, struct field *field) {
  if (rest->length < 5) return false;
  uint32_t length = u32(rest->at + 1);
  if (length > rest->length - 5) return false;
  field->tag = rest->at[0];
  field->value = (struct bytes){rest->at + 5, length};
  rest->at += 5 + length;
  rest->length -= 5 + length;
  return true;
}

bool fields_whole(struct bytes all) {
  struct field field;
  while (field_next(&all, &field)) continue;
  return all.length == 0;
}

bool field_find(struct bytes all, uint8_t tag, struct bytes *value) {
  struct field field;
  while (field_next(&all, &field)) {
    if (field.tag != tag) continue;
    *value = field.value;
    return true;
  }
  return false;
}

uint64_t number_of(struct bytes value) {
  uint64_t number = 0;
  for (size_t i = 0; i < value.length && i < 8; i++) number |= (uint64_t)value.at[i] << (8 * i);
  return number;
}

uint64_t field_number(struct bytes all, uint8_t tag, uint64_t otherwise) {
  struct bytes value;
  return field_find(all, tag, &value) ? number_of(value) : otherwise;
}

bool field_text(struct bytes all, uint8_t tag, char *out, size_t size) {
  struct bytes value;
  out[0] = 0;
  if (!field_find(all, tag, &value)) return false;
  if (value.length >= size || memchr(value.at, 0, value.length)) return false;
  memcpy(out, value.at, value.length);
  out[value.length] = 0;
  return true;
}

char *text_of(struct bytes value) {
  if (memchr(value.at, 0, value.length)) return NULL;
  char *text = malloc(value.length + 1);
  if (!text) return NULL;
  memcpy(text, value.at, value.length);
  text[value.length] = 0;
  return text;
}

void out_bytes(struct out *out, const void *bytes, size_t length) {
  if (out->length + length > out->room) {
    if (out->fixed) return;
    size_t room = out->room ? out->room : 512;
    while (room < out->length + length) room *= 2;
    uint8_t *grown = realloc(out->at, room);
    if (!grown) return;
    out->at = grown;
    out->room = room;
  }
  memcpy(out->at + out->length, bytes, length);
  out->length += length;
}

void out_field(struct out *out, uint8_t tag, const void *value, size_t length) {
  uint8_t head[5] = {tag, (uint8_t)length, (uint8_t)(length >> 8), (uint8_t)(length >> 16), (uint8_t)(length >> 24)};
  if (out->fixed && out->length + 5 + length > out->room) return;
  out_bytes(out, head, 5);
  if (length) out_bytes(out, value, length);
}

void out_text(struct out *out, uint8_t tag, const char *text) { out_field(out, tag, text, strlen(text)); }

void out_number(struct out *out, uint8_t tag, uint64_t number) {
  uint8_t bytes[8];
  for (int i = 0; i < 8; i++) bytes[i] = (uint8_t)(number >> (8 * i));
  out_field(out, tag, bytes, 8);
}

void out_free(struct out *out) {
  if (!out->fixed) free(out->at);
  *out = (struct out){0};
}
