/* system: files and folders. A whole file appears under its name or not at all; what may exist once
 * is made by link(2), which is atomic on NFS too. */
#include "job/system.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/file.h"

enum { MODE_ALL = 07777 };
#define MOST_BYTES ((lua_Number)(1 << 30))

static const char *name_of_error(int error) {
    static const struct {
        int error;
        const char *name;
    } names[] = {{ENOENT, "ENOENT"},
                 {EEXIST, "EEXIST"},
                 {EACCES, "EACCES"},
                 {EPERM, "EPERM"},
                 {ENOSPC, "ENOSPC"},
                 {EDQUOT, "EDQUOT"},
                 {EROFS, "EROFS"},
                 {ENOTDIR, "ENOTDIR"},
                 {EISDIR, "EISDIR"},
                 {ENOTEMPTY, "ENOTEMPTY"},
                 {ESRCH, "ESRCH"},
                 {EXDEV, "EXDEV"},
                 {EMLINK, "EMLINK"},
                 {ESTALE, "ESTALE"},
                 {ENAMETOOLONG, "ENAMETOOLONG"},
                 {EIO, "EIO"},
                 {ELOOP, "ELOOP"},
                 {EMFILE, "EMFILE"},
                 {EINVAL, "EINVAL"},
                 {E2BIG, "E2BIG"},
                 {EAGAIN, "EAGAIN"},
                 {ENOMEM, "ENOMEM"},
                 {EFBIG, "EFBIG"}};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        if (names[i].error == error) {
            return names[i].name;
        }
    }
    return "EOTHER";
}

int cps_system_failure(lua_State *state, int error, const char *what, const char *path) {
    lua_pushnil(state);
    if (path) {
        lua_pushfstring(state, "%s '%s': %s", what, path, strerror(error));
    } else {
        lua_pushfstring(state, "%s: %s", what, strerror(error));
    }
    lua_pushstring(state, name_of_error(error));
    return 3;
}

/* true, or the failure. */
static int result(lua_State *state, int returned, const char *what, const char *path) {
    if (returned != 0) {
        return cps_system_failure(state, errno, what, path);
    }
    lua_pushboolean(state, 1);
    return 1;
}

/* ---- whole files ---- */

/* A file descriptor that the state closes. */
static int close_file(lua_State *state) {
    int *file = lua_touserdata(state, 1);
    if (*file >= 0) {
        close(*file);
        *file = -1;
    }
    return 0;
}

static int *hold_file(lua_State *state) {
    int *file = lua_newuserdatauv(state, sizeof *file, 0);
    *file = -1;
    if (luaL_newmetatable(state, "copse.file")) {
        lua_pushcfunction(state, close_file);
        lua_setfield(state, -2, "__gc");
    }
    lua_setmetatable(state, -2);
    return file;
}

/* read(path [, most_bytes]) -> text */
static int system_read(lua_State *state) {
    const char *path = luaL_checkstring(state, 1);
    const lua_Number most = luaL_optnumber(state, 2, MOST_BYTES);
    int *file = hold_file(state);
    struct stat facts;
    *file = open(path, O_RDONLY | O_CLOEXEC);
    if (*file < 0 || fstat(*file, &facts) != 0) {
        return cps_system_failure(state, errno, "cannot read", path);
    }
    if (!S_ISREG(facts.st_mode)) {
        return cps_system_failure(state, S_ISDIR(facts.st_mode) ? EISDIR : EINVAL, "cannot read",
                                  path);
    }
    luaL_Buffer text;
    luaL_buffinit(state, &text);
    size_t total = 0;
    for (;;) {
        char *room = luaL_prepbuffsize(&text, 65536);
        const ssize_t count = read(*file, room, 65536);
        if (count < 0) {
            return cps_system_failure(state, errno, "cannot read", path);
        }
        if (count == 0) {
            break;
        }
        luaL_addsize(&text, (size_t)count);
        total += (size_t)count;
        if ((lua_Number)total > most) {
            return cps_system_failure(state, EFBIG, "cannot read", path);
        }
    }
    luaL_pushresult(&text);
    return 1;
}

/* Writes all of `text` to a new file `path` and syncs it; -1 with errno. */
static int write_new(int *file, const char *path, const char *text, size_t length) {
    *file = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    if (*file < 0) {
        return -1;
    }
    while (length > 0) {
        const ssize_t count = write(*file, text, length);
        if (count < 0 && errno == EINTR) {
            continue;
        }
        if (count < 0) {
            return -1;
        }
        text += count;
        length -= (size_t)count;
    }
    const int synced = fsync(*file), closed = close(*file);
    *file = -1;
    return synced != 0 || closed != 0 ? -1 : 0;
}

/* Pushes a name beside `path` that nobody else uses. */
static const char *push_name_aside(lua_State *state, const char *path) {
    char *name = cps_file_temporary_name(path);
    const char *pushed = lua_pushstring(state, name);
    free(name);
    return pushed;
}

/* How a file that was written aside gets its name: rename replaces, link does not. */
static int publish(lua_State *state, const char *what,
                   int (*take)(const char *aside, const char *path)) {
    const char *path = luaL_checkstring(state, 1);
    size_t length = 0;
    const char *text = luaL_checklstring(state, 2, &length);
    int *file = hold_file(state);
    const char *aside = push_name_aside(state, path);
    if (write_new(file, aside, text, length) != 0 || take(aside, path) != 0) {
        const int error = errno;
        unlink(aside);
        return cps_system_failure(state, error, what, path);
    }
    unlink(aside); /* of link; rename has taken it */
    lua_pushboolean(state, 1);
    return 1;
}

