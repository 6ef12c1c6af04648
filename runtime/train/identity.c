/* What ranks of a run, and a run and its checkpoint, must share to give the same bits: the job's
 * settings that reach numbers, digests of data and tokenizer, build, element type, BLAS kernels. */
#include "train/identity.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "comm/agree.h"
#include "tensor/gemm.h"

/* Keys that reach no number of the training, or are stood for by digests (data, tokenizer). */
static const char *const not_of_job[] = {"name",    "evaluate",          "checkpoint",
                                         "data",    "tokenizer",         "watchdog_seconds",
                                         "max_bad", "max_skipped_steps", NULL};
static const char *const not_of_stage[] = {"activation_budget_mb", "max_bad", "max_skipped_steps",
                                           NULL};
/* Files: where they lie reaches no number. Their content stands beside the path, or has a digest.
 */
static const char *const files[] = {"weights", "path", "plugin", NULL};

static bool listed(const char *const *names, const char *key) {
    for (; *names != NULL; names++) {
        if (strcmp(*names, key) == 0) {
            return true;
        }
    }
    return false;
}

static void add_hex(cps_json *object, const char *key, uint64_t value) {
    char text[32];
    snprintf(text, sizeof text, "%016" PRIx64, value);
    cps_json_add_string(object, key, text);
}

/* A copy in which a file is its last name. As deep as the parser lets a job be. */
static void add_member(cps_json *parent, const char *key, const cps_json *value) {
    const char *path = key != NULL && listed(files, key) ? cps_json_string(value) : NULL;
    if (path != NULL) {
        const char *slash = strrchr(path, '/');
        cps_json_add_string(parent, key, slash != NULL ? slash + 1 : path);
    } else if (cps_json_is_object(value) || cps_json_is_array(value)) {
        cps_json *copy = cps_json_is_object(value) ? cps_json_add_object(parent, key)
                                                   : cps_json_add_array(parent, key);
        for (const cps_json *member = cps_json_first(value); member != NULL;
             member = cps_json_next(member)) {
            add_member(copy, cps_json_is_object(value) ? cps_json_key(member) : NULL, member);
        }
    } else {
        cps_json_add_copy(parent, key, value);
    }
}

static void add_members(cps_json *to, const cps_json *from, const char *const *without) {
    for (const cps_json *member = cps_json_first(from); member != NULL;
         member = cps_json_next(member)) {
        if (!listed(without, cps_json_key(member))) {
            add_member(to, cps_json_key(member), member);
        }
    }
}

static void add_job(cps_json *identity, const cps_json *from) {
    cps_json *job = cps_json_add_object(identity, "job");
    for (const cps_json *member = cps_json_first(from); member != NULL;
         member = cps_json_next(member)) {
        if (strcmp(cps_json_key(member), "stages") == 0) {
            cps_json *stages = cps_json_add_array(job, "stages");
            for (const cps_json *stage = cps_json_first(member); stage != NULL;
                 stage = cps_json_next(stage)) {
                add_members(cps_json_add_object(stages, NULL), stage, not_of_stage);
            }
        } else if (!listed(not_of_job, cps_json_key(member))) {
            add_member(job, cps_json_key(member), member);
        }
    }
}

static void add_tower_weights(const cps_run *run, cps_json *identity) {
    cps_json *towers = NULL;
    for (int32_t i = 0; i < cps_model_tower_count(run->model); i++) {
        const char *name = cps_tower_get_config(cps_model_tower_at(run->model, i))->name;
        if (cps_model_tower_weights(run->model, name)->path != NULL) {
            towers = towers == NULL ? cps_json_add_object(identity, "tower_weights") : towers;
            add_hex(towers, name, run->tower_digests[i]);
        }
    }
}

cps_json *cps_run_identity(const cps_run *run) {
    cps_json *identity = cps_json_new_object();
    add_job(identity, run->job);
    cps_json *data = cps_json_add_object(identity, "data");
    for (int32_t i = 0; i < run->stream_count; i++) {
        add_hex(data, run->streams[i].name, cps_stream_digest(run->streams[i].stream));
    }
    cps_json *bits = cps_json_add_object(identity, "bits");
    cps_json_add_string(bits, "real", sizeof(cps_real) == sizeof(double) ? "float64" : "float32");
    cps_json_add_string(bits, "blas_core", cps_gemm_core_name());
    cps_json_add_string(bits, "precision", cps_gemm_precision());
    cps_json_add_string(bits, "build", CPS_BUILD_ID);
    add_hex(bits, "plugins", cps_plugins_digest(run->plugins, true));
    if (run->tokenizer != NULL) {
        cps_json *tokenizer = cps_json_add_object(identity, "tokenizer");
        cps_json_add_number(tokenizer, "context", (double)run->tokenizer_options.context);
        add_hex(tokenizer, "content", cps_tokenizer_digest(run->tokenizer));
    }
    if (cps_model_weights(run->model) != NULL) {
        add_hex(identity, "weights", run->weights_digest);
    }
    add_tower_weights(run, identity);
    return identity;
}

