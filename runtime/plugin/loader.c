/* Opens plugins. A plugin is judged by its own numbers (ABI, struct sizes, element size) before its
 * table is read. */
#include "plugin/loader.h"

#include <dlfcn.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/hash.h"
#include "base/options.h"

enum { MAX_PLUGINS = 256, MAX_FILE = 256 << 20 };

typedef struct plugin {
    char *path; /* resolved */
    const cps_plugin_info *info;
    bool built_in;
    uint64_t digest;
} plugin;

struct cps_plugins {
    const cps_host *host;
    plugin entries[MAX_PLUGINS];
    int64_t count;
};

static cps_status refuse(const char *path, const char *format, ...) CPS_PRINTF(2, 3);
static cps_status refuse(const char *path, const char *format, ...) {
    char text[512];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    return cps_fail(CPS_ERR_UNAVAILABLE, "plugin '%s' is refused: %s", path, text);
}

static cps_status check_info(const char *path, const cps_plugin_info *info) {
    if (info == NULL) {
        return refuse(path, "its cps_plugin gave no table");
    }
    if (info->abi != CPS_ABI) {
        return refuse(path,
                      "built for objective ABI %u, this Copse has ABI %d: rebuild it against this "
                      "version's copse_objective.h",
                      info->abi, CPS_ABI);
    }
    if (info->real_bytes != sizeof(cps_real)) {
        return refuse(
            path,
            "its numbers have %u bytes, this build's have %zu: rebuild it %s -DCPS_REAL_DOUBLE",
            info->real_bytes, sizeof(cps_real),
            sizeof(cps_real) == sizeof(double) ? "with" : "without");
    }
    if (info->objective_bytes != sizeof(cps_objective) || info->host_bytes != sizeof(cps_host)) {
        return refuse(path,
                      "its tables have %u and %u bytes, this build's have %zu and %zu: rebuild it "
                      "against this version's copse_objective.h",
                      info->objective_bytes, info->host_bytes, sizeof(cps_objective),
                      sizeof(cps_host));
    }
    if (info->objective_count < 1 || info->objectives == NULL) {
        return refuse(path, "it holds no objectives");
    }
    for (int32_t i = 0; i < info->objective_count; i++) {
        const cps_objective *objective = &info->objectives[i];
        if (objective->name == NULL || objective->name[0] == '\0' || objective->create == NULL) {
            return refuse(path, "objective %d has no name or no create function", i);
        }
        if (objective->loss == NULL && objective->grain_loss == NULL &&
            objective->fit_block == NULL) {
            return refuse(path, "objective '%s' has neither loss, grain_loss nor fit",
                          objective->name);
        }
    }
    return CPS_OK;
}

/* The symbol counts only if it lies in that very file: a plugin without one must not find a
 * neighbour's. */
static cps_status find_entry(const char *path, void *handle, cps_plugin_entry *entry_out) {
    void *symbol = dlsym(handle, "cps_plugin");
    if (symbol == NULL) {
        return refuse(path, "it exports no symbol 'cps_plugin': mark the function CPS_EXPORT");
    }
    Dl_info where;
    char *resolved = NULL;
    const bool known =
        dladdr(symbol, &where) != 0 && (resolved = realpath(where.dli_fname, NULL)) != NULL;
    const bool own = known && strcmp(resolved, path) == 0;
    const cps_status status =
        own ? CPS_OK
            : refuse(path, "its 'cps_plugin' comes from '%s'", known ? resolved : "another file");
    free(resolved);
    memcpy(entry_out, &symbol,
           sizeof symbol); /* POSIX's way from an object to a function pointer */
    return status;
}

static cps_status open_plugin(cps_plugins *plugins, const char *path, bool built_in) {
    char *bytes = NULL;
    size_t length = 0;
    CPS_TRY(cps_file_read(path, MAX_FILE, &bytes, &length));
    const uint64_t digest = cps_hash64(bytes, length);
    free(bytes);
    void *handle = dlopen(path, RTLD_NOW | RTLD_LOCAL);
    if (handle == NULL) {
        return refuse(path, "%s", dlerror());
    }
    cps_plugin_entry entry = NULL;
    CPS_TRY(find_entry(path, handle, &entry));
    const cps_plugin_info *info = entry(plugins->host);
    CPS_TRY(check_info(path, info));
    plugins->entries[plugins->count] =
        (plugin){.path = strdup(path), .info = info, .built_in = built_in, .digest = digest};
    if (plugins->entries[plugins->count].path == NULL) {
        return cps_fail(CPS_ERR_UNAVAILABLE, "out of memory for plugin '%s'", path);
    }
    plugins->count++;
    return CPS_OK;
}

static cps_status load(cps_plugins *plugins, const char *path, bool built_in) {
    char *resolved = realpath(path, NULL);
    if (resolved == NULL) {
        return cps_fail(CPS_ERR_UNAVAILABLE, "plugin '%s': no such file", path);
    }
    cps_status status = CPS_OK;
    for (int64_t i = 0; i < plugins->count; i++) {
        if (strcmp(plugins->entries[i].path, resolved) == 0) {
            free(resolved);
            return CPS_OK;
        }
    }
    if (plugins->count == MAX_PLUGINS) {
        status = cps_fail(CPS_ERR_USAGE, "more than %d plugins", MAX_PLUGINS);
    } else {
        status = open_plugin(plugins, resolved, built_in);
    }
    free(resolved);
    return status;
}

