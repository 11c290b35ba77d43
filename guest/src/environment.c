/* A command's environment: what a login would give, then what identify set, then what the request says. */
#include "agent.h"

static bool put_env(char ***env, size_t *count, size_t *room, char *entry) {
  char *equals = entry ? strchr(entry, '=') : NULL;
  if (!equals || equals == entry) {
    free(entry);
    return false;
  }
  size_t name = (size_t)(equals - entry) + 1;
  for (size_t i = 0; i < *count; i++)
    if (strncmp((*env)[i], entry, name) == 0) {
      free((*env)[i]);
      (*env)[i] = entry;
      return true;
    }
  if (*count + 2 > *room) {
    size_t wanted = *room ? *room * 2 : 32;
    char **grown = wanted > 16384 ? NULL : realloc(*env, wanted * sizeof **env);
    if (!grown) {
      free(entry);
      return false;
    }
    *env = grown;
    *room = wanted;
  }
  (*env)[(*count)++] = entry;
  (*env)[*count] = NULL;
  return true;
}

static char *pair(const char *name, const char *value) {
  size_t size = strlen(name) + strlen(value) + 2;
  char *entry = malloc(size);
  if (entry) snprintf(entry, size, "%s=%s", name, value);
  return entry;
}

char **environment(const struct user *user, struct bytes fields, bool terminal, char **path) {
  char **env = NULL;
  size_t count = 0, room = 0;
  bool good = put_env(&env, &count, &room, pair("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")) &&
              put_env(&env, &count, &room, pair("HOME", user->home)) &&
              put_env(&env, &count, &room, pair("USER", user->name)) &&
              put_env(&env, &count, &room, pair("LOGNAME", user->name)) &&
              put_env(&env, &count, &room, pair("SHELL", user->shell));
  if (good && terminal) good = put_env(&env, &count, &room, pair("TERM", "xterm-256color"));
  for (size_t i = 0; good && i < defaults.env_count; i++) good = put_env(&env, &count, &room, strdup(defaults.env[i]));
  struct field f;
  while (good && field_next(&fields, &f))
    if (f.tag == F_ENV) good = put_env(&env, &count, &room, text_of(f.value));
  if (!good) {
    environment_free(env);
    return NULL;
  }
  for (size_t i = 0; i < count; i++)
    if (strncmp(env[i], "PATH=", 5) == 0) *path = env[i] + 5;
  return env;
}

void environment_free(char **env) {
  for (size_t i = 0; env && env[i]; i++) free(env[i]);
  free(env);
}
