/*
 * Users and groups as the image's own files tell them. Packages add users, so what was found is taken again only while both
 * files are the same: reading them takes an emulated guest 17 ms the first time, asking after them less than one.
 */
#include "agent.h"
#include <time.h>

static char *cut(char **rest, char by) {
  char *start = *rest;
  if (!start) return NULL;
  char *end = strchr(start, by);
  if (end) *end = 0;
  *rest = end ? end + 1 : NULL;
  return start;
}

static bool is_number(const char *text, unsigned long *number) {
  char *end;
  if (*text < '0' || *text > '9') return false;
  *number = strtoul(text, &end, 10);
  return *end == 0 && *number < 0xffffffffUL;
}

/* The line of `name` (or number) in passwd or group, cut into fields. */
static bool find_line(const char *file, const char *name, char *line, size_t size, char *fields[7]) {
  FILE *f = fopen(file, "re");
  if (!f) return false;
  bool found = false;
  unsigned long number;
  bool numeric = is_number(name, &number);
  while (!found && fgets(line, (int)size, f)) {
    line[strcspn(line, "\n")] = 0;
    char *rest = line;
    for (int i = 0; i < 7; i++) fields[i] = cut(&rest, ':');
    unsigned long id;
    found = fields[2] && (strcmp(fields[0], name) == 0 || (numeric && is_number(fields[2], &id) && id == number));
  }
  fclose(f);
  return found;
}

static void find_groups(struct user *user) {
  FILE *f = fopen("/etc/group", "re");
  char line[8192];
  user->groups[0] = user->gid;
  user->group_count = 1;
  while (f && user->group_count < 64 && fgets(line, sizeof line, f)) {
    line[strcspn(line, "\n")] = 0;
    char *rest = line, *fields[4];
    for (int i = 0; i < 4; i++) fields[i] = cut(&rest, ':');
    unsigned long gid;
    if (!fields[3] || !is_number(fields[2], &gid) || gid == user->gid) continue;
    for (char *member; (member = cut(&fields[3], ','));)
      if (strcmp(member, user->name) == 0) {
        user->groups[user->group_count++] = (gid_t)gid;
        break;
      }
  }
  if (f) fclose(f);
}

struct version { dev_t dev; ino_t ino; off_t size; struct timespec changed; };

/* False when it changed so lately that it may change once more without looking different. A file that is not there has a version as well. */
static bool version_of(const char *file, struct version *version) {
  struct stat st;
  *version = (struct version){0};
  if (stat(file, &st) != 0) return true;
  *version = (struct version){st.st_dev, st.st_ino, st.st_size, st.st_ctim};
  time_t age = time(NULL) - st.st_ctim.tv_sec;
  return age > 1;
}

static bool same_version(const struct version *a, const struct version *b) {
  return a->dev == b->dev && a->ino == b->ino && a->size == b->size && a->changed.tv_sec == b->changed.tv_sec &&
         a->changed.tv_nsec == b->changed.tv_nsec;
}

static bool look_up(const char *name, struct user *user, char *problem, size_t size);

bool user_find(const char *name, struct user *user, char *problem, size_t size) {
  static struct { char name[128]; struct user user; struct version passwd, group; } last;
  struct version passwd, group;
  bool settled = version_of("/etc/passwd", &passwd) & version_of("/etc/group", &group);
  if (*last.name && strcmp(last.name, name) == 0 && same_version(&last.passwd, &passwd) && same_version(&last.group, &group)) {
    *user = last.user;
    return true;
  }
  if (!look_up(name, user, problem, size)) return false;
  *last.name = 0;
  if (!settled || strlen(name) >= sizeof last.name) return true;
  snprintf(last.name, sizeof last.name, "%s", name);
  last.user = *user;
  last.passwd = passwd;
  last.group = group;
  return true;
}

static bool look_up(const char *name, struct user *user, char *problem, size_t size) {
  char wanted[128], line[4096], *fields[7];
  unsigned long number;
  snprintf(wanted, sizeof wanted, "%s", name);
  char *group = strchr(wanted, ':');
  if (group) *group++ = 0;
  *user = (struct user){.home = "/", .shell = "/bin/sh"};
  if (find_line("/etc/passwd", wanted, line, sizeof line, fields) && fields[3]) {
    snprintf(user->name, sizeof user->name, "%s", fields[0]);
    user->uid = (uid_t)strtoul(fields[2], NULL, 10);
    user->gid = (gid_t)strtoul(fields[3], NULL, 10);
    if (fields[5] && *fields[5]) snprintf(user->home, sizeof user->home, "%s", fields[5]);
    if (fields[6] && *fields[6]) snprintf(user->shell, sizeof user->shell, "%s", fields[6]);
  } else if (is_number(wanted, &number)) {
    user->uid = (uid_t)number;
    user->gid = 0;
    snprintf(user->name, sizeof user->name, "%s", wanted);
  } else if (strcmp(wanted, "root") == 0) {
    /* An image without /etc/passwd still has a root. */
    snprintf(user->name, sizeof user->name, "root");
    snprintf(user->home, sizeof user->home, "/root");
  } else {
    snprintf(problem, size, "there is no user \"%s\" in the guest's /etc/passwd", wanted);
    return false;
  }
  if (group && *group) {
    if (find_line("/etc/group", group, line, sizeof line, fields)) user->gid = (gid_t)strtoul(fields[2], NULL, 10);
    else if (is_number(group, &number)) user->gid = (gid_t)number;
    else {
      snprintf(problem, size, "there is no group \"%s\" in the guest's /etc/group", group);
      return false;
    }
    user->groups[0] = user->gid;
    user->group_count = 1;
    return true;
  }
  find_groups(user);
  return true;
}