static int system_write(lua_State *state) {
    return publish(state, "cannot write", rename);
}

static int system_create(lua_State *state) {
    return publish(state, "cannot make", link);
}

/* append(path, text): one write */
static int system_append(lua_State *state) {
    const char *path = luaL_checkstring(state, 1);
    size_t length = 0;
    const char *text = luaL_checklstring(state, 2, &length);
    int *file = hold_file(state);
    *file = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
    if (*file < 0) {
        return cps_system_failure(state, errno, "cannot write", path);
    }
    const ssize_t count = write(*file, text, length);
    if (count != (ssize_t)length) {
        return cps_system_failure(state, count < 0 ? errno : ENOSPC, "cannot write", path);
    }
    lua_pushboolean(state, 1);
    return 1;
}

/* ---- names ---- */

static int system_link(lua_State *state) {
    const char *to = luaL_checkstring(state, 2);
    return result(state, link(luaL_checkstring(state, 1), to), "cannot link to", to);
}

static int system_rename(lua_State *state) {
    const char *from = luaL_checkstring(state, 1);
    return result(state, rename(from, luaL_checkstring(state, 2)), "cannot rename", from);
}

/* A file or an empty folder. */
static int system_remove(lua_State *state) {
    const char *path = luaL_checkstring(state, 1);
    return result(state, remove(path), "cannot remove", path);
}

static int system_mkdir(lua_State *state) {
    const char *path = luaL_checkstring(state, 1);
    if (cps_dir_create(path) != CPS_OK) {
        const int error = errno;
        lua_pushnil(state);
        lua_pushstring(state, cps_fail_message());
        lua_pushstring(state, name_of_error(error));
        return 3;
    }
    lua_pushboolean(state, 1);
    return 1;
}

static int system_chmod(lua_State *state) {
    const char *path = luaL_checkstring(state, 1);
    return result(state, chmod(path, (mode_t)(luaL_checkinteger(state, 2) & MODE_ALL)),
                  "cannot change the mode of", path);
}

/* touch(path): its time becomes now, by the clock of the file system */
static int system_touch(lua_State *state) {
    const char *path = luaL_checkstring(state, 1);
    return result(state, utimensat(AT_FDCWD, path, NULL, 0), "cannot touch", path);
}

/* absolute(path) -> without links and dots */
static int system_absolute(lua_State *state) {
    const char *path = luaL_checkstring(state, 1);
    char real[PATH_MAX];
    if (!realpath(path, real)) {
        return cps_system_failure(state, errno, "cannot find", path);
    }
    lua_pushstring(state, real);
    return 1;
}

/* ---- looking ---- */

/* stat(path) -> { kind, bytes, time } */
static int system_stat(lua_State *state) {
    const char *path = luaL_checkstring(state, 1);
    struct stat facts;
    if (stat(path, &facts) != 0) {
        return cps_system_failure(state, errno, "cannot look at", path);
    }
    lua_createtable(state, 0, 3);
    lua_pushstring(state, S_ISREG(facts.st_mode)   ? "file"
                          : S_ISDIR(facts.st_mode) ? "folder"
                                                   : "other");
    lua_setfield(state, -2, "kind");
    lua_pushinteger(state, facts.st_size);
    lua_setfield(state, -2, "bytes");
    lua_pushnumber(state,
                   (lua_Number)facts.st_mtim.tv_sec + 1e-9 * (lua_Number)facts.st_mtim.tv_nsec);
    lua_setfield(state, -2, "time");
    return 1;
}

static int close_folder(lua_State *state) {
    DIR **folder = lua_touserdata(state, 1);
    if (*folder) {
        closedir(*folder);
        *folder = NULL;
    }
    return 0;
}

static DIR **hold_folder(lua_State *state) {
    DIR **folder = lua_newuserdatauv(state, sizeof *folder, 0);
    *folder = NULL;
    if (luaL_newmetatable(state, "copse.folder")) {
        lua_pushcfunction(state, close_folder);
        lua_setfield(state, -2, "__gc");
    }
    lua_setmetatable(state, -2);
    return folder;
}

/* list(folder) -> names, sorted */
static int system_list(lua_State *state) {
    const char *path = luaL_checkstring(state, 1);
    DIR **folder = hold_folder(state);
    *folder = opendir(path);
    if (!*folder) {
        return cps_system_failure(state, errno, "cannot list", path);
    }
    lua_getglobal(state, "table");
    lua_getfield(state, -1, "sort");
    lua_newtable(state);
    lua_Integer count = 0;
    for (const struct dirent *entry; (entry = readdir(*folder)) != NULL;) {
        if (strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0) {
            lua_pushstring(state, entry->d_name);
            lua_rawseti(state, -2, ++count);
        }
    }
    closedir(*folder);
    *folder = NULL;
    lua_insert(state, -2);
    lua_pushvalue(state, -2);
    lua_call(state, 1, 0);
    return 1;
}

void cps_system_add_files(lua_State *state) {
    static const luaL_Reg functions[] = {
        {"read", system_read},         {"write", system_write},
        {"create", system_create},     {"append", system_append},
        {"link", system_link},         {"rename", system_rename},
        {"remove", system_remove},     {"mkdir", system_mkdir},
        {"chmod", system_chmod},       {"touch", system_touch},
        {"absolute", system_absolute}, {"stat", system_stat},
        {"list", system_list},         {NULL, NULL},
    };
    luaL_setfuncs(state, functions, 0);
}