/* ---- differences
 * -----------------------------------------------------------------------------------------------------------
 */

static bool differ(const cps_json *a, const cps_json *b, char path[256], char values[2][128]);

static void show(const cps_json *value, char text[128]) {
    char *printed = value == NULL ? NULL : cps_json_print(value, false, true);
    snprintf(text, 128, "%s", printed == NULL ? "nothing" : printed);
    free(printed);
}

static bool differ_member(const cps_json *a, const cps_json *b, const char *key, char path[256],
                          char values[2][128]) {
    char inner[256] = "";
    if (!differ(a, b, inner, values)) {
        return false;
    }
    snprintf(path, 256, "%s%s%.180s", key, inner[0] == '\0' || inner[0] == '[' ? "" : ".", inner);
    return true;
}

static bool differ_objects(const cps_json *a, const cps_json *b, char path[256],
                           char values[2][128]) {
    for (const cps_json *member = cps_json_first(a); member != NULL;
         member = cps_json_next(member)) {
        if (differ_member(member, cps_json_get(b, cps_json_key(member)), cps_json_key(member), path,
                          values)) {
            return true;
        }
    }
    for (const cps_json *member = cps_json_first(b); member != NULL;
         member = cps_json_next(member)) {
        if (cps_json_get(a, cps_json_key(member)) == NULL) {
            return differ_member(NULL, member, cps_json_key(member), path, values);
        }
    }
    return false;
}

/* First difference in key order: path from here and both values. */
static bool differ(const cps_json *a, const cps_json *b, char path[256], char values[2][128]) {
    if (a != NULL && b != NULL && cps_json_is_object(a) && cps_json_is_object(b)) {
        return differ_objects(a, b, path, values);
    }
    if (a != NULL && b != NULL && cps_json_is_array(a) && cps_json_is_array(b) &&
        cps_json_count(a) == cps_json_count(b)) {
        for (int64_t i = 0; i < cps_json_count(a); i++) {
            char key[32];
            snprintf(key, sizeof key, "[%lld]", (long long)i + 1);
            if (differ_member(cps_json_at(a, i), cps_json_at(b, i), key, path, values)) {
                return true;
            }
        }
        return false;
    }
    if (a == NULL && b == NULL) {
        return false;
    }
    char *left = a == NULL ? NULL : cps_json_print(a, false, true);
    char *right = b == NULL ? NULL : cps_json_print(b, false, true);
    const bool different = left == NULL || right == NULL || strcmp(left, right) != 0;
    if (different) {
        path[0] = '\0';
        show(a, values[0]);
        show(b, values[1]);
    }
    free(left);
    free(right);
    return different;
}

bool cps_identity_differs(const cps_json *then, const cps_json *now, const char *part,
                          cps_identity_difference *difference_out) {
    return differ(cps_json_get(then, part), cps_json_get(now, part), difference_out->path,
                  difference_out->values);
}

cps_status cps_identity_agree(const cps_run *run) {
    cps_json *identity = cps_run_identity(run);
    enum { MAX = 64 };
    const char *keys[MAX];
    char *values[MAX];
    int64_t count = 0;
    /* One text a key; the job's stages apart, so that the message is near the difference. */
    for (const cps_json *part = cps_json_first(identity); part != NULL && count < MAX - 1;
         part = cps_json_next(part)) {
        if (!cps_json_is_object(part)) {
            keys[count] = cps_json_key(part);
            values[count++] = cps_json_print(part, false, true);
            continue;
        }
        for (const cps_json *member = cps_json_first(part); member != NULL && count < MAX - 1;
             member = cps_json_next(member)) {
            keys[count] = cps_json_key(member);
            values[count++] = cps_json_print(member, false, true);
        }
    }
    keys[count] = "plugins";
    values[count++] = cps_format("%016" PRIx64, cps_plugins_digest(run->plugins, false));
    const cps_status status = cps_agree_equal(run->comm, "settings of the ranks", keys,
                                              (const char *const *)values, count);
    for (int64_t i = 0; i < count; i++) {
        free(values[i]);
    }
    cps_json_destroy(identity);
    return status;
}