cps_status cps_plugins_create(const char *folder, const cps_host *host, cps_plugins **plugins_out) {
    cps_plugins *plugins = calloc(1, sizeof *plugins);
    if (plugins == NULL) {
        return cps_fail(CPS_ERR_UNAVAILABLE, "out of memory for plugins");
    }
    plugins->host = host;
    char *pattern = cps_format("%s/*.so", folder);
    char **paths = NULL;
    int64_t count = 0;
    cps_status status = cps_glob(pattern, &paths, &count);
    free(pattern);
    if (status != CPS_OK) {
        cps_plugins_destroy(plugins);
        return cps_fail(CPS_ERR_UNAVAILABLE,
                        "no objective plugins (*.so) in '%s': build them with 'make', or set "
                        "COPSE_HOME to the installation",
                        folder);
    }
    for (int64_t i = 0; i < count && status == CPS_OK; i++) {
        status = load(plugins, paths[i], true);
    }
    cps_strings_destroy(paths, count);
    if (status != CPS_OK) {
        cps_plugins_destroy(plugins);
        return status;
    }
    *plugins_out = plugins;
    return CPS_OK;
}

/* Shared objects stay mapped: instances and option tables point into them. */
void cps_plugins_destroy(cps_plugins *plugins) {
    if (plugins == NULL) {
        return;
    }
    for (int64_t i = 0; i < plugins->count; i++) {
        free(plugins->entries[i].path);
    }
    free(plugins);
}

cps_status cps_plugins_load(cps_plugins *plugins, const char *path) {
    return load(plugins, path, false);
}

static const cps_objective *find_in(const plugin *entry, const char *name) {
    for (int32_t i = 0; i < entry->info->objective_count; i++) {
        if (strcmp(entry->info->objectives[i].name, name) == 0) {
            return &entry->info->objectives[i];
        }
    }
    return NULL;
}

/* Names of the objectives that may be meant, for the message. */
static cps_status no_objective(const cps_plugins *plugins, const char *resolved, const char *name) {
    char list[1024] = "";
    const char *names[256];
    size_t count = 0;
    for (int64_t p = 0; p < plugins->count; p++) {
        const plugin *entry = &plugins->entries[p];
        if (resolved == NULL ? !entry->built_in : strcmp(entry->path, resolved) != 0) {
            continue;
        }
        for (int32_t i = 0; i < entry->info->objective_count && count < 255; i++) {
            const size_t used = strlen(list);
            names[count] = entry->info->objectives[i].name;
            snprintf(list + used, sizeof list - used, "%s%s", count == 0 ? "" : ", ", names[count]);
            count++;
        }
    }
    names[count] = NULL;
    const char *near = cps_nearest_name(name, names);
    return cps_fail(CPS_ERR_USAGE, "no objective '%s'%s%s%s%s%s; available: %s", name,
                    resolved == NULL ? "" : " in ", resolved == NULL ? "" : resolved,
                    near == NULL ? "" : " (did you mean '", near == NULL ? "" : near,
                    near == NULL ? "" : "'?)", list);
}

cps_status cps_plugins_find(const cps_plugins *plugins, const char *path, const char *name,
                            const cps_objective **objective_out) {
    char *resolved = path == NULL ? NULL : realpath(path, NULL);
    if (path != NULL && resolved == NULL) {
        return cps_fail(CPS_ERR_UNAVAILABLE, "plugin '%s': no such file", path);
    }
    const cps_objective *found = NULL;
    for (int64_t i = 0; i < plugins->count && found == NULL; i++) {
        const plugin *entry = &plugins->entries[i];
        if (resolved == NULL ? entry->built_in : strcmp(entry->path, resolved) == 0) {
            found = find_in(entry, name);
        }
    }
    cps_status status = CPS_OK;
    if (found == NULL) {
        status = no_objective(plugins, resolved, name);
    } else {
        *objective_out = found;
    }
    free(resolved);
    return status;
}

int64_t cps_plugins_count(const cps_plugins *plugins) {
    int64_t count = 0;
    for (int64_t i = 0; i < plugins->count; i++) {
        count += plugins->entries[i].info->objective_count;
    }
    return count;
}

const cps_objective *cps_plugins_at(const cps_plugins *plugins, int64_t index,
                                    const char **path_out) {
    for (int64_t i = 0; i < plugins->count; i++) {
        const plugin *entry = &plugins->entries[i];
        if (index < entry->info->objective_count) {
            *path_out = entry->built_in ? NULL : entry->path;
            return &entry->info->objectives[index];
        }
        index -= entry->info->objective_count;
    }
    return NULL;
}

uint64_t cps_plugins_digest(const cps_plugins *plugins, bool only_users) {
    cps_hash *hash = cps_hash_create();
    for (int64_t i = 0; i < plugins->count; i++) {
        if (only_users && plugins->entries[i].built_in) {
            continue;
        }
        cps_hash_add(hash, &plugins->entries[i].digest, sizeof plugins->entries[i].digest);
    }
    const uint64_t digest = cps_hash_value(hash);
    cps_hash_destroy(hash);
    return digest;
}
