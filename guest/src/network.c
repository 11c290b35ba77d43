/* The network card: hardware address, address, route, by ioctl alone; images without network tools are common. */
#include "agent.h"
#include <arpa/inet.h>
#include <net/if.h>
#include <net/if_arp.h>
#include <net/route.h>
#include <netinet/in.h>
#include <dirent.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

static bool card(char *name) {
  DIR *directory = opendir("/sys/class/net");
  bool found = false;
  for (struct dirent *d; directory && (d = readdir(directory));) {
    char path[512];
    struct stat st;
    if (d->d_name[0] == '.' || strcmp(d->d_name, "lo") == 0 || strlen(d->d_name) >= IFNAMSIZ) continue;
    snprintf(path, sizeof path, "/sys/class/net/%s/device", d->d_name);
    /* A real card, not a bridge or tunnel that the image made; the first by name. */
    if (stat(path, &st) != 0 || (found && strcmp(d->d_name, name) > 0)) continue;
    snprintf(name, IFNAMSIZ, "%.15s", d->d_name);
    found = true;
  }
  if (directory) closedir(directory);
  return found;
}

static int flags(int fd, const char *name, bool up) {
  struct ifreq r = {0};
  snprintf(r.ifr_name, sizeof r.ifr_name, "%s", name);
  if (ioctl(fd, SIOCGIFFLAGS, &r) != 0) return -1;
  if (up) r.ifr_flags |= IFF_UP;
  else r.ifr_flags &= ~IFF_UP;
  return ioctl(fd, SIOCSIFFLAGS, &r);
}

static int set_address(int fd, const char *name, unsigned long request, in_addr_t address) {
  struct ifreq r = {0};
  snprintf(r.ifr_name, sizeof r.ifr_name, "%s", name);
  struct sockaddr_in in = {.sin_family = AF_INET, .sin_addr.s_addr = address};
  memcpy(&r.ifr_addr, &in, sizeof in);
  return ioctl(fd, request, &r);
}

static int route(int fd, char *name, in_addr_t to, in_addr_t mask, in_addr_t gateway) {
  struct rtentry r = {.rt_flags = RTF_UP | (gateway ? RTF_GATEWAY : 0) | (mask == 0xffffffff ? RTF_HOST : 0), .rt_dev = name};
  struct sockaddr_in in = {.sin_family = AF_INET};
  in.sin_addr.s_addr = to;
  memcpy(&r.rt_dst, &in, sizeof in);
  in.sin_addr.s_addr = mask;
  memcpy(&r.rt_genmask, &in, sizeof in);
  in.sin_addr.s_addr = gateway;
  memcpy(&r.rt_gateway, &in, sizeof in);
  return ioctl(fd, SIOCADDRT, &r) == 0 || errno == EEXIST ? 0 : -1;
}

int network_loopback(void) {
  int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
  int result = fd < 0 ? -1 : flags(fd, "lo", true);
  if (fd >= 0) close(fd);
  return result;
}

static int failed(char *problem, size_t size, const char *what, const char *value) {
  snprintf(problem, size, "cannot set the guest's %s to \"%s\": %s", what, value, strerror(errno));
  return -1;
}

/* `mac` NULL: the card is put down, and nothing can be reached. */
int network_set(const char *mac, const char *address, int prefix, const char *gateway, char *problem, size_t size) {
  char name[IFNAMSIZ] = "";
  struct in_addr own, via;
  unsigned m[6];
  if (!card(name)) {
    if (!mac) return 0;
    snprintf(problem, size, "the guest has no network card to give the address %s", address);
    return -1;
  }
  int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0), result = -1;
  if (fd < 0) return failed(problem, size, "network card", name);
  struct ifreq r = {0};
  snprintf(r.ifr_name, sizeof r.ifr_name, "%s", name);
  /* Down first: that forgets addresses, routes and neighbours of the life before. */
  set_address(fd, name, SIOCSIFADDR, 0);
  flags(fd, name, false);
  if (!mac) {
    close(fd);
    return 0;
  }
  if (sscanf(mac, "%x:%x:%x:%x:%x:%x", m, m + 1, m + 2, m + 3, m + 4, m + 5) != 6) {
    errno = EINVAL;
    failed(problem, size, "hardware address", mac);
    goto out;
  }
  r.ifr_hwaddr.sa_family = ARPHRD_ETHER;
  for (int i = 0; i < 6; i++) r.ifr_hwaddr.sa_data[i] = (char)m[i];
  in_addr_t mask = prefix <= 0 ? 0 : htonl(prefix >= 32 ? 0xffffffffu : ~(0xffffffffu >> prefix));
  if (ioctl(fd, SIOCSIFHWADDR, &r) != 0) failed(problem, size, "hardware address", mac);
  else if (inet_pton(AF_INET, address, &own) != 1 || (*gateway && inet_pton(AF_INET, gateway, &via) != 1)) {
    errno = EINVAL;
    failed(problem, size, "address", address);
  } else if (set_address(fd, name, SIOCSIFADDR, own.s_addr) != 0 || set_address(fd, name, SIOCSIFNETMASK, mask) != 0)
    failed(problem, size, "address", address);
  else if (flags(fd, name, true) != 0) failed(problem, size, "network card", name);
  /* A gateway outside of the prefix needs a route of its own first. */
  else if (*gateway && (((via.s_addr ^ own.s_addr) & mask) != 0 || prefix >= 32) && route(fd, name, via.s_addr, 0xffffffff, 0) != 0)
    failed(problem, size, "gateway", gateway);
  else if (*gateway && route(fd, name, 0, 0, via.s_addr) != 0) failed(problem, size, "gateway", gateway);
  else result = 0;
out:
  close(fd);
  return result;
}
