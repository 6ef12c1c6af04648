/* Stages of agriclip.dino for the runner of AgriCLIP's vectors, on top of the engine for tests. A
 * header for the same reason: each object has an engine of its own, one at a time. */
#ifndef CPS_TESTS_VECTORS_AGRICLIP_STAGE_H
#define CPS_TESTS_VECTORS_AGRICLIP_STAGE_H

#include "tests/vectors/agriclip.h"
#include "given.h"
#include "tests/vectors/arrays.h"
#include "tests/vectors/ranks.h"
#include "tests/ranks/engine.h"

enum { MOST_ROWS = 4096, MOST_CLASSES = 8192, MOST_STEPS = 1000 };

/* Gradients are what a step of plain SGD with so long a rate did: all digits are there, and they
 * have passed the exchange between ranks. */
static const double probe_rate = 1024.0;

typedef struct setting {
    const char *tower;                /* JSON of "ssl" */
    const char *objective;            /* options of agriclip.dino, as JSON members */
    const char *optimizer, *schedule; /* JSON */
    double clip;                      /* clip_tensor */
    int64_t records, batch, grain, steps;
} setting;

static const char constant_rate[] = "{\"kind\":\"constant\"}";

static ENGINE_UNUSED char *sgd(double rate) {
    return cps_format("{\"kind\":\"sgd\",\"lr\":%.17g,\"momentum\":0}", rate);
}

static ENGINE_UNUSED char *job_text(const setting *s, const char *shard) {
    return cps_format(
        "{\"name\":\"vectors\",\"seed\":3,\"reproducible\":\"world\",\"precision\":\"fp32\","
        "\"parts\":32,\"model\":{\"embed_dim\":8,\"image\":{\"image_size\":8,\"patch\":8,"
        "\"width\":8,\"layers\":1,\"heads\":1},\"text\":{\"width\":8,\"layers\":1,\"heads\":1,"
        "\"context\":16},\"towers\":{\"ssl\":%s}},\"tokenizer\":{\"merges\":\"%s/merges.txt\","
        "\"context\":16},\"data\":{\"paired\":{\"shards\":[\"%s\"]}},\"stages\":[{\"name\":"
        "\"dino\",\"objectives\":[{\"name\":\"agriclip.dino\",\"options\":{%s}}],\"epochs\":0,"
        "\"steps\":%lld,\"global_batch\":%lld,\"grain\":%lld,\"clip_tensor\":%.17g,"
        "\"optimizer\":%s,\"schedule\":%s}],\"evaluate\":[],\"checkpoint\":{}}",
        s->tower, the_engine.folder, shard, s->objective, (long long)s->steps, (long long)s->batch,
        (long long)s->grain, s->clip, s->optimizer, s->schedule);
}

/* Collective: rank 0 writes. */
static ENGINE_UNUSED char *make_shard(int64_t records) {
    char *path = cps_format("%s/dino-%lld.h5", the_engine.folder, (long long)records);
    if (cps_comm_rank(the_engine.comm) == 0 && !cps_file_exists(path)) {
        cps_shard_writer *writer = NULL;
        size_t length = 0;
        uint8_t *picture = engine_picture(1, &length);
        vectors_need(cps_shard_writer_create(path, NULL, 0, NULL, 0, "golden vectors", &writer));
        for (int64_t i = 0; i < records; i++) {
            const cps_record record = {
                .sample_id = (uint64_t)i, .image = picture, .image_bytes = length, .label = -1};
            vectors_need(cps_shard_writer_append(writer, &record));
        }
        vectors_need(cps_shard_writer_finish(writer));
        free(picture);
    }
    vectors_need(cps_agree(the_engine.comm, "shard", CPS_OK));
    return path;
}

static ENGINE_UNUSED void begin(const setting *s, trial *t) {
    char *shard = make_shard(s->records);
    const agriclip_give kind = agriclip_gives.kind;
    agriclip_gives.kind =
        kind == AGRICLIP_STEM ? AGRICLIP_NOTHING : kind; /* plans count the tower's own */
    vectors_need(engine_open_text(job_text(s, shard), t));
    vectors_need(engine_begin(t));
    agriclip_gives.kind = kind;
    agriclip_gives.params = cps_model_params(t->run->model);
    free(shard);
}

/* Data step `step` comes next. */
static ENGINE_UNUSED void seek(trial *t, int64_t step) {
    t->done = step;
    vectors_need(cps_loader_seek(t->loop->loader, step));
}

static ENGINE_UNUSED double value_of(const cps_step_result *result, const char *name) {
    for (int32_t i = 0; i < result->term_count; i++) {
        if (strcmp(result->term_names[i], name) == 0) {
            return result->term_values[i];
        }
    }
    return (double)NAN;
}

static ENGINE_UNUSED void put_values(trial *t, const char *name, const double *values,
                                     int64_t count) {
    const cps_param *param = engine_param(t, name);
    if (param->count != count) {
        vectors_unusable("parameter '%s' has %lld values, the file %lld", name,
                         (long long)param->count, (long long)count);
    }
    for (int64_t i = 0; i < count; i++) {
        ((cps_real *)param->tensor.data)[i] = (cps_real)values[i];
    }
}

/* Malloc'ed. */
static ENGINE_UNUSED double *take_values(trial *t, const char *name) {
    const cps_param *param = engine_param(t, name);
    double *values = vectors_doubles(param->count);
    for (int64_t i = 0; i < param->count; i++) {
        values[i] = (double)((const cps_real *)param->tensor.data)[i];
    }
    return values;
}

static ENGINE_UNUSED double number(cps_h5 *file, const char *group, const char *name) {
    double value = 0.0;
    vectors_need(cps_h5_read_number(file, group, name, &value));
    return value;
}

static ENGINE_UNUSED int64_t integer(cps_h5 *file, const char *group, const char *name,
                                     int64_t most) {
    int64_t value = 0;
    vectors_need(cps_h5_read_integer(file, group, name, &value));
    if (value < 0 || value > most) {
        vectors_unusable("'%s' of '%s' is %lld, wanted 0 to %lld", name, group, (long long)value,
                         (long long)most);
    }
    return value;
}

/* `wanted` numbers; the process ends where they are not there. */
static ENGINE_UNUSED double *read_all(cps_h5 *file, const char *group, const char *name,
                                      int64_t wanted) {
    char *path = cps_format("%s/%s", group, name);
    int64_t count = 0;
    double *values = vectors_read(file, path, &count);
    if (values == NULL || count != wanted) {
        vectors_unusable("'%s' holds %lld numbers, wanted are %lld", path, (long long)count,
                         (long long)wanted);
    }
    free(path);
    return values;
}

#endif
